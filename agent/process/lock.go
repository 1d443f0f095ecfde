package process

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const lockFile = "lock"

// errRunning is the launcher's answer when the directory's lock is taken.
var errRunning = errors.New("already running")

// takeLock takes the lock of dir for as long as this process lives, exec or
// not: the descriptor stays open across exec and nobody closes it. errRunning
// means that a launcher, or the program that it became, has it.
func takeLock(dir string) error {
	name := filepath.Join(dir, lockFile)
	for {
		fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CREAT|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return &os.PathError{Op: "open", Path: name, Err: err}
		}
		if err := flock(fd); err != nil {
			unix.Close(fd)
			return err
		}
		// The directory may have been removed, and made again, since the open:
		// a lock on a file without a name keeps nobody out.
		var have, want unix.Stat_t
		if err := unix.Fstat(fd, &have); err != nil {
			return &os.PathError{Op: "stat", Path: name, Err: err}
		}
		err = unix.Stat(name, &want)
		if err == nil && have.Dev == want.Dev && have.Ino == want.Ino {
			return nil
		}
		unix.Close(fd)
		if err != nil && err != unix.ENOENT {
			return &os.PathError{Op: "stat", Path: name, Err: err}
		}
	}
}

// flock locks fd alone. Those who merely look take a shared lock for an
// instant: that they are there is no reason to give up, an exclusive lock is.
func flock(fd int) error {
	for {
		switch err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err {
		case nil:
			return nil
		case unix.EINTR:
			continue
		case unix.EWOULDBLOCK:
		default:
			return os.NewSyscallError("flock", err)
		}
		switch err := unix.Flock(fd, unix.LOCK_SH|unix.LOCK_NB); err {
		case nil, unix.EINTR:
		case unix.EWOULDBLOCK:
			return errRunning
		default:
			return os.NewSyscallError("flock", err)
		}
		if err := unix.Flock(fd, unix.LOCK_UN); err != nil {
			return os.NewSyscallError("flock", err)
		}
		// Different for each of several launchers, so that they part.
		time.Sleep(time.Duration(20+rand.IntN(100)) * time.Microsecond)
	}
}

// free tells whether nobody holds an exclusive lock on f.
func free(f *os.File) (bool, error) {
	fd := int(f.Fd())
	for {
		switch err := unix.Flock(fd, unix.LOCK_SH|unix.LOCK_NB); err {
		case nil:
			// Not left to close: a child that is just being forked by another
			// goroutine has a copy of the descriptor until it execs.
			return true, os.NewSyscallError("flock", unix.Flock(fd, unix.LOCK_UN))
		case unix.EINTR:
		case unix.EWOULDBLOCK:
			return false, nil
		default:
			return false, os.NewSyscallError("flock", err)
		}
	}
}

// held tells whether a launcher, its program, or a child of that, lives in dir.
func held(dir string) (bool, error) {
	f, err := os.Open(filepath.Join(dir, lockFile))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	ok, err := free(f)
	return !ok, err
}

// holders returns the processes that have the lock file of dir open. It looks
// at every process of the host, so it is for the unhappy paths only.
func holders(dir string) ([]Identity, error) {
	lock, err := os.Stat(filepath.Join(dir, lockFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var found []Identity
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		// Taken before the look at its files: were the pid used again in
		// between, the identity would name nobody.
		id, err := identify(pid)
		if err != nil {
			continue // it ended
		}
		if hasOpen(pid, lock) {
			found = append(found, id)
		}
	}
	return found, nil
}

func hasOpen(pid int, file os.FileInfo) bool {
	dir := "/proc/" + strconv.Itoa(pid) + "/fd"
	fds, err := os.ReadDir(dir)
	if err != nil {
		return false // it ended
	}
	for _, fd := range fds {
		if info, err := os.Stat(filepath.Join(dir, fd.Name())); err == nil && os.SameFile(info, file) {
			return true
		}
	}
	return false
}

// sweep kills what the ended process id of dir left behind, its children that
// have the lock. It tells whether there were any, and returns when there are
// none. The launcher made the process the leader of a session; the kernel gives
// a number to no other process or session while one of its members lives.
func sweep(ctx context.Context, dir string, id Identity) (bool, error) {
	if alive, err := id.running(); err != nil || alive || id.PID <= 0 {
		return false, err
	}
	for some := false; ; some = true {
		taken, err := held(dir)
		if err != nil || !taken {
			return some, err
		}
		all, err := holders(dir)
		if err != nil {
			return some, err
		}
		left := false
		for _, h := range all {
			s, err := readStat(h.PID)
			if err != nil || s.session != id.PID || h.PID == id.PID {
				continue // it ended; or it is a launcher, or somebody who looks
			}
			left = true
			if err := h.signal(syscall.SIGKILL); err != nil {
				return some, err
			}
		}
		if !left {
			return some, nil
		}
		if err := pause(ctx); err != nil {
			return some, fmt.Errorf("children of the ended process %d do not end: %w: %w", id.PID, ErrHeld, err)
		}
	}
}

// pause waits a moment between two looks at something that changes soon.
func pause(ctx context.Context) error {
	t := time.NewTimer(time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
