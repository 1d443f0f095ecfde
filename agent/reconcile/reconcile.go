// Package reconcile turns what should be on this host and what is on it into
// the steps between the two. It does no I/O and knows no clock.
package reconcile

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// A Kind orders objects: none needs one of a later kind.
type Kind int

// The kinds. A share's mount, and what stands on it; a network's namespace,
// and what stands in it.
const (
	Mount Kind = iota + 1
	Namespace
	Gateway
	View // the bind mount of a share where its gateway sees it
	Export
	Daemon // virtiofsd
	Device
	GuestMount
	Definition // the device in what the instance's next start takes
)

var kindNames = map[Kind]string{
	Mount: "mount", Namespace: "namespace", Gateway: "gateway", View: "view",
	Export: "export", Daemon: "daemon", Device: "device", GuestMount: "guest-mount", Definition: "definition",
}

// Kinds lists every kind, in order.
func Kinds() []Kind {
	return []Kind{Mount, Namespace, Gateway, View, Export, Daemon, Device, GuestMount, Definition}
}

func (k Kind) String() string { return kindNames[k] }

// Of is the key of the thing of this kind that has a name.
func (k Kind) Of(name string) Key { return Key{k, name} }

// A Key names one thing on this host.
type Key struct {
	Kind Kind
	Name string
}

func (k Key) String() string { return fmt.Sprintf("%v %s", k.Kind, k.Name) }

// A Version is a digest of a thing's settings.
type Version struct {
	Identity string // cannot change in place: another one is another thing
	Settings string // can change in place
}

// A Want is a thing that should be there.
type Want struct {
	Version Version
	Needs   []Key // what must be there, as wanted, before it and for as long as it is there

	// Outlives are those of Needs of which the loss does no harm, as long as
	// they can be made again from the same: they are made again under it.
	Outlives []Key

	// After are wanted things that come before it, and that it does not stand on.
	After []Key
}

// A World is what Plan looks at, for one dependency group. A thing of the
// group that is in neither Is nor Unknown is not on the host.
type World struct {
	Want    map[Key]Want
	Is      map[Key]Version
	Unknown map[Key]bool  // could not be observed: neither it nor what it may use is touched
	Outside map[Key]bool  // things of other groups that are there and can be used
	Uses    map[Key][]Key // what a thing that is there stands on, for things no longer wanted
}

// Remains says whether a thing is there that is not wanted, or may be.
func (w World) Remains(k Key) bool {
	_, there := w.Is[k]
	_, wanted := w.Want[k]
	return w.Unknown[k] || there && !wanted
}

// A Verb is what a step does.
type Verb string

// The verbs.
const (
	Create Verb = "create"
	Update Verb = "update" // in place; users do not notice
	Remove Verb = "remove"
)

// A Step brings one thing to what is wanted.
type Step struct {
	Verb Verb
	Key  Key
}

func (s Step) String() string { return fmt.Sprintf("%s %v", s.Verb, s.Key) }

// A Plan is what to do next. The caller takes the steps, looks again, and plans
// again.
type Plan struct {
	// Steps are all removals or all creations and updates. None of them waits
	// for another.
	Steps []Step
	// Blocked says for each wanted thing that cannot be made yet what it
	// waits for, the nearest first cause.
	Blocked map[Key]Key
}

// Settled says whether a thing of the world that was planned for is as it should
// be. One that has to go, because it lost what it stands on, is not, though it
// looks like what is wanted.
func (p Plan) Settled(k Key, w World) bool {
	if _, blocked := p.Blocked[k]; blocked {
		return false
	}
	want, wanted := w.Want[k]
	is, there := w.Is[k]
	return !w.Unknown[k] && wanted == there && (!there || is == want.Version)
}

// NextPlan lists the steps from what is towards what is wanted.
//
// Removals come first, users before what they use, and while there is one that
// can be done no creation is listed. held names removals that were tried and cannot be done
// now (a guest holds a device): they are left out, and creations go on, but for
// what needs, at whatever distance, a thing that has to go, and for what such a
// thing needs and has lost. So one stubborn guest does not stop a share's other
// users, and still nothing is created over, or under, a thing that is about to
// be replaced.
//
// A thing has to go when it is not wanted, when its identity is not the wanted
// one, or when something it needs is not there or has to go, unless it outlives
// that: a device whose daemon died is taken out before a new daemon is started.
func NextPlan(w World, held map[Key]bool) Plan {
	p := planner{World: w, goes: map[Key]bool{}}
	keys := p.keys()
	for _, k := range keys { // needs come first, so that one pass is enough
		p.goes[k] = p.mustGo(k)
	}

	var remove []Step
	for _, k := range slices.Backward(keys) {
		if p.goes[k] && !held[k] && !p.used(k, keys) {
			remove = append(remove, Step{Remove, k})
		}
	}
	plan := Plan{Blocked: map[Key]Key{}}
	make := p.creations(keys, plan.Blocked)
	if len(remove) > 0 {
		plan.Steps = remove
	} else {
		plan.Steps = make
	}
	return plan
}

type planner struct {
	World
	goes map[Key]bool
}

// keys lists what is wanted or there, needs before users.
func (p *planner) keys() []Key {
	var ks []Key
	for k := range p.Want {
		ks = append(ks, k)
	}
	for k := range p.Is {
		if _, both := p.Want[k]; !both {
			ks = append(ks, k)
		}
	}
	slices.SortFunc(ks, func(a, b Key) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return ks
}

func (p *planner) mustGo(k Key) bool {
	is, there := p.Is[k]
	if !there || p.Unknown[k] {
		return false
	}
	want, wanted := p.Want[k]
	if !wanted || want.Version.Identity != is.Identity {
		return true
	}
	for _, n := range want.Needs {
		if p.Outside[n] || p.Unknown[n] {
			continue
		}
		if _, inside := p.Want[n]; !inside {
			continue // another group's, and away for now: it comes back under us
		}
		if _, there := p.Is[n]; !there && slices.Contains(want.Outlives, n) && p.stands(p.Want[n]) {
			continue
		}
		if _, there := p.Is[n]; !there || p.goes[n] {
			return true
		}
	}
	return false
}

// stands says whether all that a thing needs is there and stays.
func (p *planner) stands(want Want) bool {
	for _, n := range want.Needs {
		if _, there := p.Is[n]; !p.Outside[n] && (!there || p.goes[n] || p.Unknown[n]) {
			return false
		}
	}
	return true
}

// used says whether something that stays, or that nobody could look at, stands
// on k; or something that goes and is still there, and so has to go first.
func (p *planner) used(k Key, keys []Key) bool {
	for u := range p.Unknown {
		if u.Kind > k.Kind && slices.Contains(p.needs(u), k) {
			return true
		}
	}
	for _, u := range keys {
		_, there := p.Is[u]
		if there && u.Kind > k.Kind && slices.Contains(p.needs(u), k) {
			return true
		}
	}
	return false
}

func (p *planner) needs(k Key) []Key {
	if w, wanted := p.Want[k]; wanted {
		return w.Needs
	}
	return p.Uses[k]
}

func (p *planner) creations(keys []Key, blocked map[Key]Key) []Step {
	var steps []Step
	for _, k := range keys {
		want, wanted := p.Want[k]
		if !wanted || p.Unknown[k] {
			continue
		}
		is, there := p.Is[k]
		if there && is == want.Version && !p.goes[k] {
			continue
		}
		if u, stands := p.over(k, keys); !there && stands {
			blocked[k] = u
			continue
		}
		if p.goes[k] {
			blocked[k] = k
			continue
		}
		if n, missing := p.missing(want, blocked); missing {
			blocked[k] = n
			continue
		}
		verb := Create
		if there {
			verb = Update
		}
		steps = append(steps, Step{verb, k})
	}
	return steps
}

// over returns what still stands, or may, on a thing that is not there, and was
// harmed by its loss. That has to go first: a device whose daemon died would
// look whole with another daemon under it.
func (p *planner) over(k Key, keys []Key) (Key, bool) {
	for _, u := range append(slices.Collect(maps.Keys(p.Unknown)), keys...) {
		_, there := p.Is[u]
		if (there || p.Unknown[u]) && slices.Contains(p.needs(u), k) && !slices.Contains(p.Want[u].Outlives, k) {
			return u, true
		}
	}
	return Key{}, false
}

// missing returns the first need that is not there, or what that waits for.
func (p *planner) missing(want Want, blocked map[Key]Key) (Key, bool) {
	before := slices.Clone(want.Needs)
	for _, n := range want.After {
		if _, wanted := p.Want[n]; wanted {
			before = append(before, n)
		}
	}
	for _, n := range before {
		if p.Outside[n] {
			continue
		}
		if cause, b := blocked[n]; b {
			return cause, true
		}
		if is, there := p.Is[n]; there && !p.goes[n] && !p.Unknown[n] && is.Identity == p.Want[n].Version.Identity {
			continue
		}
		return n, true
	}
	return Key{}, false
}
