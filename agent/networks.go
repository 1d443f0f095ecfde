package agent

import (
	"context"
	"fmt"

	"github.com/causeway-project/causeway/agent/engine"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/agent/refusal"
	"github.com/causeway-project/causeway/drivers"
)

// PutNetwork makes a network on this host, and returns when its namespace is
// as wanted. Its gateway comes with its first export.
func (a *Agent) PutNetwork(ctx context.Context, n model.Network) (model.Network, error) {
	if err := n.Validate(); err != nil {
		return model.Network{}, err
	}
	if err := a.Ready(); err != nil {
		return model.Network{}, err
	}
	ctx, cancel := a.Within(ctx)
	defer cancel()
	key := model.NetworkKey(n.ID)
	want := intent.NetworkOf(n, a.o.Hostname)
	if err := a.checkServed(want); err != nil {
		return model.Network{}, err
	}
	if err := a.o.Namespaces.Check(ctx, want.ForHost(n.ID)); err != nil {
		return model.Network{}, parts.Classify(err)
	}
	created, err := a.Edit(ctx, key, drivers.Secret{}, func(all engine.Intents, old *intent.Record) (*intent.Record, error) {
		return networkRecord(all, key, old, want)
	})
	if err != nil {
		return model.Network{}, err
	}
	if err := a.Await(ctx, key, engine.Wait{Created: created}); err != nil {
		return model.Network{}, err
	}
	return a.Network(ctx, n.ID)
}

func networkRecord(all engine.Intents, key model.Key, old *intent.Record, n *intent.Network) (*intent.Record, error) {
	if old != nil {
		if old.Removing {
			return nil, refusal.BeingRemoved(key)
		}
		if what := old.Network.Differs(n); what != "" {
			e := refusal.OtherSettings(key, what)
			e.Message = fmt.Sprintf("network %s exists with another %s: update it, choose another id, or delete it first", key.ID, what)
			return nil, e
		}
		return old, nil
	}
	if err := meets(all, key, n); err != nil {
		return nil, err
	}
	return &intent.Record{Generation: 1, Network: n}, nil
}

// meets refuses a network that cannot be on this host beside the others.
// One that moves is at both places until it has left the first.
func meets(all engine.Intents, key model.Key, n *intent.Network) error {
	for other, r := range all.All() {
		if other == key || r.Network == nil {
			continue
		}
		if err := r.Network.Meets(other.ID, key.ID, n); err != nil {
			return err
		}
		if former := r.Network.Former; former != nil {
			if err := former.Meets(other.ID, key.ID, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// DeleteNetwork removes a network that no export uses. An unknown id is
// success.
func (a *Agent) DeleteNetwork(ctx context.Context, id string) error {
	return a.removeByID(ctx, model.NetworkKey(id), engine.Removal{})
}

// checkServed says whether this host has what a network's versions need.
func (a *Agent) checkServed(n *intent.Network) error {
	if a.o.CheckVersions == nil {
		return nil
	}
	if err := a.o.CheckVersions(n.Served()); err != nil {
		return parts.Classify(err)
	}
	return nil
}
