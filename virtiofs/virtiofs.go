// Package virtiofs brings directories to running libvirt domains as virtiofs
// devices, live: a virtiofsd each, the device, and where a guest agent
// answers, the mount in the guest.
package virtiofs

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/causeway-project/causeway/agent/process"
)

// AliasPrefix begins the alias of every device that Causeway attaches;
// libvirt wants user aliases to begin with "ua-".
const AliasPrefix = "ua-cw-"

// Errors. Wrapped with what libvirt said.
var (
	ErrUnavailable    = errors.New("libvirt is not reachable")
	ErrNoInstance     = errors.New("no such instance")
	ErrInstanceOff    = errors.New("instance is not running")
	ErrNoSharedMemory = errors.New("instance has no shared memory")
	ErrTagTaken       = errors.New("tag is taken in the instance")
	ErrNoPort         = errors.New("no free PCIe root port in the instance")
	ErrGuestBusy      = errors.New("guest does not release the device")
	ErrGuestAgent     = errors.New("guest agent does not answer")
	ErrGuestRefused   = errors.New("guest could not do it")
	ErrNoVirtiofsd    = errors.New("no virtiofsd on this host")
)

// An Instance is a libvirt domain, as far as an attachment cares.
type Instance struct {
	UUID         string
	Name         string
	Running      bool // also while suspended
	SharedMemory bool
	FreePorts    int  // PCIe root ports without a device
	GuestAgent   bool // the domain has the channel, and the agent is connected
	Filesystems  []Device
}

// A Device is a virtiofs device in a running domain.
type Device struct {
	Instance string // UUID
	Alias    string // begins with AliasPrefix if it is ours
	Tag      string
	Socket   string // of its virtiofsd
}

// An Event says that something about an instance may have changed: look again.
type Event struct {
	Instance string // UUID; empty: everything (libvirt was away)
	Rebooted bool   // the guest started anew, so that its mounts are gone
}

// Options of a Host.
type Options struct {
	URI     string // libvirt's; "qemu:///system" by default
	Logger  *slog.Logger
	Changed func(Event) // called from Run; must not block
}

// A Host is this machine's libvirt.
type Host struct{}

// New connects nothing; Run does.
func New(o Options) *Host { panic("written next") }

// Run keeps the connection, with back-off, and reports events until ctx ends.
func (h *Host) Run(ctx context.Context) error { panic("written next") }

// Instance finds a domain by UUID or name: ErrNoInstance, ErrUnavailable.
func (h *Host) Instance(ctx context.Context, nameOrUUID string) (Instance, error) {
	panic("written next")
}

// Devices lists the devices of every running domain whose alias is ours.
func (h *Host) Devices(ctx context.Context) ([]Device, error) { panic("written next") }

// Attach plugs the device in and waits until it is in the live XML. The same
// device there already is success; the alias with another tag or socket is
// taken out first.
func (h *Host) Attach(ctx context.Context, d Device) error { panic("written next") }

// Detach unplugs by alias and returns when the live XML no longer has it:
// ErrGuestBusy when the guest does not answer before ctx ends. No such device,
// or domain, is success.
func (h *Host) Detach(ctx context.Context, d Device) error { panic("written next") }

// GuestMount mounts the tag at path through the guest agent, making the
// directory, and trying again until the guest sees the device. Already mounted
// there is success. ErrGuestAgent, ErrGuestRefused with the guest's words.
func (h *Host) GuestMount(ctx context.Context, g GuestMount) error { panic("written next") }

// GuestUnmount undoes GuestMount. Not mounted is success. ErrGuestBusy names
// the holders where the guest can tell.
func (h *Host) GuestUnmount(ctx context.Context, g GuestMount) error { panic("written next") }

// A GuestMount is a mount in a guest.
type GuestMount struct {
	Instance string // UUID
	Tag      string
	Path     string
	ReadOnly bool
}

// A Daemon is the virtiofsd of one attachment.
type Daemon struct {
	Dir    string // required: run directory, made and removed here; the socket lies in it
	Source string // required: directory to share
}

// Daemons starts and finds virtiofsd processes.
type Daemons struct {
	Starter *process.Starter
	Binary  string // found when empty: ErrNoVirtiofsd
	Logger  *slog.Logger
}

// Start makes the daemon run and listen, or adopts it. virtiofsd serves one
// connection and then ends, so each attach needs a fresh one.
func (d *Daemons) Start(ctx context.Context, v Daemon) error { panic("written next") }

// Stop ends it and removes its directory. Not there is success.
func (d *Daemons) Stop(ctx context.Context, v Daemon, grace time.Duration) error {
	panic("written next")
}

// Find returns its process, nil where it does not run.
func (d *Daemons) Find(v Daemon) (*process.Process, error) { panic("written next") }

// Socket that QEMU connects to; the same for a directory for ever.
func (v Daemon) Socket() string { return v.Dir + "/sock" }
