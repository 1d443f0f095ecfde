package agent

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/causeway-project/causeway/agent/access"
	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/agent/reconcile"
	"github.com/causeway-project/causeway/agent/refusal"
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
	key := model.ExportKey(export)
	_, err := a.edit(ctx, key, drivers.Secret{}, func(old *intent.Record) (*intent.Record, error) {
		if old == nil {
			return nil, refusal.UnknownID(key)
		}
		if old.Removing {
			return nil, refusal.BeingRemoved(key)
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
	key := model.ExportKey(export)
	a.mu.Lock()
	o := a.objects[key]
	if o == nil || o.rec == nil {
		a.mu.Unlock()
		return model.Export{}, refusal.UnknownID(key)
	}
	if o.rec.Removing {
		a.mu.Unlock()
		return model.Export{}, refusal.BeingRemoved(key)
	}
	o.recover = true
	a.retryLocked(o)
	o.status.Phase = model.Working
	a.wakeLocked(o.rec.Group(export), lookAgain)
	a.mu.Unlock()
	if err := a.await(ctx, key, false); err != nil {
		return model.Export{}, err
	}
	return a.Export(ctx, export)
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
	news := o.rules.Note(m.rec.Export, m.at, sight)
	if news.Drifted {
		a.log.Warn("rules of an export were changed by somebody else and are set anew", "export", m.key.ID)
		a.metrics.RulesDrifted()
	}
	for _, r := range news.Refused {
		a.log.Warn("access rule is refused by the gateway, and its clients are let in by no other", "export", m.key.ID, "rule", r.Rule, "err", r.Err)
	}
	for _, id := range news.Expired {
		a.log.Info("access rule expired and is out of the gateway", "export", m.key.ID, "rule", id)
	}
}

// toRecover says whether the rules of an export are to be set anew.
func (a *Agent) toRecover(key model.Key) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	o := a.objects[key]
	return o != nil && o.recover
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
	k := reconcile.Export.Of(m.key.ID)
	g.is[k], g.seen[k] = m.rec.Version(k, m.at), true
	delete(g.unknown, k)
	a.rulesSeen(m, ganesha.Sight{Match: ganesha.Same, Refused: refused})
	if !recover {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if o := a.objects[m.key]; o != nil {
		o.recover = false
	}
	a.log.Info("rules of an export were set anew", "export", m.key.ID)
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
		if f := g.fails[reconcile.Export.Of(m.key.ID)]; f != nil {
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
			groups[o.rec.Group(key.ID)] = true
			groups[intent.NetworkGroup(o.rec.Export.Network)] = true
		}
	}
	return groups
}
