package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// errEnded means that there is no process of an identity any more.
var errEnded = errors.New("ended")

// Done is closed when the process has ended, by a pidfd, within a millisecond.
// The first call opens a descriptor and starts a goroutine, which live until
// the process ends or Close is called.
func (p *Process) Done() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.watch == nil {
		p.watch = newWatch(p.id)
	}
	return p.watch.done
}

// Close lets go of a process that goes on running. The channel of an earlier
// Done is then never closed. A process that Start itself began stays watched,
// so that it leaves no zombie.
func (p *Process) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.watch != nil && !p.watch.child {
		p.watch.close()
		p.watch = nil
	}
}

// Stop sends SIGTERM, and SIGKILL after grace, and returns when the process
// has ended. It signals by pidfd, so never another process with the same pid.
// Children that are left in the process's session are killed too. A process
// that has ended already is success. When ctx ends first, the process may run on.
func (p *Process) Stop(ctx context.Context, grace time.Duration) error {
	if err := p.stop(ctx, grace); err != nil {
		return fmt.Errorf("stop process %d: %w", p.id.PID, err)
	}
	return nil
}

func (p *Process) stop(ctx context.Context, grace time.Duration) error {
	done := p.Done()
	if err := p.id.signal(syscall.SIGTERM); err != nil {
		return err
	}
	patience := time.NewTimer(grace)
	defer patience.Stop()
	select {
	case <-done:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-patience.C:
		if err := p.id.signal(syscall.SIGKILL); err != nil {
			return err
		}
		select {
		case <-done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	_, err := sweep(ctx, p.dir, p.id)
	return err
}

// Signal sends s, by pidfd. A process that has ended already is success.
func (p *Process) Signal(s syscall.Signal) error {
	if err := p.id.signal(s); err != nil {
		return fmt.Errorf("signal process %d: %w", p.id.PID, err)
	}
	return nil
}

// open returns a pidfd, or errEnded.
func (id Identity) open() (*os.File, error) {
	if id.PID <= 0 {
		return nil, errEnded
	}
	fd, err := unix.PidfdOpen(id.PID, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil, errEnded
	}
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	// Only from here on does the pid stay what it is.
	alive, err := id.running()
	if err == nil && !alive {
		err = errEnded
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// signal sends s; that the process has ended is success.
func (id Identity) signal(s syscall.Signal) error {
	f, err := id.open()
	if errors.Is(err, errEnded) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return signal(f, s)
}

func signal(pidfd *os.File, s syscall.Signal) error {
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	if err := raw.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), s, nil, 0) }); err != nil {
		return err
	}
	if sent == unix.ESRCH {
		return nil
	}
	return os.NewSyscallError("pidfd_send_signal", sent)
}

// A watch waits for the end of one process and reaps it where it is a child of
// ours. It waits in the runtime's poller, so a thousand watches cost no thread.
type watch struct {
	child bool
	done  chan struct{} // closed when the process has ended
	quit  chan struct{} // closed to give up
	left  chan struct{} // closed when the goroutine has ended

	mu    sync.Mutex
	pidfd *os.File // nil while there is none
}

func newWatch(id Identity) *watch {
	w := &watch{done: make(chan struct{}), quit: make(chan struct{}), left: make(chan struct{})}
	go w.run(id)
	return w
}

// watchChild watches a child of ours by its pidfd.
func watchChild(id Identity, pidfd *os.File) *watch {
	w := &watch{child: true, done: make(chan struct{}), quit: make(chan struct{}), left: make(chan struct{}), pidfd: pidfd}
	go w.run(id)
	return w
}

// close ends the watch, and with it the goroutine.
func (w *watch) close() {
	close(w.quit)
	w.mu.Lock()
	if w.pidfd != nil {
		w.pidfd.Close()
	}
	w.mu.Unlock()
	<-w.left
}

// run waits for the end. Where the pidfd cannot be had, for want of
// descriptors, it tries again: a watch that gave up would hide a death for ever.
func (w *watch) run(id Identity) {
	defer close(w.left)
	for {
		pidfd, err := w.open(id)
		if err == nil {
			if err = ended(pidfd); err == nil {
				reap(pidfd)
				pidfd.Close()
			}
		}
		if err == nil || errors.Is(err, errEnded) {
			close(w.done)
			return
		}
		select {
		case <-w.quit:
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (w *watch) open(id Identity) (*os.File, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pidfd != nil {
		return w.pidfd, nil
	}
	pidfd, err := id.open()
	if err != nil {
		return nil, err
	}
	select {
	case <-w.quit: // close has not seen this one
		pidfd.Close()
		return nil, os.ErrClosed
	default:
	}
	w.pidfd = pidfd
	return pidfd, nil
}

// ended returns when the process of pidfd has ended, or why that is not known:
// somebody closed pidfd. A pidfd is readable from then on, see pidfd_open(2).
func ended(pidfd *os.File) error {
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, 0)
		return err == nil && n > 0
	})
}

// reap takes the zombie away where it is our child; by pidfd, for the pid may
// be that of another child by now.
func reap(pidfd *os.File) {
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		// ECHILD: not ours, or reaped already.
		_ = unix.Waitid(unix.P_PIDFD, int(fd), nil, unix.WEXITED|unix.WNOHANG, nil)
	})
}
