// Package process starts confined processes that outlive the agent, and finds
// them again.
//
// A process is known by its run directory. Start runs causeway-launch, which
// takes a lock file in that directory that stays locked across exec for as
// long as the process lives, writes the process's identity beside it, confines
// itself, and becomes the wanted program. So the agent may die at any
// instruction: either the identity is on disk, or the launcher has not yet
// begun, and of two launchers for one directory one ends.
package process

import (
	"context"
	"time"
)

// A Spec describes one process. causeway-launch reads it as JSON from its
// standard input.
type Spec struct {
	Dir     string   // required: the run directory, which exists; holds "lock", "identity" and "output"
	Path    string   // required: absolute path of the program, inside Root
	Args    []string // without the program's name
	Env     []string // the whole environment, "K=V"
	NetNS   string   // path of a network namespace; empty stays in the host's
	Root    *Root    // nil stays in the host's mount namespace
	Caps    []string // capabilities to keep in the bounding set, "chown"; nil keeps all, empty keeps none
	NoFile  uint64   // RLIMIT_NOFILE, soft and hard, lowered to what the host allows; 0 leaves it
	Output  string   // file name in Dir for standard output and error; "output" by default, appended and cut at a start above 1 MiB
	PidsMax int      // RLIMIT_NPROC does not bind root: recorded here for the cgroup variant; 0 is no limit
}

// A Root is a read-only root directory on tmpfs, made of pieces of the host's.
type Root struct {
	ReadOnly  []string // host paths, files or directories, bound read-only at the same path; absent ones are left out
	ReadWrite []string // host paths bound writable at the same path
	Slave     []string // host paths bound as slaves: mounts that the host makes below them later appear inside
	Hide      []string // files covered with /dev/null where they exist
}

// An Identity names one process for ever: a pid is used again, this is not.
type Identity struct {
	BootID string `json:"boot_id"`
	PID    int    `json:"pid"`
	Start  uint64 `json:"start"` // field 22 of /proc/PID/stat, clock ticks after boot
}

// A Process is one running process, whether this agent started it or not.
type Process struct {
	// fields unexported
	id  Identity
	dir string
}

// Identity of the process.
func (p *Process) Identity() Identity { return p.id }

// A Starter starts processes with one launcher binary.
type Starter struct {
	Launcher string // required: path of causeway-launch
}

// Start returns as soon as the identity is on disk and the program has been
// exec'ed. Where the directory's process already runs, it returns that one and
// starts nothing. What the launcher could not do is in the error, with the
// step that failed.
func (s *Starter) Start(ctx context.Context, spec Spec) (*Process, error) {
	panic("written next")
}

// Find returns the process of a run directory, or nil where none runs. A
// zombie does not run.
func Find(dir string) (*Process, error) {
	panic("written next")
}

// Done is closed when the process has ended, by a pidfd, within a millisecond.
func (p *Process) Done() <-chan struct{} {
	panic("written next")
}

// Stop sends SIGTERM, and SIGKILL after grace, and returns when the process
// has ended. It signals by pidfd, so never another process with the same pid.
func (p *Process) Stop(ctx context.Context, grace time.Duration) error {
	panic("written next")
}

// Tail returns the last n bytes of what the process printed, for a person.
func Tail(dir string, n int) string {
	panic("written next")
}
