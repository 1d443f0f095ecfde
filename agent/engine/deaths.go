package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/agent/refusal"
	"github.com/causeway-project/causeway/agent/word"
)

// noteDeath tells once of a virtiofsd that died under its device.
func (eng *Engine) noteDeath(m member) {
	if m.cut {
		return // it was ended under its device
	}
	d, err := eng.o.Daemons.Death(eng.at.Daemon(m.key.ID))
	if err != nil || d == nil || !d.Over {
		return // one that is not known yet is looked at again when its device goes
	}
	eng.mu.Lock()
	defer eng.mu.Unlock()
	o := eng.objects[m.key]
	if o == nil || o.died.Equal(d.At) {
		return
	}
	o.died, o.down = d.At, true
	eng.metrics.DaemonDied(d.Cause)
	eng.log.Warn("virtiofsd died and will be replaced", "attachment", m.key.ID, "instance", m.rec.Attachment.InstanceUUID,
		"cause", d.Cause, "why", d.Why, "requests_failed", d.Answered)
}

// noteRepairLocked measures how long an attachment was without its virtiofsd.
func (eng *Engine) noteRepairLocked(o *object) {
	if !o.down {
		return
	}
	o.down = false
	took := time.Since(o.died)
	eng.metrics.DaemonRepaired(took)
	eng.log.Info("virtiofsd replaced", "attachment", o.key.ID, "dur", took)
}

// detachDead takes out a device whose virtiofsd has died. While a keeper answers
// for it the guest lets go at once. Where none does, the guest may wait for an
// answer for ever, and so does its hot-plug then: fault.NeedsReset.
func (eng *Engine) detachDead(ctx context.Context, m member, d *parts.Death) error {
	if !d.Over {
		return &fault.Error{
			Kind: fault.Unavailable, Reason: fault.DaemonBlocked,
			Message: "virtiofsd was killed, and the kernel does not let it end before the backend answers: cure the backend; until then the guest's requests wait",
		}
	}
	err := eng.o.Instances.Detach(ctx, eng.deviceOf(m))
	busy := (*fault.Error)(nil)
	if errors.As(err, &busy) && busy.Reason == fault.GuestBusy && !d.Kept {
		at := m.rec.Attachment
		err = &fault.Error{
			Kind: fault.Precondition, Reason: fault.NeedsReset, Metadata: map[string]string{"instance": at.Instance}, Err: busy.Err,
			Message: fmt.Sprintf("virtiofsd and its keeper died, and the guest waits for an answer that never comes: 'virsh reset %s' (or resume it, if it is suspended), then all is repaired by itself; until then nothing is plugged into or out of it", word.Quote(at.Instance)),
		}
	}
	eng.setWedged(m.key, err != nil && !d.Kept)
	return err
}

func (eng *Engine) setWedged(key model.Key, wedged bool) {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	if o := eng.objects[key]; o != nil {
		o.wedged = wedged
	}
}

// Pluggable refuses a new attachment while its instance takes no device. What will
// be over by itself is Waiting.
func (eng *Engine) Pluggable(ctx context.Context, id string, at *intent.Attachment) error {
	return eng.pluggable(ctx, member{key: model.AttachmentKey(id), rec: &intent.Record{Attachment: at}}, nil)
}

// pluggable refuses to plug a device into or out of an instance while another
// device of ours may have stopped its hot-plug: whatever is added then waits
// behind it, and the guest's next task with it. That is so where neither
// virtiofsd nor its keeper runs and the device is still there. own is the death
// of m's own virtiofsd, if it has died: such devices need not wait for each other.
func (eng *Engine) pluggable(ctx context.Context, m member, own *parts.Death) error {
	type other struct {
		id, alias string
		wedged    bool
	}
	at := m.rec.Attachment
	var others []other
	eng.mu.Lock()
	for key, o := range eng.objects {
		if r := o.rec; key != m.key && r != nil && r.Attachment != nil && r.Attachment.InstanceUUID == at.InstanceUUID {
			others = append(others, other{key.ID, r.Attachment.Alias, o.wedged})
		}
	}
	eng.mu.Unlock()
	var lost []other
	for _, o := range others {
		if d, err := eng.o.Daemons.Death(eng.at.Daemon(o.id)); err == nil && d != nil && !d.Kept {
			lost = append(lost, o)
		}
	}
	if len(lost) == 0 {
		return nil
	}
	i, err := eng.o.Instances.Instance(ctx, at.InstanceUUID)
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

// Repair replaces the virtiofsd of an attachment where it runs and does not answer,
// and then looks at the attachment without waiting for a back-off: UnknownID,
// DaemonBlocked where it waits for its backend.
func (eng *Engine) Repair(ctx context.Context, id string) error {
	key := model.AttachmentKey(id)
	if _, err := eng.Attachment(ctx, id); err != nil {
		return err
	}
	if err := eng.o.Daemons.Replace(ctx, eng.at.Daemon(id)); err != nil {
		return parts.Classify(err)
	}
	eng.mu.Lock()
	defer eng.mu.Unlock()
	o := eng.objects[key]
	if o == nil || o.rec == nil {
		return refusal.UnknownID(key)
	}
	o.status.Phase = model.Working
	eng.retryLocked(o)
	return nil
}

// guestForgets is true of an instance event after which the guest's mounts, and
// what it waited for, are gone.
func (o *object) guestForgets() {
	o.guest.forget()
	o.wedged = false
}
