package agent

import (
	"time"

	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/retry"
	"github.com/causeway-project/causeway/agent/strain"
)

// watchStrain looks every now and then at what the virtiofsds take of what they
// may, and warns.
func (a *Agent) watchStrain() {
	for timer := time.NewTimer(a.o.Sample); ; timer.Reset(retry.Jitter(a.o.Sample)) {
		select {
		case <-a.run.Done():
			return
		case <-timer.C:
		}
		for _, key := range a.dueForLook(time.Now()) {
			if a.run.Err() != nil {
				return
			}
			begun := time.Now()
			usage, runs, err := a.o.Daemons.Usage(a.at.Daemon(key.ID))
			if err != nil {
				a.log.Debug("what a virtiofsd takes is not known", "attachment", key.ID, "err", err)
				continue
			}
			a.noteStrain(key, runs, strain.Look{Usage: usage, At: begun, Took: time.Since(begun)})
		}
	}
}

// dueForLook lists the attachments whose virtiofsd is to be looked at.
func (a *Agent) dueForLook(now time.Time) []model.Key {
	a.mu.Lock()
	defer a.mu.Unlock()
	var due []model.Key
	for key, o := range a.objects {
		if key.Kind == model.KindAttachment && o.rec != nil && o.strain.Due(now) {
			due = append(due, key)
		}
	}
	return due
}

// noteStrain notes a look, and has the status say what began or ended.
func (a *Agent) noteStrain(key model.Key, runs bool, l strain.Look) {
	a.mu.Lock()
	defer a.mu.Unlock()
	o := a.objects[key]
	if o == nil || o.rec == nil {
		return
	}
	if !runs {
		if o.strain.Forget() {
			a.wakeLocked(o.rec.Group(key.ID), lookOn)
		}
		return
	}
	begun, changed := o.strain.Note(l)
	a.metrics.DaemonStrained(begun)
	if begun.Files || begun.Memory {
		a.log.Warn("virtiofsd is near a limit", "attachment", key.ID, "instance", o.rec.Attachment.Instance, "files", l.Usage.Files, "files_limit", l.Usage.FilesLimit,
			"memory", l.Usage.Memory, "memory_limit", l.Usage.MemoryLimit)
	}
	if changed {
		a.wakeLocked(o.rec.Group(key.ID), lookOn)
	}
}

// strained are the last looks, by attachment.
func (a *Agent) strained() map[string]strain.Usage {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := map[string]strain.Usage{}
	for key, o := range a.objects {
		if key.Kind == model.KindAttachment && !o.strain.At.IsZero() {
			all[key.ID] = o.strain.Usage
		}
	}
	return all
}
