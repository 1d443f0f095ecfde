package agent

import (
	"context"
	"path/filepath"
	"slices"
	"strings"

	"github.com/causeway-project/causeway/agent/device"
	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/agent/strain"
)

// Libvirt: agent.Instances.
type libvirt struct{ *host }

func (h libvirt) Instance(ctx context.Context, name string) (parts.Instance, error) {
	h.mu.Lock()
	hook := h.hooks[name]
	h.mu.Unlock()
	if hook != nil { // its lock is held
		select {
		case <-hook:
		case <-ctx.Done():
			return parts.Instance{}, context.Cause(ctx)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.looks[name]++
	if h.libvirtOff {
		return parts.Instance{}, &fault.Error{Kind: fault.Unavailable, Reason: fault.LibvirtUnavailable, Message: "libvirt is away"}
	}
	for _, i := range h.instances {
		if i.Name == name || i.UUID == name {
			c := *i
			c.Devices, c.Defined = slices.Clone(i.Devices), slices.Clone(i.Defined)
			return c, nil
		}
	}
	return parts.Instance{}, &fault.Error{Kind: fault.NotFound, Reason: fault.InstanceNotFound, Message: "no such instance: check its name"}
}

func (h libvirt) byUUID(uuid string) *parts.Instance {
	for _, i := range h.instances {
		if i.UUID == uuid {
			return i
		}
	}
	return nil
}

func (h libvirt) Attach(_ context.Context, d parts.Device) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := h.byUUID(d.Instance)
	if slices.Contains(i.Devices, d) {
		return nil
	}
	if err := h.changing("attach %s", d.Alias); err != nil {
		return err
	}
	if h.strays[d.Alias] {
		if err := h.detachStray(d); err != nil {
			return err
		}
		return &fault.Error{Kind: fault.Unavailable, Reason: fault.DaemonEnded, Message: "its virtiofsd has served QEMU"}
	}
	if h.daemons[filepath.Dir(d.Socket)] == nil {
		h.t.Errorf("attached %s without its daemon", d.Alias)
	}
	i.Devices = append(i.Devices, d)
	h.connected[filepath.Dir(d.Socket)] = true
	return nil
}

func (h libvirt) Define(_ context.Context, d parts.Device) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.changing("define %s", d.Alias); err != nil {
		return err
	}
	i := h.byUUID(d.Instance)
	if !i.Persistent || i.Hook != parts.HookActive {
		h.t.Errorf("defined %s where it would keep the instance from starting", d.Alias)
	}
	if !slices.Contains(i.Defined, d) {
		i.Defined = append(i.Defined, d)
	}
	return nil
}

func (h libvirt) Undefine(_ context.Context, d parts.Device) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.changing("undefine %s", d.Alias); err != nil {
		return err
	}
	if i := h.byUUID(d.Instance); i != nil {
		i.Defined = slices.DeleteFunc(i.Defined, func(o parts.Device) bool { return o.Alias == d.Alias })
	}
	return nil
}

func (h libvirt) Detach(_ context.Context, d parts.Device) error {
	h.slow("detach " + d.Alias)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.changing("detach %s", d.Alias); err != nil {
		return err
	}
	i := h.byUUID(d.Instance)
	if i == nil {
		return nil
	}
	if h.guestKeeps {
		return &fault.Error{Kind: fault.Precondition, Reason: fault.GuestBusy, Message: "the guest holds the device"}
	}
	i.Devices = slices.DeleteFunc(i.Devices, func(o parts.Device) bool { return o.Alias == d.Alias })
	delete(h.connected, filepath.Dir(d.Socket))
	return nil
}

func (h libvirt) DetachStray(_ context.Context, d parts.Device) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if i := h.byUUID(d.Instance); i == nil || !i.Running || !h.strays[d.Alias] {
		return nil
	}
	return h.detachStray(d)
}

func (h libvirt) detachStray(d parts.Device) error {
	if err := h.changing("detach stray %s", d.Alias); err != nil {
		return err
	}
	if h.guestKeeps {
		return &fault.Error{Kind: fault.Precondition, Reason: fault.GuestBusy, Message: "the guest holds the device"}
	}
	delete(h.strays, d.Alias)
	h.endDaemon(filepath.Dir(d.Socket))
	return nil
}

func (h libvirt) GuestMount(ctx context.Context, g parts.GuestMount) error {
	h.slow("guest mount " + g.Tag)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.blind {
		h.mu.Unlock()
		<-ctx.Done()
		h.mu.Lock()
		return &fault.Error{Kind: fault.Precondition, Reason: fault.GuestRefused, Message: "no such tag"}
	}
	if err := h.changing("guest mount %s", g.Tag); err != nil {
		return err
	}
	if h.agentless {
		return &fault.Error{Kind: fault.Precondition, Reason: fault.GuestAgentAbsent, Message: "no guest agent"}
	}
	if i := h.byUUID(g.Instance); !slices.ContainsFunc(i.Devices, func(d parts.Device) bool { return d.Tag == g.Tag }) {
		h.t.Errorf("mounted %s in a guest without the device", g.Tag)
	}
	h.guests[g.Instance+" "+g.Path] = true
	return nil
}

func (h libvirt) GuestMounted(_ context.Context, g parts.GuestMount) (bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.agentless {
		return false, &fault.Error{Kind: fault.Precondition, Reason: fault.GuestAgentAbsent, Message: "no guest agent"}
	}
	return h.guests[g.Instance+" "+g.Path], nil
}

func (h libvirt) GuestUnmount(_ context.Context, g parts.GuestMount) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.unmounts++
	if h.agentless {
		return &fault.Error{Kind: fault.Precondition, Reason: fault.GuestAgentAbsent, Message: "no guest agent"}
	}
	var there []string
	for at := range h.guests {
		if at == g.Instance+" "+g.Path || g.Path == "" && strings.HasPrefix(at, g.Instance+" ") {
			there = append(there, at)
		}
	}
	if len(there) == 0 {
		return nil
	}
	if err := h.changing("guest unmount %s", g.Tag); err != nil {
		return err
	}
	if h.guestBusy && !g.Lazy {
		return &parts.HeldError{
			Holders: []model.Holder{{PID: 412, Command: "bash"}},
			Err:     &fault.Error{Kind: fault.Precondition, Reason: fault.GuestBusy, Message: "the guest has files open"},
		}
	}
	for _, at := range there {
		delete(h.guests, at)
	}
	return nil
}

func (h libvirt) Hypervisor(context.Context) (parts.Hypervisor, error) {
	return parts.Hypervisor{Libvirt: 9_000_000, QEMU: 7_002_022}, nil
}

func (h libvirt) Admit(context.Context, parts.Start) error { return nil }

func (h libvirt) GuestAgent(context.Context, string) (parts.GuestAgent, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.agentless {
		return parts.GuestAgent{Channel: true, Err: &fault.Error{Kind: fault.Precondition, Reason: fault.GuestAgentAbsent, Message: "no guest agent"}}, nil
	}
	return parts.GuestAgent{Channel: true, Commands: []string{"guest-exec", "guest-exec-status"}}, nil
}

// virtiofsd: agent.Daemons.
type daemons struct{ *host }

func (h daemons) Program(context.Context) (parts.Program, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.noVirtiofsd {
		return parts.Program{}, &fault.Error{Kind: fault.Precondition, Reason: fault.NoVirtiofsd, Message: "this host has no virtiofsd: install it"}
	}
	program := device.Program{Flavour: "fake", Version: "1", Abilities: h.abilities}
	return parts.Program{Program: program, Path: "/usr/lib/qemu/virtiofsd", WantFiles: 1 << 20, HostFiles: 1 << 20, NrOpen: 1 << 20, FileMax: 1 << 40}, nil
}

func (h daemons) Start(_ context.Context, d parts.Daemon) error {
	dir, source := d.Dir, d.Source
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.daemons[dir] != nil {
		return nil
	}
	if err := h.changing("daemon %s", filepath.Base(dir)); err != nil {
		return err
	}
	if h.mounted[source] == "" {
		h.t.Errorf("started the daemon of %s over nothing", dir)
	}
	h.daemons[dir], h.litter[dir] = make(chan struct{}), true
	return nil
}

func (h daemons) Stop(_ context.Context, dir string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.changing("stop daemon %s", filepath.Base(dir)); err != nil {
		return err
	}
	h.endDaemon(dir)
	delete(h.litter, dir)
	return nil
}

func (h daemons) Usage(dir string) (strain.Usage, bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.usage, h.daemons[dir] != nil, nil
}

func (h daemons) Revoke(_ context.Context, dir string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.daemons[dir] == nil {
		return nil
	}
	if err := h.changing("revoke daemon %s", filepath.Base(dir)); err != nil {
		return err
	}
	h.endDaemon(dir)
	return nil
}

func (h daemons) Done(dir string) (<-chan struct{}, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.daemons[dir], nil
}

func (h daemons) Death(dir string) (*parts.Death, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d, ok := h.deaths[dir]
	if !ok || h.daemons[dir] != nil {
		return nil, nil
	}
	return &d, nil
}

func (h daemons) Replace(_ context.Context, dir string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.replaceError
}

func (h daemons) Asked(string) (bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.unasked, h.askedError
}

func (h daemons) Connected(dir string) (bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.connected[dir], nil
}
