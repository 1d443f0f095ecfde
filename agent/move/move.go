// Package move says what an attachment wants while its instance moves from one
// host to another. It is pure.
//
// The move has two agents, which know nothing of each other, and a caller, who
// may be gone at any instant. So each side decides by what its own libvirt
// says of the instance, and by a time that the caller gave:
//
//	           destination                          source
//
//	Prepare ---> awaited                released <--- Release
//	            (mount, daemon)        (nothing on the host)
//	              |        |            |      |      |
//	 instance     |        | expired    |      |      | expired, or Rollback
//	 runs here    |        | without    |    Detach   |
//	              v        v            |      |      +--> instance here: attached again
//	          attached   withdrawn      |      v      +--> gone: withdrawn
//	                                    |   withdrawn
//	                                    +--> (waits)
//
// That the instance runs here is the one event that nobody can take back, and
// that needs no caller: whoever has it gives it its share.
package move

import (
	"fmt"
	"regexp"
	"time"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/word"
)

// A Side is the part that a host has in a move. It is also the word of the
// ledger.
type Side string

// The sides.
const (
	Destination Side = "destination"
	Source      Side = "source"
)

// A Move is an attachment's while its instance is on its way.
type Move struct {
	Side      Side      `json:"side"`
	ExpiresAt time.Time `json:"expires_at"` // by this host's clock
}

// Is says whether there is a move, and this host has that side of it.
func (m *Move) Is(s Side) bool { return m != nil && m.Side == s }

// longest is how far ahead a move may expire: a slow migration's time, not an
// attachment's.
const longest = 24 * time.Hour

// CheckExpiry refuses times at which no move can expire.
func CheckExpiry(at, now time.Time) error {
	switch {
	case at.IsZero():
		return fault.Invalidf(fault.BadExpiry, "the move has no expiry: say until when it lasts at the most, for example 30 minutes from now")
	case !at.After(now):
		return fault.Invalidf(fault.BadExpiry, "the move expired at %s, and this host has %s: give a later time, and see that the hosts' clocks agree",
			at.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case at.After(now.Add(longest)):
		return fault.Invalidf(fault.BadExpiry, "the move expires at %s: give a time within %s from now", at.UTC().Format(time.RFC3339), longest)
	}
	return nil
}

var uuidPattern = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// CheckInstance refuses what names no instance on another host: a name may be
// another's there.
func CheckInstance(s string) error {
	if !uuidPattern.MatchString(s) {
		return fault.Invalidf(fault.BadInstance, "instance %s is not here yet and has no name here: give its UUID, in lower case, as virsh domuuid prints it", word.Quote(s))
	}
	return nil
}

// A Place is where this host's libvirt sees the instance.
type Place int

// The places.
const (
	Unknown Place = iota // libvirt does not answer
	Absent               // it knows no such instance
	Off                  // it is defined here, and off
	Gone                 // it is defined here, and off because it went to another host
	Passing              // a migration is about to bring it, or to take it away
	Here                 // it runs
)

// A Stage is how much of an attachment is on the host.
type Stage int

// The stages.
const (
	Nothing Stage = iota // not even the share's mount
	Ground               // what does not need the instance: mount and daemon
	All
)

// An End is how a side's part in a move ends.
type End string

// The ends. They are also the words of the metric.
const (
	Goes      End = ""          // it has not ended
	Arrived   End = "arrived"   // destination: the instance runs here, and keeps the share
	Withdrawn End = "withdrawn" // destination: the instance did not come in time
	Left      End = "left"      // source: the instance is not here any more
	Returned  End = "returned"  // source: the instance is still here, and has the share again
)

// Stage is how much there should be now. An instance that is just being
// migrated is waited for, however late: to take its share away at the last
// instant would help nobody.
func (m *Move) Stage(p Place, now time.Time) Stage {
	switch {
	case m == nil:
		return All
	case m.Side == Destination:
		return Ground
	case m.expired(now) && p == Here:
		return All
	}
	return Nothing
}

// End says how the move ended. Returned holds once the instance has the share.
func (m *Move) End(p Place, now time.Time) End {
	if m == nil {
		return Goes
	}
	if m.Side == Destination {
		switch {
		case p == Here:
			return Arrived
		case m.expired(now) && (p == Absent || p == Off || p == Gone):
			return Withdrawn
		}
		return Goes
	}
	if !m.expired(now) {
		return Goes
	}
	switch p {
	case Absent, Gone:
		return Left
	case Here, Off: // one that is off has it again when it is started
		return Returned
	}
	return Goes
}

func (m *Move) expired(now time.Time) bool { return !now.Before(m.ExpiresAt) }

// Status is why an attachment waits that has all that its move wants.
func (m *Move) Status() *fault.Error {
	until := m.ExpiresAt.UTC().Format(time.RFC3339)
	if m.ExpiresAt.IsZero() {
		return &fault.Error{Kind: fault.Precondition, Reason: fault.Released, Message: "rolled back, and waits for its instance, which is being migrated or cannot be seen"}
	}
	if m.Side == Destination {
		return &fault.Error{Kind: fault.Unavailable, Reason: fault.InstanceAwaited,
			Message: fmt.Sprintf("the instance is awaited until %s: migrate it here, or delete this attachment", until)}
	}
	return &fault.Error{Kind: fault.Precondition, Reason: fault.Released,
		Message: fmt.Sprintf("released until %s for its instance to move: migrate that and delete this attachment, or roll back", until)}
}
