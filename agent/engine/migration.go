package engine

import (
	"context"
	"slices"
	"time"

	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/move"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/agent/reconcile"
	"github.com/causeway-project/causeway/drivers"
)

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
func (eng *Engine) endMoves(ctx context.Context, g *group, members []member) bool {
	ended := false
	for _, m := range members {
		at := m.rec.Attachment
		if at == nil || at.Move == nil || m.rec.Removing || g.starting[m.key] || eng.waits(g, m) {
			continue
		}
		if at.Move.End(g.answers[at.InstanceUUID].Place(), m.at) == move.Goes {
			continue
		}
		// Nobody can take it back: what an event may yet tell has to be asked for.
		delete(g.answers, at.InstanceUUID)
		asking, done := eng.starts.Guard(ctx, at.InstanceUUID)
		answer := g.answers.Of(asking, eng.o.Instances, at.InstanceUUID)
		done()
		end := at.Move.End(answer.Place(), m.at)
		if end == move.Goes || end == move.Returned && answer.Instance.Running && !eng.isServed(m) {
			continue
		}
		if err := eng.endMove(ctx, m, end); err != nil {
			eng.log.Error("end of a move could not be noted and will be tried again", "attachment", m.key.ID, "end", string(end), "err", err)
			eng.mu.Lock()
			g.kept[m.key] = g.kept[m.key].Again(parts.Classify(err))
			eng.mu.Unlock()
			continue
		}
		eng.mu.Lock()
		delete(g.kept, m.key)
		eng.mu.Unlock()
		ended = true
	}
	return ended
}

// waits says whether the record of a member could not be changed of late.
func (eng *Engine) waits(g *group, m member) bool {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	f := g.kept[m.key]
	return f != nil && m.at.Before(f.Next)
}

// isServed says whether the instance of an attachment has it.
func (eng *Engine) isServed(m member) bool {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	o := eng.objects[m.key]
	return o != nil && o.rec == m.rec && o.status.ObservedGeneration == m.rec.Generation &&
		(o.status.Phase == model.Ready || o.status.Phase == model.Degraded)
}

func (eng *Engine) endMove(ctx context.Context, m member, end move.End) error {
	changed := false
	_, err := eng.Edit(ctx, m.key, drivers.Secret{}, func(_ Intents, old *intent.Record) (*intent.Record, error) {
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
	eng.metrics.MoveEnded(end)
	if end == move.Withdrawn {
		eng.log.Warn("instance did not arrive in time, and what was prepared for it is withdrawn", "attachment", m.key.ID, "instance", m.rec.Attachment.InstanceUUID)
		return nil
	}
	eng.log.Info("move ended", "attachment", m.key.ID, "instance", m.rec.Attachment.InstanceUUID, "end", string(end))
	return nil
}

// nextMoveLocked is when the first move of a group's attachments expires after
// now, or zero.
func (eng *Engine) nextMoveLocked(g *group, now time.Time) time.Time {
	var next time.Time
	for key := range g.members {
		o := eng.objects[key]
		if o == nil || o.rec == nil || o.rec.Attachment == nil || o.rec.Attachment.Move == nil {
			continue
		}
		if t := o.rec.Attachment.Move.ExpiresAt; t.After(now) && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	return next
}
