// Package process starts confined processes that outlive the agent, and finds
// them again.
//
// A process is known by its run directory. Start runs causeway-launch, which
// takes a lock file in that directory that stays locked across exec for as
// long as the process lives, writes the process's identity beside it, confines
// itself, and becomes the wanted program. So the agent may die at any
// instruction: either the identity is on disk, or the launcher has not yet
// begun, and of two launchers for one directory one ends.
//
//	launcher            lock      identity            what Find answers
//	begins              free      absent, or dead     none
//	has the lock        held      absent, or dead     waits
//	wrote the identity  held      alive, held too     waits
//	became the program  held      alive, free         the process
//	ended, or killed    free      dead                none
//	left children       held      dead                ErrHeld
//
// The second lock, on the identity file itself, is closed by exec. The
// children of the program inherit the first: as long as one of them lives
// nothing else is started in the directory.
//
// Who runs the launcher makes no difference to what it becomes, nor to how that
// is found again: the agent itself, which then puts it into a control group
// (package cgroup), or systemd, as a transient unit (package unit). So a host
// may change from one to the other while its processes run.
//
// It takes Linux 5.12, for mount_setattr(2).
package process

import (
	"errors"
	"sync"
)

// ErrHeld means that something holds the lock of a run directory whose process
// has ended: a child that it left behind, or a launcher that does not get on.
var ErrHeld = errors.New("locked by another process")

// A Spec describes one process. causeway-launch reads it as JSON. The program
// starts in / with umask 022, no input, a session
// of its own and no_new_privs, and inherits nothing else.
//
// With OwnPIDs the program is process 1 of a new namespace. Without, uid 0 lets
// it kill every process of root on the host, capabilities or not, and enter by
// /proc/PID/root every jail with the same capabilities. Its children end with
// it. The kernel gives a process 1 only signals that it handles or blocks, and
// SIGKILL from outside, so a program without a handler for SIGTERM ends after
// the whole grace of Stop. Use it with a Root, or /proc still shows the host's
// processes.
type Spec struct {
	Dir     string   // required: the run directory, which exists; holds "lock", "identity" and "output"
	Path    string   // required: absolute path of the program, inside Root
	Args    []string // without the program's name
	Env     []string // the whole environment, "K=V"
	NetNS   string   // path of a network namespace; empty stays in the host's
	Root    *Root    // nil stays in the host's mount namespace
	IDMap   *IDMap   // nil shows all directories with the owners that they have
	OwnPIDs bool     // a process namespace of its own, see above
	Caps    []string // capabilities to keep, in the bounding set too, "chown"; nil keeps all, empty keeps none
	Limits  Limits
	OOM     int    // oom_score_adj, see proc_pid_oom_score_adj(5); 0 leaves it, and so does a launcher that may not lower it
	Output  string // file name in Dir for standard output and error; "output" by default, appended and cut at a start above 1 MiB
	Name    Name   // of its control group or unit; required where the Starter has Groups or Units
}

// A Name is what operators see of a process: "gateway-blue" among "gateways".
// Two that run at the same time have different ones.
type Name struct {
	Group string // kind of processes: letters
	Own   string // the process itself: not empty, no "/", no NUL
}

// Limits of a process, with its children. Memory and tasks take Groups or
// Units: RLIMIT_NPROC does not bind root, and RLIMIT_AS counts what is mapped.
type Limits struct {
	Memory uint64 // bytes, with what the kernel holds of files for it; above it the kernel frees such files, then kills; 0 is none
	Tasks  uint64 // processes and threads; above it none is made; 0 is none
	Files  uint64 // RLIMIT_NOFILE, soft and hard, lowered to what the host allows; 0 leaves it
}

// Hits tells how often a limit was reached.
type Hits struct {
	Memory uint64 // processes that the kernel killed for it
	Tasks  uint64 // processes and threads that were not made
}

// A Root is a read-only root directory on tmpfs, made of pieces of the host's.
// Inside, every piece has the path that it has outside. A path that is a
// symbolic link leads to the same place inside. Mounts below a piece stay
// outside, except below those of Slave. Pieces may lie within one another.
// Besides there are /proc, read-only, a /dev of null, zero, full, random and
// urandom, an empty writable /tmp, and /etc/mtab.
//
// The pieces of System may come from another distribution's root directory,
// so that its programs run beside the host's. Symbolic links in it, absolute
// ones too, are then those of that root.
type Root struct {
	System    []string // as ReadOnly, but taken from SystemDir where that is set
	SystemDir string   // an absolute host path; empty takes System from the host
	ReadOnly  []string // host paths, files or directories, bound read-only at the same path; absent ones are left out
	ReadWrite []string // host paths bound writable at the same path
	Slave     []string // host paths bound as slaves: mounts that the host makes below them later appear inside, with the host's flags; themselves read-only
	Hide      []string // files covered with /dev/null where they exist
	Mtab      string   // where /etc/mtab leads to, inside; empty is the kernel's table
	Tmp       []string // further directories that are empty and writable, of a megabyte; pieces may lie below them
}

// An Identity names one process for ever: a pid is used again, this is not.
type Identity struct {
	BootID string `json:"boot_id"`
	PID    int    `json:"pid"`
	Start  uint64 `json:"start"` // field 22 of /proc/PID/stat, clock ticks after boot
}

// A Process is one running process, whether this agent started it or not. It
// costs nothing until Done or Stop is called.
type Process struct {
	id  Identity
	dir string

	mu    sync.Mutex
	watch *watch // nil until somebody asks
}

// Identity of the process.
func (p *Process) Identity() Identity { return p.id }
