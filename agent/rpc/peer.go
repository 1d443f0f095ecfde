package rpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// A Caller is who opened the connection, as the kernel saw it then. It is the
// AuthInfo of every connection.
type Caller struct {
	credentials.CommonAuthInfo
	UID  uint32
	PID  int32    // may since belong to another process
	GIDs []uint32 // effective and supplementary
}

// AuthType implements credentials.AuthInfo.
func (Caller) AuthType() string { return "peercred" }

// caller is false where the connection had no peer credentials.
func caller(ctx context.Context) (Caller, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return Caller{}, false
	}
	c, ok := p.AuthInfo.(Caller)
	return c, ok
}

func ownUID() uint32 { return uint32(os.Geteuid()) }

// peerCredentials are transport credentials that ask the kernel who is at the
// other end of a unix socket (unix(7), SO_PEERCRED).
type peerCredentials struct{}

var errNotUnix = errors.New("not a unix socket")

func (peerCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, nil, fmt.Errorf("peer of %s: %w", conn.RemoteAddr(), errNotUnix)
	}
	c, err := callerOf(u)
	if err != nil {
		return nil, nil, fmt.Errorf("peer of %s: %w", conn.LocalAddr(), err)
	}
	return conn, c, nil
}

// ClientHandshake is never used: clients speak without credentials.
func (peerCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("peer credentials are for servers")
}

func (peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "peercred"}
}

func (p peerCredentials) Clone() credentials.TransportCredentials { return p }

func (peerCredentials) OverrideServerName(string) error { return nil }

func callerOf(u *net.UnixConn) (Caller, error) {
	raw, err := u.SyscallConn()
	if err != nil {
		return Caller{}, err
	}
	c := Caller{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}
	var opErr error
	err = raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, opErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); opErr != nil {
			opErr = os.NewSyscallError("getsockopt SO_PEERCRED", opErr)
			return
		}
		c.UID, c.PID, c.GIDs = cred.Uid, cred.Pid, []uint32{cred.Gid}
		var groups []uint32
		groups, opErr = peerGroups(fd)
		c.GIDs = append(c.GIDs, groups...)
	})
	return c, errors.Join(err, opErr)
}

// peerGroups asks for the supplementary groups (Linux 4.13): SO_PEERCRED has
// the primary one alone, and those who may use the socket are usually in its
// group by usermod -aG. x/sys has no function for it.
func peerGroups(fd uintptr) ([]uint32, error) {
	groups := make([]uint32, 64)
	for {
		size := uint32(len(groups)) * 4
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == 0:
			return groups[:size/4], nil
		case errno == unix.ERANGE && int(size/4) > len(groups):
			groups = make([]uint32, size/4)
		default:
			return nil, os.NewSyscallError("getsockopt SO_PEERGROUPS", errno)
		}
	}
}
