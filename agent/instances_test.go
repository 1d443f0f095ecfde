package agent

import (
	"context"
	"strings"
	"testing"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/integration/wait"
)

// persistent makes an instance one whose starts libvirt tells of.
func (h *host) persistent(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.instances[name].Persistent, h.instances[name].Hook = true, parts.HookActive
}

// powerOff ends an instance's QEMU.
func (h *host) powerOff(a *node, name string) {
	h.mu.Lock()
	i := h.instances[name]
	for _, d := range i.Devices {
		h.endDaemon(strings.TrimSuffix(d.Socket, "/sock"))
	}
	i.Running, i.Devices, h.guests = false, nil, map[string]bool{}
	h.mu.Unlock()
	a.InstanceChanged(parts.InstanceEvent{UUID: i.UUID})
}

// powerOn starts an instance as libvirt does: the hook with the instance locked,
// then QEMU with the devices of the definition, then the event.
func (h *host) powerOn(a *node, name string) error {
	h.mu.Lock()
	i := h.instances[name]
	hook := make(chan struct{})
	h.hooks[i.UUID] = hook
	s := model.Start{Instance: name, UUID: i.UUID, Sockets: []string{"/elsewhere"}}
	for _, d := range i.Defined {
		s.Sockets = append(s.Sockets, d.Socket)
	}
	h.mu.Unlock()
	err := a.PrepareStart(h.t.Context(), s)
	h.mu.Lock()
	defer close(hook)
	delete(h.hooks, i.UUID)
	if err == nil {
		for _, d := range i.Defined {
			dir := strings.TrimSuffix(d.Socket, "/sock")
			if h.daemons[dir] == nil || h.connected[dir] {
				h.t.Errorf("nobody takes QEMU's connection to %s", d.Socket)
			}
			h.connected[dir] = true
		}
		i.Running, i.Devices = true, append([]parts.Device(nil), i.Defined...)
	}
	h.mu.Unlock()
	if err == nil {
		defer a.InstanceChanged(parts.InstanceEvent{UUID: i.UUID, Rebooted: true})
	}
	return err
}

func TestPersistent(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	h.persistent("vm1")
	a := h.boot(dir)
	at, err := a.Attach(t.Context(), docsVM1())
	if err != nil || at.Persistence != model.Persistent || at.LiveOnly != "" {
		t.Fatalf("%+v, %v, want it persistent", at, err)
	}
	running := h.String()
	const off = "definition of vm1 with ua-cw-docs-vm1 tag docs"
	for range 3 {
		h.powerOff(a, "vm1")
		wait.Equal(t, "only the definition is left", off, h.String)
		if err := h.powerOn(a, "vm1"); err != nil {
			t.Fatal(err)
		}
		wait.Equal(t, "as before", running, h.String)
	}
	// At once: the last life's daemon has not yet gone.
	h.powerOff(a, "vm1")
	h.mu.Lock()
	stale := a.at.Daemon("docs-vm1")
	if h.daemons[stale] == nil {
		h.daemons[stale] = make(chan struct{})
	}
	h.connected[stale] = true
	h.mu.Unlock()
	if err := h.powerOn(a, "vm1"); err != nil {
		t.Fatal(err)
	}
	wait.Equal(t, "as before", running, h.String)

	h.powerOff(a, "vm1")
	if err := a.Detach(t.Context(), "docs-vm1"); err != nil || h.String() != "" {
		t.Errorf("detach while off: %v; left:\n%s", err, h)
	}
	if err := h.powerOn(a, "vm1"); err != nil {
		t.Errorf("start without the attachment: %v", err)
	}
}

// TestStartRefused: what QEMU would fail of says so, with what to do.
func TestStartRefused(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	h.persistent("vm1")
	h.persistent("vm2")
	a := h.boot(dir)
	if _, err := a.Attach(t.Context(), docsVM1()); err != nil {
		t.Fatal(err)
	}
	h.powerOff(a, "vm1")
	wait.Until(t, "released", func() bool { return !strings.Contains(h.String(), "mount") })
	h.mu.Lock()
	delete(h.shares, "docs")
	h.mu.Unlock()
	err := h.powerOn(a, "vm1")
	reasonOf(t, err, fault.NotFound, fault.ShareNotFound)
	if !strings.HasSuffix(err.Error(), "'causeway attachment delete docs-vm1'") {
		t.Errorf("%v does not say what to do", err)
	}
	// A clone has the device of its original.
	h.mu.Lock()
	h.instances["vm2"].Defined = h.instances["vm1"].Defined
	h.mu.Unlock()
	h.powerOff(a, "vm2")
	reasonOf(t, h.powerOn(a, "vm2"), fault.NotFound, fault.UnknownID)

	if err := a.Detach(t.Context(), "docs-vm1"); err != nil {
		t.Fatal(err)
	}
	if err := h.powerOn(a, "vm1"); err != nil {
		t.Errorf("start after the delete: %v", err)
	}
}

// TestPreparedForNothing: what was made ready for a QEMU that never came is released.
func TestPreparedForNothing(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	h.persistent("vm1")
	a := h.boot(dir)
	if _, err := a.Attach(t.Context(), docsVM1()); err != nil {
		t.Fatal(err)
	}
	h.powerOff(a, "vm1")
	socket := a.at.Socket("docs-vm1")
	if err := a.PrepareStart(t.Context(), model.Start{Instance: "vm1", UUID: "uuid-vm1", Sockets: []string{socket}}); err != nil {
		t.Fatal(err)
	}
	wait.Equal(t, "released", "definition of vm1 with ua-cw-docs-vm1 tag docs", h.String)
}

// TestDefinitionConverges: whoever changes the definition, or the hook.
func TestDefinitionConverges(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	h.persistent("vm1")
	a := h.boot(dir)
	if _, err := a.Attach(t.Context(), docsVM1()); err != nil {
		t.Fatal(err)
	}
	defined := func() int {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.instances["vm1"].Defined)
	}
	change := func(c func(i *parts.Instance)) {
		h.mu.Lock()
		c(h.instances["vm1"])
		h.mu.Unlock()
		a.InstanceChanged(parts.InstanceEvent{UUID: "uuid-vm1"})
	}
	wants := func(p model.Persistence, why string) {
		t.Helper()
		wait.Until(t, "attachment is "+string(p), func() bool {
			at, err := a.Attachment(t.Context(), "docs-vm1")
			return err == nil && at.Persistence == p && strings.Contains(at.LiveOnly, why)
		})
	}
	change(func(i *parts.Instance) { i.Defined = nil })
	wait.Equal(t, "defined again", 1, defined)
	change(func(i *parts.Instance) { i.Hook = parts.HookUnread })
	wants(model.Persistent, "")
	change(func(i *parts.Instance) { i.Hook = parts.HookMissing })
	wants(model.LiveOnly, "not installed")
	if defined() != 0 {
		t.Error("without the hook the definition keeps the instance from starting")
	}
	change(func(i *parts.Instance) { i.Hook = parts.HookUnread })
	wants(model.LiveOnly, "restart it")
	change(func(i *parts.Instance) { i.Hook = parts.HookActive })
	wants(model.Persistent, "")
	change(func(i *parts.Instance) { i.Persistent, i.Defined = false, nil })
	wants(model.LiveOnly, "transient")
	if err := a.Detach(t.Context(), "docs-vm1"); err != nil || h.String() != "" {
		t.Errorf("detach: %v; left:\n%s", err, h)
	}
}

// TestStartWithoutLibvirt: a boot of the host, where libvirt starts instances
// before it takes calls.
func TestStartWithoutLibvirt(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	h.persistent("vm1")
	a := h.boot(dir)
	if _, err := a.Attach(t.Context(), docsVM1()); err != nil {
		t.Fatal(err)
	}
	h.powerOff(a, "vm1")
	wait.Until(t, "released", func() bool { return !strings.Contains(h.String(), "mount") })
	a.stop()
	h.mu.Lock()
	h.libvirtOff = true
	h.mu.Unlock()
	a = h.boot(dir)
	ctx, cancel := context.WithTimeout(t.Context(), wait.Long)
	defer cancel()
	s := model.Start{Instance: "vm1", UUID: "uuid-vm1", Sockets: []string{a.at.Socket("docs-vm1")}}
	if err := a.PrepareStart(ctx, s); err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.daemons[a.at.Daemon("docs-vm1")] == nil {
		t.Error("no daemon")
	}
}

// TestAgentStartsBesideAnInstance: its first look must not wait for libvirt, which
// waits for it.
func TestAgentStartsBesideAnInstance(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	h.persistent("vm1")
	a := h.boot(dir)
	if _, err := a.Attach(t.Context(), docsVM1()); err != nil {
		t.Fatal(err)
	}
	running := h.String()
	h.powerOff(a, "vm1")
	wait.Until(t, "released", func() bool { return !strings.Contains(h.String(), "mount") })
	a.stop()
	a = h.launch(dir)
	if err := h.powerOn(a, "vm1"); err != nil {
		t.Fatal(err)
	}
	wait.Equal(t, "as before", running, h.String)
}

// TestNewsOfOneInstance: others that have the share are not asked for it.
func TestNewsOfOneInstance(t *testing.T) {
	h := newHost(t)
	a := h.boot(shortDir(t))
	other := docsVM1()
	other.ID, other.Instance = "docs-vm2", "vm2"
	for _, at := range []model.Attachment{docsVM1(), other} {
		if _, err := a.Attach(t.Context(), at); err != nil {
			t.Fatal(err)
		}
	}
	h.mu.Lock()
	clear(h.looks)
	h.instances["vm1"].Devices = nil
	h.mu.Unlock()
	a.InstanceChanged(parts.InstanceEvent{UUID: "uuid-vm1"})
	wait.Until(t, "attached again", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.instances["vm1"].Devices) == 1
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.looks["uuid-vm1"] == 0 || h.looks["uuid-vm2"] != 0 {
		t.Errorf("looked %v times, want none at uuid-vm2", h.looks)
	}
}
