package engine

import (
	"time"

	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/retry"
	"github.com/causeway-project/causeway/agent/strain"
)

// watchStrain looks every now and then at what the virtiofsds take of what they
// may, and warns.
func (eng *Engine) watchStrain() {
	for timer := time.NewTimer(eng.o.Sample); ; timer.Reset(retry.Jitter(eng.o.Sample)) {
		select {
		case <-eng.run.Done():
			return
		case <-timer.C:
		}
		for _, key := range eng.dueForLook(time.Now()) {
			if eng.run.Err() != nil {
				return
			}
			begun := time.Now()
			usage, runs, err := eng.o.Daemons.Usage(eng.at.Daemon(key.ID))
			if err != nil {
				eng.log.Debug("what a virtiofsd takes is not known", "attachment", key.ID, "err", err)
				continue
			}
			eng.noteStrain(key, runs, strain.Look{Usage: usage, At: begun, Took: time.Since(begun)})
		}
	}
}

// dueForLook lists the attachments whose virtiofsd is to be looked at.
func (eng *Engine) dueForLook(now time.Time) []model.Key {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	var due []model.Key
	for key, o := range eng.objects {
		if key.Kind == model.KindAttachment && o.rec != nil && o.strain.Due(now) {
			due = append(due, key)
		}
	}
	return due
}

// noteStrain notes a look, and has the status say what began or ended.
func (eng *Engine) noteStrain(key model.Key, runs bool, l strain.Look) {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	o := eng.objects[key]
	if o == nil || o.rec == nil {
		return
	}
	if !runs {
		if o.strain.Forget() {
			eng.wakeLocked(o.rec.Group(key.ID), lookOn)
		}
		return
	}
	begun, changed := o.strain.Note(l)
	eng.metrics.DaemonStrained(begun)
	if begun.Files || begun.Memory {
		eng.log.Warn("virtiofsd is near a limit", "attachment", key.ID, "instance", o.rec.Attachment.Instance, "files", l.Usage.Files, "files_limit", l.Usage.FilesLimit,
			"memory", l.Usage.Memory, "memory_limit", l.Usage.MemoryLimit)
	}
	if changed {
		eng.wakeLocked(o.rec.Group(key.ID), lookOn)
	}
}

// strained are the last looks, by attachment.
func (eng *Engine) strained() map[string]strain.Usage {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	all := map[string]strain.Usage{}
	for key, o := range eng.objects {
		if key.Kind == model.KindAttachment && !o.strain.At.IsZero() {
			all[key.ID] = o.strain.Usage
		}
	}
	return all
}
