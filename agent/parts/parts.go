// Package parts is what the agent needs of the packages that do the work on the
// host: an interface for each, and what their errors mean to a caller.
package parts

import (
	"context"
	"slices"
	"time"

	"github.com/causeway-project/causeway/agent/device"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/strain"
	"github.com/causeway-project/causeway/drivers/mounts"
	"github.com/causeway-project/causeway/ganesha"
	"github.com/causeway-project/causeway/netns"
)

// Mounts is the kernel's mount table, as package drivers/mounts has it.
type Mounts interface {
	// Peek tells whether something is mounted at exactly target, and whether
	// it was deleted at the backend, without touching the backend.
	Peek(target string) (mounts.Sight, error)
	// BindPath shows source at target too. There already is success, something
	// else there an error.
	BindPath(source, target string, o mounts.BindOptions) error
	// Shared makes dir a shared mount of itself. Already so is success.
	Shared(dir string) error
	// Unmount takes away all that is mounted at target; drivers.ErrBusy.
	Unmount(ctx context.Context, target string) error
}

// Namespaces makes tenant networks, as package netns does.
type Namespaces interface {
	Check(ctx context.Context, n netns.Network) error
	Ensure(ctx context.Context, n netns.Network) error
	Remove(ctx context.Context, n netns.Network) error
	Observe(ctx context.Context, n netns.Network) (netns.State, error)
}

// A Server is one network's Ganesha: *ganesha.Gateway.
type Server interface {
	Start(ctx context.Context, exports func() []ganesha.Export) error
	Stop(ctx context.Context, o ganesha.StopOptions) error
	Status(ctx context.Context) (ganesha.Status, error)
	Done() <-chan struct{}
	Probe(ctx context.Context, o ganesha.ProbeOptions) ganesha.Health
	ExportStats(ctx context.Context) ([]ganesha.ExportStats, error)
	ClientStats(ctx context.Context, most int) ([]ganesha.ClientStats, error)
	Put(ctx context.Context, e ganesha.Export) ([]ganesha.Refusal, error)
	Recover(ctx context.Context, e ganesha.Export) ([]ganesha.Refusal, error)
	Remove(ctx context.Context, id uint16) error
	Look(ctx context.Context, e ganesha.Export) (ganesha.Sight, error)
	IDs(ctx context.Context) ([]uint16, error)
}

// A Device is a virtiofs device in a running instance.
type Device struct {
	Instance  string // UUID
	Alias     string
	Tag       string
	Socket    string
	QueueSize int
}

// An Instance is a libvirt domain, as far as an attachment cares.
type Instance struct {
	UUID         string
	Name         string
	Running      bool // also while suspended, and on both hosts of a migration
	Migrating    bool // its processors stand still for a migration that comes in, or is about to leave
	Migrated     bool // it is off here because it went to another host
	SharedMemory bool
	FreePorts    int
	Express      bool // these are PCIe ports, not slots of a conventional bus
	GuestAgent   bool
	Devices      []Device // every virtiofs device, ours or not; none while it is off
	Persistent   bool     // it has a definition, which outlives a stop
	Defined      []Device // those of the definition, which its next start has
	Hook         Hook     // how far libvirt tells us of its starts

	Machine string // type, in QEMU's words: "pc-q35-7.2"
	Cells   int    // of NUMA
	CPUs    int    // at most
	Memory  uint64 // KiB, at most
}

// A Hypervisor is what instances run on. Versions are 1,000,000 * major +
// 1,000 * minor + release, as libvirt counts.
type Hypervisor struct {
	Libvirt uint32
	QEMU    uint32
}

// A GuestAgent is what a guest allows to be done in it.
type GuestAgent struct {
	Channel  bool     // the instance has the device that the agent speaks through
	Commands []string // that it allows
	Err      error    // why it does not answer
}

// A Hook is how far libvirt tells the agent of an instance that is about to start.
type Hook string

// The states of the hook. A definition may have our devices where libvirt runs
// it: QEMU does not start while nobody listens on their sockets.
const (
	HookMissing Hook = "missing" // not installed: libvirt tells nothing
	HookUnread  Hook = "unread"  // installed since libvirt was started, which may not know of it
	HookActive  Hook = "active"
)

// Defines says whether the definition is to have a device. Where nobody knows
// whether libvirt runs the hook, what is there stays, and nothing new comes.
func (i Instance) Defines(alias string) bool {
	switch i.Hook {
	case HookActive:
		return i.Persistent
	case HookUnread:
		return slices.ContainsFunc(i.Defined, func(d Device) bool { return d.Alias == alias })
	}
	return false
}

// WhyLiveOnly says why the definition is to have no device; empty where it is.
func (i Instance) WhyLiveOnly(alias string) string {
	switch {
	case i.Defines(alias):
		return ""
	case !i.Persistent:
		return "the instance is transient, and gone when it stops"
	case i.Hook == HookUnread:
		return "libvirt was started before its hook was installed: restart it, running instances go on"
	}
	return "libvirt's hook is not installed: see causeway node preflight"
}

// A Start is an instance of which libvirt is about to start the QEMU.
type Start struct {
	Instance string // name
	UUID     string
	User     string // of QEMU, as libvirt labels it; empty is libvirt's default
	Sockets  []string
}

// A GuestMount is a mount in a guest.
type GuestMount struct {
	Instance string // UUID
	Tag      string
	Path     string // of an unmount, empty: wherever the guest has it
	ReadOnly bool
	Lazy     bool // of an unmount: also while it is in use
}

// A HeldError names who keeps a guest from unmounting, as far as it tells.
type HeldError struct {
	Holders []model.Holder
	Err     error
}

func (e *HeldError) Error() string { return e.Err.Error() }
func (e *HeldError) Unwrap() error { return e.Err }

// Instances is this host's libvirt. Package virtiofs does the work; its types
// are not used here, since it cannot be built without a C library. Every error
// is a *fault.Error with one of the reasons of package fault.
type Instances interface {
	// Instance finds a domain by UUID or name: InstanceNotFound,
	// LibvirtUnavailable.
	Instance(ctx context.Context, nameOrUUID string) (Instance, error)
	// Hypervisor tells what the instances run on: LibvirtUnavailable.
	Hypervisor(ctx context.Context) (Hypervisor, error)
	// GuestAgent asks a running instance's agent what it allows. That it does
	// not answer is part of the answer.
	GuestAgent(ctx context.Context, uuid string) (GuestAgent, error)
	// Admit lets the QEMU that is about to start connect to its sockets, which
	// Attach does for one that runs.
	Admit(ctx context.Context, s Start) error
	// Attach plugs d in and waits for it. There already is success.
	Attach(ctx context.Context, d Device) error
	// Detach unplugs d and waits until it is gone: GuestBusy. Not there is
	// success.
	Detach(ctx context.Context, d Device) error
	// DetachStray takes d out of the instance's QEMU where libvirt does not know
	// of it, and waits until it is gone: GuestBusy, StrayDevice; Waiting where
	// libvirt does know. Not there is success. It marks the instance in libvirt,
	// so it is not for the ordinary course.
	DetachStray(ctx context.Context, d Device) error
	// Define puts d into the instance's definition, which its next start takes.
	// There already is success.
	Define(ctx context.Context, d Device) error
	// Undefine takes it out. Not there is success.
	Undefine(ctx context.Context, d Device) error
	// GuestMount mounts in the guest: GuestAgentAbsent, GuestRefused. Mounted
	// there already is success.
	GuestMount(ctx context.Context, g GuestMount) error
	// GuestMounted asks the guest whether it is mounted there: GuestAgentAbsent,
	// GuestForbids, GuestRefused.
	GuestMounted(ctx context.Context, g GuestMount) (bool, error)
	// GuestUnmount undoes it: GuestBusy, maybe as a HeldError, GuestAgentAbsent.
	// Not mounted is success.
	GuestUnmount(ctx context.Context, g GuestMount) error
}

// A Daemon is the virtiofsd of one attachment.
type Daemon struct {
	Dir    string // run directory, its own
	Source string // the directory that it shares

	ReadOnly bool // the directory's mount is so too
	Settings device.Settings
	IDs      device.IDs
}

// A Program is the virtiofsd of this host, and what bounds it here.
type Program struct {
	device.Program
	Path      string
	Memory    uint64 // bytes that one may take; 0 is no limit
	WantFiles uint64 // that one is to be allowed to have open
	HostFiles uint64 // the most that this process may give it: its own hard limit
	NrOpen    uint64 // the most of any process: fs.nr_open
	FileMax   uint64 // of all processes: fs.file-max
	FilesOpen uint64 // of all processes, now
}

// Files is how many files one may have open.
func (p Program) Files() uint64 { return min(p.WantFiles, p.HostFiles, p.NrOpen) }

// Daemons runs one virtiofsd for each attachment, in a directory each.
type Daemons interface {
	// Program tells which virtiofsd this host has: NoVirtiofsd.
	Program(ctx context.Context) (Program, error)
	// Start makes the daemon run and listen, or finds it doing so.
	Start(ctx context.Context, d Daemon) error
	// Stop ends it and removes dir. Not there is success.
	Stop(ctx context.Context, dir string) error
	// Usage tells what the daemon of dir takes of what it may; false where none
	// runs.
	Usage(dir string) (strain.Usage, bool, error)
	// Done is closed when the daemon of dir ends; nil where none runs.
	Done(dir string) (<-chan struct{}, error)
	// Death tells how the daemon of dir died while QEMU had its device; nil where
	// it did not.
	Death(dir string) (*Death, error)
	// Replace ends the daemon of dir where it is stopped and so answers nobody;
	// it does nothing to one that runs, or is not there. DaemonBlocked.
	Replace(ctx context.Context, dir string) error
	// Revoke ends the daemon of dir under its device, whose requests then fail
	// at once. Not there is success.
	Revoke(ctx context.Context, dir string) error
	// Connected says whether a QEMU is, or just was, connected to the daemon of
	// dir, which will take no other.
	Connected(dir string) (bool, error)
	// Asked says whether a guest may ever have asked the daemon of dir for
	// anything: one that never did has not mounted the share.
	Asked(dir string) (bool, error)
}

// A Death is that of a daemon.
type Death struct {
	At       time.Time
	Cause    string // one word
	Why      string // for a person
	Answered uint64 // requests of the guest that were in flight and failed at once
	Kept     bool   // every request of the guest fails at once, so that the device can be taken out
	Over     bool   // all its processes have ended
}

// An InstanceEvent says that something about an instance may have changed.
type InstanceEvent struct {
	UUID     string // empty: all of them, libvirt was away
	Rebooted bool   // the guest started anew: its mounts are gone
}
