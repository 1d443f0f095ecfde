package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/causeway-project/causeway/agent/fault"
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
	if err := a.ready(); err != nil {
		return model.Network{}, err
	}
	ctx, cancel := a.within(ctx)
	defer cancel()
	key := model.NetworkKey(n.ID)
	want := intent.NetworkOf(n, a.o.Hostname)
	if err := a.checkServed(want); err != nil {
		return model.Network{}, err
	}
	if err := a.o.Namespaces.Check(ctx, want.ForHost(n.ID)); err != nil {
		return model.Network{}, parts.Classify(err)
	}
	created, err := a.edit(ctx, key, drivers.Secret{}, func(old *intent.Record) (*intent.Record, error) {
		return a.networkRecord(key, old, want)
	})
	if err != nil {
		return model.Network{}, err
	}
	if err := a.await(ctx, key, created); err != nil {
		return model.Network{}, err
	}
	return a.Network(ctx, n.ID)
}

func (a *Agent) networkRecord(key model.Key, old *intent.Record, n *intent.Network) (*intent.Record, error) {
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
	if err := a.meetsLocked(key, n); err != nil {
		return nil, err
	}
	return &intent.Record{Generation: 1, Network: n}, nil
}

// meetsLocked refuses a network that cannot be on this host beside the others.
// One that moves is at both places until it has left the first.
func (a *Agent) meetsLocked(key model.Key, n *intent.Network) error {
	for other, o := range a.objects {
		r := o.intent()
		if other == key || r == nil || r.Network == nil {
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
	key := model.NetworkKey(id)
	return a.removeByID(ctx, key, removal{allowed: func(*intent.Record) error { return a.unusedLocked(key) }})
}

// unusedLocked refuses a network that exports use. Nothing else is used.
func (a *Agent) unusedLocked(key model.Key) error {
	if key.Kind != model.KindNetwork {
		return nil
	}
	var users []string
	for id := range a.exports.Of(key.ID) {
		users = append(users, id)
	}
	if len(users) == 0 {
		return nil
	}
	slices.Sort(users)
	shown := users[:min(len(users), 10)]
	return &fault.Error{
		Kind: fault.Precondition, Reason: fault.NetworkInUse, Metadata: map[string]string{"exports": strings.Join(shown, ",")},
		Message: fmt.Sprintf("network %s is used by %d exports (%s): delete them first", key.ID, len(users), strings.Join(shown, ", ")),
	}
}

// Network returns one.
func (a *Agent) Network(_ context.Context, id string) (model.Network, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	o := a.objects[model.NetworkKey(id)]
	if o == nil || o.rec == nil {
		return model.Network{}, refusal.UnknownID(model.NetworkKey(id))
	}
	return a.networkLocked(o), nil
}

// Networks lists all, by id.
func (a *Agent) Networks(context.Context) ([]model.Network, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var list []model.Network
	for _, o := range a.objects {
		if o.rec != nil && o.rec.Network != nil {
			list = append(list, a.networkLocked(o))
		}
	}
	slices.SortFunc(list, func(x, y model.Network) int { return strings.Compare(x.ID, y.ID) })
	return list, nil
}

func (a *Agent) networkLocked(o *object) model.Network {
	r := o.rec.Network
	n := model.Network{
		ID: o.key.ID, Plug: r.Plug.Model(), Addresses: slices.Clone(r.Addresses), MTU: r.MTU, MAC: r.LinkMAC,
		NFSVersions: r.Versions(), Gateway: o.gateway.Told, Status: o.status, Drift: o.drift,
	}
	for _, route := range r.Routes {
		n.Routes = append(n.Routes, model.Route(route))
	}
	for _, e := range a.exports.Of(o.key.ID) {
		if e.rec != nil {
			n.Gateway.Exports++
		}
	}
	return n
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
