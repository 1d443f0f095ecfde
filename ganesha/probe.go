package ganesha

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// nfsPort is where every gateway listens.
const nfsPort = 2049

// null makes one NULL call of NFS (RFC 8881, section 16.1) over TCP to the
// loopback address of the network namespace, and returns when it is answered.
func (g *Gateway) null(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, g.limits.null)
	defer cancel()
	conn, err := dialIn(g.o.NetNS, nfsPort)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // nothing is unwritten
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	return nullCall(conn, g.o.Versions.probe())
}

// nullCall speaks ONC RPC (RFC 5531): a record mark, then a call of program
// 100003, procedure 0, with no credential and no verifier.
func nullCall(conn io.ReadWriter, version uint32) error {
	const xid = 0x43570001
	call := []uint32{0x80000000 | 40, xid, 0, 2, 100003, version, 0, 0, 0, 0, 0}
	if err := binary.Write(conn, binary.BigEndian, call); err != nil {
		return fmt.Errorf("nfs null call: %w", err)
	}
	var reply [7]uint32 // mark, xid, REPLY, MSG_ACCEPTED, verifier flavour and length, SUCCESS
	if err := binary.Read(conn, binary.BigEndian, &reply); err != nil {
		return fmt.Errorf("nfs null reply: %w", err)
	}
	if want := [7]uint32{0x80000000 | 24, xid, 1, 0, 0, 0, 0}; reply != want {
		return fmt.Errorf("nfs null reply: %08x, want %08x", reply, want)
	}
	return nil
}

// dialIn begins a connection to a loopback port in a network namespace. The
// socket belongs to the namespace in which it is made, so only that happens on
// a thread inside. A connection that fails does so at the first write.
func dialIn(netns string, port int) (net.Conn, error) {
	var fd int
	err := inside(netns, func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("socket in %s: %w", netns, err)
	}
	f := os.NewFile(uintptr(fd), "nfs")
	defer func() { _ = f.Close() }() // FileConn has its own copy
	err = unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}})
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return nil, fmt.Errorf("connect in %s: %w", netns, err)
	}
	return net.FileConn(f)
}

// inside calls do on a thread that is in the network namespace. A thread that
// cannot go back is thrown away with its goroutine: it must not run others.
func inside(netns string, do func() error) error {
	done := make(chan error, 1)
	go func() {
		done <- func() error {
			runtime.LockOSThread()
			home, err := os.Open("/proc/thread-self/ns/net")
			if err != nil {
				runtime.UnlockOSThread()
				return err
			}
			defer func() { _ = home.Close() }() // read-only
			there, err := os.Open(netns)
			if err != nil {
				runtime.UnlockOSThread()
				return err
			}
			defer func() { _ = there.Close() }() // read-only
			if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
				runtime.UnlockOSThread()
				return err
			}
			err = do()
			if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
				runtime.UnlockOSThread()
			}
			return err
		}()
	}()
	return <-done
}

// inNetNS says whether a process is in the namespace that netns names now: the
// name may have been deleted and made anew since.
func inNetNS(pid int, netns string) (bool, error) {
	var its, wanted unix.Stat_t
	if err := unix.Stat(netns, &wanted); err != nil {
		return false, fmt.Errorf("network namespace %s: %w", netns, err)
	}
	if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &its); err != nil {
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
			return false, nil
		}
		return false, fmt.Errorf("network namespace of process %d: %w", pid, err)
	}
	return its.Dev == wanted.Dev && its.Ino == wanted.Ino, nil
}

// seen says whether path is one and the same directory on the host and for the
// gateway's process. Where a mount has not reached the gateway, or is not there
// at all, Ganesha would happily export the empty directory below it. Neither
// look asks a remote server: attributes that the kernel has are enough.
func seen(pid int, path string) (device, error) {
	host, err := directory(path)
	if err != nil {
		return device{}, fmt.Errorf("%s: %w: %w", short(path), err, ErrPath)
	}
	inside, err := directory(fmt.Sprintf("/proc/%d/root%s", pid, path))
	if err != nil {
		return device{}, fmt.Errorf("%s in the gateway: %w: %w", short(path), err, ErrPath)
	}
	if host != inside {
		return device{}, fmt.Errorf("%s: the gateway sees another directory there: %w", short(path), ErrPath)
	}
	return host.device, nil
}

type inode struct {
	device
	ino uint64
}

func directory(path string) (inode, error) {
	var s unix.Statx_t
	flags := unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT | unix.AT_STATX_DONT_SYNC
	if err := unix.Statx(unix.AT_FDCWD, path, flags, unix.STATX_TYPE|unix.STATX_INO, &s); err != nil {
		return inode{}, err
	}
	if s.Mode&unix.S_IFMT != unix.S_IFDIR {
		return inode{}, unix.ENOTDIR
	}
	return inode{device{s.Dev_major, s.Dev_minor}, s.Ino}, nil
}

// since is how long ago a process began, from its start in clock ticks after
// boot. The kernel gives user space 100 ticks a second on every architecture
// that Go runs on.
func since(start uint64) (time.Duration, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0, fmt.Errorf("clock: %w", err)
	}
	return time.Duration(now.Nano()) - time.Duration(start)*(time.Second/100), nil
}
