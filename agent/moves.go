package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/causeway-project/causeway/agent/engine"
	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/agent/refusal"
	"github.com/causeway-project/causeway/drivers"
)

// UpdateNetwork changes a network to n, and returns when its gateway serves as
// wanted. Addresses, routes, MTU, MAC and the peers of a VXLAN change in place:
// clients of what stays do not notice. Another plug has the gateway made anew,
// in a namespace of its own, with the same exports, file handles and recovery
// records, so that clients that reach it there reclaim what they had open.
//
// seen, unless 0, is the generation that the caller decided upon: if the
// network has another one meanwhile nothing is changed. A change that the
// network refuses (AddressInUse) is taken back before UpdateNetwork returns.
func (a *Agent) UpdateNetwork(ctx context.Context, n model.Network, seen int64) (model.Network, error) {
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
	if !a.Has(key) {
		return model.Network{}, refusal.UnknownID(key)
	}
	if err := a.checkServed(want); err != nil {
		return model.Network{}, err
	}
	if err := a.o.Namespaces.Check(ctx, want.ForHost(n.ID)); err != nil {
		return model.Network{}, parts.Classify(err)
	}
	var before, after *intent.Record
	_, err := a.Edit(ctx, key, drivers.Secret{}, func(all engine.Intents, old *intent.Record) (*intent.Record, error) {
		next, err := updatedNetwork(all, update{key: key, old: old, want: *want, seen: seen})
		if err == nil && next != old {
			before, after = old, next
		}
		return next, err
	})
	if err != nil {
		return model.Network{}, err
	}
	a.TellExports(n.ID)
	err = a.Await(ctx, key, engine.Wait{})
	if e := (*fault.Error)(nil); after != nil && errors.As(err, &e) && e.Permanent() {
		a.takeBack(ctx, key, before, after)
	}
	if err != nil {
		return model.Network{}, err
	}
	return a.Network(ctx, n.ID)
}

// An update is a change of a network that somebody asks for.
type update struct {
	key  model.Key      // required
	old  *intent.Record // nil where there is no such network
	want intent.Network // required
	seen int64          // the generation that he decided upon, or 0
}

func updatedNetwork(all engine.Intents, u update) (*intent.Record, error) {
	key, old, want, seen := u.key, u.old, u.want, u.seen
	switch {
	case old == nil:
		return nil, refusal.UnknownID(key)
	case old.Removing:
		return nil, refusal.BeingRemoved(key)
	}
	if old.Network.MAC == "" && want.MAC == old.Network.LinkMAC {
		want.MAC = "" // the one that the agent chose, and told
		if want.Plug.Model().Kind == model.PlugNone {
			want.LinkMAC = "" // its owner's
		}
	}
	if old.Network.Differs(&want) == "" {
		return old, nil
	}
	if seen != 0 && seen != old.Generation {
		return nil, &fault.Error{
			Kind: fault.Busy, Reason: fault.ChangedMeanwhile, Metadata: map[string]string{"id": key.ID, "generation": fmt.Sprint(old.Generation)},
			Message: fmt.Sprintf("network %s is at generation %d, not %d: look at it again, and repeat the change if it still fits", key.ID, old.Generation, seen),
		}
	}
	next := old.ChangedTo(want)
	if err := meets(all, key, next.Network); err != nil {
		return nil, err
	}
	return next, nil
}

// takeBack restores a network whose change was refused, unless somebody has
// changed it again, and returns when it is as before. Without it, as after a
// kill, the change stands and is tried again until it can be made.
func (a *Agent) takeBack(ctx context.Context, key model.Key, before, after *intent.Record) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	_, err := a.Edit(ctx, key, drivers.Secret{}, func(_ engine.Intents, old *intent.Record) (*intent.Record, error) {
		if old == nil || old.Removing || old.Generation != after.Generation {
			return old, nil
		}
		return old.ChangedTo(*before.Network), nil
	})
	a.TellExports(key.ID)
	if err == nil {
		err = a.Await(ctx, key, engine.Wait{})
	}
	if err != nil {
		a.o.Logger.Error("change that was refused could not be taken back, update the network again", "network", key.ID, "err", err)
	}
}
