package agent

import (
	"context"
	"slices"
	"time"

	"github.com/causeway-project/causeway/agent/answers"
	"github.com/causeway-project/causeway/agent/engine"
	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/move"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/agent/preflight"
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
	if err := a.Ready(); err != nil {
		return model.Attachment{}, err
	}
	ctx, cancel := a.Within(ctx)
	defer cancel()
	key := model.AttachmentKey(at.ID)
	if err := a.preflightMove(ctx, key, at); err != nil {
		return model.Attachment{}, err
	}
	created, err := a.Edit(ctx, key, at.Connection.Secret, func(all engine.Intents, old *intent.Record) (*intent.Record, error) {
		if old != nil && old.Removing {
			return nil, refusal.BeingRemoved(key)
		}
		r, err := a.attachmentRecord(all, old, at, parts.Instance{UUID: at.Instance})
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
	if a.Has(key) {
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
	ctx, cancel := context.WithTimeout(ctx, answers.Patience)
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
	if err := a.Ready(); err != nil {
		return model.Attachment{}, err
	}
	ctx, cancel := a.Within(ctx)
	defer cancel()
	key := model.AttachmentKey(id)
	_, err := a.Edit(ctx, key, drivers.Secret{}, func(_ engine.Intents, old *intent.Record) (*intent.Record, error) {
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
	return a.Await(ctx, key, engine.Wait{Created: created, Settled: func(r *intent.Record, s model.Status) bool {
		m := r.Attachment.Move
		if m == nil {
			return s.Settled()
		}
		waits := s.Reason == fault.InstanceAwaited || s.Reason == fault.Released
		return waits && s.Phase == model.Pending && s.ObservedGeneration == s.Generation && slices.Contains(sides, m.Side)
	}})
}
