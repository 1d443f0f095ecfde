package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/agent/word"
)

// noteDeath tells once of a virtiofsd that died under its device.
func (a *Agent) noteDeath(m member) {
	if m.cut {
		return // it was ended under its device
	}
	d, err := a.o.Daemons.Death(a.at.Daemon(m.key.ID))
	if err != nil || d == nil || !d.Over {
		return // one that is not known yet is looked at again when its device goes
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	o := a.objects[m.key]
	if o == nil || o.died.Equal(d.At) {
		return
	}
	o.died, o.down = d.At, true
	a.metrics.DaemonDied(d.Cause)
	a.log.Warn("virtiofsd died and will be replaced", "attachment", m.key.ID, "instance", m.rec.Attachment.InstanceUUID,
		"cause", d.Cause, "why", d.Why, "requests_failed", d.Answered)
}

// noteRepairLocked measures how long an attachment was without its virtiofsd.
func (a *Agent) noteRepairLocked(o *object) {
	if !o.down {
		return
	}
	o.down = false
	took := time.Since(o.died)
	a.metrics.DaemonRepaired(took)
	a.log.Info("virtiofsd replaced", "attachment", o.key.ID, "dur", took)
}

// detachDead takes out a device whose virtiofsd has died. While a keeper answers
// for it the guest lets go at once. Where none does, the guest may wait for an
// answer for ever, and so does its hot-plug then: fault.NeedsReset.
func (a *Agent) detachDead(ctx context.Context, m member, d *parts.Death) error {
	if !d.Over {
		return &fault.Error{
			Kind: fault.Unavailable, Reason: fault.DaemonBlocked,
			Message: "virtiofsd was killed, and the kernel does not let it end before the backend answers: cure the backend; until then the guest's requests wait",
		}
	}
	err := a.o.Instances.Detach(ctx, a.deviceOf(m))
	busy := (*fault.Error)(nil)
	if errors.As(err, &busy) && busy.Reason == fault.GuestBusy && !d.Kept {
		at := m.rec.Attachment
		err = &fault.Error{
			Kind: fault.Precondition, Reason: fault.NeedsReset, Metadata: map[string]string{"instance": at.Instance}, Err: busy.Err,
			Message: fmt.Sprintf("virtiofsd and its keeper died, and the guest waits for an answer that never comes: 'virsh reset %s' (or resume it, if it is suspended), then all is repaired by itself; until then nothing is plugged into or out of it", word.Quote(at.Instance)),
		}
	}
	a.setWedged(m.key, err != nil && !d.Kept)
	return err
}

func (a *Agent) setWedged(key model.Key, wedged bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if o := a.objects[key]; o != nil {
		o.wedged = wedged
	}
}

// pluggable refuses to plug a device into or out of an instance while another
// device of ours may have stopped its hot-plug: whatever is added then waits
// behind it, and the guest's next task with it. That is so where neither
// virtiofsd nor its keeper runs and the device is still there. own is the death
// of m's own virtiofsd, if it has died: such devices need not wait for each other.
func (a *Agent) pluggable(ctx context.Context, m member, own *parts.Death) error {
	type other struct {
		id, alias string
		wedged    bool
	}
	at := m.rec.Attachment
	var others []other
	a.mu.Lock()
	for key, o := range a.objects {
		if r := o.rec; key != m.key && r != nil && r.Attachment != nil && r.Attachment.InstanceUUID == at.InstanceUUID {
			others = append(others, other{key.ID, r.Attachment.Alias, o.wedged})
		}
	}
	a.mu.Unlock()
	var lost []other
	for _, o := range others {
		if d, err := a.o.Daemons.Death(a.at.Daemon(o.id)); err == nil && d != nil && !d.Kept {
			lost = append(lost, o)
		}
	}
	if len(lost) == 0 {
		return nil
	}
	i, err := a.o.Instances.Instance(ctx, at.InstanceUUID)
	if err != nil {
		return err
	}
	for _, o := range lost {
		if !hasDevice(i, o.alias) {
			continue
		}
		if o.wedged {
			return &fault.Error{
				Kind: fault.Precondition, Reason: fault.NeedsReset, Metadata: map[string]string{"instance": at.Instance, "attachment": o.id},
				Message: fmt.Sprintf("the instance's guest waits for the virtiofsd of attachment %s, which died with its keeper: 'virsh reset %s', then all is repaired by itself", o.id, word.Quote(at.Instance)),
			}
		}
		if own != nil && !own.Kept {
			continue
		}
		return &fault.Error{
			Kind: fault.Busy, Reason: fault.Waiting, Metadata: map[string]string{"instance": at.Instance, "attachment": o.id},
			Message: fmt.Sprintf("waits until the dead device of attachment %s is out of the instance", o.id),
		}
	}
	return nil
}

func hasDevice(i parts.Instance, alias string) bool {
	for _, d := range i.Devices {
		if d.Alias == alias {
			return true
		}
	}
	return false
}

// replaceStopped ends an attachment's virtiofsd where it runs and does not
// answer: fault.DaemonBlocked where that is the backend's fault.
func (a *Agent) replaceStopped(ctx context.Context, id string) error {
	if err := a.o.Daemons.Replace(ctx, a.at.Daemon(id)); err != nil {
		return parts.Classify(err)
	}
	return nil
}

// guestForgets is true of an instance event after which the guest's mounts, and
// what it waited for, are gone.
func (o *object) guestForgets() {
	o.guest.forget()
	o.wedged = false
}
