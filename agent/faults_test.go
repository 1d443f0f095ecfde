package agent

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/integration/wait"
)

// TestLibvirtGoesInTheMiddle: what waits for libvirt neither asks it as fast
// as the machine can, nor needs an event to find it back.
func TestLibvirtGoesInTheMiddle(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	a := h.boot(dir)
	h.mu.Lock()
	h.onCall = func(n int) {
		if strings.HasPrefix(h.log[len(h.log)-1], "attach") && !h.failed {
			h.failAt, h.libvirtOff = n, true
		}
	}
	h.mu.Unlock()
	ctx := endsAfter(t, 700*time.Millisecond, func() bool { h.mu.Lock(); defer h.mu.Unlock(); return h.failed })
	_, err := a.Attach(ctx, docsVM1())
	reasonOf(t, err, fault.Deadline, fault.CallTimeout)
	h.mu.Lock()
	looks := h.looks["uuid-vm1"]
	h.libvirtOff = false
	h.mu.Unlock()
	if looks > 20 {
		t.Errorf("asked libvirt %d times within 700 ms", looks)
	}
	wait.Until(t, "attached", func() bool {
		at, err := a.Attachment(t.Context(), "docs-vm1")
		return err == nil && at.Status.Phase == model.Ready
	})
}

// TestSlowGatewaysDelayNobody: however many they are, the agent is in sync.
func TestSlowGatewaysDelayNobody(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	a := h.boot(dir)
	for _, id := range []string{"blue", "red", "green"} {
		n, e := blue(), docs()
		n.ID, n.Plug = id, bridgePlug("br-"+id)
		e.ID, e.Network = id, id
		h.mu.Lock()
		h.bridges[n.Plug.Bridge] = true
		h.mu.Unlock()
		if _, err := a.PutNetwork(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		if _, err := a.PutExport(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	a.stop()
	for _, g := range h.gateways {
		g.kill()
	}
	release := make(chan struct{})
	h.before = func(what string) {
		if strings.HasPrefix(what, "start") {
			<-release
		}
	}
	defer close(release) // before the agent is stopped
	a = h.boot(dir)
	if _, err := a.Attach(t.Context(), docsVM1()); err != nil {
		t.Error(err)
	}
}

// TestGuestRestartsUnseen: the device went with the guest, and the mount with
// the device.
func TestGuestRestartsUnseen(t *testing.T) {
	h := newHost(t)
	a := h.boot(shortDir(t))
	if _, err := a.Attach(t.Context(), docsVM1()); err != nil {
		t.Fatal(err)
	}
	before := h.String()
	h.mu.Lock()
	uuid := h.instances["vm1"].UUID
	h.instances["vm1"].Devices, h.guests = nil, map[string]bool{}
	h.mu.Unlock()
	a.InstanceChanged(parts.InstanceEvent{UUID: uuid})
	wait.Equal(t, "attached and mounted again", before, h.String)

	// Reset while libvirt was away: the device stays.
	h.mu.Lock()
	h.guests = map[string]bool{}
	h.mu.Unlock()
	a.InstanceChanged(parts.InstanceEvent{})
	wait.Equal(t, "mounted again", before, h.String)
}

// TestRefusedNetworkWithExport: an export that came before the network was
// refused keeps it, and both can be removed.
func TestRefusedNetworkWithExport(t *testing.T) {
	h := newHost(t)
	var a *node
	var early sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var once sync.Once
	h.before = func(what string) {
		if what != "ensure cw-red" {
			return
		}
		once.Do(func() {
			e := docs()
			e.Network = "red"
			early.Go(func() { _, _ = a.PutExport(ctx, e) })
			wait.Until(t, "export known", func() bool { _, err := a.Export(ctx, "docs"); return err == nil })
		})
	}
	a = h.boot(shortDir(t))
	_, err := a.PutNetwork(t.Context(), model.Network{ID: "red", Plug: bridgePlug("br-red"), Addresses: []netip.Prefix{prefix("10.77.0.66/24")}})
	reasonOf(t, err, fault.Precondition, fault.AddressInUse)
	cancel()
	early.Wait()
	if err := a.DeleteExport(t.Context(), "docs"); err != nil {
		t.Error(err)
	}
	if err := a.DeleteNetwork(t.Context(), "red"); err != nil {
		t.Error(err)
	}
	if got := h.String(); got != "" {
		t.Errorf("left:\n%s", got)
	}
}

// TestDeleteDuringTry: the last try to make what is deleted meanwhile fails, and
// the delete hears nothing of it.
func TestDeleteDuringTry(t *testing.T) {
	h := newHost(t)
	var a *node
	var deleting sync.WaitGroup
	var once sync.Once
	var deleted error
	h.before = func(what string) {
		if what == "ensure cw-red" {
			once.Do(func() {
				deleting.Go(func() { deleted = a.DeleteNetwork(t.Context(), "red") })
				wait.Until(t, "being removed", func() bool {
					n, err := a.Network(t.Context(), "red")
					return err == nil && n.Status.Phase == model.Removing
				})
			})
		}
	}
	a = h.boot(shortDir(t))
	_, err := a.PutNetwork(t.Context(), model.Network{ID: "red", Plug: bridgePlug("br-red"), Addresses: []netip.Prefix{prefix("10.77.0.66/24")}})
	deleting.Wait()
	if err == nil || deleted != nil {
		t.Errorf("put %v, delete %v", err, deleted)
	}
	if got := h.String(); got != "" {
		t.Errorf("left:\n%s", got)
	}
}

// TestExportOfLostNetwork: where the record of a network is gone, its exports
// can be removed all the same.
func TestExportOfLostNetwork(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	a := h.boot(dir)
	for _, verb := range life(t.Context(), a.Agent)[:2] {
		if err := verb(); err != nil {
			t.Fatal(err)
		}
	}
	a.stop()
	h.gateways["blue"].kill()
	if err := os.Remove(filepath.Join(dir, "state/ledger/network/blue.json")); err != nil {
		t.Fatal(err)
	}
	a = h.boot(dir)
	if err := a.DeleteExport(t.Context(), "docs"); err != nil {
		t.Error(err)
	}
}

// TestEventsKeepTheBackOff: a step that fails may cause the very event that
// makes the agent look again.
func TestEventsKeepTheBackOff(t *testing.T) {
	h := newHost(t)
	a := h.boot(shortDir(t))
	if _, err := a.PutNetwork(t.Context(), blue()); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Attach(t.Context(), docsVM1()); err != nil {
		t.Fatal(err)
	}
	uuid := h.instances["vm1"].UUID
	h.mu.Lock()
	h.drift = true
	h.instances["vm1"].Devices = nil
	fails := 0
	h.onCall = func(n int) {
		h.failAt = n
		fails++
	}
	h.mu.Unlock()
	events, end := 0, time.Now().Add(300*time.Millisecond)
	wait.Until(t, "both steps are tried", func() bool {
		a.NetworksChanged()
		a.InstanceChanged(parts.InstanceEvent{UUID: uuid})
		events++
		h.mu.Lock()
		defer h.mu.Unlock()
		return fails >= 2 && events >= 30 && time.Now().After(end)
	})
	h.mu.Lock()
	n := fails
	h.onCall, h.failAt = nil, 0
	h.mu.Unlock()
	if n > events/2 {
		t.Errorf("%d tries of two steps beside %d events", n, events)
	}
	wait.Until(t, "repaired", func() bool {
		at, err := a.Attachment(t.Context(), "docs-vm1")
		n, err2 := a.Network(t.Context(), "blue")
		return err == nil && err2 == nil && at.Status.Phase == model.Ready && n.Status.Phase == model.Ready
	})
}

// TestBridgeComes: a network that waits for its bridge has it at once.
func TestBridgeComes(t *testing.T) {
	h := newHost(t)
	a := h.boot(shortDir(t))
	if _, err := a.PutNetwork(t.Context(), blue()); err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	h.drift, h.bridges["br-blue"] = true, false
	h.mu.Unlock()
	a.NetworksChanged()
	wait.Until(t, "failed", func() bool {
		n, err := a.Network(t.Context(), "blue")
		return err == nil && n.Status.Reason == fault.NoBridge && n.Status.Attempts > 2
	})
	h.mu.Lock()
	h.bridges["br-blue"] = true
	h.mu.Unlock()
	a.NetworksChanged()
	wait.Until(t, "ready", func() bool { n, _ := a.Network(t.Context(), "blue"); return n.Status.Phase == model.Ready })
}

// TestRecordThatStays: the caller hears why an object does not go, and it goes
// when its file can.
func TestRecordThatStays(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	a := h.boot(dir)
	if _, err := a.Attach(t.Context(), docsVM1()); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "state/ledger/attachment/docs-vm1.json")
	h.mu.Lock()
	h.onCall = func(int) {
		if h.log[len(h.log)-1] == "stop daemon docs-vm1" {
			if err := os.Remove(file); err != nil {
				t.Error(err)
			}
			if err := os.MkdirAll(filepath.Join(file, "x"), 0o700); err != nil {
				t.Error(err)
			}
		}
	}
	h.mu.Unlock()
	ctx := endsAfter(t, 0, func() bool {
		at, err := a.Attachment(t.Context(), "docs-vm1")
		return err == nil && at.Status.Reason == fault.LedgerFailed
	})
	err := a.Detach(ctx, "docs-vm1")
	reasonOf(t, err, fault.Deadline, fault.CallTimeout)
	if e := fault.AsError(err); e.Metadata["waiting_for"] != string(fault.LedgerFailed) {
		t.Errorf("waits for %q, want %q", e.Metadata["waiting_for"], fault.LedgerFailed)
	}
	if err := os.RemoveAll(file); err != nil {
		t.Fatal(err)
	}
	if err := a.Detach(t.Context(), "docs-vm1"); err != nil {
		t.Error(err)
	}
}

// TestStubbornGuestLeavesTime: a guest that takes long to refuse is not asked
// again at once, since the share's other users wait for the same worker.
func TestStubbornGuestLeavesTime(t *testing.T) {
	const long = 500 * time.Millisecond
	h := newHost(t)
	h.guestKeeps = true
	asked := make(chan time.Time, 100)
	h.before = func(what string) {
		if strings.HasPrefix(what, "detach") {
			time.Sleep(long) // the guest's time
			asked <- time.Now()
		}
	}
	a := h.boot(shortDir(t))
	at := docsVM1()
	at.MountAt = ""
	if _, err := a.Attach(t.Context(), at); err != nil {
		t.Fatal(err)
	}
	reasonOf(t, a.Detach(t.Context(), "docs-vm1"), fault.Precondition, fault.GuestBusy)
	first, second := <-asked, <-asked
	if free := second.Sub(first) - long; free < long {
		t.Errorf("the worker was free for %s after it had waited for %s", free, long)
	}
}
