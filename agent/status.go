package agent

import (
	"fmt"
	"slices"
	"time"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/move"
	"github.com/causeway-project/causeway/agent/reconcile"
	"github.com/causeway-project/causeway/agent/word"
)

// publish works out the status of each member from what was seen, and tells
// whoever waits or watches.
func (a *Agent) publish(g *group, members []member, w reconcile.World, plan reconcile.Plan) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for k, f := range g.fails {
		if plan.Settled(k, w) {
			delete(g.fails, k) // put right by somebody else, or not wanted any more
		} else if f.Next.IsZero() {
			delete(g.fails, k) // a caller asked for a new try
		}
	}
	for k := range g.tried {
		if plan.Settled(k, w) {
			delete(g.tried, k)
		}
	}
	for _, m := range members {
		o := a.objects[m.key]
		if o == nil || o.rec != m.rec {
			continue // changed meanwhile: the next pass tells
		}
		if g.look && o.status.Phase == model.Working {
			continue // somebody waits for a look that begins after this one
		}
		s, failure := a.judgeLocked(g, m, w, plan)
		a.notePersistenceLocked(o, g, w)
		a.setStatusLocked(o, s, failure)
	}
}

// judgeLocked says where an object stands: the first of its things that is not
// as wanted decides.
func (a *Agent) judgeLocked(g *group, m member, w reconcile.World, plan reconcile.Plan) (model.Status, *fault.Error) {
	s := model.Status{Generation: m.rec.Generation, Phase: model.Ready}
	s.ObservedGeneration = min(a.objects[m.key].status.ObservedGeneration, m.rec.Generation-1)
	keys := m.rec.Keys(m.key.id)
	if m.rec.Removing {
		s.Phase = model.Removing
		if f := g.kept[m.key]; f != nil {
			return s.Because(f.Err, f.Attempts), f.Err
		}
		if e := a.outlasted(g, m, w); e != nil {
			s.Phase = model.Degraded
			return s.Because(e, 0), e
		}
		for _, k := range slices.Backward(keys) {
			if f := g.unknown[k]; f != nil {
				return s.Because(f.Err, 0), nil
			}
			if f := g.fails[k]; f != nil {
				if f.Err.Reason == fault.GuestBusy || f.Err.Reason == fault.NeedsReset {
					s.Phase = model.Degraded
				}
				if m.rec.RemovalForced && intent.OfGuest(k) {
					return s.Because(f.Err, f.Attempts), nil // it is not waited for
				}
				return s.Because(f.Err, f.Attempts), f.Err
			}
		}
		return s, nil
	}
	stage := move.All
	if at := m.rec.Attachment; at != nil && !g.starting[m.key] {
		answer := g.answers[at.InstanceUUID]
		stage = m.stage(answer.instance, answer.err)
		switch {
		case stage == move.Nothing:
			return a.judgeReleasedLocked(g, m, s, w)
		case stage == move.Ground: // which needs no instance
		case answer.err != nil && answer.err.Reason == fault.InstanceNotFound:
			s.Phase = model.Pending
			return s.Because(instanceGone(m.rec.Attachment, answer), 0), nil
		case answer.err == nil && !answer.instance.Running:
			s.Phase = model.Pending
			e := fault.Preconditionf(fault.InstanceOff, "instance %s is not running: the share is attached when it is started", word.Quote(at.Instance))
			return s.Because(e, 0), e
		}
	}
	for _, k := range keys {
		if _, wanted := w.Want[k]; !wanted {
			continue
		}
		if f := g.unknown[k]; f != nil {
			if s.Phase = model.Pending; a.objects[m.key].wasReady {
				s.Phase = model.Degraded
			}
			return s.Because(f.Err, 0), nil
		}
		if s, failure, bad := a.judgeKeyLocked(g, k, s, w, plan); bad {
			if g.gone[keys[0]] {
				s.Phase = model.Degraded
				return s.Because(shareGone(m), s.Attempts), shareGone(m)
			}
			return s, failure
		}
	}
	if g.starting[m.key] {
		s.Phase = model.Pending
		e := fault.Preconditionf(fault.InstanceStarting, "instance %s is about to start: all is there that it connects to", word.Quote(m.rec.Attachment.Instance))
		return s.Because(e, 0), nil
	}
	s.ObservedGeneration = m.rec.Generation
	if stage != move.All {
		s.Phase = model.Pending
		return s.Because(m.rec.Attachment.Move.Status(), 0), nil
	}
	if e := a.objects[m.key].unsteady; e != nil {
		s.Phase = model.Degraded // it serves just now
		return s.Because(e, a.objects[m.key].quickEnds), nil
	}
	if e := a.objects[m.key].strain.Warning(); e != nil {
		s.Phase = model.Degraded // it serves, and soon it may not
		return s.Because(e, 0), nil
	}
	if e := a.objects[m.key].rules.failure(); e != nil {
		s.Phase = model.Degraded
		return s.Because(e, 0), nil
	}
	if g.gone[keys[0]] {
		s.Phase = model.Degraded
		return s.Because(shareGone(m), 0), nil
	}
	return s, nil
}

// shareGone says what to do where a share was deleted under its users.
func shareGone(m member) *fault.Error {
	e := &fault.Error{Kind: fault.NotFound, Reason: fault.ShareGone, Message: "the share was deleted at the backend while in use, and nothing is served: delete this export, or make the share anew, which is then noticed"}
	if m.rec.Attachment != nil {
		e.Message = "the share was deleted at the backend while in use: remove this object, it serves nothing"
	}
	return e
}

func (a *Agent) judgeKeyLocked(g *group, k reconcile.Key, s model.Status, w reconcile.World, plan reconcile.Plan) (model.Status, *fault.Error, bool) {
	if plan.Settled(k, w) {
		return s, nil, false
	}
	if cause, blocked := plan.Blocked[k]; blocked && cause != k {
		if f := g.fails[cause]; f != nil {
			s.Phase = model.Failed
			if f.Err.Reason == fault.NeedsReset || f.Err.Reason == fault.DaemonBlocked {
				s.Phase = model.Degraded // what it has to have out is still there
			}
			return s.Because(f.Err, f.Attempts), f.Err, true
		}
		s.Phase = model.Pending
		e := &fault.Error{Reason: fault.Waiting, Message: fmt.Sprintf("waits for %v", cause)}
		if cause.Kind == reconcile.Gateway {
			e = a.gatewayErrorLocked(cause.Name)
		}
		return s.Because(e, 0), nil, true
	}
	if f := g.fails[k]; f != nil {
		s.Phase = model.Failed
		_, there := w.Is[k]
		if there || besides(k) {
			s.Phase = model.Degraded // the share reaches its user all the same
		}
		if f.Err.Reason == fault.GatewayCrashes || f.Err.Reason == fault.GatewayStuck || f.Err.Reason == fault.GatewayBlocked {
			s.Phase = model.Degraded // the network is there, and its exports say that they wait
		}
		if besides(k) {
			s.ObservedGeneration = s.Generation
		}
		return s.Because(f.Err, f.Attempts), f.Err, true
	}
	s.Phase = model.Working
	return s, nil, true
}

// besides says whether the share reaches its user without a thing.
func besides(k reconcile.Key) bool {
	return k.Kind == reconcile.GuestMount || k.Kind == reconcile.Definition
}

// setStatusLocked keeps the time of the last real change, logs a transition
// once, and wakes those who wait.
func (a *Agent) setStatusLocked(o *object, s model.Status, failure *fault.Error) {
	o.failure = failure
	old := o.status
	s.Since = old.Since
	if old.Phase != s.Phase || old.Reason != s.Reason || old.Generation != s.Generation {
		s.Since = time.Now()
	}
	switch s.Phase {
	case model.Ready:
		o.wasReady = true
		a.noteRepairLocked(o)
	case model.Pending, model.Removing:
		o.down = false // nobody waits for it
	}
	if s == old {
		return
	}
	o.status = s
	if old.Phase != s.Phase || old.Reason != s.Reason {
		attrs := []any{o.key.kind, o.key.id, "phase", string(s.Phase), "reason", string(s.Reason), "gen", s.Generation}
		switch s.Phase {
		case model.Failed, model.Degraded:
			a.log.Warn("object changed", append(attrs, "message", s.Message)...)
		case model.Ready:
			a.log.Info("object changed", attrs...)
		default:
			a.log.Debug("object changed", attrs...)
		}
	}
	o.broadcast()
	a.tellLocked(o, false)
}
