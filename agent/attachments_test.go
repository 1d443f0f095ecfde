package agent

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/causeway-project/causeway/agent/access"
	"github.com/causeway-project/causeway/agent/device"
	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/integration/wait"
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
	wait.Until(t, "repaired", func() bool {
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
	if want := []model.Holder{{PID: 412, Command: "bash"}}; !slices.Equal(at.Holders, want) || at.Guest != model.GuestMounted {
		t.Errorf("holders %v of a guest mount that is %s, want %v and mounted", at.Holders, at.Guest, want)
	}
	// Another instance gets the share all the same.
	other := docsVM1()
	other.ID, other.Instance = "docs-vm2", "vm2"
	if _, err := a.Attach(t.Context(), other); err != nil {
		t.Error(err)
	}
	changed := docsVM1()
	changed.MountAt = "/elsewhere"
	_, err = a.Attach(t.Context(), changed)
	reasonOf(t, err, fault.Busy, fault.BeingRemoved)
	// The same again calls the removal off.
	before := h.String()
	at, err = a.Attach(t.Context(), docsVM1())
	if err != nil || at.Status.Phase != model.Ready || h.String() != before {
		t.Errorf("called off: %+v, %v; host:\n%s", at.Status, err, h)
	}
	h.mu.Lock()
	h.guestBusy = false
	h.mu.Unlock()
	if err := a.Detach(t.Context(), "docs-vm1"); err != nil {
		t.Error(err)
	}
}

// TestDetachCalledOff: who waits for the removal hears that it is not to be.
func TestDetachCalledOff(t *testing.T) {
	h := newHost(t)
	in, out := make(chan bool), make(chan bool)
	h.before = func(what string) {
		if what == "detach ua-cw-docs-vm1" {
			in <- true
			<-out
		}
	}
	a := h.boot(shortDir(t))
	if _, err := a.Attach(t.Context(), docsVM1()); err != nil {
		t.Fatal(err)
	}
	before := h.String()
	detached := make(chan error)
	go func() { detached <- a.Detach(t.Context(), "docs-vm1") }()
	<-in
	attached := make(chan error)
	go func() { _, err := a.Attach(t.Context(), docsVM1()); attached <- err }()
	reasonOf(t, <-detached, fault.Busy, fault.Withdrawn)
	close(out)
	if err := <-attached; err != nil || h.String() != before {
		t.Errorf("attached again: %v; host:\n%s", err, h)
	}
}

// TestForceDetachWhileLibvirtHangs: its silence is not waited for, as it would be
// for others.
func TestForceDetachWhileLibvirtHangs(t *testing.T) {
	h := newHost(t)
	a := h.boot(shortDir(t))
	if _, err := a.Attach(t.Context(), docsVM1()); err != nil {
		t.Fatal(err)
	}
	answers := make(chan struct{})
	h.mu.Lock()
	h.hooks["uuid-vm1"] = answers
	h.mu.Unlock()
	reasonOf(t, a.ForceDetach(t.Context(), "docs-vm1"), fault.Precondition, fault.NeedsReset)
	if left := h.String(); strings.Contains(left, "daemon") || strings.Contains(left, "mount docs") {
		t.Errorf("it has access yet:\n%s", left)
	}
	close(answers)
	wait.Until(t, "gone when libvirt answers", func() bool {
		_, err := a.Attachment(t.Context(), "docs-vm1")
		return err != nil
	})
}

func TestForceDetach(t *testing.T) {
	const gone = `device ua-cw-docs-vm1 tag docs in vm1`
	tests := []struct {
		name   string
		change func(*host)
		reason fault.Reason // none: it goes
		left   string
	}{
		{"busy", func(h *host) { h.guestBusy = true }, "", ""},
		{"no agent", func(h *host) { h.agentless = true }, "", ""},
		{"keeps the device", func(h *host) { h.guestKeeps = true }, fault.NeedsReset, gone},
		{"libvirt away", func(h *host) { h.libvirtOff = true }, fault.NeedsReset, gone},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h, dir := newHost(t), shortDir(t)
			a := h.boot(dir)
			if _, err := a.Attach(t.Context(), docsVM1()); err != nil {
				t.Fatal(err)
			}
			h.mu.Lock()
			tt.change(h)
			delete(h.guests, "uuid-vm1 /mnt/docs")
			h.mu.Unlock()
			a.InstanceChanged(parts.InstanceEvent{})
			err := a.ForceDetach(t.Context(), "docs-vm1")
			if tt.reason == "" {
				if err != nil || h.String() != "" {
					t.Errorf("%v; left:\n%s", err, h)
				}
				return
			}
			reasonOf(t, err, fault.Precondition, tt.reason)
			wait.Equal(t, "its access ends", tt.left, h.String)
			// An agent that starts anew remembers.
			a.stop()
			a = h.boot(dir)
			wait.Until(t, "said again", func() bool {
				at, err := a.Attachment(t.Context(), "docs-vm1")
				return err == nil && at.RemovalForced && at.Status.Phase == model.Degraded && at.Status.Reason == tt.reason
			})
			_, err = a.Attach(t.Context(), docsVM1())
			reasonOf(t, err, fault.Busy, fault.BeingRemoved)
			h.mu.Lock()
			h.libvirtOff, h.guestKeeps = false, false
			h.instances["vm1"].Devices = nil // it was reset
			h.mu.Unlock()
			a.InstanceChanged(parts.InstanceEvent{UUID: "uuid-vm1", Rebooted: true})
			wait.Until(t, "forgotten", func() bool {
				_, err := a.Attachment(t.Context(), "docs-vm1")
				return err != nil
			})
		})
	}
}

// TestGuestStateIsTrue: what the guest does by itself is seen, and what it
// unmounted is mounted again.
func TestGuestStateIsTrue(t *testing.T) {
	h := newHost(t)
	a := h.boot(shortDir(t))
	if _, err := a.Attach(t.Context(), docsVM1()); err != nil {
		t.Fatal(err)
	}
	before := h.String()
	change := func(f func()) {
		h.mu.Lock()
		f()
		h.mu.Unlock()
		a.InstanceChanged(parts.InstanceEvent{UUID: "uuid-vm1"})
	}
	state := func(phase model.Phase, g model.GuestState) func() bool {
		return func() bool {
			at, err := a.Attachment(t.Context(), "docs-vm1")
			return err == nil && at.Status.Phase == phase && at.Guest == g
		}
	}
	change(func() { h.agentless = true })
	wait.Until(t, "unknown without an agent", state(model.Ready, model.GuestUnknown))
	change(func() { h.agentless = false })
	wait.Until(t, "mounted", state(model.Ready, model.GuestMounted))
	change(func() { delete(h.guests, "uuid-vm1 /mnt/docs") })
	wait.Equal(t, "mounted again", before, h.String)
	change(func() { delete(h.guests, "uuid-vm1 /mnt/docs"); h.agentless = true })
	wait.Until(t, "unknown, and believed", state(model.Ready, model.GuestUnknown))
	a.InstanceChanged(parts.InstanceEvent{UUID: "uuid-vm1", Rebooted: true})
	wait.Until(t, "unknown after its reboot", state(model.Degraded, model.GuestUnknown))
	change(func() { h.agentless = false })
	wait.Until(t, "mounted when the agent is back", func() bool { return h.String() == before && state(model.Ready, model.GuestMounted)() })
}

// TestSlowGuest: one guest that does not answer holds nobody else up.
func TestSlowGuest(t *testing.T) {
	h := newHost(t)
	out := make(chan bool)
	h.before = func(what string) {
		if what == "detach ua-cw-docs-vm1" {
			<-out
		}
	}
	a := h.boot(shortDir(t))
	if _, err := a.Attach(t.Context(), docsVM1()); err != nil {
		t.Fatal(err)
	}
	detached := make(chan error)
	go func() { detached <- a.Detach(t.Context(), "docs-vm1") }()
	wait.Until(t, "being removed", func() bool {
		at, err := a.Attachment(t.Context(), "docs-vm1")
		return err == nil && at.Status.Phase == model.Removing
	})
	other := docsVM1()
	other.ID, other.Instance = "docs-vm2", "vm2"
	if _, err := a.Attach(t.Context(), other); err != nil {
		t.Error(err)
	}
	if err := a.Detach(t.Context(), "docs-vm2"); err != nil {
		t.Error(err)
	}
	close(out)
	if err := <-detached; err != nil {
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
	wait.Equal(t, "all released", "", h.String)
	wait.Until(t, "pending", func() bool {
		at, _ := a.Attachment(t.Context(), "docs-vm1")
		return at.Status.Phase == model.Pending && at.Status.Reason == fault.InstanceOff
	})
	power(true)
	wait.Equal(t, "attached again", before, h.String)
}

// TestDetachWhileInstanceGoesOff: a daemon that ended by itself leaves its
// directory, also where nobody had asked for a removal when that was seen.
func TestDetachWhileInstanceGoesOff(t *testing.T) {
	h := newHost(t)
	a := h.boot(shortDir(t))
	at := docsVM1()
	at.MountAt = ""
	if _, err := a.Attach(t.Context(), at); err != nil {
		t.Fatal(err)
	}
	looked := make(chan struct{})
	h.mu.Lock()
	i := h.instances["vm1"]
	i.Running, i.Devices = false, nil
	h.endDaemon(a.at.Daemon(at.ID))
	h.hooks[i.UUID] = looked
	h.mu.Unlock()
	a.InstanceChanged(parts.InstanceEvent{UUID: i.UUID})
	detached := make(chan error)
	go func() { detached <- a.Detach(t.Context(), at.ID) }()
	wait.Until(t, "being removed", func() bool {
		at, err := a.Attachment(t.Context(), at.ID)
		return err == nil && at.Status.Phase == model.Removing
	})
	close(looked)
	if err := <-detached; err != nil || h.String() != "" || len(h.litter) > 0 {
		t.Errorf("detach: %v; left:\n%s\nand directories of daemons: %v", err, h, h.litter)
	}
}

// TestDeviceGoesWhileGuestMounts: what QEMU was asked for before a detach was
// called off may happen later; the device is plugged in again, and the mount that
// waited for it in vain has not failed.
func TestDeviceGoesWhileGuestMounts(t *testing.T) {
	h := newHost(t)
	h.blind = true
	begun := make(chan struct{}, 2)
	h.before = func(what string) {
		if what == "guest mount docs" {
			begun <- struct{}{}
		}
	}
	a := h.boot(shortDir(t))
	attached := make(chan error)
	go func() { _, err := a.Attach(t.Context(), docsVM1()); attached <- err }()
	<-begun
	h.mu.Lock()
	h.instances["vm1"].Devices = nil
	h.blind = false
	h.mu.Unlock()
	a.InstanceChanged(parts.InstanceEvent{UUID: "uuid-vm1"})
	if err := <-attached; err != nil {
		t.Fatal(err)
	}
	at, err := a.Attachment(t.Context(), "docs-vm1")
	if err != nil || at.Status.Phase != model.Ready || at.Guest != model.GuestMounted {
		t.Errorf("attachment is %+v, %s, %v", at.Status, at.Guest, err)
	}
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
	if err != nil || at.Status.Phase != model.Degraded || at.Status.Reason != fault.GuestAgentAbsent || at.Guest != model.GuestUnknown {
		t.Errorf("attachment is %+v %s, %v: want the device, and to be told of the mount", at.Status, at.Guest, err)
	}
}

// A guest that has never asked for anything has nothing mounted, and is not
// asked to unmount it.
func TestDetachFromGuestThatDidNotMount(t *testing.T) {
	for _, c := range []struct {
		name    string
		unasked bool
		err     error
		asks    bool
	}{
		{"it did not", true, nil, false},
		{"it may have", false, nil, true},
		{"nobody knows", true, errors.New("simulated"), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t)
			h.unasked, h.askedError = c.unasked, c.err
			a := h.boot(shortDir(t))
			at := docsVM1()
			at.MountAt = ""
			if _, err := a.Attach(t.Context(), at); err != nil {
				t.Fatal(err)
			}
			if err := a.Detach(t.Context(), at.ID); err != nil || h.String() != "" {
				t.Errorf("detach: %v; left:\n%s", err, h)
			}
			h.mu.Lock()
			defer h.mu.Unlock()
			if (h.unmounts > 0) != c.asks {
				t.Errorf("the guest was asked %d times", h.unmounts)
			}
		})
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

// A second writer has to meet the first one's locks, or be forced, in whatever
// order they come.
func TestSecondWriter(t *testing.T) {
	h := newHost(t)
	a := h.boot(shortDir(t))
	ctx := t.Context()
	at := func(id string, change func(*model.Attachment)) error {
		want := docsVM1()
		want.ID, want.Tag, want.MountAt, want.Forced = id, id, "", false
		if change != nil {
			change(&want)
		}
		_, err := a.Attach(ctx, want)
		return err
	}
	shared := func(w *model.Attachment) { w.Settings.Locks = device.LocksShared }
	force := func(w *model.Attachment) { w.Forced = true }
	put := func(e model.Export) error { _, err := a.PutExport(ctx, e); return err }
	readers := docs()
	readers.Rules = slices.Clone(readers.Rules)
	for i := range readers.Rules {
		readers.Rules[i].Level = access.LevelRO
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	refused := func(err error, other string) {
		t.Helper()
		reasonOf(t, err, fault.Precondition, fault.LocksNotShared)
		if err != nil && !strings.Contains(err.Error(), other) {
			t.Errorf("%v does not name %s", err, other)
		}
	}
	unlocked := func(id string, want ...string) {
		t.Helper()
		got, err := a.Attachment(ctx, id)
		if err != nil || !slices.Equal(got.UnlockedUsers, want) {
			t.Errorf("%s: unlocked users %q, %v, want %q", id, got.UnlockedUsers, err, want)
		}
	}

	_, err := a.PutNetwork(ctx, blue())
	must(err)
	must(at("first", nil))
	must(at("reader", func(w *model.Attachment) { w.ReadOnly = true }))
	must(put(readers)) // who only reads harms nobody
	refused(at("second", nil), "attachment/first")
	refused(at("second", shared), "attachment/first")
	refused(put(docs()), "attachment/first")
	refused(func() error {
		_, err := a.PutRule(ctx, "docs", access.Rule{ID: "w", Client: prefix("10.77.0.77/32"), Level: access.LevelRW, Squash: access.SquashRoot})
		return err
	}(), "attachment/first")
	unlocked("first")
	checks, err := a.PreflightAttachment(ctx, model.Attachment{Instance: "vm1", Connection: share("docs")})
	if i := slices.IndexFunc(checks, func(c model.Check) bool { return c.Name == "locks" }); err != nil || i < 0 || checks[i].Reason != fault.LocksNotShared {
		t.Errorf("preflight: %+v, %v", checks, err)
	}

	must(at("second", force))
	unlocked("first", "attachment/second")
	refused(put(docs()), "attachment/first") // whose caller still expects to be alone
	must(at("first", force))                 // the same again, but for that
	must(put(docs()))
	unlocked("first", "attachment/second", "export/docs")
	unlocked("reader")
	must(at("third", shared)) // the others accept it
	unlocked("third", "attachment/first", "attachment/second")

	// The wish outlives the agent.
	again, err := a.Attachment(ctx, "first")
	if err != nil || !again.Forced || again.LockScope != device.ScopeGuest {
		t.Errorf("first is %+v, %v", again, err)
	}
	for _, id := range []string{"first", "second"} {
		must(a.Detach(ctx, id))
	}
	must(at("fourth", shared))
	unlocked("third")
	if got, err := a.Attachment(ctx, "third"); err != nil || got.LockScope != device.ScopeHost {
		t.Errorf("third is %+v, %v", got, err)
	}
}
