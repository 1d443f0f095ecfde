package process

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/agent/crashpoint"
)

// A launcher that systemd runs cannot be handed a descriptor: systemd keeps
// those that it passes to a unit, so their end would not tell of exec. It
// connects to a socket in the run directory instead, of which the name is used
// once. Where the agent has died meanwhile nobody listens there, and the
// launcher gives up.
const callPrefix = "call-"

// killPatience bounds the end of a unit of which nothing came.
const killPatience = 10 * time.Second

// launchUnit is launch as a unit of systemd.
func (s *Starter) launchUnit(ctx context.Context, spec Spec, o orders) (*Process, error) {
	socket := filepath.Join(spec.Dir, callPrefix+rand.Text())
	l, err := listen(socket)
	if err != nil {
		return nil, err
	}
	defer func() {
		l.Close()
		_ = os.Remove(socket)
	}()
	command := []string{s.Launcher, socket}
	if spec.OwnPIDs {
		command = []string{s.Launcher, ownPIDsFlag, socket}
	}
	started, err := s.Units.Run(ctx, spec, command)
	if err != nil {
		return nil, err
	}
	crashpoint.Hit(crashpoint.ProcessForked)
	id, err := converse(ctx, l, conversation{started: started, dir: spec.Dir, orders: o})
	if err == nil {
		return &Process{id: id, dir: spec.Dir}, nil
	}
	if errors.Is(err, errRunning) {
		return nil, err // our launcher has ended, and another's unit is not ours
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killPatience)
	defer cancel()
	return nil, errors.Join(err, s.Units.Kill(ctx, spec.Name))
}

type conversation struct {
	started <-chan string // of the unit
	dir     string        // the run directory
	orders  orders
}

// converse with the launcher that calls l. Once it has, it says more than
// systemd.
func converse(ctx context.Context, l *net.UnixListener, o conversation) (Identity, error) {
	c, err := accept(ctx, l, o.started)
	if err != nil {
		return Identity{}, err
	}
	defer c.Close()
	answer, err := talk(ctx, c, o.orders)
	if err != nil {
		return Identity{}, err
	}
	return understand(answer, o.dir)
}

// accept the launcher's connection, unless the unit fails before that.
func accept(ctx context.Context, l *net.UnixListener, started <-chan string) (*net.UnixConn, error) {
	ctx, give := context.WithCancelCause(ctx)
	stop := context.AfterFunc(ctx, func() { _ = l.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case result := <-started:
			if result != "done" {
				give(fmt.Errorf("the unit's start is %q: its journal says why", result))
			}
		case <-ctx.Done():
		}
	})
	c, err := l.AcceptUnix()
	if err != nil {
		err = why(ctx, err)
	}
	give(nil)
	watching.Wait()
	return c, err
}

// listen where a launcher will call, and remove what a killed agent left there.
// The path may be longer than that of a socket: its directory is reached by a
// descriptor.
func listen(socket string) (*net.UnixListener, error) {
	dir, name := filepath.Split(socket)
	old, err := filepath.Glob(filepath.Join(dir, callPrefix+"*"))
	if err != nil {
		return nil, err
	}
	for _, path := range old {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), name), Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", socket, err)
	}
	l.SetUnlinkOnClose(false) // that name holds only while d is open
	return l, nil
}

// call connects to the agent that listens on socket.
func call(socket string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	dir, name := filepath.Split(socket)
	err = unix.Chdir(dir)
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: name})
	}
	if err == nil {
		err = unix.Chdir("/")
	}
	if err != nil {
		unix.Close(fd)
		return nil, &os.PathError{Op: "call the agent", Path: socket, Err: err}
	}
	return os.NewFile(uintptr(fd), "agent"), nil
}

// relaunch starts the launcher again as process 1 of a new namespace, as a
// child of systemd, and hands the unit over to it.
func relaunch(args []string) error {
	n, err := openNotice()
	if err != nil {
		return err
	}
	p, err := os.StartProcess("/proc/self/exe", append([]string{os.Args[0]}, args...), &os.ProcAttr{
		Env:   os.Environ(),
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		Sys:   &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_PARENT, Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("process namespace: %w", err)
	}
	// systemd reads this before it hears that we have ended (its manager_setup_notify
	// has the higher priority).
	return n.send("MAINPID=" + strconv.Itoa(p.Pid))
}

// A notice goes to systemd, see sd_notify(3). Not by a library: the launcher is
// small because it is started while clients wait.
type notice struct{ fd int }

func openNotice() (*notice, error) {
	path := os.Getenv("NOTIFY_SOCKET")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		unix.Close(fd)
		return nil, &os.PathError{Op: "connect to systemd", Path: path, Err: err}
	}
	return &notice{fd: fd}, nil
}

// send where there is somebody to tell.
func (n *notice) send(text string) error {
	if n == nil {
		return nil
	}
	_, err := unix.Write(n.fd, []byte(text))
	return os.NewSyscallError("write", err)
}
