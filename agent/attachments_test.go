package agent

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/parts"
)

// TestDaemonDies: the device goes first, without the guest being asked to
// unmount, whose task would hang.
func TestDaemonDies(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	a := h.boot(dir)
	if _, err := a.Attach(t.Context(), docsVM1()); err != nil {
		t.Fatal(err)
	}
	before := h.String()
	h.mu.Lock()
	h.log = nil
	h.endDaemon(a.at.Daemon("docs-vm1"))
	h.mu.Unlock()
	want := []string{"detach ua-cw-docs-vm1", "guest unmount docs", "daemon docs-vm1", "attach ua-cw-docs-vm1", "guest mount docs"}
	eventually(t, "repaired", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.log) >= len(want)
	})
	if !slices.Equal(h.log, want) || h.String() != before {
		t.Errorf("did %q, want %q; host:\n%s", h.log, want, h)
	}
}

func TestGuestBusy(t *testing.T) {
	h := newHost(t)
	a := h.boot(shortDir(t))
	if _, err := a.Attach(t.Context(), docsVM1()); err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	h.guestBusy = true
	h.mu.Unlock()
	reasonOf(t, a.Detach(t.Context(), "docs-vm1"), fault.Precondition, fault.GuestBusy)
	at, err := a.Attachment(t.Context(), "docs-vm1")
	if err != nil || at.Status.Phase != model.Degraded || at.Status.Reason != fault.GuestBusy {
		t.Errorf("status %+v, %v", at.Status, err)
	}
	// Another instance gets the share all the same.
	other := docsVM1()
	other.ID, other.Instance = "docs-vm2", "vm2"
	if _, err := a.Attach(t.Context(), other); err != nil {
		t.Error(err)
	}
	_, err = a.Attach(t.Context(), docsVM1())
	reasonOf(t, err, fault.Busy, fault.BeingRemoved)
	h.mu.Lock()
	h.guestBusy = false
	h.mu.Unlock()
	if err := a.Detach(t.Context(), "docs-vm1"); err != nil {
		t.Error(err)
	}
}

func TestInstanceGoesOffAndComesBack(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	a := h.boot(dir)
	if _, err := a.Attach(t.Context(), docsVM1()); err != nil {
		t.Fatal(err)
	}
	before := h.String()
	power := func(on bool) {
		h.mu.Lock()
		i := h.instances["vm1"]
		i.Running, i.Devices = on, nil
		h.guests = map[string]bool{}
		if !on {
			h.endDaemon(a.at.Daemon("docs-vm1"))
		}
		h.mu.Unlock()
		a.InstanceChanged(parts.InstanceEvent{UUID: i.UUID, Rebooted: on})
	}
	power(false)
	eventually(t, "all released", func() bool { return h.String() == "" })
	eventually(t, "pending", func() bool {
		at, _ := a.Attachment(t.Context(), "docs-vm1")
		return at.Status.Phase == model.Pending && at.Status.Reason == fault.InstanceOff
	})
	power(true)
	eventually(t, "attached again", func() bool { return h.String() == before })
}

// TestLibvirtAway: nothing is touched that could not be seen, and the same
// share's export goes on.
func TestLibvirtAway(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	a := h.boot(dir)
	if _, err := a.Attach(t.Context(), docsVM1()); err != nil {
		t.Fatal(err)
	}
	a.stop()
	before := h.String()
	h.libvirtOff = true
	a = h.boot(dir)
	if got := h.String(); got != before {
		t.Errorf("host has\n%s\nwant\n%s", got, before)
	}
	if _, err := a.PutNetwork(t.Context(), blue()); err != nil {
		t.Error(err)
	}
	if _, err := a.PutExport(t.Context(), docs()); err != nil {
		t.Error(err)
	}
	at, err := a.Attachment(t.Context(), "docs-vm1")
	if err != nil || at.Status.Phase != model.Degraded || at.Status.Reason != fault.LibvirtUnavailable {
		t.Errorf("status %+v, %v", at.Status, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	reasonOf(t, a.Detach(ctx, "docs-vm1"), fault.Deadline, fault.CallTimeout)
	h.mu.Lock()
	h.libvirtOff = false
	h.mu.Unlock()
	a.InstanceChanged(parts.InstanceEvent{})
	if err := a.Detach(t.Context(), "docs-vm1"); err != nil {
		t.Error(err)
	}
}

func TestGuestWithoutAgent(t *testing.T) {
	h := newHost(t)
	h.agentless = true
	a := h.boot(shortDir(t))
	at, err := a.Attach(t.Context(), docsVM1())
	if err != nil || at.Status.Phase != model.Degraded || at.Status.Reason != fault.GuestAgentAbsent || at.Guest != model.GuestDeviceOnly {
		t.Errorf("attachment is %+v %s, %v: want the device, and to be told of the mount", at.Status, at.Guest, err)
	}
}

func TestShareDeletedUnderAnAttachment(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	a := h.boot(dir)
	if _, err := a.Attach(t.Context(), docsVM1()); err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	h.gone[a.at.Mount(intent.ConnectionOf(share("docs")).MountName())] = true
	delete(h.shares, "docs")
	h.mu.Unlock()
	at, err := a.RepairAttachment(t.Context(), "docs-vm1")
	if err != nil || at.Status.Phase != model.Degraded || at.Status.Reason != fault.ShareGone {
		t.Errorf("status %+v, %v", at.Status, err)
	}
	if err := a.Detach(t.Context(), "docs-vm1"); err != nil || h.String() != "" {
		t.Errorf("detach: %v; left:\n%s", err, h)
	}
}
