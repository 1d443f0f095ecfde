// Package writers says who writes to a share, and whether another may beside them.
// It is pure.
package writers

import (
	"iter"
	"time"

	"github.com/causeway-project/causeway/agent/access"
	"github.com/causeway-project/causeway/agent/device"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
)

// Of is what a record is to others that write to its share; not ok where it does
// not, or is on its way out.
func Of(key model.Key, r *intent.Record, now time.Time) (w device.Writer, ok bool) {
	w = device.Writer{Name: key.String()}
	switch {
	case r.Removing:
		return w, false
	case r.Export != nil:
		// Ganesha takes its clients' locks on the host's files.
		w.OnHost = true
		return w, !r.Export.ReadOnly && access.MayWrite(r.Export.Rules, now)
	case r.Attachment != nil:
		w.OnHost = r.Attachment.Settings.Or(device.Builtin()).Locks == device.LocksShared
		w.Accepts = r.Attachment.Forced
		return w, !r.Attachment.ReadOnly
	}
	return w, false
}

// A Change is that of one object's record.
type Change struct {
	Key  model.Key      // required
	Old  *intent.Record // nil for a new object
	Next *intent.Record // required
	Now  time.Time      // required
}

// Admit refuses a change that makes a writer of its object beside others of its
// share, among all records, whose locks it does not meet. One that is a writer
// already stays.
func Admit(all iter.Seq2[model.Key, *intent.Record], c Change) error {
	if c.Old != nil {
		if _, is := Of(c.Key, c.Old, c.Now); is {
			return nil
		}
	}
	w, ok := Of(c.Key, c.Next, c.Now)
	if !ok {
		return nil
	}
	mine, group := c.Next.Connection(), c.Next.Group(c.Key.ID)
	var others []device.Writer
	for key, r := range all {
		if key == c.Key || r.Network != nil {
			continue
		}
		// The group's name is a digest, too dear to make one of each object's.
		if o := r.Connection(); o.Kind != mine.Kind || o.Source != mine.Source || r.Group(key.ID) != group {
			continue
		}
		if other, ok := Of(key, r, c.Now); ok {
			others = append(others, other)
		}
	}
	return w.Admit(others)
}
