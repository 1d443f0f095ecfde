package engine

import (
	"context"
	"errors"
	"time"

	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/agent/reconcile"
	"github.com/causeway-project/causeway/agent/retry"
	"github.com/causeway-project/causeway/agent/vitals"
)

// take does one step and notes how it went.
func (eng *Engine) take(ctx context.Context, g *group, s reconcile.Step, members []member) {
	delete(g.seen, s.Key)
	begin := time.Now()
	err := eng.do(ctx, g, s, members)
	eng.note(ctx, g, ending{step: s, members: members, err: err, took: time.Since(begin)})
}

// takeBeside does one step beside the worker, which goes on with the share's
// other users meanwhile. What the step is about counts as unknown until the
// worker has noted how it went.
func (eng *Engine) takeBeside(ctx context.Context, g *group, s reconcile.Step, members []member) {
	ctx, cancel := context.WithCancelCause(ctx)
	g.beside[s.Key] = cancel
	delete(g.glances, model.AttachmentKey(s.Key.Name)) // it may see neither before nor after
	eng.workers.Go(func() {
		defer cancel(nil)
		begin := time.Now()
		err := eng.do(ctx, g, s, members)
		eng.mu.Lock()
		defer eng.mu.Unlock()
		g.ended = append(g.ended, ending{step: s, members: members, err: err, took: time.Since(begin), calledOff: context.Cause(ctx) == errCalledOff})
		eng.wakeLocked(g.key, lookOn)
	})
}

// ofInstance says whether a step is taken beside the worker: a guest may take
// long, and a share may have hundreds.
func ofInstance(s reconcile.Step) bool {
	return s.Key.Kind == reconcile.Daemon || intent.OfLibvirt(s.Key)
}

// An ending is how a step went.
type ending struct {
	step    reconcile.Step
	members []member // when it began
	err     error
	took    time.Duration

	calledOff bool // whatever came of it, it has not failed
}

// errCalledOff ends a step beside the worker whose success nobody wants any more.
var errCalledOff = errors.New("step was called off")

// callOff ends the mounts in guests whose device has gone, as after a detach that
// was called off too late: they would wait for it in vain, and it for them.
func (g *group) callOff(members []member) {
	for _, m := range members {
		device := reconcile.Device.Of(m.key.ID)
		if _, there := g.is[device]; there || !g.seen[device] || g.unknown[device] != nil {
			continue
		}
		if cancel := g.beside[reconcile.GuestMount.Of(m.key.ID)]; cancel != nil {
			cancel(errCalledOff)
		}
	}
}

// noteEnded notes the steps that have ended beside the worker. It reports
// whether there were any.
func (eng *Engine) noteEnded(g *group) bool {
	eng.mu.Lock()
	ended, glanced := g.ended, g.glanced
	g.ended, g.glanced = nil, nil
	eng.mu.Unlock()
	for _, seen := range glanced {
		eng.noteGlance(g, seen)
	}
	for _, e := range ended {
		delete(g.beside, e.step.Key)
		delete(g.seen, e.step.Key)
		if m, ok := memberOf(e.step.Key, e.members); ok && (e.step.Key.Kind == reconcile.Device || e.step.Key.Kind == reconcile.Definition) {
			delete(g.answers, m.rec.Attachment.InstanceUUID)
		}
		eng.note(eng.run, g, e)
	}
	return len(ended) > 0
}

// note keeps how a step went. What it touched is looked at again whatever it
// says, but for what the step itself has read back.
func (eng *Engine) note(ctx context.Context, g *group, e ending) {
	s := e.step
	g.cleaned[s.Key] = e.err == nil && s.Verb == reconcile.Remove
	eng.metrics.Step(s, e.err, e.took)
	eng.mu.Lock()
	defer eng.mu.Unlock()
	err := e.err
	if err == nil {
		eng.log.Debug("step done", "step", s.Key.Kind.String(), "verb", string(s.Verb), "name", s.Key.Name, "dur", e.took)
		if g.steps.Worked(s.Key) {
			return
		}
		err = errors.New("it says that it worked, and the host does not show it")
	}
	if ctx.Err() != nil || e.calledOff {
		return
	}
	if m, _ := memberOf(s.Key, e.members); eng.changedLocked(m) {
		return // what failed is not what is wanted now, which the next pass tries
	}
	why := parts.Classify(err)
	if s.Key.Kind == reconcile.Gateway {
		why = vitals.StartFailed(g.steps.Failures()[s.Key], why)
	}
	if g.steps.Failed(retry.Attempt{Step: s, Err: why, Took: e.took}) {
		eng.log.Warn("step failed and will be tried again", "step", s.Key.Kind.String(), "verb", string(s.Verb), "name", s.Key.Name, "reason", string(why.Reason), "err", err)
	}
}

// changedLocked says whether somebody has asked otherwise since a pass began.
func (eng *Engine) changedLocked(m member) bool {
	o := eng.objects[m.key]
	return o != nil && o.rec != m.rec
}
