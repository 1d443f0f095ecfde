package answers

import (
	"context"
	"strings"
	"testing"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/move"
	"github.com/causeway-project/causeway/agent/parts"
)

// libvirt knows instances by name and by UUID, and counts questions.
type libvirt struct {
	known map[string]parts.Instance
	away  bool
	asked int
}

func (l *libvirt) Instance(_ context.Context, name string) (parts.Instance, error) {
	l.asked++
	if l.away {
		return parts.Instance{}, &fault.Error{Kind: fault.Unavailable, Reason: fault.LibvirtUnavailable}
	}
	i, ok := l.known[name]
	if !ok {
		return parts.Instance{}, &fault.Error{Kind: fault.NotFound, Reason: fault.InstanceNotFound}
	}
	return i, nil
}

func TestPlace(t *testing.T) {
	for _, c := range []struct {
		name string
		is   parts.Instance
		err  fault.Reason
		want move.Place
	}{
		{"runs", parts.Instance{Running: true}, "", move.Here},
		{"is off", parts.Instance{}, "", move.Off},
		{"went to another host", parts.Instance{Migrated: true}, "", move.Gone},
		{"is being migrated", parts.Instance{Running: true, Migrating: true}, "", move.Passing},
		{"is not there", parts.Instance{}, fault.InstanceNotFound, move.Absent},
		{"cannot be asked", parts.Instance{Running: true}, fault.LibvirtUnavailable, move.Unknown},
	} {
		a := Answer{Instance: c.is}
		if c.err != "" {
			a.Err = &fault.Error{Reason: c.err}
		}
		if got := a.Place(); got != c.want {
			t.Errorf("an instance that %s: place %d, want %d", c.name, got, c.want)
		}
	}
}

func TestCache(t *testing.T) {
	l := &libvirt{known: map[string]parts.Instance{"1": {UUID: "1", Running: true}}}
	c := Cache{}
	for range 2 {
		if a := c.Of(t.Context(), l, "1"); a.Err != nil || !a.Instance.Running {
			t.Fatalf("%+v", a)
		}
	}
	if l.asked != 1 {
		t.Errorf("libvirt was asked %d times", l.asked)
	}
	l.away = true
	if a := c.Of(t.Context(), l, "2"); a.Err == nil || a.Missing() {
		t.Errorf("while libvirt is away: %+v", a)
	}
	c.ForgetErrors()
	l.away = false
	if a := c.Of(t.Context(), l, "2"); !a.Missing() {
		t.Errorf("after it: %+v", a)
	}
	if a := c.Of(t.Context(), l, "1"); a.Err != nil || l.asked != 3 {
		t.Errorf("what did not fail was asked anew: %+v, %d questions", a, l.asked)
	}
}

func TestNamesake(t *testing.T) {
	l := &libvirt{known: map[string]parts.Instance{"vm1": {UUID: "new"}}}
	for _, c := range []struct {
		at   *intent.Attachment
		want string
	}{
		{&intent.Attachment{Instance: "vm1", InstanceUUID: "old"}, "another has its name, with the UUID new"},
		{&intent.Attachment{Instance: "vm2", InstanceUUID: "old"}, "delete the attachment if it is gone for good"},
		{&intent.Attachment{Instance: "old", InstanceUUID: "old"}, "delete the attachment if it is gone for good"},
	} {
		all := Cache{}
		all.Of(t.Context(), l, "old")
		all.FindNamesake(t.Context(), l, c.at)
		if e := all["old"].Gone(c.at); e.Reason != fault.InstanceNotFound || !strings.Contains(e.Message, c.want) {
			t.Errorf("instance %s: %v, want %q", c.at.Instance, e, c.want)
		}
	}
}
