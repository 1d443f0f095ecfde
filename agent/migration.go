package agent

import (
	"context"
	"slices"
	"time"

	"github.com/causeway-project/causeway/agent/answers"
	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/move"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/agent/preflight"
	"github.com/causeway-project/causeway/agent/reconcile"
	"github.com/causeway-project/causeway/agent/refusal"
	"github.com/causeway-project/causeway/agent/word"
	"github.com/causeway-project/causeway/drivers"
)

// Prepare makes everything for an attachment whose instance, named by its UUID,
// is about to be migrated to this host: the share is mounted and its virtiofsd
// listens. When the instance runs here it is attached, whether or not the
// caller is still there. If it does not until expires, all is taken away and
// the record withdrawn. The same call again, or with another expiry, joins,
// confirms or prolongs the first; where the instance has arrived it changes
// nothing.
func (a *Agent) Prepare(ctx context.Context, at model.Attachment, expires time.Time) (model.Attachment, error) {
	if err := at.Validate(); err != nil {
		return model.Attachment{}, err
	}
	if err := move.CheckInstance(at.Instance); err != nil {
		return model.Attachment{}, err
	}
	if err := a.checkConnection(at.Connection); err != nil {
		return model.Attachment{}, err
	}
	if err := move.CheckExpiry(expires, time.Now()); err != nil {
		return model.Attachment{}, err
	}
	if err := a.ready(); err != nil {
		return model.Attachment{}, err
	}
	ctx, cancel := a.within(ctx)
	defer cancel()
	key := model.AttachmentKey(at.ID)
	if err := a.preflightMove(ctx, key, at); err != nil {
		return model.Attachment{}, err
	}
	created, err := a.edit(ctx, key, at.Connection.Secret, func(old *intent.Record) (*intent.Record, error) {
		if old != nil && old.Removing {
			return nil, refusal.BeingRemoved(key)
		}
		r, err := a.attachmentRecord(key, old, at, parts.Instance{UUID: at.Instance})
		if err != nil {
			return nil, err
		}
		switch m := r.Attachment.Move; {
		case m.Is(move.Source):
			return nil, m.Status()
		case old != nil && (m == nil || m.ExpiresAt.Equal(expires)):
			return r, nil
		}
		next := r.WithMove(&move.Move{Side: move.Destination, ExpiresAt: expires.UTC().Round(0)})
		if old == nil {
			next.Generation = r.Generation
		}
		return next, nil
	})
	if err != nil {
		return model.Attachment{}, err
	}
	if err := a.awaitMoveOf(ctx, key, created, move.Destination); err != nil {
		return model.Attachment{}, err
	}
	return a.Attachment(ctx, at.ID)
}

// preflightMove refuses what can be told before anything is written.
func (a *Agent) preflightMove(ctx context.Context, key model.Key, at model.Attachment) error {
	if a.known(key) {
		return nil
	}
	answer := answers.Ask(ctx, a.o.Instances, at.Instance)
	switch answer.Place() {
	case move.Unknown:
		return answer.Err
	case move.Here:
		return fault.Preconditionf(fault.InstanceHere, "instance %s runs on this host already: attach the share to it", word.Quote(at.Instance))
	}
	// What the instance is like is seen when it has come.
	facts, err := a.hostFacts(ctx, at, parts.Instance{UUID: at.Instance, Running: true, SharedMemory: true, FreePorts: 1})
	if err != nil {
		return err
	}
	return preflight.Refusal(preflight.Look(facts))
}

// Finish waits until an instance that was prepared for has arrived and has the
// share. Where there is no such attachment any more its time was over:
// UnknownID.
func (a *Agent) Finish(ctx context.Context, id string) (model.Attachment, error) {
	return a.changeMove(ctx, id, func(old *intent.Record) (*intent.Record, error) {
		if m := old.Attachment.Move; m.Is(move.Source) {
			return nil, m.Status()
		}
		return old, nil
	})
}

// Release takes a share away from its instance, in the order of Detach, so that
// the instance can be migrated to another host, and keeps the record. Detach
// ends it when the instance has gone, Rollback when it stays. If neither comes
// until expires, the agent does what fits: an instance that is still here is
// attached again, and of one that has left nothing is kept.
func (a *Agent) Release(ctx context.Context, id string, expires time.Time) (model.Attachment, error) {
	if err := move.CheckExpiry(expires, time.Now()); err != nil {
		return model.Attachment{}, err
	}
	return a.changeMove(ctx, id, func(old *intent.Record) (*intent.Record, error) {
		switch m := old.Attachment.Move; {
		case m.Is(move.Destination):
			return nil, fault.Preconditionf(fault.InstanceAwaited, "the instance of attachment %s is not here yet, so that there is nothing to release: delete the attachment to give it up", id)
		case m != nil && m.ExpiresAt.Equal(expires):
			return old, nil
		}
		return old.WithMove(&move.Move{Side: move.Source, ExpiresAt: expires.UTC().Round(0)}), nil
	}, move.Source)
}

// Rollback ends a release: the instance stays, and has the share again when
// Rollback returns. An attachment that is not released is left as it is.
func (a *Agent) Rollback(ctx context.Context, id string) (model.Attachment, error) {
	if err := a.stillHere(ctx, id); err != nil {
		return model.Attachment{}, err
	}
	return a.changeMove(ctx, id, func(old *intent.Record) (*intent.Record, error) {
		switch m := old.Attachment.Move; {
		case m.Is(move.Destination):
			return nil, fault.Preconditionf(fault.InstanceAwaited, "this host is the destination of the move of attachment %s: delete the attachment here, and roll back at the source", id)
		case m == nil || m.ExpiresAt.IsZero():
			return old, nil
		}
		// It has expired from now on.
		return old.WithMove(&move.Move{Side: move.Source}), nil
	})
}

// stillHere refuses to roll back what has gone.
func (a *Agent) stillHere(ctx context.Context, id string) error {
	at, err := a.Attachment(ctx, id)
	if err != nil || !at.Move.Is(move.Source) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, lookDeadline)
	defer cancel()
	answer := answers.Ask(ctx, a.o.Instances, at.InstanceUUID)
	switch answer.Place() {
	case move.Unknown:
		return answer.Err
	case move.Absent, move.Gone:
		return fault.Preconditionf(fault.InstanceNotFound, "instance %s is not on this host any more, so that it cannot have the share again: delete the attachment", word.Quote(at.InstanceUUID))
	}
	return nil
}

// changeMove edits the record of an attachment that is there, and waits until
// it is ready, or has all that one of the sides wants.
func (a *Agent) changeMove(ctx context.Context, id string, change func(*intent.Record) (*intent.Record, error), sides ...move.Side) (model.Attachment, error) {
	if err := a.ready(); err != nil {
		return model.Attachment{}, err
	}
	ctx, cancel := a.within(ctx)
	defer cancel()
	key := model.AttachmentKey(id)
	_, err := a.edit(ctx, key, drivers.Secret{}, func(old *intent.Record) (*intent.Record, error) {
		if old == nil {
			return nil, refusal.UnknownID(key)
		}
		if old.Removing {
			return nil, refusal.BeingRemoved(key)
		}
		return change(old)
	})
	if err != nil {
		return model.Attachment{}, err
	}
	if err := a.awaitMove(ctx, key, sides...); err != nil {
		return model.Attachment{}, err
	}
	return a.Attachment(ctx, id)
}

func (a *Agent) awaitMove(ctx context.Context, key model.Key, sides ...move.Side) error {
	return a.awaitMoveOf(ctx, key, false, sides...)
}

func (a *Agent) awaitMoveOf(ctx context.Context, key model.Key, created bool, sides ...move.Side) error {
	return a.awaitObject(ctx, key, created, func(o *object) bool {
		if o.rec == nil {
			return false
		}
		m := o.rec.Attachment.Move
		if m == nil {
			return o.settled()
		}
		waits := o.status.Reason == fault.InstanceAwaited || o.status.Reason == fault.Released
		return waits && o.status.Phase == model.Pending && o.status.ObservedGeneration == o.status.Generation && slices.Contains(sides, m.Side)
	})
}

// leftAlone says whether a thing in an instance that is awaited is nobody's
// concern yet. One that is migrated with its share brings the device along, and
// has it before it runs.
func (m member) leftAlone(g *group, k reconcile.Key) bool {
	if m.rec.Attachment == nil || !m.rec.Attachment.Move.Is(move.Destination) || m.rec.Removing || !intent.OfLibvirt(k) {
		return false
	}
	delete(g.is, k)
	delete(g.seen, k)
	delete(g.unknown, k)
	return true
}

// atStage leaves out the keys that come later.
func atStage(keys []reconcile.Key, stage move.Stage) []reconcile.Key {
	if stage == move.Nothing {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(keys), func(k reconcile.Key) bool { return k.Kind > reconcile.Daemon })
}

// endMoves notes what became of the moves of a group's attachments, and reports
// whether there was one that ended. What the instance does next is written down
// before anything is done about it.
func (a *Agent) endMoves(ctx context.Context, g *group, members []member) bool {
	ended := false
	for _, m := range members {
		at := m.rec.Attachment
		if at == nil || at.Move == nil || m.rec.Removing || g.starting[m.key] || a.waits(g, m) {
			continue
		}
		if at.Move.End(g.answers[at.InstanceUUID].Place(), m.at) == move.Goes {
			continue
		}
		// Nobody can take it back: what an event may yet tell has to be asked for.
		delete(g.answers, at.InstanceUUID)
		asking, done := a.starts.Guard(ctx, at.InstanceUUID)
		answer := g.answers.Of(asking, a.o.Instances, at.InstanceUUID)
		done()
		end := at.Move.End(answer.Place(), m.at)
		if end == move.Goes || end == move.Returned && answer.Instance.Running && !a.isServed(m) {
			continue
		}
		if err := a.endMove(ctx, m, end); err != nil {
			a.log.Error("end of a move could not be noted and will be tried again", "attachment", m.key.ID, "end", string(end), "err", err)
			a.mu.Lock()
			g.kept[m.key] = g.kept[m.key].Again(parts.Classify(err))
			a.mu.Unlock()
			continue
		}
		a.mu.Lock()
		delete(g.kept, m.key)
		a.mu.Unlock()
		ended = true
	}
	return ended
}

// waits says whether the record of a member could not be changed of late.
func (a *Agent) waits(g *group, m member) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	f := g.kept[m.key]
	return f != nil && m.at.Before(f.Next)
}

// isServed says whether the instance of an attachment has it.
func (a *Agent) isServed(m member) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	o := a.objects[m.key]
	return o != nil && o.rec == m.rec && o.status.ObservedGeneration == m.rec.Generation &&
		(o.status.Phase == model.Ready || o.status.Phase == model.Degraded)
}

func (a *Agent) endMove(ctx context.Context, m member, end move.End) error {
	changed := false
	_, err := a.edit(ctx, m.key, drivers.Secret{}, func(old *intent.Record) (*intent.Record, error) {
		if old != m.rec {
			return old, nil // somebody was faster
		}
		changed = true
		if end == move.Left || end == move.Withdrawn {
			next := old.Next()
			next.Removing = true
			return next, nil
		}
		return old.WithMove(nil), nil
	})
	if err != nil || !changed {
		return err
	}
	a.metrics.MoveEnded(end)
	if end == move.Withdrawn {
		a.log.Warn("instance did not arrive in time, and what was prepared for it is withdrawn", "attachment", m.key.ID, "instance", m.rec.Attachment.InstanceUUID)
		return nil
	}
	a.log.Info("move ended", "attachment", m.key.ID, "instance", m.rec.Attachment.InstanceUUID, "end", string(end))
	return nil
}

// nextMoveLocked is when the first move of a group's attachments expires after
// now, or zero.
func (a *Agent) nextMoveLocked(g *group, now time.Time) time.Time {
	var next time.Time
	for key := range g.members {
		o := a.objects[key]
		if o == nil || o.rec == nil || o.rec.Attachment == nil || o.rec.Attachment.Move == nil {
			continue
		}
		if t := o.rec.Attachment.Move.ExpiresAt; t.After(now) && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	return next
}
