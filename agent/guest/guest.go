// Package guest gives guests their shares and takes them back: it takes the steps
// of an attachment that its instance has a part in.
package guest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/causeway-project/causeway/agent/device"
	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/agent/reconcile"
	"github.com/causeway-project/causeway/agent/tree"
	"github.com/causeway-project/causeway/agent/word"
)

// shortLook is what libvirt gets to say whether the device is there still, when the
// guest's time is over: without an answer it may be.
const shortLook = 2 * time.Second

// parting is what a daemon gets to end by itself after its device has gone.
const parting = 500 * time.Millisecond

// forcedStray is what a guest gets to let go of a stray that is taken with force,
// before it is its turn again: half of what it gets in all.
const forcedStray = 5 * time.Second

// A Share is an attachment, as a step sees it.
type Share struct {
	ID         string             // required
	Attachment *intent.Attachment // required
	Settings   device.Settings    // required: with the host's where it has none
	Forced     bool               // it is being removed without waiting for its guest
	Cut        bool               // and its guest has had its time
	Starting   bool               // libvirt is about to start the instance
}

// Notes are what others keep of guests.
type Notes interface {
	// Note changes what is known of a share in its guest, and tells those who
	// watch.
	Note(id string, change func(*Side))
	// Others lists the attachments of the same instance, without the share
	// itself.
	Others(s Share) []Other
}

// An Other is an attachment of the same instance.
type Other struct {
	ID     string
	Alias  string // of its device
	Wedged bool   // as its Side has it
}

// Steps take those of attachments.
type Steps struct {
	Instances parts.Instances // required
	Daemons   parts.Daemons   // required
	Tree      *tree.Tree      // required
	Notes     Notes           // required
	Logger    *slog.Logger    // required
}

// Take takes one step of a share. What is so already is success.
func (st Steps) Take(ctx context.Context, step reconcile.Step, s Share) error {
	remove := step.Verb == reconcile.Remove
	switch step.Key.Kind {
	case reconcile.Daemon:
		if remove {
			return st.endDaemon(ctx, s)
		}
		return st.Daemons.Start(ctx, st.daemon(s))
	case reconcile.Device:
		if remove {
			return st.detach(ctx, s)
		}
		if err := st.Pluggable(ctx, s); err != nil {
			return err
		}
		return st.Instances.Attach(ctx, st.device(s))
	case reconcile.GuestMount:
		if remove {
			return st.unmount(ctx, s)
		}
		return st.mount(ctx, s)
	case reconcile.Definition:
		if remove {
			return st.Instances.Undefine(ctx, st.device(s))
		}
		return st.Instances.Define(ctx, st.device(s))
	}
	return fmt.Errorf("no guest has a part in a %v", step.Key.Kind)
}

// Mounted asks a guest whether it has a share mounted where it is to be.
func (st Steps) Mounted(ctx context.Context, s Share) (bool, error) {
	return st.Instances.GuestMounted(ctx, mountOf(s))
}

func (st Steps) daemon(s Share) parts.Daemon {
	at := s.Attachment
	return parts.Daemon{
		Dir: st.Tree.Daemon(s.ID), Source: st.Tree.Mount(at.Mount), ReadOnly: at.ReadOnly, Settings: s.Settings, IDs: at.IDs,
	}
}

func (st Steps) device(s Share) parts.Device {
	return parts.Device{
		Instance: s.Attachment.InstanceUUID, Alias: s.Attachment.Alias,
		Tag: s.Attachment.Tag, Socket: st.Tree.Socket(s.ID), QueueSize: s.Settings.QueueSize,
	}
}

func mountOf(s Share) parts.GuestMount {
	at := s.Attachment
	return parts.GuestMount{Instance: at.InstanceUUID, Tag: at.Tag, Path: at.MountAt, ReadOnly: at.ReadOnly}
}

func hasDevice(i parts.Instance, alias string) bool {
	return slices.ContainsFunc(i.Devices, func(d parts.Device) bool { return d.Alias == alias })
}

// endDaemon stops a daemon; where a guest keeps its device, all that it asks of
// it fails from now on.
func (st Steps) endDaemon(ctx context.Context, s Share) error {
	dir := st.Tree.Daemon(s.ID)
	if !s.Cut {
		if err := st.detachStray(ctx, s); err != nil {
			return err
		}
		return st.Daemons.Stop(ctx, dir)
	}
	look, cancel := context.WithTimeout(ctx, shortLook)
	defer cancel()
	i, err := st.Instances.Instance(look, s.Attachment.InstanceUUID)
	switch {
	case err != nil && parts.Classify(err).Reason != fault.InstanceNotFound, hasDevice(i, s.Attachment.Alias):
		return st.Daemons.Revoke(ctx, dir)
	}
	if err := st.detachStray(look, s); err != nil {
		st.Logger.Warn("guest may keep a device that libvirt does not know of, whose virtiofsd is ended", "attachment", s.ID, "err", err)
	}
	return st.Daemons.Stop(ctx, dir)
}

// detachStray takes out of QEMU what libvirt does not know of: where libvirt has
// no device and QEMU keeps the connection to its daemon all the same, libvirtd
// was killed while it plugged the device in.
func (st Steps) detachStray(ctx context.Context, s Share) error {
	if s.Starting {
		return nil // it has no QEMU, and libvirt answers nothing about it
	}
	if s.Forced {
		bounded, cancel := context.WithTimeout(ctx, forcedStray)
		defer cancel()
		ctx = bounded
	}
	held, err := st.held(ctx, s)
	if err != nil || !held {
		return err
	}
	if err := st.Pluggable(ctx, s); err != nil {
		return err
	}
	if st.daemonRuns(s) && st.asked(s) {
		// A guest that mounts by itself may have it.
		if err := st.release(ctx, s); err != nil {
			return err
		}
	}
	return st.Instances.DetachStray(ctx, st.device(s))
}

// held says whether a QEMU has the daemon's connection, and keeps it: when a device
// goes that libvirt knows, daemon and keeper end some instants later.
func (st Steps) held(ctx context.Context, s Share) (bool, error) {
	dir := st.Tree.Daemon(s.ID)
	t := time.NewTicker(parting / 100)
	defer t.Stop()
	for end := time.Now().Add(parting); ; {
		connected, err := st.Daemons.Connected(dir)
		if err == nil && !connected {
			var d *parts.Death
			d, err = st.Daemons.Death(dir)
			connected = d != nil && d.Kept // the keeper has it
		}
		if err != nil || !connected || time.Now().After(end) {
			return connected, err
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return true, context.Cause(ctx)
		}
	}
}

// detach takes the device out. Where its daemon is dead the guest was not asked
// to unmount before, since its task would have hung for ever; it can be asked
// now, when every request to the device fails at once.
func (st Steps) detach(ctx context.Context, s Share) error {
	dead := !st.daemonRuns(s)
	death, err := st.Daemons.Death(st.Tree.Daemon(s.ID))
	if err != nil {
		return err
	}
	if err := st.pluggable(ctx, s, death); err != nil {
		return err
	}
	if !dead && st.asked(s) {
		// The guest may have mounted it by itself, there or elsewhere.
		if err := st.release(ctx, s); err != nil {
			return err
		}
	}
	if death != nil {
		err = st.detachDead(ctx, s, death)
	} else {
		err = st.Instances.Detach(ctx, st.device(s))
	}
	if err != nil {
		return err
	}
	st.Notes.Note(s.ID, (*Side).Forget)
	if dead && s.Attachment.MountAt != "" {
		// Whoever has it open has an error already, and must not be what keeps the
		// share from coming back.
		left := mountOf(s)
		left.Lazy = true
		if err := st.Instances.GuestUnmount(ctx, left); err != nil {
			st.Logger.Warn("guest keeps a dead mount", "attachment", s.ID, "err", err)
		}
	}
	return nil
}

func (st Steps) daemonRuns(s Share) bool {
	done, err := st.Daemons.Done(st.Tree.Daemon(s.ID))
	return err == nil && done != nil
}

// asked says whether a guest may have the share mounted. A question to it takes
// longer than all else in a detach, and one that hangs does not answer.
func (st Steps) asked(s Share) bool {
	asked, err := st.Daemons.Asked(st.Tree.Daemon(s.ID))
	if err != nil {
		st.Logger.Warn("nobody knows whether a guest has used its share, so it is asked to unmount it", "attachment", s.ID, "err", err)
	}
	return asked || err != nil
}

// detachDead takes out a device whose virtiofsd has died. While a keeper answers
// for it the guest lets go at once. Where none does, the guest may wait for an
// answer for ever, and so does its hot-plug then: fault.NeedsReset.
func (st Steps) detachDead(ctx context.Context, s Share, d *parts.Death) error {
	if !d.Over {
		return &fault.Error{
			Kind: fault.Unavailable, Reason: fault.DaemonBlocked,
			Message: "virtiofsd was killed, and the kernel does not let it end before the backend answers: cure the backend; until then the guest's requests wait",
		}
	}
	err := st.Instances.Detach(ctx, st.device(s))
	busy := (*fault.Error)(nil)
	if errors.As(err, &busy) && busy.Reason == fault.GuestBusy && !d.Kept {
		at := s.Attachment
		err = &fault.Error{
			Kind: fault.Precondition, Reason: fault.NeedsReset, Metadata: map[string]string{"instance": at.Instance}, Err: busy.Err,
			Message: fmt.Sprintf("virtiofsd and its keeper died, and the guest waits for an answer that never comes: 'virsh reset %s' (or resume it, if it is suspended), then all is repaired by itself; until then nothing is plugged into or out of it", word.Quote(at.Instance)),
		}
	}
	st.Notes.Note(s.ID, func(side *Side) { side.Wedged = err != nil && !d.Kept })
	return err
}

// Pluggable refuses to plug a device into an instance while another device of ours
// may have stopped its hot-plug: whatever is added then waits behind it, and the
// guest's next task with it. That is so where neither virtiofsd nor its keeper runs
// and the device is still there: NeedsReset, or Waiting for what will be over by
// itself.
func (st Steps) Pluggable(ctx context.Context, s Share) error { return st.pluggable(ctx, s, nil) }

// pluggable refuses the same of plugging out. own is the death of the share's own
// virtiofsd, if it has died: such devices need not wait for each other.
func (st Steps) pluggable(ctx context.Context, s Share, own *parts.Death) error {
	at := s.Attachment
	var lost []Other
	for _, o := range st.Notes.Others(s) {
		if d, err := st.Daemons.Death(st.Tree.Daemon(o.ID)); err == nil && d != nil && !d.Kept {
			lost = append(lost, o)
		}
	}
	if len(lost) == 0 {
		return nil
	}
	i, err := st.Instances.Instance(ctx, at.InstanceUUID)
	if err != nil {
		return err
	}
	for _, o := range lost {
		if !hasDevice(i, o.Alias) {
			continue
		}
		if o.Wedged {
			return &fault.Error{
				Kind: fault.Precondition, Reason: fault.NeedsReset, Metadata: map[string]string{"instance": at.Instance, "attachment": o.ID},
				Message: fmt.Sprintf("the instance's guest waits for the virtiofsd of attachment %s, which died with its keeper: 'virsh reset %s', then all is repaired by itself", o.ID, word.Quote(at.Instance)),
			}
		}
		if own != nil && !own.Kept {
			continue
		}
		return &fault.Error{
			Kind: fault.Busy, Reason: fault.Waiting, Metadata: map[string]string{"instance": at.Instance, "attachment": o.ID},
			Message: fmt.Sprintf("waits until the dead device of attachment %s is out of the instance", o.ID),
		}
	}
	return nil
}

func (st Steps) mount(ctx context.Context, s Share) error {
	err := st.Instances.GuestMount(ctx, mountOf(s))
	st.Notes.Note(s.ID, func(side *Side) { side.tried(err, time.Now()) })
	return err
}

// unmount asks the guest first.
func (st Steps) unmount(ctx context.Context, s Share) error {
	if st.daemonRuns(s) {
		if err := st.release(ctx, s); err != nil {
			if ctx.Err() != nil {
				// What was begun in the guest goes on, and nobody knows how far it is.
				st.Notes.Note(s.ID, func(side *Side) { side.State, side.Mounted = "", false })
			}
			return err
		}
	}
	st.Notes.Note(s.ID, func(side *Side) {
		side.State, side.Mounted, side.Note, side.Holders = model.GuestDeviceOnly, false, "", nil
	})
	return nil
}

// release has the guest unmount the share wherever it has it. One whose agent
// does not answer cannot be asked; its device goes all the same, and the
// guest's I/O then fails. With force, so it does whatever the guest says.
func (st Steps) release(ctx context.Context, s Share) error {
	m := mountOf(s)
	m.Path, m.Lazy = "", s.Forced
	err := st.Instances.GuestUnmount(ctx, m)
	if err == nil {
		return nil
	}
	var held *parts.HeldError
	if errors.As(err, &held) {
		st.Notes.Note(s.ID, func(side *Side) { side.Holders = held.Holders })
	}
	e := parts.Classify(err)
	if s.Forced || slices.Contains([]fault.Reason{fault.GuestAgentAbsent, fault.InstanceOff, fault.InstanceNotFound}, e.Reason) {
		st.Logger.Warn("guest could not be asked to unmount, its device is taken out without", "attachment", s.ID, "err", err)
		return nil
	}
	return err
}
