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
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/agent/crashpoint"
)

// The launcher's answers on its status pipe: ready just before exec, then the
// end of the pipe, which exec closes; errRunning's text; or the step that
// failed and why.
const ready = "ready\n"

// A Starter starts processes with one launcher binary.
type Starter struct {
	Launcher string // required: path of causeway-launch
}

// Start returns as soon as the identity is on disk and the program has been
// exec'ed. Where the directory's process already runs, it returns that one and
// starts nothing. What the launcher could not do is in the error, with the
// step that failed. Children that an ended process of the directory left
// behind are killed first. When ctx ends, nothing new runs.
func (s *Starter) Start(ctx context.Context, spec Spec) (*Process, error) {
	p, err := s.start(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Path, err)
	}
	return p, nil
}

func (s *Starter) start(ctx context.Context, spec Spec) (*Process, error) {
	if !filepath.IsAbs(spec.Dir) || !filepath.IsAbs(spec.Path) {
		return nil, fmt.Errorf("run directory %q, program %q: want absolute paths", spec.Dir, spec.Path)
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
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
		p, err = s.launch(ctx, spec, text)
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

// launch runs the launcher once. The text is spec as JSON.
func (s *Starter) launch(ctx context.Context, spec Spec, text []byte) (*Process, error) {
	c, err := fork(s.Launcher, spec)
	if err != nil {
		return nil, err
	}
	crashpoint.Hit(crashpoint.ProcessForked)
	answer, err := c.talk(ctx, text)
	if err != nil {
		c.kill()
		return nil, err
	}
	failure, began := bytes.CutPrefix(answer, []byte(ready))
	if !began || len(failure) > 0 {
		c.kill()
		switch {
		case string(failure) == errRunning.Error():
			return nil, errRunning
		case len(failure) == 0:
			return nil, errors.New("the launcher was killed")
		}
		return nil, errors.New(string(failure))
	}
	id, _, err := readIdentity(spec.Dir)
	if err == nil && id.PID != c.pid {
		err = fmt.Errorf("the identity in %s names process %d, not %d", spec.Dir, id.PID, c.pid)
	}
	if err != nil {
		c.kill()
		return nil, err
	}
	return &Process{id: id, dir: spec.Dir, watch: watchChild(id, c.pidfd)}, nil
}

// A child is a launcher that runs, or the program that it became.
type child struct {
	pid    int
	pidfd  *os.File
	spec   *os.File // write end of its standard input
	status *os.File // read end of its status pipe
}

func fork(launcher string, s Spec) (*child, error) {
	var open []*os.File
	defer func() {
		for _, f := range open {
			f.Close()
		}
	}()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	open = append(open, null)
	stdin, spec, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	open = append(open, stdin)
	status, theirs, err := os.Pipe()
	if err != nil {
		spec.Close()
		return nil, err
	}
	open = append(open, theirs)
	// A session of its own: what ends the agent's does not end this one.
	sys := &syscall.SysProcAttr{Setsid: true}
	if s.OwnPIDs {
		// Here, because a process cannot change its own: only its children
		// would be in the new one.
		sys.Cloneflags = syscall.CLONE_NEWPID
	}
	proc, err := os.StartProcess(launcher, []string{launcher}, &os.ProcAttr{
		Dir:   "/",
		Files: []*os.File{stdin, null, null, theirs},
		Sys:   sys,
	})
	if err != nil {
		spec.Close()
		status.Close()
		return nil, err
	}
	c := &child{pid: proc.Pid, spec: spec, status: status}
	// Its zombie keeps the pid until we reap it: this is the child for sure.
	fd, err := unix.PidfdOpen(proc.Pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		_ = proc.Kill()
		_, _ = proc.Wait()
		spec.Close()
		status.Close()
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	c.pidfd = os.NewFile(uintptr(fd), "pidfd")
	_ = proc.Release()
	return c, nil
}

// talk hands over the specification and returns the launcher's whole answer.
func (c *child) talk(ctx context.Context, spec []byte) ([]byte, error) {
	defer c.spec.Close()
	defer c.status.Close()
	stop := context.AfterFunc(ctx, func() {
		past := time.Unix(1, 0)
		_ = c.spec.SetDeadline(past)
		_ = c.status.SetDeadline(past)
	})
	defer stop()
	// A launcher that died has closed its end: its answer, or none, says more
	// than EPIPE.
	if _, err := c.spec.Write(spec); err != nil && !errors.Is(err, syscall.EPIPE) {
		return nil, why(ctx, err)
	}
	c.spec.Close()
	answer, err := io.ReadAll(c.status)
	if err != nil {
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
