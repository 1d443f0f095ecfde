package engine

import (
	"context"
	"slices"
	"time"

	"github.com/causeway-project/causeway/agent/access"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/agent/reconcile"
	"github.com/causeway-project/causeway/agent/refusal"
	"github.com/causeway-project/causeway/ganesha"
)

// rulesSeen notes what a look at the gateway said of an export's rules. Where
// it has other ones than it was last seen to have, and nobody here changed
// them, somebody else did.
func (eng *Engine) rulesSeen(m member, sight ganesha.Sight) {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	o := eng.objects[m.key]
	if o == nil {
		return
	}
	news := o.rules.Note(m.rec.Export, m.at, sight)
	if news.Drifted {
		eng.log.Warn("rules of an export were changed by somebody else and are set anew", "export", m.key.ID)
		eng.metrics.RulesDrifted()
	}
	for _, r := range news.Refused {
		eng.log.Warn("access rule is refused by the gateway, and its clients are let in by no other", "export", m.key.ID, "rule", r.Rule, "err", r.Err)
	}
	for _, id := range news.Expired {
		eng.log.Info("access rule expired and is out of the gateway", "export", m.key.ID, "rule", id)
	}
}

// ResetRules has an export's rules set anew by the next pass, whatever its
// gateway has and says that it has: UnknownID, BeingRemoved.
func (eng *Engine) ResetRules(key model.Key) error {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	o := eng.objects[key]
	switch {
	case o == nil || o.rec == nil:
		return refusal.UnknownID(key)
	case o.rec.Removing:
		return refusal.BeingRemoved(key)
	}
	o.recover = true
	eng.retryLocked(o)
	o.status.Phase = model.Working
	eng.wakeLocked(o.rec.Group(key.ID), lookAgain)
	return nil
}

// toRecover says whether the rules of an export are to be set anew.
func (eng *Engine) toRecover(key model.Key) bool {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	o := eng.objects[key]
	return o != nil && o.recover
}

// putIntoGateway tells a gateway of an export. The gateway reads back what came
// of it, so that it need not be asked once more.
func (eng *Engine) putIntoGateway(ctx context.Context, g *group, s parts.Server, m member) error {
	put, recover := s.Put, eng.toRecover(m.key)
	if recover {
		put = s.Recover
	}
	refused, err := put(ctx, eng.gateways.Export(m.key.ID, m.rec.Export, m.at))
	if err != nil {
		return err
	}
	k := reconcile.Export.Of(m.key.ID)
	g.is[k], g.seen[k] = m.rec.Version(k, m.at), true
	delete(g.unknown, k)
	eng.rulesSeen(m, ganesha.Sight{Match: ganesha.Same, Refused: refused})
	if !recover {
		return nil
	}
	eng.mu.Lock()
	defer eng.mu.Unlock()
	if o := eng.objects[m.key]; o != nil {
		o.recover = false
	}
	eng.log.Info("rules of an export were set anew", "export", m.key.ID)
	return nil
}

// nextExpiryLocked is when the first rule of a group's exports expires after
// now, or zero.
func (eng *Engine) nextExpiryLocked(g *group, now time.Time) time.Time {
	var next time.Time
	for key := range g.members {
		o := eng.objects[key]
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
func (eng *Engine) expireLocked(g *group, ms []member, now time.Time) {
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
		g.steps.Sooner(now, reconcile.Export.Of(m.key.ID))
	}
}

// overdue names the groups that have to settle before the agent is in sync: a
// rule that expired while no agent ran may still be in a gateway.
func (eng *Engine) overdue(now time.Time) map[string]bool {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	groups := map[string]bool{}
	for key, o := range eng.objects {
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
