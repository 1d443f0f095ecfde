package engine

import (
	"time"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/reconcile"
	"github.com/causeway-project/causeway/agent/retry"
	"github.com/causeway-project/causeway/agent/standing"
)

// publish works out the status of each member from what was seen, and tells
// whoever waits or watches.
func (eng *Engine) publish(g *group, members []member, w reconcile.World, plan reconcile.Plan) {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	g.steps.Settle(w, plan)
	for _, m := range members {
		o := eng.objects[m.key]
		if o == nil || o.rec != m.rec {
			continue // changed meanwhile: the next pass tells
		}
		if (g.look || g.again[m.key]) && o.status.Phase == model.Working {
			continue // somebody waits for a look that begins after this one
		}
		s, failure := standing.Of(eng.factsLocked(g, m, w, plan))
		eng.notePersistenceLocked(o, g, w)
		eng.setStatusLocked(o, s, failure)
	}
	eng.noteWritersLocked(g)
}

// factsLocked are what there is to say of a member.
func (eng *Engine) factsLocked(g *group, m member, w reconcile.World, plan reconcile.Plan) standing.Facts {
	o := eng.objects[m.key]
	f := standing.Facts{
		ID: m.key.ID, Record: m.rec, Observed: o.status.ObservedGeneration, WasReady: o.wasReady,
		Kept: g.kept[m.key], Warning: o.warning(), Cut: m.cut, Starting: g.starting[m.key], Now: m.at,
		World: w, Plan: plan, Fails: g.steps.Failures(), Unknown: g.unknown, Gone: g.gone, Gateway: eng.gatewayErrorLocked,
	}
	if at := m.rec.Attachment; at != nil {
		f.Instance = g.answers[at.InstanceUUID]
	}
	return f
}

// warning is why an object is degraded that serves just now, and soon may not,
// or not all; nil where there is nothing to say.
func (o *object) warning() *retry.Failure {
	if f := o.gateway.Warning(); f != nil {
		return f
	}
	if e := o.strain.Warning(); e != nil {
		return &retry.Failure{Err: e}
	}
	if e := o.rules.Failure(); e != nil {
		return &retry.Failure{Err: e}
	}
	return nil
}

// setStatusLocked keeps the time of the last real change, logs a transition
// once, and wakes those who wait.
func (eng *Engine) setStatusLocked(o *object, s model.Status, failure *fault.Error) {
	o.failure = failure
	old := o.status
	s.Since = old.Since
	if old.Phase != s.Phase || old.Reason != s.Reason || old.Generation != s.Generation {
		s.Since = time.Now()
	}
	switch s.Phase {
	case model.Ready:
		o.wasReady = true
		eng.noteRepairLocked(o)
	case model.Pending:
		if s.Reason != fault.Waiting { // for the dead device to be out
			o.down = false // nobody waits for it
		}
	case model.Removing:
		o.down = false
	}
	if s == old {
		return
	}
	o.status = s
	if old.Phase != s.Phase || old.Reason != s.Reason {
		attrs := []any{o.key.Kind, o.key.ID, "phase", string(s.Phase), "reason", string(s.Reason), "gen", s.Generation}
		switch s.Phase {
		case model.Failed, model.Degraded:
			eng.log.Warn("object changed", append(attrs, "message", s.Message)...)
		case model.Ready:
			eng.log.Info("object changed", attrs...)
		default:
			eng.log.Debug("object changed", attrs...)
		}
	}
	o.broadcast()
	eng.tellLocked(o, false)
}
