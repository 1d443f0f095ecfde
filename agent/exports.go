package agent

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/causeway-project/causeway/agent/access"
	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/refusal"
	"github.com/causeway-project/causeway/ganesha"
)

// PutExport publishes a share through a network's gateway, or replaces the
// access rules of an export that is there, and returns when clients see it so.
func (a *Agent) PutExport(ctx context.Context, e model.Export) (model.Export, error) {
	if e.Pseudo == "" {
		e.Pseudo = "/" + e.ID
	}
	if err := e.Validate(); err != nil {
		return model.Export{}, err
	}
	if err := a.checkConnection(e.Connection); err != nil {
		return model.Export{}, err
	}
	if err := a.ready(); err != nil {
		return model.Export{}, err
	}
	ctx, cancel := a.within(ctx)
	defer cancel()
	key := model.ExportKey(e.ID)
	if !a.known(key) {
		err := a.probe(ctx, e.Connection.Kind, func(d driver) error {
			if d.Prober == nil {
				return nil
			}
			return d.Prober.Probe(ctx, e.Connection)
		})
		if err != nil {
			return model.Export{}, err
		}
	}
	created, err := a.edit(ctx, key, e.Connection.Secret, func(old *intent.Record) (*intent.Record, error) {
		return a.exportRecord(key, old, e)
	})
	if err != nil {
		return model.Export{}, err
	}
	if err := a.await(ctx, key, created); err != nil {
		return model.Export{}, err
	}
	return a.Export(ctx, e.ID)
}

func (a *Agent) known(key model.Key) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.objects[key] != nil
}

func (a *Agent) exportRecord(key model.Key, old *intent.Record, e model.Export) (*intent.Record, error) {
	want := intent.ExportOf(e)
	if old != nil {
		if old.Removing {
			return nil, refusal.BeingRemoved(key)
		}
		if what := old.Export.Differs(want); what != "" {
			return nil, refusal.OtherSettings(key, what)
		}
		rules, err := access.Replace(old.Export.Rules, e.Rules, time.Now())
		if err != nil {
			return nil, err
		}
		next := old.WithRules(rules)
		return next, a.admitLocked(key, old, next)
	}
	rules, err := access.Replace(nil, e.Rules, time.Now())
	if err != nil {
		return nil, err
	}
	network := a.objects[model.NetworkKey(e.Network)]
	if network == nil {
		return nil, &fault.Error{
			Kind: fault.NotFound, Reason: fault.UnknownNetwork, Metadata: map[string]string{"network": e.Network},
			Message: fmt.Sprintf("there is no network %q: create it first", e.Network),
		}
	}
	if r := network.intent(); r.Removing {
		return nil, refusal.BeingRemoved(network.key)
	}
	if other, taken := a.exports.Taken(e.Network, e.Pseudo); taken {
		return nil, &fault.Error{
			Kind: fault.Precondition, Reason: fault.PseudoTaken, Metadata: map[string]string{"export": other},
			Message: fmt.Sprintf("pseudo path %s lies at or inside that of export %s (%s), or around it: choose another", e.Pseudo, other, a.exports.Of(e.Network)[other].intent().Export.Pseudo),
		}
	}
	id, err := a.freeExportID(e.Network)
	if err != nil {
		return nil, err
	}
	want.Rules, want.ExportID, want.FSID = rules, id, rand.Uint64()>>1|1
	next := &intent.Record{Generation: 1, Export: want}
	if err := a.admitLocked(key, nil, next); err != nil {
		return nil, err
	}
	return next, nil
}

// freeExportID gives the smallest free id of a gateway. While an export's
// record cannot be read nobody knows which is free.
func (a *Agent) freeExportID(network string) (uint16, error) {
	if damaged := a.damagedOf(model.KindExport); len(damaged) > 0 {
		return 0, &fault.Error{
			Kind: fault.Precondition, Reason: fault.RecordDamaged,
			Message: fmt.Sprintf("ledger files of exports are damaged (%s), so no export id is safe to give out: restore or remove them, and restart the agent", strings.Join(damaged, ", ")),
		}
	}
	if id, ok := a.exports.FreeID(network); ok {
		return id, nil
	}
	return 0, &fault.Error{Kind: fault.Exhausted, Reason: fault.NoExportIDs, Message: fmt.Sprintf("the gateway has %d exports: use another network", ganesha.MaxExportID)}
}

// DeleteExport withdraws an export. An unknown id is success.
func (a *Agent) DeleteExport(ctx context.Context, id string) error {
	return a.removeByID(ctx, model.ExportKey(id), removal{})
}

// Export returns one.
func (a *Agent) Export(_ context.Context, id string) (model.Export, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	o := a.objects[model.ExportKey(id)]
	if o == nil || o.rec == nil {
		return model.Export{}, refusal.UnknownID(model.ExportKey(id))
	}
	return a.exportLocked(o), nil
}

// Exports lists those of a network, or all, by id.
func (a *Agent) Exports(_ context.Context, network string) ([]model.Export, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var list []model.Export
	for of := range a.exports {
		if network != "" && of != network {
			continue
		}
		for _, o := range a.exports.Of(of) {
			if o.rec != nil {
				list = append(list, a.exportLocked(o))
			}
		}
	}
	slices.SortFunc(list, func(x, y model.Export) int { return strings.Compare(x.ID, y.ID) })
	return list, nil
}

func (a *Agent) exportLocked(o *object) model.Export {
	r := o.rec.Export
	e := model.Export{
		ID: o.key.ID, Network: r.Network, Connection: r.Connection.Public(), Pseudo: r.Pseudo,
		ReadOnly: r.ReadOnly, ExportID: r.ExportID, Status: o.status,
	}
	e.Rules = o.rules.List(o.rec, o.status, time.Now())
	if n := a.objects[model.NetworkKey(r.Network)]; n != nil && n.rec != nil {
		for _, p := range n.rec.Network.Addresses {
			e.Locations = append(e.Locations, location(p.Addr(), r.Pseudo))
		}
	}
	return e
}

// location is what a client mounts; RFC 5665 and mount.nfs(8) put an IPv6
// address into brackets.
func location(a netip.Addr, pseudo string) string {
	if a.Is6() {
		return "[" + a.String() + "]:" + pseudo
	}
	return a.String() + ":" + pseudo
}
