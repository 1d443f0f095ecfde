package engine

import (
	"context"
	"time"

	"github.com/causeway-project/causeway/agent/guest"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/reconcile"
)

const (
	// forcedStep bounds each request to a guest that a share is taken from with
	// force.
	forcedStep = 5 * time.Second
	// forcedLook bounds each question to libvirt about such a guest: one whose QEMU
	// is stopped makes libvirt hang, and the guest's access has to end meanwhile.
	forcedLook = 2 * time.Second
	// glanceAgain is how often a guest is asked whether its mount is there,
	// which nobody else tells.
	glanceAgain = 15 * time.Second
)

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
		look.mounted, look.err = eng.guests.Mounted(ctx, eng.shareOf(m))
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
	eng.tellGuest(seen.of.key, func(s *guest.Side) { s.Seen(seen.mounted, seen.err, time.Now()) })
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
		o.guest.Forget() // its mount went with the device
	}
	side := o.guest
	eng.mu.Unlock()
	switch {
	case !device:
		return false
	case m.rec.Removing || m.rec.Released():
		return side.Mounted || side.State == ""
	case !side.Looked.IsZero():
		eng.glance(g, m)
	}
	return side.Mounted
}

// nextGlanceLocked is when a guest of the group is to be asked again; those that
// are due are asked by the next pass.
func (eng *Engine) nextGlanceLocked(g *group, now time.Time) (next time.Time) {
	for key := range g.members {
		o := eng.objects[key]
		if o == nil || o.rec == nil || o.rec.Attachment == nil || o.rec.Attachment.MountAt == "" || o.rec.Removing || o.rec.Released() || o.guest.Looked.IsZero() {
			continue
		}
		k := reconcile.GuestMount.Of(key.ID)
		_, device := g.is[reconcile.Device.Of(key.ID)]
		if !device || g.glances[key] != nil || g.beside[k] != nil {
			continue // there is nothing to see, or it is being asked
		}
		at := o.guest.Looked.Add(glanceAgain)
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
	return o.guest.Forced.Add(eng.o.ForceGrace)
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

// revoked says whether a guest may still have a device whose daemon was ended.
func (m member) revoked(g *group) bool {
	k := reconcile.Device.Of(m.key.ID)
	_, there := g.is[k]
	return m.cut && (there || g.unknown[k] != nil || g.beside[k] != nil)
}

// shareOf is a member as the steps of its instance see it.
func (eng *Engine) shareOf(m member) guest.Share {
	return guest.Share{
		ID: m.key.ID, Attachment: m.rec.Attachment, Settings: eng.settingsOf(m.rec), Forced: m.rec.RemovalForced, Cut: m.cut,
		Starting: eng.starts.Under(m.rec.Attachment.InstanceUUID),
	}
}

// guestNotes are the objects, as the steps of instances see them.
type guestNotes struct{ *Engine }

// Note implements guest.Notes.
func (n guestNotes) Note(id string, change func(*guest.Side)) {
	n.tellGuest(model.AttachmentKey(id), change)
}

// Others implements guest.Notes.
func (n guestNotes) Others(s guest.Share) (others []guest.Other) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for key, o := range n.objects {
		if r := o.rec; key.ID != s.ID && r != nil && r.Attachment != nil && r.Attachment.InstanceUUID == s.Attachment.InstanceUUID {
			others = append(others, guest.Other{ID: key.ID, Alias: r.Attachment.Alias, Wedged: o.guest.Wedged})
		}
	}
	return others
}

// Pluggable refuses a new attachment while its instance takes no device: NeedsReset,
// or Waiting for what will be over by itself.
func (eng *Engine) Pluggable(ctx context.Context, id string, at *intent.Attachment) error {
	return eng.guests.Pluggable(ctx, guest.Share{ID: id, Attachment: at})
}

// tellGuest changes what is known of a guest, and tells those who watch.
func (eng *Engine) tellGuest(key model.Key, change func(*guest.Side)) {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	o := eng.objects[key]
	if o == nil {
		return
	}
	before := o.guest
	change(&o.guest)
	if o.guest.Differs(before) {
		eng.tellLocked(o, false)
	}
}

// guestState: a device without a wish to mount it is just that.
func (o *object) guestState() model.GuestState {
	switch {
	case o.guest.State != "":
		return o.guest.State
	case o.rec.Attachment.MountAt == "" && o.status.Phase == model.Ready:
		return model.GuestDeviceOnly
	}
	return model.GuestUnknown
}
