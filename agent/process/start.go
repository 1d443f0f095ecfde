package process

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/agent/crashpoint"
)

// The launcher's answers to the agent: ready just before exec, then the end of
// the connection, which exec closes; errRunning's text; or the step that failed
// and why.
const ready = "ready\n"

// A Starter starts processes with one launcher binary.
type Starter struct {
	Launcher string // required: path of causeway-launch
	Groups   Groups // nil: processes that the agent forks have no limits but that of files
	Units    Units  // nil: the agent forks
}

// Groups hold forked processes to their limits, as package cgroup does.
type Groups interface {
	// Enter puts the process pid, a launcher that waits for s, into the group of
	// s, which is made anew where nobody is in it.
	Enter(s Spec, pid int) error
	// Hits since the last Enter; none where there is no such group.
	Hits(n Name) (Hits, error)
	// Remove removes the group of a process that has ended. Not there is success.
	Remove(n Name) error
}

// Units run launchers as units of systemd, as package unit does.
type Units interface {
	// Run makes a unit of s whose program is command, and returns when systemd
	// has begun to start it. What an earlier agent began and no process came of
	// is cleared away. The channel tells what came of it, in systemd's words:
	// "done" when the launcher has said that it is ready.
	Run(ctx context.Context, s Spec, command []string) (<-chan string, error)
	// Kill ends all processes of the unit. Not there is success.
	Kill(ctx context.Context, n Name) error
	// Hits of the processes of that name; what is known of one that has ended
	// may come a moment later, or be forgotten.
	Hits(n Name) (Hits, error)
}

// Hits tells how often processes of that name reached their limits. The counts
// begin anew with some starts.
func (s *Starter) Hits(n Name) (Hits, error) {
	var all Hits
	for _, part := range []interface{ Hits(Name) (Hits, error) }{s.Groups, s.Units} {
		if part == nil {
			continue
		}
		h, err := part.Hits(n)
		if err != nil {
			return Hits{}, fmt.Errorf("limits of %s: %w", n.Own, err)
		}
		all.Memory += h.Memory
		all.Tasks += h.Tasks
	}
	return all, nil
}

// Forget removes what bound a process that has ended and will not be started
// again. Not there is success.
func (s *Starter) Forget(n Name) error {
	if s.Groups == nil {
		return nil
	}
	return s.Groups.Remove(n)
}

// Start returns as soon as the identity is on disk and the program has been
// exec'ed. Where the directory's process already runs, it returns that one and
// starts nothing. What the launcher could not do is in the error, with the
// step that failed. Children that an ended process of the directory left
// behind are killed first. When ctx ends, nothing new runs.
func (s *Starter) Start(ctx context.Context, spec Spec) (*Process, error) {
	p, err := s.start(ctx, spec, nil)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Path, err)
	}
	return p, nil
}

// StartAfter is Start of a program for which something has to be done first,
// and saves the time that a launcher takes: first is called, once, beside it,
// and only when it has returned nil the launcher becomes the program. Where it
// fails, or the agent dies before, the launcher ends; its error is returned as
// it is. It should not take long, since Find waits meanwhile.
func (s *Starter) StartAfter(ctx context.Context, spec Spec, first func(context.Context) error) (*Process, error) {
	done := sync.OnceValue(func() error { return first(ctx) })
	p, err := s.start(ctx, spec, done)
	var failed *firstError
	if err == nil {
		return p, done() // where the program ran already, it is not done yet
	}
	if errors.As(err, &failed) {
		return nil, failed.err
	}
	return nil, fmt.Errorf("start %s: %w", spec.Path, err)
}

// A firstError is of what was to be done first.
type firstError struct{ err error }

func (e *firstError) Error() string { return e.err.Error() }

func (s *Starter) start(ctx context.Context, spec Spec, first func() error) (*Process, error) {
	if !filepath.IsAbs(spec.Dir) || !filepath.IsAbs(spec.Path) {
		return nil, fmt.Errorf("run directory %q, program %q: want absolute paths", spec.Dir, spec.Path)
	}
	text, err := json.Marshal(order{Spec: spec, Waits: first != nil})
	if err != nil {
		return nil, err
	}
	o := orders{text: text, first: first}
	for {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		p, err := settled(ctx, spec.Dir)
		if errors.Is(err, ErrHeld) {
			if swept, failed := sweepLast(ctx, spec.Dir); failed != nil || swept {
				err = failed
			}
		}
		if err != nil || p != nil {
			return p, err
		}
		p, err = s.launch(ctx, spec, o)
		if errors.Is(err, errRunning) {
			// Somebody else's launcher came first. It may fail, and then it is
			// our turn.
			continue
		}
		return p, err
	}
}

// sweepLast kills the children that the directory's last process left behind.
func sweepLast(ctx context.Context, dir string) (bool, error) {
	id, _, err := readIdentity(dir)
	if err != nil {
		return false, err
	}
	return sweep(ctx, dir, id)
}

// An order is what a launcher reads. One that waits reads goAhead before it
// becomes the program.
type order struct {
	Spec
	Waits bool `json:",omitempty"`
}

const goAhead = "true\n"

// orders are an order as JSON, and what is to be done before goAhead; nil where
// the launcher does not wait.
type orders struct {
	text  []byte
	first func() error
}

// launch runs the launcher once.
func (s *Starter) launch(ctx context.Context, spec Spec, o orders) (*Process, error) {
	if s.Units != nil {
		return s.launchUnit(ctx, spec, o)
	}
	c, err := fork(s.Launcher, spec)
	if err != nil {
		return nil, err
	}
	crashpoint.Hit(crashpoint.ProcessForked)
	id, err := s.direct(ctx, c, spec, o)
	if err != nil {
		c.kill()
		return nil, err
	}
	return &Process{id: id, dir: spec.Dir, watch: watchChild(id, c.pidfd)}, nil
}

// direct makes the forked launcher c become the program.
func (s *Starter) direct(ctx context.Context, c *child, spec Spec, o orders) (Identity, error) {
	defer c.agent.Close()
	if s.Groups != nil {
		// It reads before it does anything, so nothing escapes.
		if err := s.Groups.Enter(spec, c.pid); err != nil {
			return Identity{}, err
		}
	}
	answer, err := talk(ctx, c.agent, o)
	if err != nil {
		return Identity{}, err
	}
	id, err := understand(answer, spec.Dir)
	if err == nil && id.PID != c.pid {
		err = fmt.Errorf("the identity in %s names process %d, not %d", spec.Dir, id.PID, c.pid)
	}
	return id, err
}

// understand a launcher's whole answer.
func understand(answer []byte, dir string) (Identity, error) {
	failure, began := bytes.CutPrefix(answer, []byte(ready))
	switch {
	case began && len(failure) == 0:
		id, _, err := readIdentity(dir)
		return id, err
	case string(failure) == errRunning.Error():
		return Identity{}, errRunning
	case len(failure) == 0:
		return Identity{}, errKilled
	}
	return Identity{}, failed(string(failure))
}

// errKilled: the launcher said nothing.
var errKilled = errors.New("the launcher was killed")

// A child is a launcher that runs, or the program that it became.
type child struct {
	pid   int
	pidfd *os.File
	agent *os.File // our end of the connection
}

func fork(launcher string, s Spec) (*child, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "launcher")
	defer theirs.Close()
	// For deadlines, which only ours has.
	err = unix.SetNonblock(pair[0], true)
	agent := os.NewFile(uintptr(pair[0]), "agent")
	if err != nil {
		agent.Close()
		return nil, os.NewSyscallError("fcntl", err)
	}
	// A session of its own: what ends the agent's does not end this one.
	sys := &syscall.SysProcAttr{Setsid: true}
	if s.OwnPIDs {
		// Here, because a process cannot change its own: only its children
		// would be in the new one.
		sys.Cloneflags = syscall.CLONE_NEWPID
	}
	proc, err := os.StartProcess(launcher, []string{launcher}, &os.ProcAttr{
		Dir:   "/",
		Files: []*os.File{null, null, null, theirs},
		Sys:   sys,
	})
	if err != nil {
		agent.Close()
		return nil, err
	}
	c := &child{pid: proc.Pid, agent: agent}
	// Its zombie keeps the pid until we reap it: this is the child for sure.
	fd, err := unix.PidfdOpen(proc.Pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		_ = proc.Kill()
		_, _ = proc.Wait()
		agent.Close()
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	c.pidfd = os.NewFile(uintptr(fd), "pidfd")
	_ = proc.Release()
	return c, nil
}

// A connection to a launcher.
type connection interface {
	io.ReadWriter
	SetDeadline(t time.Time) error
}

// talk hands over the orders and returns the launcher's whole answer.
func talk(ctx context.Context, c connection, o orders) ([]byte, error) {
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	// A launcher that died has closed its end: its answer, or none, says more
	// than EPIPE.
	if _, err := c.Write(o.text); err != nil && !errors.Is(err, syscall.EPIPE) {
		return nil, why(ctx, err)
	}
	if o.first != nil {
		if err := o.first(); err != nil {
			return nil, &firstError{err}
		}
		if _, err := io.WriteString(c, goAhead); err != nil && !errors.Is(err, syscall.EPIPE) {
			return nil, why(ctx, err)
		}
	}
	answer, err := io.ReadAll(c)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		return nil, why(ctx, err)
	}
	return answer, nil
}

func why(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// kill ends the child, whatever it has become, and reaps it.
func (c *child) kill() {
	defer c.pidfd.Close()
	if err := signal(c.pidfd, syscall.SIGKILL); err != nil {
		return
	}
	if err := ended(c.pidfd); err == nil {
		reap(c.pidfd)
	}
}
