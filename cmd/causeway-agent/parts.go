package main

import (
	"context"
	"errors"
	"time"

	"github.com/causeway-project/causeway/agent/device"
	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/agent/process"
	"github.com/causeway-project/causeway/agent/process/usage"
	"github.com/causeway-project/causeway/agent/strain"
	"github.com/causeway-project/causeway/drivers/mounts"
	"github.com/causeway-project/causeway/virtiofs"
	"github.com/causeway-project/causeway/virtiofs/hook"
	"github.com/causeway-project/causeway/virtiofs/virtiofsd"
)

// mountTable is package mounts as the agent wants it.
type mountTable struct{}

func (mountTable) Peek(target string) (mounts.Sight, error) { return mounts.Peek(target) }
func (mountTable) Shared(dir string) error                  { return mounts.Shared(dir) }
func (mountTable) Unmount(ctx context.Context, target string) error {
	return mounts.Unmount(ctx, target)
}
func (mountTable) BindPath(source, target string, o mounts.BindOptions) error {
	return mounts.BindPath(source, target, o)
}

// Bind serves package ganesha.
func (mountTable) Bind(source, target string) error {
	return mounts.BindPath(source, target, mounts.BindOptions{})
}

// Kind serves package ganesha.
func (mountTable) Kind(dir string) (source, fstype string, err error) {
	m, err := mounts.Holding(dir)
	return m.Source, m.FSType, err
}

// virtiofsDaemons is package virtiofs's daemons as the agent wants them.
type virtiofsDaemons struct {
	d       *virtiofsd.Daemons
	systemd bool // it starts them, and gives each as many open files as the kernel allows
}

func (v virtiofsDaemons) Program(ctx context.Context) (parts.Program, error) {
	program, err := v.d.Program(ctx)
	if err != nil {
		return parts.Program{}, libvirtError(err)
	}
	p := parts.Program{Path: program.Path, Memory: v.d.Limits.Memory, WantFiles: v.d.Limits.Files}
	p.Flavour, p.Version = string(program.Flavour), program.Version
	for _, a := range program.Abilities {
		p.Abilities = append(p.Abilities, string(a))
	}
	files, err := usage.OfHost()
	if err != nil {
		return parts.Program{}, err
	}
	p.HostFiles, p.NrOpen, p.FileMax, p.FilesOpen = files.Own, files.Each, files.All, files.Open
	if v.systemd {
		p.HostFiles = p.NrOpen
	}
	return p, nil
}

// daemonGrace is how long a virtiofsd that still has QEMU's connection is
// asked before it is killed.
const daemonGrace = 2 * time.Second

func (v virtiofsDaemons) Start(ctx context.Context, d parts.Daemon) error {
	return libvirtError(v.d.Start(ctx, daemonOf(d)))
}

// daemonOf says to package virtiofsd what the agent wants.
func daemonOf(d parts.Daemon) virtiofsd.Daemon {
	s := d.Settings
	to := virtiofsd.Daemon{Dir: d.Dir, Source: d.Source, ReadOnly: d.ReadOnly, Settings: virtiofsd.Settings{
		Cache: virtiofsd.Cache(s.Cache), Xattr: s.Xattr == device.On, PosixACL: s.PosixACL == device.On,
		SharedLocks: s.Locks == device.LocksShared, Threads: s.Threads, Memory: s.Memory, Files: s.OpenFiles,
	}}
	switch d.IDs.Policy {
	case device.Squash:
		to.IDs = virtiofsd.IDs{Squash: true, UID: d.IDs.UID, GID: d.IDs.GID}
	case device.Map:
		to.IDs = virtiofsd.IDs{UIDs: ranges(d.IDs.UIDs), GIDs: ranges(d.IDs.GIDs)}
	}
	return to
}

func ranges(of []device.Range) (to []process.IDRange) {
	for _, r := range of {
		to = append(to, process.IDRange{Process: r.Guest, Disk: r.Host, Count: r.Count})
	}
	return to
}

func (v virtiofsDaemons) Stop(ctx context.Context, dir string) error {
	return v.d.Stop(ctx, virtiofsd.Daemon{Dir: dir}, daemonGrace)
}

func (v virtiofsDaemons) Death(dir string) (*parts.Death, error) {
	d, err := v.d.Death(virtiofsd.Daemon{Dir: dir})
	if err != nil || d == nil {
		return nil, err
	}
	return &parts.Death{At: d.At, Cause: string(d.Cause), Why: d.Why, Answered: d.Answered, Kept: d.Kept, Over: d.Over}, nil
}

func (v virtiofsDaemons) Replace(ctx context.Context, dir string) error {
	return libvirtError(v.d.Replace(ctx, virtiofsd.Daemon{Dir: dir}))
}

func (v virtiofsDaemons) Revoke(ctx context.Context, dir string) error {
	return v.d.Revoke(ctx, virtiofsd.Daemon{Dir: dir})
}

func (v virtiofsDaemons) Connected(dir string) (bool, error) {
	s, err := v.d.State(virtiofsd.Daemon{Dir: dir})
	return s == virtiofsd.Connected, err
}

func (v virtiofsDaemons) Asked(dir string) (bool, error) {
	return v.d.Asked(virtiofsd.Daemon{Dir: dir})
}

func (v virtiofsDaemons) Usage(dir string) (strain.Usage, bool, error) {
	pid, err := v.d.PID(virtiofsd.Daemon{Dir: dir})
	if err != nil || pid == 0 {
		return strain.Usage{}, false, err
	}
	p, err := usage.Of(pid)
	if errors.Is(err, usage.ErrEnded) {
		return strain.Usage{}, false, nil
	}
	u := strain.Usage{Files: p.Files, FilesLimit: p.MaxFiles, Memory: p.Memory}
	if g := p.Group; g.MaxMemory > 0 {
		u.Memory, u.MemoryLimit = g.Memory, g.MaxMemory
	}
	return u, true, err
}

func (v virtiofsDaemons) Done(dir string) (<-chan struct{}, error) {
	return v.d.Done(virtiofsd.Daemon{Dir: dir})
}

// instances is package virtiofs's host as the agent wants it, which cannot
// import what needs a C library.
type instances struct {
	h    *virtiofs.Host
	hook hook.Place
}

func (i instances) Instance(ctx context.Context, nameOrUUID string) (parts.Instance, error) {
	v, err := i.h.Instance(ctx, nameOrUUID)
	if err != nil {
		return parts.Instance{}, libvirtError(err)
	}
	out := parts.Instance{
		UUID: v.UUID, Name: v.Name, Running: v.Running, SharedMemory: v.SharedMemory, FreePorts: v.FreePorts, Express: v.Express, GuestAgent: v.GuestAgent,
		Machine: v.Machine, Cells: v.Cells, CPUs: v.CPUs, Memory: v.Memory,
		Persistent: v.Persistent,
		Migrating:  v.Migrating, Migrated: v.Migrated,
	}
	for _, d := range v.Filesystems {
		out.Devices = append(out.Devices, parts.Device(d))
	}
	for _, d := range v.Defined {
		out.Defined = append(out.Defined, parts.Device(d))
	}
	state, err := i.hook.State()
	out.Hook = map[hook.State]parts.Hook{hook.Missing: parts.HookMissing, hook.Unread: parts.HookUnread, hook.Active: parts.HookActive}[state]
	if err != nil {
		return parts.Instance{}, err
	}
	return out, nil
}

func (i instances) Hypervisor(ctx context.Context) (parts.Hypervisor, error) {
	v, err := i.h.Hypervisor(ctx)
	return parts.Hypervisor(v), libvirtError(err)
}

func (i instances) Admit(ctx context.Context, s parts.Start) error {
	for _, socket := range s.Sockets {
		if err := i.h.Admit(ctx, virtiofs.Instance{Name: s.Instance, UUID: s.UUID, User: s.User}, socket); err != nil {
			return libvirtError(err)
		}
	}
	return nil
}

func (i instances) GuestAgent(ctx context.Context, uuid string) (parts.GuestAgent, error) {
	v, err := i.h.Instance(ctx, uuid)
	if err != nil {
		return parts.GuestAgent{}, libvirtError(err)
	}
	g := parts.GuestAgent{Channel: v.Channel}
	if !g.Channel {
		return g, nil
	}
	g.Commands, err = i.h.GuestCommands(ctx, uuid)
	if errors.Is(err, virtiofs.ErrGuestAgent) || errors.Is(err, virtiofs.ErrGuestRefused) {
		g.Err, err = libvirtError(err), nil
	}
	return g, libvirtError(err)
}

func (i instances) Attach(ctx context.Context, d parts.Device) error {
	return libvirtError(i.h.Attach(ctx, virtiofs.Device(d)))
}

func (i instances) Detach(ctx context.Context, d parts.Device) error {
	return libvirtError(i.h.Detach(ctx, virtiofs.Device(d)))
}

func (i instances) DetachStray(ctx context.Context, d parts.Device) error {
	return libvirtError(i.h.DetachStray(ctx, virtiofs.Device(d)))
}

func (i instances) Define(ctx context.Context, d parts.Device) error {
	return libvirtError(i.h.Define(ctx, virtiofs.Device(d)))
}

func (i instances) Undefine(ctx context.Context, d parts.Device) error {
	return libvirtError(i.h.Undefine(ctx, virtiofs.Device(d)))
}

func (i instances) GuestMount(ctx context.Context, g parts.GuestMount) error {
	return libvirtError(i.h.GuestMount(ctx, virtiofs.GuestMount(g)))
}

func (i instances) GuestMounted(ctx context.Context, g parts.GuestMount) (bool, error) {
	mounted, err := i.h.GuestMounted(ctx, virtiofs.GuestMount(g))
	return mounted, libvirtError(err)
}

func (i instances) GuestUnmount(ctx context.Context, g parts.GuestMount) error {
	err := i.h.GuestUnmount(ctx, virtiofs.GuestMount(g))
	var held *virtiofs.HeldError
	if !errors.As(err, &held) {
		return libvirtError(err)
	}
	by := &parts.HeldError{}
	for _, h := range held.Holders {
		by.Holders = append(by.Holders, model.Holder(h))
	}
	by.Err = libvirtError(err)
	return by
}

// libvirtError gives the sentinels of package virtiofs the agent's kinds and
// reasons.
func libvirtError(err error) error {
	for _, c := range []struct {
		is      error
		kind    fault.Kind
		reason  fault.Reason
		message string
	}{
		{virtiofs.ErrUnavailable, fault.Unavailable, fault.LibvirtUnavailable, "libvirt does not answer: it will be tried again"},
		{virtiofs.ErrNoInstance, fault.NotFound, fault.InstanceNotFound, "there is no such instance: check its name with virsh list --all"},
		{virtiofs.ErrInstanceOff, fault.Precondition, fault.InstanceOff, "the instance is not running: start it"},
		{virtiofs.ErrTransient, fault.Precondition, fault.InstanceTransient, "the instance has no definition that could have the device: it is live alone"},
		{virtiofs.ErrNoSharedMemory, fault.Precondition, fault.NoSharedMemory, "the instance has no shared memory, which virtiofs needs: give its domain a NUMA cell with memAccess='shared' and restart it"},
		{virtiofs.ErrBadTag, fault.Invalid, fault.BadTag, "the tag cannot be used: choose another"},
		{virtiofs.ErrTagTaken, fault.Precondition, fault.TagTaken, "the tag is taken in the instance: choose another"},
		{virtiofs.ErrNoPort, fault.Precondition, fault.NoFreePort, "the instance has no free PCIe root port: detach something, or give its domain more and restart it"},
		{virtiofs.ErrNoListener, fault.Unavailable, fault.DaemonEnded, "the virtiofsd ended before the instance took it: it will be tried again"},
		{virtiofs.ErrGuestBusy, fault.Precondition, fault.GuestBusy, "the guest does not let go: end what uses the share there and repeat the call, take it away with --force, or attach it again with the same settings to leave it there"},
		{virtiofs.ErrAttached, fault.Busy, fault.Waiting, "libvirt has the device again: it is taken out first"},
		{virtiofs.ErrNoMonitor, fault.Precondition, fault.StrayDevice, "QEMU may have a device that libvirt does not know of, and libvirt lets nobody take it out: stop the instance and start it again"},
		{virtiofs.ErrGuestAgent, fault.Precondition, fault.GuestAgentAbsent, "no guest agent answers: start qemu-guest-agent in the guest, or mount the tag there by hand"},
		{virtiofs.ErrGuestForbids, fault.Precondition, fault.GuestForbids, "the guest agent may not run programs: allow guest-exec and guest-exec-status in its configuration, or have the guest mount the tag by itself, as 'causeway attachment show ID --guest-setup' prints"},
		{virtiofs.ErrGuestRefused, fault.Precondition, fault.GuestRefused, "the guest could not do it"},
		{process.ErrNoIDMap, fault.Precondition, fault.NoIDMap, "the share's file system cannot be mounted with other ids: use one that can (ext4, xfs, btrfs), or the id policy passthrough"},
		{virtiofsd.ErrUnable, fault.Precondition, fault.DaemonUnable, "this host's virtiofsd cannot do what the attachment asks for: see causeway node show, and ask for something else"},
		{virtiofsd.ErrBlocked, fault.Unavailable, fault.DaemonBlocked, "virtiofsd waits for a backend that does not answer, and is left alone, since its successor would wait too: cure the backend, and it goes on"},
		{virtiofsd.ErrMissing, fault.Precondition, fault.NoVirtiofsd, "this host has no virtiofsd: install it"},
	} {
		if errors.Is(err, c.is) {
			return &fault.Error{Kind: c.kind, Reason: c.reason, Message: c.message, Err: err}
		}
	}
	return err
}

// noLibvirt is an agent for gateways alone.
type noLibvirt struct{}

var errNoLibvirt = &fault.Error{
	Kind: fault.Precondition, Reason: fault.LibvirtUnavailable,
	Message: "this agent serves no instances: set libvirt.enabled to true in its configuration",
}

func (noLibvirt) Instance(context.Context, string) (parts.Instance, error) {
	return parts.Instance{}, errNoLibvirt
}
func (noLibvirt) Hypervisor(context.Context) (parts.Hypervisor, error) {
	return parts.Hypervisor{}, errNoLibvirt
}
func (noLibvirt) Admit(context.Context, parts.Start) error { return errNoLibvirt }
func (noLibvirt) GuestAgent(context.Context, string) (parts.GuestAgent, error) {
	return parts.GuestAgent{}, errNoLibvirt
}
func (noLibvirt) Attach(context.Context, parts.Device) error         { return errNoLibvirt }
func (noLibvirt) Define(context.Context, parts.Device) error         { return errNoLibvirt }
func (noLibvirt) Undefine(context.Context, parts.Device) error       { return errNoLibvirt }
func (noLibvirt) Detach(context.Context, parts.Device) error         { return errNoLibvirt }
func (noLibvirt) DetachStray(context.Context, parts.Device) error    { return errNoLibvirt }
func (noLibvirt) GuestMount(context.Context, parts.GuestMount) error { return errNoLibvirt }
func (noLibvirt) GuestMounted(context.Context, parts.GuestMount) (bool, error) {
	return false, errNoLibvirt
}
func (noLibvirt) GuestUnmount(context.Context, parts.GuestMount) error { return errNoLibvirt }
