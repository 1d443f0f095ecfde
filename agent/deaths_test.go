package agent

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/integration/wait"
)

// musicVM1 is a second attachment of the instance of docsVM1.
func musicVM1() model.Attachment {
	at := docsVM1()
	at.ID, at.Tag, at.MountAt = "music-vm1", "music", "/mnt/music"
	at.Connection.Source = "music"
	return at
}

// die ends a daemon, which died as d says.
func (h *host) die(dir string, d parts.Death) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.deaths[dir] = d
	h.endDaemon(dir)
}

func (n *node) becomes(t *testing.T, id string, phase model.Phase, reason fault.Reason) {
	t.Helper()
	var last model.Status
	defer func() {
		if t.Failed() {
			t.Logf("%s: %+v", id, last)
		}
	}()
	wait.Until(t, fmt.Sprintf("%s %s %s", id, phase, reason), func() bool {
		at, err := n.Attachment(t.Context(), id)
		last = at.Status
		return err == nil && last.Phase == phase && last.Reason == reason
	})
}

func TestDeathIsRepaired(t *testing.T) {
	h := newHost(t)
	a := h.boot(shortDir(t))
	if _, err := a.Attach(t.Context(), docsVM1()); err != nil {
		t.Fatal(err)
	}
	dir := a.at.Daemon("docs-vm1")
	h.die(dir, parts.Death{At: time.Now(), Cause: "killed", Kept: true, Over: true})
	wait.Until(t, "a fresh daemon", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.daemons[dir] != nil
	})
	wait.Until(t, "the repair is measured", func() bool { return metric(t, a, "causeway_virtiofsd_repair_seconds") == 1 })
	a.becomes(t, "docs-vm1", model.Ready, "")
	if n := metric(t, a, "causeway_virtiofsd_deaths_total", "killed"); n != 1 {
		t.Errorf("%v deaths, want 1", n)
	}
}

func TestBlockedDeathWaits(t *testing.T) {
	h := newHost(t)
	a := h.boot(shortDir(t))
	if _, err := a.Attach(t.Context(), docsVM1()); err != nil {
		t.Fatal(err)
	}
	dir := a.at.Daemon("docs-vm1")
	h.die(dir, parts.Death{Cause: "killed", Kept: true})
	a.becomes(t, "docs-vm1", model.Degraded, fault.DaemonBlocked)
	h.mu.Lock()
	if len(h.instances["vm1"].Devices) != 1 {
		t.Error("the device was taken out while virtiofsd may still write to the guest")
	}
	h.deaths[dir] = parts.Death{At: time.Now(), Cause: "killed", Kept: true, Over: true}
	h.mu.Unlock()
	a.becomes(t, "docs-vm1", model.Ready, "")
}

func TestWedgedGuestIsLeftAlone(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	a := h.boot(dir)
	for _, at := range []model.Attachment{docsVM1(), musicVM1()} {
		if _, err := a.Attach(t.Context(), at); err != nil {
			t.Fatal(err)
		}
	}
	uuid := h.instances["vm1"].UUID
	h.mu.Lock()
	h.guestKeeps = true
	h.mu.Unlock()
	h.die(a.at.Daemon("docs-vm1"), parts.Death{At: time.Now(), Cause: "keeper", Over: true})
	a.becomes(t, "docs-vm1", model.Degraded, fault.NeedsReset)
	a.becomes(t, "music-vm1", model.Ready, "") // it serves

	// Nothing else is plugged in or out, whatever is asked for.
	third := musicVM1()
	third.ID, third.Tag = "more-vm1", "more"
	_, err := a.Attach(t.Context(), third)
	reasonOf(t, err, fault.Precondition, fault.NeedsReset)
	h.die(a.at.Daemon("music-vm1"), parts.Death{At: time.Now(), Cause: "killed", Kept: true, Over: true})
	a.becomes(t, "music-vm1", model.Degraded, fault.NeedsReset)
	h.mu.Lock()
	touched := slices.ContainsFunc(h.log, func(s string) bool {
		return strings.HasPrefix(s, "detach") && strings.Contains(s, "music") || strings.HasPrefix(s, "attach") && strings.Contains(s, "more")
	})
	h.mu.Unlock()
	if touched {
		t.Error("a wedged guest was touched")
	}

	// A restarted agent finds out again, and the reset cures all.
	a.stop()
	a = h.boot(dir)
	a.becomes(t, "docs-vm1", model.Degraded, fault.NeedsReset)
	h.mu.Lock()
	h.guestKeeps = false
	h.mu.Unlock()
	a.InstanceChanged(parts.InstanceEvent{UUID: uuid, Rebooted: true})
	for _, id := range []string{"docs-vm1", "music-vm1"} {
		a.becomes(t, id, model.Ready, "")
	}
}

func TestRepairOfABlockedDaemon(t *testing.T) {
	h := newHost(t)
	a := h.boot(shortDir(t))
	if _, err := a.Attach(t.Context(), docsVM1()); err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	h.replaceError = &fault.Error{Kind: fault.Unavailable, Reason: fault.DaemonBlocked, Message: "cure the backend"}
	h.mu.Unlock()
	_, err := a.RepairAttachment(t.Context(), "docs-vm1")
	reasonOf(t, err, fault.Unavailable, fault.DaemonBlocked)
	a.becomes(t, "docs-vm1", model.Ready, "")
}

// TestStrays: what QEMU has and libvirt does not know of goes before its virtiofsd.
func TestStrays(t *testing.T) {
	h := newHost(t)
	a := h.boot(shortDir(t))
	if _, err := a.Attach(t.Context(), docsVM1()); err != nil {
		t.Fatal(err)
	}
	before := h.String()
	lose := func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		i := h.instances["vm1"]
		h.strays[i.Devices[0].Alias], i.Devices, h.log = true, nil, nil
	}
	changed := func() { a.InstanceChanged(parts.InstanceEvent{UUID: "uuid-vm1"}) }
	did := func(what string) bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return slices.Contains(h.log, what)
	}

	lose()
	changed()
	wait.Until(t, "it is attached again", func() bool { return did("attach ua-cw-docs-vm1") && h.String() == before })
	a.becomes(t, "docs-vm1", model.Ready, "")

	// The guest keeps it.
	h.mu.Lock()
	h.guestKeeps = true
	h.mu.Unlock()
	lose()
	changed()
	a.becomes(t, "docs-vm1", model.Failed, fault.GuestBusy)
	reasonOf(t, a.Detach(t.Context(), "docs-vm1"), fault.Precondition, fault.GuestBusy)
	if did("stop daemon docs-vm1") {
		t.Error("virtiofsd was ended under a device")
	}
	if err := a.ForceDetach(t.Context(), "docs-vm1"); err != nil || h.String() != "" {
		t.Errorf("detach by force: %v; left:\n%s", err, h)
	}

	// It is in the way of the next attach, until the guest lets go.
	h.mu.Lock()
	h.guestKeeps = false
	h.mu.Unlock()
	if _, err := a.Attach(t.Context(), docsVM1()); err != nil || h.String() != before {
		t.Errorf("attach: %v; the host is\n%s", err, h)
	}
	lose()
	if err := a.Detach(t.Context(), "docs-vm1"); err != nil || h.String() != "" {
		t.Errorf("detach: %v; left:\n%s", err, h)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.strays) != 0 {
		t.Errorf("QEMU has %v", h.strays)
	}
}
