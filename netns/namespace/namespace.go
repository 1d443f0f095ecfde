// Package namespace keeps network namespaces under the names that ip-netns(8)
// gives them, and does work in them.
package namespace

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/agent/crashpoint"
)

// Dir is where iproute2 keeps named namespaces: ip-netns(8).
const Dir = "/run/netns"

// Path of a namespace's file.
func Path(name string) string { return Dir + "/" + name }

// ErrOther: something has the name, but it is no network namespace, for
// example the empty file that stays when a process is killed before the mount.
var ErrOther = errors.New("not a network namespace")

// Open opens a namespace's file: fs.ErrNotExist if there is none,
// ErrOther if it is something else.
func Open(name string) (*os.File, error) {
	// O_NONBLOCK: whatever lies there, opening it must not hang.
	f, err := os.OpenFile(Path(name), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("open %s: a symbolic link: %w", Path(name), ErrOther)
	}
	if err != nil {
		return nil, err
	}
	// Only files of nsfs know this request (ioctl_ns(2)): it tells a namespace
	// from the empty file below the mount, and its kind.
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		f.Close()
		return nil, fmt.Errorf("open %s: %w", Path(name), ErrOther)
	}
	// A name that leads to the host's own namespace would have us write the
	// firewall of the host.
	own, err := os.Stat("/proc/thread-self/ns/net")
	if err != nil {
		f.Close()
		return nil, err
	}
	if info, err := f.Stat(); err != nil || os.SameFile(own, info) {
		f.Close()
		return nil, fmt.Errorf("open %s: the host's own: %w", Path(name), errors.Join(err, ErrOther))
	}
	return f, nil
}

// Make opens the namespace, making it first if need be. There are
// three steps, a shared directory, a file, a mount on it, and each finds the
// earlier ones done when a former caller was killed after them.
func Make(name string) (*os.File, error) {
	f, err := Open(name)
	if err == nil || (!errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrOther)) {
		return f, err
	}
	unlock, err := shareRunDir()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := clearMounts(name); err != nil {
		return nil, err
	}
	path := Path(name)
	file, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o444)
	if err != nil {
		return nil, fmt.Errorf("make namespace: %w", err)
	}
	info, err := file.Stat()
	file.Close()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("make namespace %s: a %s is in the way", path, info.Mode().Type())
	}
	err = onThrowawayThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare network namespace: %w", err)
		}
		if err := unix.Mount("/proc/thread-self/ns/net", path, "none", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount namespace on %s: %w", path, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	crashpoint.Hit(crashpoint.NetnsCreated)
	return Open(name)
}

// shareRunDir makes /run/netns a shared mount, as "ip netns add" does, so that
// a namespace's mount reaches all mount namespaces, and so does its removal. It
// returns with the lock that iproute2 takes too: otherwise two that find the
// directory not to be a mount would stack one on the other.
func shareRunDir() (unlock func(), err error) {
	if err := os.MkdirAll(Dir, 0o755); err != nil {
		return nil, err
	}
	dir, err := os.Open(Dir)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(dir.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		dir.Close()
		return nil, fmt.Errorf("lock %s: %w", Dir, err)
	}
	unlock = func() { dir.Close() }

	err = unix.Mount("", Dir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if errors.Is(err, unix.EINVAL) { // not a mount yet
		if err = unix.Mount(Dir, Dir, "none", unix.MS_BIND|unix.MS_REC, ""); err == nil {
			err = unix.Mount("", Dir, "none", unix.MS_SHARED|unix.MS_REC, "")
		}
	}
	if err != nil {
		unlock()
		return nil, fmt.Errorf("make %s a shared mount: %w", Dir, err)
	}
	return unlock, nil
}

// Remove unmounts and unlinks a namespace's file, whatever of it is
// there. The namespace itself ends with the last process in it.
func Remove(name string) error {
	if err := clearMounts(name); err != nil {
		return err
	}
	if err := os.Remove(Path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove namespace: %w", err)
	}
	return nil
}

// clearMounts unmounts all that is stacked on a namespace's file.
func clearMounts(name string) error {
	for {
		err := unix.Unmount(Path(name), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil: // perhaps one of several
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil
		default:
			return fmt.Errorf("unmount %s: %w", Path(name), err)
		}
	}
}

// Inside runs f on a thread in the namespace. Sockets that f opens stay in the
// namespace; files below /proc/sys/net are the namespace's while f runs.
func Inside(ns *os.File, f func() error) error {
	return onThrowawayThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter %s: %w", ns.Name(), err)
		}
		return f()
	})
}

// onThrowawayThread runs f on a thread of its own, which ends with f: no other
// goroutine ever runs where f may have left it, and there is no way back that
// could fail.
func onThrowawayThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		if unix.Gettid() != unix.Getpid() {
			done <- f()
			return
		}
		// This is the process's first thread, which cannot end, and whose
		// namespace others take for the process's own. Hold it while another
		// thread does the work.
		done <- onThrowawayThread(f)
		runtime.UnlockOSThread()
	}()
	return <-done
}
