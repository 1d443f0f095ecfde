package engine

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/agent/reconcile"
)

const (
	// forcedStep bounds each request to a guest that a share is taken from with
	// force.
	forcedStep = 5 * time.Second
	// shortLook is what libvirt gets to say whether the device is there still,
	// when the guest's time is over: without an answer it may be.
	shortLook = 2 * time.Second
	// glanceAgain is how often a guest is asked whether its mount is there,
	// which nobody else tells.
	glanceAgain = 15 * time.Second
)

// guestSide is what is known of a share inside its guest.
type guestSide struct {
	state   model.GuestState // empty is unknown
	mounted bool             // by the last word that there is
	note    string
	holders []model.Holder
	looked  time.Time // when the guest last said so
	forced  time.Time // when a removal with force began, as far as this agent knows
}

// forget what the guest has, as after its reboot.
func (s *guestSide) forget() { *s = guestSide{forced: s.forced} }

// A glance is a look into a guest, and what it saw.
type glance struct {
	of      member
	mounted bool
	err     error
}

// glance asks a guest, beside the worker, whether its mount is there.
func (eng *Engine) glance(g *group, m member) {
	if g.glances[m.key] != nil {
		return
	}
	look := &glance{of: m}
	g.glances[m.key] = look
	eng.workers.Go(func() {
		ctx, cancel := context.WithTimeout(eng.run, lookDeadline)
		defer cancel()
		look.mounted, look.err = eng.o.Instances.GuestMounted(ctx, guestMountOf(m))
		eng.mu.Lock()
		defer eng.mu.Unlock()
		g.glanced = append(g.glanced, look)
		eng.wakeLocked(g.key, lookOn)
	})
}

// noteGlance believes a guest's answer. Where it has none, all stays as it was
// last, but nobody says any more that it is so.
func (eng *Engine) noteGlance(g *group, seen *glance) {
	if g.glances[seen.of.key] != seen {
		return // something was done since it began
	}
	delete(g.glances, seen.of.key)
	eng.tellGuest(seen.of.key, func(s *guestSide) {
		s.looked = time.Now()
		switch {
		case seen.err != nil:
			s.state, s.note = "", parts.Classify(seen.err).Error()
		case seen.mounted:
			s.state, s.mounted, s.note = model.GuestMounted, true, ""
		default:
			s.state, s.mounted, s.note = model.GuestDeviceOnly, false, ""
		}
	})
	if seen.err != nil {
		return
	}
	k := reconcile.GuestMount.Of(seen.of.key.ID)
	delete(g.is, k)
	if seen.mounted {
		g.is[k] = intent.Here
	}
	g.seen[k] = true
}

// guestMounted is the last word that there is, and asks the guest for a newer
// one. Mounting what is mounted is success, and so is unmounting what is not.
// So after a restart, when there is no word, each is tried.
func (eng *Engine) guestMounted(g *group, m member) bool {
	key := reconcile.Device.Of(m.key.ID)
	_, device := g.is[key]
	eng.mu.Lock()
	o := eng.objects[m.key]
	if o == nil {
		eng.mu.Unlock()
		return false
	}
	if !device && g.unknown[key] == nil && g.beside[key] == nil {
		o.guest.forget() // its mount went with the device
	}
	side := o.guest
	eng.mu.Unlock()
	switch {
	case !device:
		return false
	case m.rec.Removing || m.rec.Released():
		return side.mounted || side.state == ""
	case !side.looked.IsZero():
		eng.glance(g, m)
	}
	return side.mounted
}

// nextGlanceLocked is when a guest of the group is to be asked again; those that
// are due are asked by the next pass.
func (eng *Engine) nextGlanceLocked(g *group, now time.Time) (next time.Time) {
	for key := range g.members {
		o := eng.objects[key]
		if o == nil || o.rec == nil || o.rec.Attachment == nil || o.rec.Attachment.MountAt == "" || o.rec.Removing || o.rec.Released() || o.guest.looked.IsZero() {
			continue
		}
		k := reconcile.GuestMount.Of(key.ID)
		_, device := g.is[reconcile.Device.Of(key.ID)]
		if !device || g.glances[key] != nil || g.beside[k] != nil {
			continue // there is nothing to see, or it is being asked
		}
		at := o.guest.looked.Add(glanceAgain)
		if !at.After(now) {
			delete(g.seen, k)
		}
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	return next
}

// cutLocked is when a guest has had its time to let go by itself; zero where
// nobody forces it.
func (eng *Engine) cutLocked(o *object) time.Time {
	if !o.rec.Removing || !o.rec.RemovalForced {
		return time.Time{}
	}
	return o.guest.forced.Add(eng.o.ForceGrace)
}

// nextCutLocked is when the next guest's time is over.
func (eng *Engine) nextCutLocked(g *group, now time.Time) (next time.Time) {
	for key := range g.members {
		o := eng.objects[key]
		if o == nil || o.rec == nil {
			continue
		}
		if at := eng.cutLocked(o); at.After(now) && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	return next
}

// uses is what a thing that is to go stands on. A device that its guest does
// not give back holds nothing any more when the guest's time is over: the
// daemon ends under it, and with it the guest's access.
func (m member) uses(k reconcile.Key, needs []reconcile.Key) []reconcile.Key {
	if m.cut && k.Kind == reconcile.Device {
		return nil
	}
	return needs
}

// endDaemon stops a daemon; where a guest keeps its device, all that it asks of
// it fails from now on.
func (eng *Engine) endDaemon(ctx context.Context, m member) error {
	dir := eng.at.Daemon(m.key.ID)
	if !m.cut {
		return eng.o.Daemons.Stop(ctx, dir)
	}
	look, cancel := context.WithTimeout(ctx, shortLook)
	defer cancel()
	i, err := eng.o.Instances.Instance(look, m.rec.Attachment.InstanceUUID)
	switch {
	case err != nil && parts.Classify(err).Reason != fault.InstanceNotFound, hasDevice(i, m.rec.Attachment.Alias):
		return eng.o.Daemons.Revoke(ctx, dir)
	}
	return eng.o.Daemons.Stop(ctx, dir)
}

// revoked says whether a guest may still have a device whose daemon was ended.
func (m member) revoked(g *group) bool {
	k := reconcile.Device.Of(m.key.ID)
	_, there := g.is[k]
	return m.cut && (there || g.unknown[k] != nil || g.beside[k] != nil)
}

func (eng *Engine) deviceOf(m member) parts.Device {
	return parts.Device{
		Instance: m.rec.Attachment.InstanceUUID, Alias: m.rec.Attachment.Alias,
		Tag: m.rec.Attachment.Tag, Socket: eng.at.Socket(m.key.ID), QueueSize: eng.settingsOf(m.rec).QueueSize,
	}
}

// detach takes the device out. Where its daemon is dead the guest was not asked
// to unmount before, since its task would have hung for ever; it can be asked
// now, when every request to the device fails at once.
func (eng *Engine) detach(ctx context.Context, m member) error {
	dead := !eng.daemonRuns(m)
	death, err := eng.o.Daemons.Death(eng.at.Daemon(m.key.ID))
	if err != nil {
		return err
	}
	if err := eng.pluggable(ctx, m, death); err != nil {
		return err
	}
	if !dead {
		// The guest may have mounted it by itself, there or elsewhere.
		if err := eng.release(ctx, m); err != nil {
			return err
		}
	}
	if death != nil {
		err = eng.detachDead(ctx, m, death)
	} else {
		err = eng.o.Instances.Detach(ctx, eng.deviceOf(m))
	}
	if err != nil {
		return err
	}
	eng.tellGuest(m.key, (*guestSide).forget)
	if dead && m.rec.Attachment.MountAt != "" {
		// Whoever has it open has an error already, and must not be what keeps the
		// share from coming back.
		left := guestMountOf(m)
		left.Lazy = true
		if err := eng.o.Instances.GuestUnmount(ctx, left); err != nil {
			eng.log.Warn("guest keeps a dead mount", "attachment", m.key.ID, "err", err)
		}
	}
	return nil
}

func (eng *Engine) daemonRuns(m member) bool {
	done, err := eng.o.Daemons.Done(eng.at.Daemon(m.key.ID))
	return err == nil && done != nil
}

func guestMountOf(m member) parts.GuestMount {
	at := m.rec.Attachment
	return parts.GuestMount{Instance: at.InstanceUUID, Tag: at.Tag, Path: at.MountAt, ReadOnly: at.ReadOnly}
}

func (eng *Engine) guestMount(ctx context.Context, m member) error {
	err := eng.o.Instances.GuestMount(ctx, guestMountOf(m))
	eng.tellGuest(m.key, func(s *guestSide) {
		s.looked, s.mounted, s.state, s.note = time.Now(), err == nil, model.GuestMounted, ""
		if err != nil {
			e := parts.Classify(err)
			s.state, s.note = model.GuestDeviceOnly, e.Error()
			if unanswered(e) {
				s.state = ""
			}
		}
	})
	return err
}

// unanswered says whether a guest said nothing of itself.
func unanswered(e *fault.Error) bool {
	return slices.Contains([]fault.Reason{fault.GuestAgentAbsent, fault.LibvirtUnavailable, fault.StepTimeout}, e.Reason)
}

// guestUnmount asks the guest first.
func (eng *Engine) guestUnmount(ctx context.Context, m member) error {
	if eng.daemonRuns(m) {
		if err := eng.release(ctx, m); err != nil {
			return err
		}
	}
	eng.tellGuest(m.key, func(s *guestSide) { s.state, s.mounted, s.note, s.holders = model.GuestDeviceOnly, false, "", nil })
	return nil
}

// release has the guest unmount the share wherever it has it. One whose agent
// does not answer cannot be asked; its device goes all the same, and the
// guest's I/O then fails. With force, so it does whatever the guest says.
func (eng *Engine) release(ctx context.Context, m member) error {
	g := guestMountOf(m)
	g.Path, g.Lazy = "", m.rec.RemovalForced
	err := eng.o.Instances.GuestUnmount(ctx, g)
	if err == nil {
		return nil
	}
	var held *parts.HeldError
	if errors.As(err, &held) {
		eng.tellGuest(m.key, func(s *guestSide) { s.holders = held.Holders })
	}
	e := parts.Classify(err)
	if m.rec.RemovalForced || slices.Contains([]fault.Reason{fault.GuestAgentAbsent, fault.InstanceOff, fault.InstanceNotFound}, e.Reason) {
		eng.log.Warn("guest could not be asked to unmount, its device is taken out without", "attachment", m.key.ID, "err", err)
		return nil
	}
	return err
}

// tellGuest changes what is known of a guest, and tells those who watch.
func (eng *Engine) tellGuest(key model.Key, change func(*guestSide)) {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	o := eng.objects[key]
	if o == nil {
		return
	}
	before := o.guest
	change(&o.guest)
	if s := o.guest; s.state != before.state || s.note != before.note || !slices.Equal(s.holders, before.holders) {
		eng.tellLocked(o, false)
	}
}

// guestState: a device without a wish to mount it is just that.
func (o *object) guestState() model.GuestState {
	switch {
	case o.guest.state != "":
		return o.guest.state
	case o.rec.Attachment.MountAt == "" && o.status.Phase == model.Ready:
		return model.GuestDeviceOnly
	}
	return model.GuestUnknown
}
