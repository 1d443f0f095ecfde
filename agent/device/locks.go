package device

import (
	"fmt"
	"slices"
	"strings"

	"github.com/causeway-project/causeway/agent/fault"
)

// A Scope says who meets the locks of a guest's programs.
type Scope string

// The scopes.
const (
	ScopeGuest Scope = "guest" // the guest alone
	ScopeHost  Scope = "host"  // users of the share on this host that do not keep their own
	ScopeShare Scope = "share" // users on other hosts too
)

// ScopeOf is the scope of locks kept there, on a share whose driver makes the
// locks of several hosts coherent or does not.
func ScopeOf(l Locks, across bool) Scope {
	switch {
	case l != LocksShared:
		return ScopeGuest
	case across:
		return ScopeShare
	}
	return ScopeHost
}

// A Writer is a user of a share that may write to it.
type Writer struct {
	Name    string // "attachment/ID", "export/ID"
	OnHost  bool   // its locks are on the host, where those of others like it meet them
	Accepts bool   // its caller has forced it: others are let in that do not meet its locks
}

// Unlocked names the others that w's locks do not meet.
func (w Writer) Unlocked(others []Writer) []string {
	var names []string
	for _, o := range others {
		if !w.OnHost || !o.OnHost {
			names = append(names, o.Name)
		}
	}
	slices.Sort(names)
	return names
}

// Admit says why w may not be a further writer beside the others: LocksNotShared.
// Two that do not meet each other's locks may both believe that a file is
// theirs alone. One that is not forced itself, as an export never is, has to
// meet the locks of all others, but for those that accept it; one whose locks
// are in its guest meets nobody's, and its guest was not asked.
func (w Writer) Admit(others []Writer) error {
	var against []Writer
	for _, o := range others {
		if !o.Accepts || !w.OnHost {
			against = append(against, o)
		}
	}
	names := w.Unlocked(against)
	if len(names) == 0 || w.Accepts {
		return nil
	}
	const most = 5 // of what is told
	all := strings.Join(names[:min(len(names), most)], ", ")
	if len(names) > most {
		all += fmt.Sprintf(" and %d more", len(names)-most)
	}
	return &fault.Error{
		Kind: fault.Precondition, Reason: fault.LocksNotShared, Metadata: map[string]string{"users": strings.Join(names[:min(len(names), most)], ",")},
		Message: fmt.Sprintf("%s may write to the share too, and its locks and those of %s would not meet: make one of them read-only, give all attachments shared locks where virtiofsd can, or attach with force",
			all, w.Name),
	}
}
