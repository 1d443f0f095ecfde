package drivers

import (
	"cmp"
	"fmt"
	"slices"
)

// A Description is what the agent, its API and its logs see of a driver. It is
// made once, at registration.
type Description struct {
	Kind       string
	Properties Properties
	Abilities  []Ability
}

// A Bound is a driver with its abilities found: an optional half that the
// driver lacks is nil.
type Bound struct {
	Mounter
	Description   Description
	Prober        Prober
	UsageReporter UsageReporter
	OwnerReporter OwnerReporter
}

// describe is the only place that asks a driver for an optional interface.
func describe(m Mounter) Bound {
	b := Bound{Mounter: m, Description: Description{Kind: m.Kind(), Properties: m.Properties()}}
	have := func(a Ability, ok bool) {
		if ok {
			b.Description.Abilities = append(b.Description.Abilities, a)
		}
	}
	var ok bool
	b.Prober, ok = m.(Prober)
	have(CanProbe, ok)
	b.UsageReporter, ok = m.(UsageReporter)
	have(CanReportUsage, ok)
	b.OwnerReporter, ok = m.(OwnerReporter)
	have(CanReportOwner, ok)
	return b
}

// A Registry holds the drivers of one agent. There is no global one.
type Registry struct {
	byKind map[string]Bound
}

// NewRegistry fails on a driver that is nil, has no kind, or has one that is
// there already.
func NewRegistry(ms ...Mounter) (*Registry, error) {
	r := &Registry{byKind: make(map[string]Bound, len(ms))}
	for i, m := range ms {
		if m == nil || m.Kind() == "" {
			return nil, fmt.Errorf("driver %d of the list has no kind", i+1)
		}
		if _, twice := r.byKind[m.Kind()]; twice {
			return nil, fmt.Errorf("driver %q is registered twice", m.Kind())
		}
		r.byKind[m.Kind()] = describe(m)
	}
	return r, nil
}

// Get returns the driver of a kind.
func (r *Registry) Get(kind string) (Bound, bool) {
	b, ok := r.byKind[kind]
	return b, ok
}

// Descriptions lists every driver, by kind.
func (r *Registry) Descriptions() []Description {
	var ds []Description
	for _, b := range r.byKind {
		ds = append(ds, b.Description)
	}
	slices.SortFunc(ds, func(a, b Description) int { return cmp.Compare(a.Kind, b.Kind) })
	return ds
}
