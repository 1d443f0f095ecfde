package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"
)

// A stateLock keeps a second agent away from the state directory: two would
// undo each other's work. The kernel gives it back however this one ends.
type stateLock struct{ f *os.File }

func lockState(dir string) (stateLock, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return stateLock{}, fmt.Errorf("make state directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "agent.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return stateLock{}, fmt.Errorf("lock state directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer func() { _ = f.Close() }()
		if errors.Is(err, unix.EWOULDBLOCK) {
			pid, _ := io.ReadAll(io.LimitReader(f, 32))
			return stateLock{}, fmt.Errorf("another causeway-agent (pid %s) runs on state directory %s; stop it first, or give this one its own state_dir",
				strings.TrimSpace(string(pid)), dir)
		}
		return stateLock{}, fmt.Errorf("lock state directory %s: %w", dir, err)
	}
	// For the message above; the lock itself is what counts.
	err = errors.Join(f.Truncate(0), writeAt(f, fmt.Sprintf("%d\n", os.Getpid())))
	if err != nil {
		return stateLock{}, errors.Join(fmt.Errorf("lock state directory %s: %w", dir, err), f.Close())
	}
	return stateLock{f}, nil
}

func writeAt(f *os.File, s string) error {
	_, err := f.WriteAt([]byte(s), 0)
	return err
}

func (l stateLock) release() { _ = l.f.Close() }

// socketGroup finds the group that may use the socket. The default one need
// not exist: a host without it is root's alone.
func socketGroup(name string, log *slog.Logger) (gid uint32, err error) {
	if n, err := strconv.ParseUint(name, 10, 32); err == nil {
		return uint32(n), nil
	}
	g, err := user.LookupGroup(name)
	var unknown user.UnknownGroupError
	switch {
	case errors.As(err, &unknown) && name == defaultGroup:
		log.Warn("group is not on this host, so only root may use the socket", "group", name)
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("socket.group %s: %w; make it with 'groupadd --system %s', or name another", name, err, name)
	}
	n, err := strconv.ParseUint(g.Gid, 10, 32)
	return uint32(n), err
}

// newSuffix of the name under which a socket is made before it takes its place.
const newSuffix = ".new"

// listen takes the socket that systemd passed, or makes one. gid is the
// socket's group.
func listen(c socketConfig, gid uint32) (net.Listener, error) {
	passed, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("take sockets from systemd: %w", err)
	}
	switch len(passed) {
	case 0:
		return makeSocket(c, gid)
	case 1:
		if u, ok := passed[0].(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false) // systemd keeps it for the next start
			return u, nil
		}
	}
	return nil, fmt.Errorf("systemd passed %d sockets; pass one unix stream socket", len(passed))
}

// makeSocket listens at c.Path. A socket that is there already is taken over
// only when nobody answers at it. The new one is made under another name and
// renamed, so that at no instant it is there with the wrong mode, or missing.
func makeSocket(c socketConfig, gid uint32) (net.Listener, error) {
	if err := stale(c.Path); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(c.Path), 0o755); err != nil {
		return nil, fmt.Errorf("make socket directory: %w", err)
	}
	made := c.Path + newSuffix
	if err := os.Remove(made); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove socket of an earlier start: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: made, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on socket: %w", err)
	}
	l.SetUnlinkOnClose(false) // it would remove the wrong name
	err = errors.Join(
		os.Chown(made, -1, int(gid)),
		os.Chmod(made, os.FileMode(c.Mode)),
		os.Rename(made, c.Path),
	)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make socket %s: %w", c.Path, err), l.Close(), os.Remove(made))
	}
	return ownListener{l, c.Path}, nil
}

// An ownListener takes its socket away when it is closed.
type ownListener struct {
	*net.UnixListener
	path string
}

func (l ownListener) Close() error {
	err := l.UnixListener.Close()
	if err == nil {
		_ = os.Remove(l.path) // only untidy if it stays
	}
	return err
}

// lastBreath is how long the socket of an agent that was killed may still take
// connections: a child that it had forked and that has not executed its program
// yet holds the listener.
const lastBreath = 2 * time.Second

// stale is nil where path is free to be replaced, if need be after lastBreath.
func stale(path string) error {
	end := time.Now().Add(lastBreath)
	for {
		err := answered(path)
		if !errors.Is(err, errAnswers) || time.Now().After(end) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

var errAnswers = errors.New("another process answers")

// answered is nil where nobody answers at path.
func answered(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look at socket: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is there and is not a socket; remove it, or choose another socket.path", path)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		_ = conn.Close()
		return fmt.Errorf("%w at %s; stop it, or choose another socket.path", errAnswers, path)
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return nil
	}
	return fmt.Errorf("%s may be in use: %w; stop its owner, or choose another socket.path", path, err)
}
