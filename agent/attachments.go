package agent

import (
	"context"
	"slices"
	"strings"

	"github.com/causeway-project/causeway/agent/device"
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

// Attach brings a share to a running instance, and returns when the instance
// has it. The same call again joins, confirms or retries the first.
func (a *Agent) Attach(ctx context.Context, at model.Attachment) (model.Attachment, error) {
	if err := at.Validate(); err != nil {
		return model.Attachment{}, err
	}
	if err := a.checkConnection(at.Connection); err != nil {
		return model.Attachment{}, err
	}
	if err := a.ready(); err != nil {
		return model.Attachment{}, err
	}
	ctx, cancel := a.within(ctx)
	defer cancel()
	key := model.AttachmentKey(at.ID)
	instance, err := a.preflightAttachment(ctx, key, at)
	if err != nil {
		return model.Attachment{}, err
	}
	created, err := a.edit(ctx, key, at.Connection.Secret, func(old *intent.Record) (*intent.Record, error) {
		next, err := a.attachmentRecord(key, old, at, instance)
		if err == nil && next.Attachment.Move.Is(move.Source) {
			return nil, next.Attachment.Move.Status()
		}
		return next, err
	})
	if err != nil {
		return model.Attachment{}, err
	}
	if err := a.await(ctx, key, created); err != nil {
		return model.Attachment{}, err
	}
	return a.Attachment(ctx, at.ID)
}

// preflightAttachment refuses what the host can tell is wrong before anything
// is written. An attachment that is there already needs no preflight: its
// instance may well be off by now.
func (a *Agent) preflightAttachment(ctx context.Context, key model.Key, at model.Attachment) (parts.Instance, error) {
	a.mu.Lock()
	o := a.objects[key]
	known := o != nil && o.rec != nil && (at.Instance == o.rec.Attachment.Instance || at.Instance == o.rec.Attachment.InstanceUUID)
	var uuid string
	if known {
		uuid = o.rec.Attachment.InstanceUUID
	}
	a.mu.Unlock()
	if known {
		return parts.Instance{UUID: uuid}, nil
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

func (a *Agent) attachmentRecord(key model.Key, old *intent.Record, at model.Attachment, i parts.Instance) (*intent.Record, error) {
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
	want.Settings = at.Settings.Or(a.o.Settings)
	want.Settings.Memory, want.Settings.OpenFiles = at.Settings.Memory, at.Settings.OpenFiles
	for other, o := range a.objects {
		if r := o.intent(); other != key && r != nil && r.Attachment != nil && r.Attachment.InstanceUUID == i.UUID && r.Attachment.Tag == at.Tag {
			return nil, preflight.ErrTagTaken(at)
		}
	}
	next := &intent.Record{Generation: 1, Attachment: want}
	if err := a.admitLocked(key, nil, next); err != nil {
		return nil, err
	}
	return next, nil
}

// Detach takes a share away from its instance: GuestBusy while the guest does
// not let go; all goes on working then. An unknown id is success.
func (a *Agent) Detach(ctx context.Context, id string) error {
	return a.removeByID(ctx, model.AttachmentKey(id), removal{})
}

// ForceDetach does not wait for a guest that does not let go: its access ends
// within Options.ForceGrace. NeedsReset where the guest keeps the device all the same.
func (a *Agent) ForceDetach(ctx context.Context, id string) error {
	return a.removeByID(ctx, model.AttachmentKey(id), removal{forced: true})
}

func (a *Agent) removeByID(ctx context.Context, key model.Key, r removal) error {
	if err := word.CheckGivenID(key.Kind, key.ID); err != nil {
		return err
	}
	if err := a.ready(); err != nil {
		return err
	}
	ctx, cancel := a.within(ctx)
	defer cancel()
	return a.remove(ctx, key, r)
}

// RepairAttachment looks at an attachment now, without waiting for a back-off,
// and replaces a virtiofsd that is stopped: DaemonBlocked where it waits for its
// backend.
func (a *Agent) RepairAttachment(ctx context.Context, id string) (model.Attachment, error) {
	if err := a.ready(); err != nil {
		return model.Attachment{}, err
	}
	ctx, cancel := a.within(ctx)
	defer cancel()
	key := model.AttachmentKey(id)
	a.mu.Lock()
	o := a.objects[key]
	if o == nil || o.rec == nil {
		a.mu.Unlock()
		return model.Attachment{}, refusal.UnknownID(key)
	}
	a.mu.Unlock()
	if err := a.replaceStopped(ctx, id); err != nil {
		return model.Attachment{}, err
	}
	a.mu.Lock()
	o.status.Phase = model.Working
	a.retryLocked(o)
	a.mu.Unlock()
	if err := a.awaitMove(ctx, key, move.Source, move.Destination); err != nil {
		return model.Attachment{}, err
	}
	return a.Attachment(ctx, id)
}

// Attachment returns one.
func (a *Agent) Attachment(_ context.Context, id string) (model.Attachment, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	o := a.objects[model.AttachmentKey(id)]
	if o == nil || o.rec == nil {
		return model.Attachment{}, refusal.UnknownID(model.AttachmentKey(id))
	}
	return a.attachmentLocked(o), nil
}

// Attachments lists those of an instance, by name or UUID, or all, by id.
func (a *Agent) Attachments(_ context.Context, instance string) ([]model.Attachment, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var list []model.Attachment
	for _, o := range a.objects {
		if o.rec == nil || o.rec.Attachment == nil {
			continue
		}
		if at := o.rec.Attachment; instance == "" || at.Instance == instance || at.InstanceUUID == instance {
			list = append(list, a.attachmentLocked(o))
		}
	}
	slices.SortFunc(list, func(x, y model.Attachment) int { return strings.Compare(x.ID, y.ID) })
	return list, nil
}

func (a *Agent) attachmentLocked(o *object) model.Attachment {
	at := o.rec.Attachment
	return model.Attachment{
		ID: o.key.ID, Instance: at.Instance, Connection: at.Connection.Public(), Tag: at.Tag, ReadOnly: at.ReadOnly,
		MountAt: at.MountAt, Settings: a.settingsOf(o.rec), IDs: at.IDs, Forced: at.Forced,
		InstanceUUID: at.InstanceUUID, Guest: o.guestState(), LockScope: a.lockScope(o.rec), UnlockedUsers: a.unlockedUsersLocked(o), Status: o.status,
		Persistence: o.persists, LiveOnly: o.liveOnly, Move: at.Move,
		Holders: o.guest.holders, GuestNote: o.guest.note, RemovalForced: o.rec.RemovalForced,
		Usage: o.strain.Usage,
	}
}

// settingsOf an attachment, with limits that its caller left to the host.
func (a *Agent) settingsOf(r *intent.Record) device.Settings {
	s := r.Attachment.Settings.Or(device.Builtin())
	return s.Or(device.Settings{Memory: a.o.Settings.Memory, OpenFiles: a.o.Settings.OpenFiles})
}

func (a *Agent) lockScope(r *intent.Record) device.Scope {
	d, ok := a.o.Drivers.Get(r.Connection().Kind)
	return device.ScopeOf(a.settingsOf(r).Locks, ok && d.Properties().CoherentLocks)
}
