// Package answers keeps what libvirt said of instances, whose events tell when
// it would say something else. Who keeps it sees to that it is used by one
// goroutine at a time.
package answers

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/move"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/agent/word"
)

// Patience bounds a question of a Cache's.
const Patience = 10 * time.Second

// A Source answers: parts.Instances does.
type Source interface {
	// Instance finds a domain by UUID or name: InstanceNotFound,
	// LibvirtUnavailable.
	Instance(ctx context.Context, nameOrUUID string) (parts.Instance, error)
}

// An Answer is what libvirt said of an instance.
type Answer struct {
	Instance parts.Instance
	Err      *fault.Error
	Namesake string // UUID of another instance that has the name of one that is not there
}

// Ask has an instance answered for by UUID or name.
func Ask(ctx context.Context, s Source, nameOrUUID string) Answer {
	i, err := s.Instance(ctx, nameOrUUID)
	if err != nil {
		return Answer{Instance: i, Err: parts.Classify(err)}
	}
	return Answer{Instance: i}
}

// A Cache holds answers by UUID.
type Cache map[string]Answer

// Of is the answer for an instance; s is asked where there is none.
func (c Cache) Of(ctx context.Context, s Source, uuid string) Answer {
	if got, ok := c[uuid]; ok {
		return got
	}
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	got := Ask(ctx, s, uuid)
	c[uuid] = got
	return got
}

// ForgetErrors lets what failed be asked again.
func (c Cache) ForgetErrors() {
	maps.DeleteFunc(c, func(_ string, got Answer) bool { return got.Err != nil })
}

// FindNamesake looks who has the name of an instance that is not there.
func (c Cache) FindNamesake(ctx context.Context, s Source, at *intent.Attachment) {
	got := c[at.InstanceUUID]
	if got.Namesake != "" || at.Instance == at.InstanceUUID {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	if other := Ask(ctx, s, at.Instance); other.Err == nil {
		got.Namesake = other.Instance.UUID
		c[at.InstanceUUID] = got
	}
}

// Missing says whether there is no such instance.
func (a Answer) Missing() bool { return a.Err != nil && a.Err.Reason == fault.InstanceNotFound }

// Place is where the instance is, as a move sees it.
func (a Answer) Place() move.Place {
	switch {
	case a.Missing():
		return move.Absent
	case a.Err != nil:
		return move.Unknown
	case a.Instance.Migrated:
		return move.Gone
	case !a.Instance.Running:
		return move.Off
	case a.Instance.Migrating:
		return move.Passing
	}
	return move.Here
}

// Gone says why an attachment waits for an instance that is Missing.
func (a Answer) Gone(at *intent.Attachment) *fault.Error {
	e := &fault.Error{Kind: fault.NotFound, Reason: fault.InstanceNotFound, Metadata: map[string]string{"instance_uuid": at.InstanceUUID}}
	e.Message = fmt.Sprintf("instance %s with the UUID %s is not defined on this host: the share is attached when it is there again and runs; delete the attachment if it is gone for good", word.Quote(at.Instance), at.InstanceUUID)
	if a.Namesake != "" {
		e.Message = fmt.Sprintf("instance %s with the UUID %s is not defined on this host, and another has its name, with the UUID %s: delete the attachment, and attach the share to that one", word.Quote(at.Instance), at.InstanceUUID, a.Namesake)
	}
	return e
}
