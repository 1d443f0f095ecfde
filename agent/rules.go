package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/causeway-project/causeway/agent/access"
	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/agent/reconcile"
	"github.com/causeway-project/causeway/agent/word"
	"github.com/causeway-project/causeway/drivers"
	"github.com/causeway-project/causeway/ganesha"
)

// PutRule adds one access rule to an export, or replaces the one with its id,
// and returns when clients see it so. Callers that put rules of their own at
// the same time lose nothing of each other's.
func (a *Agent) PutRule(ctx context.Context, export string, r access.Rule) (access.Rule, error) {
	if err := access.Check(r); err != nil {
		return access.Rule{}, err
	}
	var id string
	err := a.editRules(ctx, export, func(rules []access.Intent, now time.Time) (next []access.Intent, err error) {
		next, id, err = access.Put(rules, r, now)
		return next, err
	})
	if err != nil {
		return access.Rule{}, err
	}
	return a.Rule(ctx, export, id)
}

// DeleteRule takes one access rule from an export, and returns when clients
// see it so. An unknown rule is success, an unknown export is not.
func (a *Agent) DeleteRule(ctx context.Context, export, id string) error {
	if err := word.CheckGivenID("access rule", id); err != nil {
		return err
	}
	return a.editRules(ctx, export, func(rules []access.Intent, _ time.Time) ([]access.Intent, error) {
		return slices.DeleteFunc(slices.Clone(rules), func(r access.Intent) bool { return r.ID == id }), nil
	})
}

// editRules changes the rules of an export that is there, and waits.
func (a *Agent) editRules(ctx context.Context, export string, change func([]access.Intent, time.Time) ([]access.Intent, error)) error {
	if err := a.ready(); err != nil {
		return err
	}
	ctx, cancel := a.within(ctx)
	defer cancel()
	key := objectKey{model.KindExport, export}
	_, err := a.edit(ctx, key, drivers.Secret{}, func(old *intent.Record) (*intent.Record, error) {
		if old == nil {
			return nil, unknownID(model.KindExport, export)
		}
		if old.Removing {
			return nil, beingRemoved(key)
		}
		rules, err := change(old.Export.Rules, time.Now())
		if err != nil {
			return nil, err
		}
		next := old.WithRules(rules)
		return next, a.admitLocked(key, old, next)
	})
	if err != nil {
		return err
	}
	return a.await(ctx, key, false)
}

// Rule returns one of an export's.
func (a *Agent) Rule(ctx context.Context, export, id string) (access.Rule, error) {
	rules, err := a.Rules(ctx, export)
	if err != nil {
		return access.Rule{}, err
	}
	for _, r := range rules {
		if r.ID == id {
			return r, nil
		}
	}
	return access.Rule{}, &fault.Error{Kind: fault.NotFound, Reason: fault.UnknownRule, Metadata: map[string]string{"id": export, "rule": id},
		Message: fmt.Sprintf("export %s has no access rule %s: list them to see which there are", export, word.Quote(id))}
}

// Rules lists an export's, in the order in which they match.
func (a *Agent) Rules(ctx context.Context, export string) ([]access.Rule, error) {
	e, err := a.Export(ctx, export)
	return e.Rules, err
}

// RecoverRules makes the gateway have an export's rules and no other, whatever
// it has and says that it has, and returns when that was read back.
func (a *Agent) RecoverRules(ctx context.Context, export string) (model.Export, error) {
	if err := a.ready(); err != nil {
		return model.Export{}, err
	}
	ctx, cancel := a.within(ctx)
	defer cancel()
	key := objectKey{model.KindExport, export}
	a.mu.Lock()
	o := a.objects[key]
	if o == nil || o.rec == nil {
		a.mu.Unlock()
		return model.Export{}, unknownID(model.KindExport, export)
	}
	if o.rec.Removing {
		a.mu.Unlock()
		return model.Export{}, beingRemoved(key)
	}
	o.rules.recover = true
	a.retryLocked(o)
	o.status.Phase = model.Working
	a.wakeLocked(o.rec.Group(export), lookAgain)
	a.mu.Unlock()
	if err := a.await(ctx, key, false); err != nil {
		return model.Export{}, err
	}
	return a.Export(ctx, export)
}

// ruleBook is what is known of an export's rules in its gateway.
type ruleBook struct {
	active  map[string]ganesha.Rule // by id: those that it was last seen to have
	refused map[string]refusedRule  // by id: those that it does not take
	recover bool                    // all are to be set anew, whatever is seen
}

type refusedRule struct {
	rule ganesha.Rule
	why  string
}

// rulesLocked lists an export's rules and how far each has come.
func (o *object) rulesLocked(now time.Time) []access.Rule {
	var rules []access.Rule
	for _, i := range access.Listed(o.rec.Export.Rules, now) {
		r := i.Rule()
		r.State, r.Reason, r.Message = o.ruleStateLocked(i, now)
		rules = append(rules, r)
	}
	return rules
}

func (o *object) ruleStateLocked(i access.Intent, now time.Time) (access.State, fault.Reason, string) {
	served := o.rec.Export.Served(i)
	refused, no := o.rules.refused[i.ID]
	active, yes := o.rules.active[i.ID]
	switch {
	case o.rec.Removing:
		return access.Denying, o.status.Reason, o.status.Message
	case i.Expired(now) && yes:
		return access.Denying, fault.RuleExpired, "it has expired and is being taken out of the gateway"
	case i.Expired(now):
		return access.Denying, fault.RuleExpired, "it has expired: put it again with a later time, or delete it"
	case no && refused.rule == served:
		return access.Refused, fault.RuleRefused, refused.why
	case yes && active == served:
		return access.Active, "", ""
	case o.status.Phase == model.Working:
		return access.Applying, "", ""
	}
	return access.Queued, o.status.Reason, o.status.Message
}

// rulesSeen notes what a look at the gateway said of an export's rules. Where
// it has other ones than it was last seen to have, and nobody here changed
// them, somebody else did.
func (a *Agent) rulesSeen(m member, sight ganesha.Sight) {
	a.mu.Lock()
	defer a.mu.Unlock()
	o := a.objects[m.key]
	if o == nil {
		return
	}
	// Its record may be another by now: who reads the book compares.
	was := o.rules
	o.rules.active, o.rules.refused = nil, nil
	rules := access.InForce(m.rec.Export.Rules, m.at)
	if sight.Match == ganesha.Differs && was.active != nil && was.holds(m.rec.Export, rules) {
		a.log.Warn("rules of an export were changed by somebody else and are set anew", "export", m.key.id)
		a.metrics.ruleDrift.Inc()
	}
	if sight.Match != ganesha.Same {
		return
	}
	o.rules.active, o.rules.refused = map[string]ganesha.Rule{}, map[string]refusedRule{}
	for _, r := range sight.Refused {
		i := rules[r.Rule]
		o.rules.refused[i.ID] = refusedRule{m.rec.Export.Served(i), r.Err.Error()}
		if was.refused[i.ID] != o.rules.refused[i.ID] {
			a.log.Warn("access rule is refused by the gateway, and its clients are let in by no other", "export", m.key.id, "rule", i.ID, "err", r.Err)
		}
	}
	for _, i := range rules {
		if _, no := o.rules.refused[i.ID]; !no {
			o.rules.active[i.ID] = m.rec.Export.Served(i)
		}
	}
	for _, i := range m.rec.Export.Rules {
		if _, had := was.active[i.ID]; had && i.Expired(m.at) {
			a.log.Info("access rule expired and is out of the gateway", "export", m.key.id, "rule", i.ID)
		}
	}
}

// holds says whether a book has exactly these rules of an export.
func (b ruleBook) holds(e *intent.Export, rules []access.Intent) bool {
	if len(b.active)+len(b.refused) != len(rules) {
		return false
	}
	for _, i := range rules {
		served := e.Served(i)
		if b.active[i.ID] != served && b.refused[i.ID].rule != served {
			return false
		}
	}
	return true
}

// failure is why an export whose gateway does not take some of its rules is
// degraded, or nil.
func (b ruleBook) failure() *fault.Error {
	if len(b.refused) == 0 {
		return nil
	}
	first := slices.Min(slices.Collect(maps.Keys(b.refused)))
	return fault.Preconditionf(fault.RuleRefused, "%d of its access rules are refused by the gateway, one is %s (%s): replace or delete them",
		len(b.refused), first, b.refused[first].why)
}

// toRecover says whether the rules of an export are to be set anew.
func (a *Agent) toRecover(key objectKey) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	o := a.objects[key]
	return o != nil && o.rules.recover
}

// putIntoGateway tells a gateway of an export. The gateway reads back what came
// of it, so that it need not be asked once more.
func (a *Agent) putIntoGateway(ctx context.Context, g *group, s parts.Server, m member) error {
	put, recover := s.Put, a.toRecover(m.key)
	if recover {
		put = s.Recover
	}
	refused, err := put(ctx, a.exportOf(m))
	if err != nil {
		return err
	}
	k := reconcile.Export.Of(m.key.id)
	g.is[k], g.seen[k] = m.rec.Version(k, m.at), true
	delete(g.unknown, k)
	a.rulesSeen(m, ganesha.Sight{Match: ganesha.Same, Refused: refused})
	if !recover {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if o := a.objects[m.key]; o != nil {
		o.rules.recover = false
	}
	a.log.Info("rules of an export were set anew", "export", m.key.id)
	return nil
}

// nextExpiryLocked is when the first rule of a group's exports expires after
// now, or zero.
func (a *Agent) nextExpiryLocked(g *group, now time.Time) time.Time {
	var next time.Time
	for key := range g.members {
		o := a.objects[key]
		if o == nil || o.rec == nil || o.rec.Export == nil || o.rec.Removing {
			continue
		}
		if t := access.NextExpiry(o.rec.Export.Rules, now); !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	return next
}

// expireLocked makes what failed due at once where a rule has expired since
// the last pass: nobody is let in longer because of a back-off.
func (a *Agent) expireLocked(g *group, ms []member, now time.Time) {
	since := g.passed
	g.passed = now
	for _, m := range ms {
		if m.rec.Export == nil {
			continue
		}
		expires := access.NextExpiry(m.rec.Export.Rules, since)
		if expires.IsZero() || expires.After(now) {
			continue
		}
		if f := g.fails[reconcile.Export.Of(m.key.id)]; f != nil {
			f.Next = now
		}
	}
}

// overdue names the groups that have to settle before the agent is in sync: a
// rule that expired while no agent ran may still be in a gateway.
func (a *Agent) overdue(now time.Time) map[string]bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	groups := map[string]bool{}
	for key, o := range a.objects {
		if o.rec == nil || o.rec.Export == nil {
			continue
		}
		if slices.ContainsFunc(o.rec.Export.Rules, func(r access.Intent) bool { return r.Expired(now) }) {
			groups[o.rec.Group(key.id)] = true
			groups[intent.NetworkGroup(o.rec.Export.Network)] = true
		}
	}
	return groups
}
