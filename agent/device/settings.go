// Package device is how a virtiofs device of an attachment behaves: its
// settings, whose the guest's files are, and who meets the guest's locks. It is
// pure. What it declares lies in the ledger too.
package device

import (
	"cmp"
	"math/bits"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/word"
)

// Settings of a device and its daemon. A zero field leaves it to the host.
type Settings struct {
	Cache     Cache  `json:"cache,omitempty"`
	Xattr     Switch `json:"xattr,omitempty"`     // extended attributes
	PosixACL  Switch `json:"posix_acl,omitempty"` // takes Xattr
	Locks     Locks  `json:"locks,omitempty"`
	QueueSize int    `json:"queue_size,omitempty"` // requests under way; a power of two
	Threads   int    `json:"threads,omitempty"`    // requests that are served at a time
	Memory    uint64 `json:"memory,omitempty"`     // bytes
	OpenFiles uint64 `json:"open_files,omitempty"`
}

// A Cache is what the guest keeps of the share without asking.
type Cache string

// The caches.
const (
	CacheAuto     Cache = "auto"     // names and attributes for a second, contents while a file is open
	CacheAlways   Cache = "always"   // everything, for ever
	CacheNever    Cache = "never"    // nothing
	CacheMetadata Cache = "metadata" // names and attributes, no contents
)

// A Switch is on, off, or left to the host.
type Switch string

// The positions of a Switch.
const (
	On  Switch = "on"
	Off Switch = "off"
)

// Locks says where those of the guest's programs are kept.
type Locks string

// The places for locks.
const (
	LocksLocal  Locks = "local"  // in the guest
	LocksShared Locks = "shared" // on the host
)

// Limits of what can be asked for.
const (
	MaxQueueSize = 1024 // of QEMU: VIRTQUEUE_MAX_SIZE
	minQueueSize = 8    // of Linux, which mounts no device with fewer: fs/fuse/virtio_fs.c, FUSE_HEADER_OVERHEAD
	MaxThreads   = 256

	// What an idle daemon takes leaves room for a guest that does something.
	minMemory    = 64 << 20
	minOpenFiles = 4096
)

// Builtin is what holds where neither a caller nor the host's configuration
// says otherwise, and what attachments had before there were settings. Memory
// and OpenFiles are the host's alone.
//
// Locks are local, since with those on the host a guest's program cannot wait
// for a lock. Two writers then do not meet each other's, so that the second is
// refused unless its caller forces it.
func Builtin() Settings {
	return Settings{Cache: CacheAuto, Xattr: Off, PosixACL: Off, Locks: LocksLocal, QueueSize: MaxQueueSize, Threads: 1}
}

// Validate refuses what no virtiofsd could do: BadSettings.
func (s Settings) Validate() error {
	bad := func(format string, args ...any) error { return fault.Invalidf(fault.BadSettings, format, args...) }
	switch s.Cache {
	case "", CacheAuto, CacheAlways, CacheNever, CacheMetadata:
	default:
		return bad("cache %s: give auto, always, never or metadata", word.Quote(string(s.Cache)))
	}
	switch s.Locks {
	case "", LocksLocal, LocksShared:
	default:
		return bad("locks %s: give local or shared", word.Quote(string(s.Locks)))
	}
	for _, o := range []struct {
		name string
		is   Switch
	}{{"xattr", s.Xattr}, {"posix_acl", s.PosixACL}} {
		switch o.is {
		case "", On, Off:
		default:
			return bad("%s %s: give on or off", o.name, word.Quote(string(o.is)))
		}
	}
	switch {
	case s.PosixACL == On && s.Xattr == Off:
		return bad("posix_acl without xattr: access control lists are extended attributes, so turn xattr on or leave it out")
	case s.QueueSize != 0 && (s.QueueSize < minQueueSize || s.QueueSize > MaxQueueSize || bits.OnesCount(uint(s.QueueSize)) > 1):
		return bad("queue size %d: give a power of two from %d to %d", s.QueueSize, minQueueSize, MaxQueueSize)
	case s.Threads < 0 || s.Threads > MaxThreads:
		return bad("%d threads: give 1 to %d", s.Threads, MaxThreads)
	case s.Memory != 0 && s.Memory < minMemory:
		return bad("a memory limit of %d bytes: give at least %d, with which a daemon works", s.Memory, minMemory)
	case s.OpenFiles != 0 && s.OpenFiles < minOpenFiles:
		return bad("a limit of %d open files: give at least %d, with which a daemon works", s.OpenFiles, minOpenFiles)
	}
	return nil
}

// Or fills what s leaves open with o. Access control lists bring extended
// attributes with them.
func (s Settings) Or(o Settings) Settings {
	if s.PosixACL == On {
		s.Xattr = On
	}
	if s.Xattr == Off {
		s.PosixACL = Off
	}
	to := Settings{
		Cache: cmp.Or(s.Cache, o.Cache), Xattr: cmp.Or(s.Xattr, o.Xattr), PosixACL: cmp.Or(s.PosixACL, o.PosixACL), Locks: cmp.Or(s.Locks, o.Locks),
		QueueSize: cmp.Or(s.QueueSize, o.QueueSize), Threads: cmp.Or(s.Threads, o.Threads),
		Memory: cmp.Or(s.Memory, o.Memory), OpenFiles: cmp.Or(s.OpenFiles, o.OpenFiles),
	}
	if to.PosixACL == On {
		to.Xattr = On
	}
	return to
}

// Differs names the first setting that want asks for and s has otherwise; none
// is "". What want leaves open is as it may be.
func (s Settings) Differs(want Settings) string {
	asked := want.Or(s)
	switch {
	case asked.Cache != s.Cache:
		return "cache"
	case asked.Xattr != s.Xattr:
		return "xattr setting"
	case asked.PosixACL != s.PosixACL:
		return "posix_acl setting"
	case asked.Locks != s.Locks:
		return "place for locks"
	case asked.QueueSize != s.QueueSize:
		return "queue size"
	case asked.Threads != s.Threads:
		return "number of threads"
	case asked.Memory != s.Memory:
		return "memory limit"
	case asked.OpenFiles != s.OpenFiles:
		return "limit of open files"
	}
	return ""
}
