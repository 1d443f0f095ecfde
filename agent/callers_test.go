package agent

import (
	"context"
	"errors"
	"testing"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/integration/wait"
)

// TestTwoCallers attach to one instance at once, under one tag: one gets it.
func TestTwoCallers(t *testing.T) {
	h := newHost(t)
	a := h.boot(shortDir(t))
	answers := make(chan error)
	for _, id := range []string{"first", "second"} {
		at := docsVM1()
		at.ID = id
		go func() { _, err := a.Attach(t.Context(), at); answers <- err }()
	}
	got, lost := <-answers, <-answers
	if got != nil {
		got, lost = lost, got
	}
	if got != nil {
		t.Error(got)
	}
	reasonOf(t, lost, fault.Precondition, fault.TagTaken)
	list, err := a.Attachments(t.Context(), "vm1")
	if err != nil || len(list) != 1 {
		t.Fatalf("%v, %v, want one attachment", list, err)
	}
	// Both callers may give up what they asked for.
	for _, id := range []string{"first", "second"} {
		if err := a.Detach(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	if h.String() != "" {
		t.Errorf("left:\n%s", h)
	}
}

// TestTagOfADetach: the tag is free when the guest has let go of the device.
func TestTagOfADetach(t *testing.T) {
	h := newHost(t)
	a := h.boot(shortDir(t))
	if _, err := a.Attach(t.Context(), docsVM1()); err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	h.guestBusy = true
	h.mu.Unlock()
	reasonOf(t, a.Detach(t.Context(), "docs-vm1"), fault.Precondition, fault.GuestBusy)
	next := docsVM1()
	next.ID = "next"
	_, err := a.Attach(t.Context(), next)
	reasonOf(t, err, fault.Precondition, fault.TagTaken)
	h.mu.Lock()
	h.guestBusy = false
	h.mu.Unlock()
	if err := a.Detach(t.Context(), "docs-vm1"); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Attach(t.Context(), next); err != nil {
		t.Error(err)
	}
}

// TestAttachEndsHalfWay: the intent stands, and the same call again has it.
func TestAttachEndsHalfWay(t *testing.T) {
	h := newHost(t)
	reached, release := make(chan struct{}), make(chan struct{})
	h.before = func(what string) {
		if what == "guest mount docs" {
			close(reached)
			<-release
		}
	}
	a := h.boot(shortDir(t))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	answer := make(chan error)
	go func() { _, err := a.Attach(ctx, docsVM1()); answer <- err }()
	<-reached
	cancel()
	err := <-answer
	reasonOf(t, err, fault.Deadline, fault.CallTimeout)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v does not say that it was cancelled", err)
	}
	close(release)
	ctx, cancel = context.WithTimeout(t.Context(), wait.Long)
	defer cancel()
	at, err := a.Attach(ctx, docsVM1())
	if err != nil || at.Status.Phase != model.Ready || at.Status.Generation != 1 {
		t.Errorf("the same call again: %+v, %v", at.Status, err)
	}
}
