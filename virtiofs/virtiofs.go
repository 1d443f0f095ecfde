// Package virtiofs brings directories to running libvirt domains as virtiofs
// devices, live: the device, and where a guest agent answers, the mount in the
// guest. Package virtiofsd runs the daemon behind each.
//
// The order is the safety. Going in: daemon, device, mount. Coming out: mount,
// device, daemon; a daemon that goes while its device is in the guest leaves
// the guest with a dead file system, and one that goes with a request in
// flight wedges the guest's hot-plug until it is reset.
//
//	virtiofsd.Daemons.Start -> Host.Attach -> Host.GuestMount
//	                                     |
//	virtiofsd.Daemons.Stop  <- Host.Detach <- Host.GuestUnmount
//
// QEMU never reconnects to a virtiofsd. So a device whose daemon has ended is
// dead: Detach it, Start, Attach again.
package virtiofs

import (
	"errors"
)

// AliasPrefix begins the alias of every device that Causeway attaches;
// libvirt wants user aliases to begin with "ua-".
const AliasPrefix = "ua-cw-"

// Errors. Wrapped with what libvirt, the guest or the daemon said.
var (
	ErrUnavailable    = errors.New("libvirt is not reachable")
	ErrNoInstance     = errors.New("no such instance")
	ErrInstanceOff    = errors.New("instance is not running")
	ErrTransient      = errors.New("instance is transient")
	ErrNoSharedMemory = errors.New("instance has no shared memory")
	ErrBadTag         = errors.New("bad tag")
	ErrTagTaken       = errors.New("tag is taken in the instance")
	ErrNoPort         = errors.New("no free PCIe root port in the instance")
	ErrNoListener     = errors.New("nothing listens on the socket")
	ErrGuestBusy      = errors.New("guest does not release the device")
	ErrAttached       = errors.New("libvirt has the device")
	ErrNoMonitor      = errors.New("libvirt does not pass commands on to QEMU")
	ErrGuestAgent     = errors.New("guest agent does not answer")
	ErrGuestForbids   = errors.New("guest agent may not do it")
	ErrGuestRefused   = errors.New("guest could not do it")
)

// An Instance is a libvirt domain, as far as an attachment cares.
type Instance struct {
	UUID         string
	Name         string
	Running      bool     // also while suspended, and on both hosts of a migration
	Migrating    bool     // its processors stand still for a migration that comes in, or is about to leave
	Migrated     bool     // it is off here because it went to another host
	SharedMemory bool     // a vhost-user device can reach the guest's memory
	FreePorts    int      // hot-pluggable places for a PCI device: PCIe root ports, or slots of a conventional bus
	Express      bool     // FreePorts are PCIe ports, not slots
	GuestAgent   bool     // the domain has the channel, and the agent is connected
	Channel      bool     // the domain has the guest agent's channel
	Filesystems  []Device // none while it is off
	Persistent   bool     // it has a definition, which outlives a stop
	Defined      []Device // those of the definition: the next start has them

	Machine string // type, in QEMU's words: "pc-q35-7.2"
	Cells   int    // of NUMA
	CPUs    int    // at most
	Memory  uint64 // KiB, at most
	User    string // of its QEMU, as libvirt labels it: "+64055", or a name; empty where libvirt does not say
}

// A Device is a virtiofs device in a running domain or in a definition.
type Device struct {
	Instance  string // UUID
	Alias     string // AliasPrefix and then letters, digits and . _ - if it is ours; libvirt sees it without dots
	Tag       string
	Socket    string // of its virtiofsd; empty where libvirt started that itself
	QueueSize int    // requests under way; 0 for 1024, which is the most; not told of a device that is there
}

// An Event says that something about an instance may have changed: look again.
type Event struct {
	Instance string // UUID; empty: everything (libvirt was away)
	Rebooted bool   // the guest started anew, so that its mounts are gone
}
