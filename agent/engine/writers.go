package engine

import (
	"slices"
	"strings"
	"time"

	"github.com/causeway-project/causeway/agent/access"
	"github.com/causeway-project/causeway/agent/device"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
)

// writer is what a record is to others that write to its share; not ok where it
// does not, or is on its way out.
func (eng *Engine) writer(key model.Key, r *intent.Record) (w device.Writer, ok bool) {
	w = device.Writer{Name: key.String()}
	switch {
	case r.Removing:
		return w, false
	case r.Export != nil:
		// Ganesha takes its clients' locks on the host's files.
		w.OnHost = true
		return w, !r.Export.ReadOnly && access.MayWrite(r.Export.Rules, time.Now())
	case r.Attachment != nil:
		w.OnHost = eng.settingsOf(r).Locks == device.LocksShared
		w.Accepts = r.Attachment.Forced
		return w, !r.Attachment.ReadOnly
	}
	return w, false
}

// promisedLocked lists the other writers of the share of a record that is of
// key, with those whose record is just being written.
func (eng *Engine) promisedLocked(key model.Key, r *intent.Record) []device.Writer {
	mine, group := r.Connection(), r.Group(key.ID)
	var others []device.Writer
	for other, o := range eng.objects {
		is := o.intent()
		if other == key || is == nil || is.Network != nil {
			continue
		}
		// The group's name is a digest, too dear to make one of each object's.
		if c := is.Connection(); c.Kind != mine.Kind || c.Source != mine.Source || is.Group(other.ID) != group {
			continue
		}
		if w, ok := eng.writer(other, is); ok {
			others = append(others, w)
		}
	}
	return others
}

// admitLocked refuses a writer beside others of its share whose locks it does
// not meet. One that is there already stays.
func (eng *Engine) admitLocked(key model.Key, old, next *intent.Record) error {
	if old != nil {
		if _, is := eng.writer(key, old); is {
			return nil
		}
	}
	w, ok := eng.writer(key, next)
	if !ok {
		return nil
	}
	return w.Admit(eng.promisedLocked(key, next))
}

// unlockedUsersLocked names the other writers that the locks of an attachment's
// guest do not meet.
func (eng *Engine) unlockedUsersLocked(o *object) []string {
	g := eng.groups[o.rec.Group(o.key.ID)]
	if g == nil {
		return nil
	}
	return eng.unlockedAmong(o, eng.writersLocked(g))
}

// writersLocked lists those who write to a group's share, by name.
func (eng *Engine) writersLocked(g *group) []device.Writer {
	var all []device.Writer
	for key := range g.members {
		if o := eng.objects[key]; o != nil && o.rec != nil {
			if w, ok := eng.writer(key, o.rec); ok {
				all = append(all, w)
			}
		}
	}
	slices.SortFunc(all, func(x, y device.Writer) int { return strings.Compare(x.Name, y.Name) })
	return all
}

func (eng *Engine) unlockedAmong(o *object, writers []device.Writer) []string {
	w, ok := eng.writer(o.key, o.rec)
	if !ok {
		return nil
	}
	return w.Unlocked(slices.DeleteFunc(slices.Clone(writers), func(other device.Writer) bool { return other.Name == w.Name }))
}

// noteWritersLocked tells of the attachments whose unlocked users became others:
// a change of one is of concern to all that share with it.
func (eng *Engine) noteWritersLocked(g *group) {
	writers := eng.writersLocked(g)
	if slices.Equal(writers, g.writers) {
		return
	}
	g.writers = writers
	for key := range g.members {
		o := eng.objects[key]
		if o == nil || o.rec == nil || o.rec.Attachment == nil {
			continue
		}
		users := eng.unlockedAmong(o, writers)
		if slices.Equal(users, o.unlocked) {
			continue
		}
		if len(o.unlocked) == 0 {
			eng.log.Warn("others write to the share whose locks the guest does not meet", "attachment", key.ID, "users", users[:min(len(users), mostUsers)], "count", len(users))
		}
		o.unlocked = users
		eng.tellLocked(o, false)
	}
}

// mostUsers is how many are named in a line of the log.
const mostUsers = 5
