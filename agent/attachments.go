package agent

import (
	"context"
	"strings"
	"time"

	"github.com/causeway-project/causeway/agent/engine"
	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/move"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/agent/preflight"
	"github.com/causeway-project/causeway/agent/refusal"
	"github.com/causeway-project/causeway/agent/word"
	"github.com/causeway-project/causeway/agent/writers"
	"github.com/causeway-project/causeway/drivers"
)

// Attach brings a share to a running instance, and returns when the instance
// has it. The same call again joins, confirms or retries the first.
func (a *Agent) Attach(ctx context.Context, at model.Attachment) (model.Attachment, error) {
	if err := at.Validate(); err != nil {
		return model.Attachment{}, err
	}
	if err := a.checkConnection(at.Connection); err != nil {
		return model.Attachment{}, err
	}
	if err := a.Ready(); err != nil {
		return model.Attachment{}, err
	}
	ctx, cancel := a.Within(ctx)
	defer cancel()
	key := model.AttachmentKey(at.ID)
	instance, err := a.preflightAttachment(ctx, at)
	if err != nil {
		return model.Attachment{}, err
	}
	created, err := a.Edit(ctx, key, at.Connection.Secret, func(all engine.Intents, old *intent.Record) (*intent.Record, error) {
		next, err := a.attachmentRecord(all, old, at, instance)
		if err == nil && next.Attachment.Move.Is(move.Source) {
			return nil, next.Attachment.Move.Status()
		}
		return next, err
	})
	if err != nil {
		return model.Attachment{}, err
	}
	if err := a.Await(ctx, key, engine.Wait{Created: created}); err != nil {
		return model.Attachment{}, err
	}
	return a.Attachment(ctx, at.ID)
}

// preflightAttachment refuses what the host can tell is wrong before anything
// is written. An attachment that is there already needs no preflight: its
// instance may well be off by now.
func (a *Agent) preflightAttachment(ctx context.Context, at model.Attachment) (parts.Instance, error) {
	if is, err := a.Attachment(ctx, at.ID); err == nil && (at.Instance == is.Instance || at.Instance == is.InstanceUUID) {
		return parts.Instance{UUID: is.InstanceUUID}, nil
	}
	facts, err := a.attachmentFacts(ctx, at)
	if err != nil {
		return parts.Instance{}, err
	}
	return facts.Instance, preflight.Refusal(preflight.Look(facts))
}

func (a *Agent) probe(ctx context.Context, kind string, probe func(driver) error) error {
	d, ok := a.o.Drivers.Get(kind)
	if !ok {
		return nil // checked before
	}
	if err := probe(d); err != nil {
		return parts.Classify(err)
	}
	return ctx.Err()
}

// checkConnection refuses what no driver of this agent can reach.
func (a *Agent) checkConnection(c drivers.Connection) error {
	d, ok := a.o.Drivers.Get(c.Kind)
	if !ok {
		var kinds []string
		for _, d := range a.o.Drivers.Descriptions() {
			kinds = append(kinds, d.Kind)
		}
		return fault.Invalidf(fault.UnknownDriver, "backend kind %s: this agent has %s", word.Quote(c.Kind), strings.Join(kinds, ", "))
	}
	if err := d.Validate(c); err != nil {
		return parts.Classify(err)
	}
	return nil
}

func (a *Agent) attachmentRecord(all engine.Intents, old *intent.Record, at model.Attachment, i parts.Instance) (*intent.Record, error) {
	key := model.AttachmentKey(at.ID)
	want := intent.AttachmentOf(at, i.UUID)
	if old != nil {
		what := old.Attachment.Differs(want)
		switch {
		case old.Removing && (what != "" || old.RemovalForced):
			return nil, refusal.BeingRemoved(key)
		case what != "":
			return nil, refusal.OtherSettings(key, what)
		case old.Removing:
			// Nothing else would free who asked for a removal that a guest
			// holds up, but to end what the guest does.
			next := old.Next()
			next.Removing = false
			return next, nil
		}
		if at.Forced && !old.Attachment.Forced {
			forced := *old.Attachment
			forced.Forced = true
			next := old.Next()
			next.Attachment = &forced
			return next, nil
		}
		return old, nil
	}
	want.Settings = at.Settings.Or(a.Settings())
	want.Settings.Memory, want.Settings.OpenFiles = at.Settings.Memory, at.Settings.OpenFiles
	for other, r := range all.All() {
		if other != key && r.Attachment != nil && r.Attachment.InstanceUUID == i.UUID && r.Attachment.Tag == at.Tag {
			return nil, preflight.ErrTagTaken(at)
		}
	}
	next := &intent.Record{Generation: 1, Attachment: want}
	if err := writers.Admit(all.All(), writers.Change{Key: key, Next: next, Now: time.Now()}); err != nil {
		return nil, err
	}
	return next, nil
}

// Detach takes a share away from its instance: GuestBusy while the guest does
// not let go; all goes on working then. An unknown id is success.
func (a *Agent) Detach(ctx context.Context, id string) error {
	return a.removeByID(ctx, model.AttachmentKey(id), engine.Removal{})
}

// ForceDetach does not wait for a guest that does not let go: its access ends
// within Options.ForceGrace. NeedsReset where the guest keeps the device all the same.
func (a *Agent) ForceDetach(ctx context.Context, id string) error {
	return a.removeByID(ctx, model.AttachmentKey(id), engine.Removal{Forced: true})
}

func (a *Agent) removeByID(ctx context.Context, key model.Key, r engine.Removal) error {
	if err := word.CheckGivenID(key.Kind, key.ID); err != nil {
		return err
	}
	if err := a.Ready(); err != nil {
		return err
	}
	ctx, cancel := a.Within(ctx)
	defer cancel()
	return a.Remove(ctx, key, r)
}

// RepairAttachment looks at an attachment now, without waiting for a back-off,
// and replaces a virtiofsd that is stopped: DaemonBlocked where it waits for its
// backend.
func (a *Agent) RepairAttachment(ctx context.Context, id string) (model.Attachment, error) {
	if err := a.Ready(); err != nil {
		return model.Attachment{}, err
	}
	ctx, cancel := a.Within(ctx)
	defer cancel()
	if err := a.Repair(ctx, id); err != nil {
		return model.Attachment{}, err
	}
	if err := a.awaitMove(ctx, model.AttachmentKey(id), move.Source, move.Destination); err != nil {
		return model.Attachment{}, err
	}
	return a.Attachment(ctx, id)
}
