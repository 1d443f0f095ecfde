// Package drivers defines what a storage driver is on a node: the contract
// that every driver meets, the abilities that some add, and the data that says
// which.
package drivers

import (
	"context"
	"errors"
	"io/fs"
)

// Errors of drivers, wrapped with the backend's own text; use errors.Is.
var (
	ErrNotFound    = errors.New("share not found")
	ErrAccess      = errors.New("backend refused the credentials")
	ErrUnreachable = errors.New("backend is unreachable")    // worth retrying
	ErrBusy        = errors.New("mount is in use")           // worth retrying
	ErrSource      = errors.New("share source is not valid") // the caller's fault
	ErrExhausted   = errors.New("backend is out of room")
)

// A Connection says how one share is reached.
type Connection struct {
	Kind    string            // the driver's
	Source  string            // the share, in the driver's terms
	Options map[string]string // driver-specific; Validate refuses unknown keys
	Secret  Secret
}

// A MountRequest is a share to be mounted.
type MountRequest struct {
	Connection Connection // required, validated
	Target     string     // required: an existing, empty directory
	ReadOnly   bool       // enforced on this host
}

// A Mounted is one mount as the kernel reports it.
type Mounted struct {
	Target   string
	ReadOnly bool
	Gone     bool // what was mounted has been deleted at the backend
}

// A Mounter makes shares of one kind appear on this host. A type that
// implements it and passes drivertest.RunMounter is a complete driver.
//
// Every method may be called again after a crash in the middle of an earlier
// call, and then finishes the work or reports it done.
type Mounter interface {
	// Kind is constant, for example "local".
	Kind() string

	// Properties are facts that no method can show. Constant.
	Properties() Properties

	// Validate checks c without I/O. Errors wrap ErrSource.
	Validate(c Connection) error

	// Mount makes the share visible at r.Target. The same share there already
	// is success; something else there is an error, and so is the same share
	// with another r.ReadOnly or one that is gone. When ctx ends first the
	// mount may still appear; Mounts will show it. ErrNotFound, ErrAccess,
	// ErrUnreachable, ErrSource.
	Mount(ctx context.Context, r MountRequest) error

	// Unmount takes the mount at target away. None there is success. ErrBusy.
	Unmount(ctx context.Context, target string) error

	// Mounts lists the mounts directly below root, whoever made them, by
	// target: from the kernel, never from memory, and without touching the
	// backend, which may hang.
	Mounts(ctx context.Context, root string) ([]Mounted, error)
}

// Properties are declared by the driver and verified by drivertest.
type Properties struct {
	StableHandles bool // file handles survive a remount: a gateway may export it
	SharedWrite   bool // several hosts may write at once
	CoherentLocks bool // byte-range locks are coherent across hosts
}

// A Prober can tell, without a mount, whether a share is there and may be
// mounted: ErrNotFound, ErrAccess, ErrUnreachable, ErrSource.
type Prober interface {
	Probe(ctx context.Context, c Connection) error
}

// A UsageReporter can tell the size and use of a share.
type UsageReporter interface {
	Usage(ctx context.Context, c Connection) (Usage, error)
}

// Usage in bytes. Size is 0 where the share has no limit of its own.
type Usage struct{ Size, Used uint64 }

// An OwnerReporter can tell, without a mount, whose the directory of a share is:
// ErrNotFound, ErrAccess, ErrUnreachable, ErrSource.
type OwnerReporter interface {
	Owner(ctx context.Context, c Connection) (Owner, error)
}

// An Owner is what the kernel goes by at a directory.
type Owner struct {
	UID, GID uint32
	Mode     fs.FileMode // its permissions
	Path     string      // on this host
}

// An Ability names one optional interface.
type Ability string

// The abilities.
const (
	CanProbe       Ability = "probe"
	CanReportUsage Ability = "usage"
	CanReportOwner Ability = "owner"
)
