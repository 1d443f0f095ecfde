package engine

import (
	"slices"
	"strings"
	"time"

	"github.com/causeway-project/causeway/agent/device"
	"github.com/causeway-project/causeway/agent/writers"
)

// writersLocked lists those who write to a group's share, by name.
func (eng *Engine) writersLocked(g *group) []device.Writer {
	var all []device.Writer
	for key := range g.members {
		if o := eng.objects[key]; o != nil && o.rec != nil {
			if w, ok := writers.Of(key, o.rec, time.Now()); ok {
				all = append(all, w)
			}
		}
	}
	slices.SortFunc(all, func(x, y device.Writer) int { return strings.Compare(x.Name, y.Name) })
	return all
}

// unlockedAmong names the writers that the locks of an attachment's guest do not
// meet.
func (o *object) unlockedAmong(all []device.Writer) []string {
	w, ok := writers.Of(o.key, o.rec, time.Now())
	if !ok {
		return nil
	}
	return w.Unlocked(slices.DeleteFunc(slices.Clone(all), func(other device.Writer) bool { return other.Name == w.Name }))
}

// noteWritersLocked tells of the attachments whose unlocked users became others:
// a change of one is of concern to all that share with it.
func (eng *Engine) noteWritersLocked(g *group) {
	var attachments []*object
	for key := range g.members {
		if o := eng.objects[key]; o != nil && o.rec != nil && o.rec.Attachment != nil {
			attachments = append(attachments, o)
		}
	}
	if len(attachments) == 0 {
		return // a share may have a thousand exports
	}
	all := eng.writersLocked(g)
	if slices.Equal(all, g.writers) {
		return
	}
	g.writers = all
	for _, o := range attachments {
		users := o.unlockedAmong(all)
		if slices.Equal(users, o.unlocked) {
			continue
		}
		if len(o.unlocked) == 0 {
			eng.log.Warn("others write to the share whose locks the guest does not meet", "attachment", o.key.ID, "users", users[:min(len(users), mostUsers)], "count", len(users))
		}
		o.unlocked = users
		eng.tellLocked(o, false)
	}
}

// mostUsers is how many are named in a line of the log.
const mostUsers = 5
