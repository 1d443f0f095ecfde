package agent

import (
	"context"
	"errors"
	"time"

	"github.com/causeway-project/causeway/agent/device"
	"github.com/causeway-project/causeway/agent/engine"
	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/agent/preflight"
	"github.com/causeway-project/causeway/agent/writers"
)

// PreflightAttachment says whether an instance could have a share, one verdict
// a line, and changes nothing. That it could not is no error: the line says so.
// at needs no id, and no tag.
func (a *Agent) PreflightAttachment(ctx context.Context, at model.Attachment) ([]model.Check, error) {
	if err := a.Ready(); err != nil {
		return nil, err
	}
	ctx, cancel := a.Within(ctx)
	defer cancel()
	one := func(name string, e *fault.Error) ([]model.Check, error) {
		return preflight.Lines([]preflight.Finding{preflight.Invalid(name, e)}), nil
	}
	var e *fault.Error
	if errors.As(preflight.Draft(at).Validate(), &e) {
		return one("request", e)
	}
	if err := a.checkConnection(at.Connection); err != nil {
		return one("share", parts.Classify(err))
	}
	facts, err := a.attachmentFacts(ctx, at)
	if errors.As(err, &e) && e.Reason == fault.InstanceNotFound {
		return one("instance", e)
	}
	if err != nil {
		return nil, err
	}
	v, err := a.o.Instances.Hypervisor(ctx)
	if err != nil {
		return nil, parts.Classify(err)
	}
	facts.Libvirt = &v
	if facts.Instance.Running {
		g, err := a.o.Instances.GuestAgent(ctx, facts.Instance.UUID)
		if err != nil {
			return nil, parts.Classify(err)
		}
		facts.Guest = &g
	}
	return preflight.Lines(preflight.Look(facts)), nil
}

// attachmentFacts looks at what can refuse an attachment.
func (a *Agent) attachmentFacts(ctx context.Context, at model.Attachment) (preflight.Facts, error) {
	i, err := a.o.Instances.Instance(ctx, at.Instance)
	if err != nil {
		return preflight.Facts{}, parts.Classify(err)
	}
	return a.hostFacts(ctx, at, i)
}

// hostFacts looks at what can refuse an attachment, but for its instance.
func (a *Agent) hostFacts(ctx context.Context, at model.Attachment, i parts.Instance) (preflight.Facts, error) {
	at.Settings = at.Settings.Or(a.Settings())
	f := preflight.Facts{Want: at, Instance: i, Share: &preflight.Share{Name: at.Connection.Kind + ":" + at.Connection.Source}}
	if at.ID != "" {
		f.Alias = intent.Alias(at.ID)
	}
	if program, err := a.o.Daemons.Program(ctx); err != nil {
		f.Missing = parts.Classify(err)
	} else {
		f.Program = &program
	}
	f.Others = a.othersOf(at, f.Instance.UUID)
	f.HotPlug, f.Locks = a.obstacles(ctx, at, f.Instance.UUID)
	err := a.probe(ctx, at.Connection.Kind, func(d driver) error {
		if d.Prober == nil {
			return nil
		}
		return d.Prober.Probe(ctx, at.Connection)
	})
	if err == nil && at.IDs.Policy != device.Passthrough {
		err = a.probe(ctx, at.Connection.Kind, func(d driver) error {
			if d.OwnerReporter == nil {
				return nil
			}
			owner, err := d.OwnerReporter.Owner(ctx, at.Connection)
			if err == nil {
				f.Share.Owner = &owner
			}
			return err
		})
	}
	if ctx.Err() != nil {
		return f, context.Cause(ctx)
	}
	if err != nil {
		f.Share.Refused = parts.Classify(err)
	}
	return f, nil
}

// obstacles finds what other attachments keep at from being. What will be over
// by itself is none.
func (a *Agent) obstacles(ctx context.Context, at model.Attachment, uuid string) (hotPlug, locks *fault.Error) {
	key, r := model.AttachmentKey(at.ID), &intent.Record{Generation: 1, Attachment: intent.AttachmentOf(at, uuid)}
	if err := a.Pluggable(ctx, at.ID, r.Attachment); errors.As(err, &hotPlug) && hotPlug.Reason != fault.NeedsReset {
		hotPlug = nil
	}
	a.Intents(func(all engine.Intents) {
		errors.As(writers.Admit(all.All(), writers.Change{Key: key, Next: r, Now: time.Now()}), &locks)
	})
	return hotPlug, locks
}

// othersOf lists the attachments of an instance but at itself.
func (a *Agent) othersOf(at model.Attachment, uuid string) []preflight.Other {
	share := intent.ConnectionOf(at.Connection).MountName()
	var others []preflight.Other
	a.Intents(func(all engine.Intents) {
		for key, r := range all.All() {
			if key.Kind == model.KindAttachment && key.ID != at.ID && r.Attachment.InstanceUUID == uuid {
				others = append(others, preflight.Other{ID: key.ID, Tag: r.Attachment.Tag, Share: r.Attachment.Connection.MountName() == share})
			}
		}
	})
	return others
}
