package agent

import (
	"time"

	"github.com/causeway-project/causeway/agent/access"
	"github.com/causeway-project/causeway/agent/device"
	"github.com/causeway-project/causeway/agent/intent"
)

// writer is what a record is to others that write to its share; not ok where it
// does not, or is on its way out.
func (a *Agent) writer(key objectKey, r *intent.Record) (w device.Writer, ok bool) {
	w = device.Writer{Name: key.String()}
	switch {
	case r.Removing:
		return w, false
	case r.Export != nil:
		// Ganesha takes its clients' locks on the host's files.
		w.OnHost = true
		return w, !r.Export.ReadOnly && access.MayWrite(r.Export.Rules, time.Now())
	case r.Attachment != nil:
		w.OnHost = a.settingsOf(r).Locks == device.LocksShared
		w.Accepts = r.Attachment.Forced
		return w, !r.Attachment.ReadOnly
	}
	return w, false
}

// promisedLocked lists the other writers of the share of a record that is of
// key, with those whose record is just being written.
func (a *Agent) promisedLocked(key objectKey, r *intent.Record) []device.Writer {
	mine, group := r.Connection(), r.Group(key.id)
	var others []device.Writer
	for other, o := range a.objects {
		is := o.intent()
		if other == key || is == nil || is.Network != nil {
			continue
		}
		// The group's name is a digest, too dear to make one of each object's.
		if c := is.Connection(); c.Kind != mine.Kind || c.Source != mine.Source || is.Group(other.id) != group {
			continue
		}
		if w, ok := a.writer(other, is); ok {
			others = append(others, w)
		}
	}
	return others
}

// admitLocked refuses a writer beside others of its share whose locks it does
// not meet. One that is there already stays.
func (a *Agent) admitLocked(key objectKey, old, next *intent.Record) error {
	if old != nil {
		if _, is := a.writer(key, old); is {
			return nil
		}
	}
	w, ok := a.writer(key, next)
	if !ok {
		return nil
	}
	return w.Admit(a.promisedLocked(key, next))
}

// unlockedUsersLocked names the other writers that the locks of an attachment's
// guest do not meet.
func (a *Agent) unlockedUsersLocked(o *object) []string {
	w, ok := a.writer(o.key, o.rec)
	g := a.groups[o.rec.Group(o.key.id)]
	if !ok || g == nil {
		return nil
	}
	var others []device.Writer
	for key := range g.members {
		if other := a.objects[key]; other != nil && other != o && other.rec != nil {
			if is, ok := a.writer(key, other.rec); ok {
				others = append(others, is)
			}
		}
	}
	return w.Unlocked(others)
}
