package engine

import (
	"context"
	"time"

	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/agent/refusal"
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
