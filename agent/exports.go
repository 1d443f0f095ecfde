package agent

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/causeway-project/causeway/agent/access"
	"github.com/causeway-project/causeway/agent/engine"
	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/refusal"
	"github.com/causeway-project/causeway/agent/writers"
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
	if err := a.Ready(); err != nil {
		return model.Export{}, err
	}
	ctx, cancel := a.Within(ctx)
	defer cancel()
	key := model.ExportKey(e.ID)
	if !a.Has(key) {
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
	created, err := a.Edit(ctx, key, e.Connection.Secret, func(all engine.Intents, old *intent.Record) (*intent.Record, error) {
		return exportRecord(all, old, e)
	})
	if err != nil {
		return model.Export{}, err
	}
	if err := a.Await(ctx, key, engine.Wait{Created: created}); err != nil {
		return model.Export{}, err
	}
	return a.Export(ctx, e.ID)
}

func exportRecord(all engine.Intents, old *intent.Record, e model.Export) (*intent.Record, error) {
	key := model.ExportKey(e.ID)
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
		return next, writers.Admit(all.All(), writers.Change{Key: key, Old: old, Next: next, Now: time.Now()})
	}
	rules, err := access.Replace(nil, e.Rules, time.Now())
	if err != nil {
		return nil, err
	}
	network := all.Of(model.NetworkKey(e.Network))
	if network == nil {
		return nil, &fault.Error{
			Kind: fault.NotFound, Reason: fault.UnknownNetwork, Metadata: map[string]string{"network": e.Network},
			Message: fmt.Sprintf("there is no network %q: create it first", e.Network),
		}
	}
	if network.Removing {
		return nil, refusal.BeingRemoved(model.NetworkKey(e.Network))
	}
	if other, taken := all.Taken(e.Network, e.Pseudo); taken {
		return nil, &fault.Error{
			Kind: fault.Precondition, Reason: fault.PseudoTaken, Metadata: map[string]string{"export": other},
			Message: fmt.Sprintf("pseudo path %s lies at or inside that of export %s (%s), or around it: choose another", e.Pseudo, other, all.Of(model.ExportKey(other)).Export.Pseudo),
		}
	}
	id, err := all.FreeExportID(e.Network)
	if err != nil {
		return nil, err
	}
	want.Rules, want.ExportID, want.FSID = rules, id, rand.Uint64()>>1|1
	next := &intent.Record{Generation: 1, Export: want}
	if err := writers.Admit(all.All(), writers.Change{Key: key, Next: next, Now: time.Now()}); err != nil {
		return nil, err
	}
	return next, nil
}

// DeleteExport withdraws an export. An unknown id is success.
func (a *Agent) DeleteExport(ctx context.Context, id string) error {
	return a.removeByID(ctx, model.ExportKey(id), engine.Removal{})
}
