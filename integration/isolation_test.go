package integration

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/integration/lab"
	"github.com/causeway-project/causeway/integration/netspace"
)

// TestIsolation has two tenants with the same addresses. Neither sees the
// other's exports, and of its own gateway nothing but NFS.
func TestIsolation(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 6*time.Minute)
	red := w.bridge(ctx, t, "br-red")
	redClient := red.plug(ctx, t, "c-red", client4+"/24", client6+"/64")
	w.share(t, "of-blue")
	w.share(t, "of-red")
	n := w.started(ctx, t, lab.AgentOptions{})
	n.putNetwork(ctx, blueNetwork())
	n.putNetwork(ctx, bridged("red", red.Name, gateway4+"/24", gateway6+"/64"))
	n.putExport(ctx, exported("of-blue", "of-blue"))
	e := exported("of-red", "of-red")
	e.Network = "red"
	n.putExport(ctx, e)

	for _, tenant := range []struct {
		from *lab.Client
		own  string
	}{{n.client, "of-blue"}, {redClient, "of-red"}} {
		for _, server := range []string{gateway4, gateway6} {
			c := dial(ctx, t, tenant.from, server)
			if got, err := listing(ctx, c, "/"); err != nil || got != tenant.own {
				t.Errorf("%s sees %q, %v at %s; want %s alone", tenant.from.Name, got, err, server, tenant.own)
			}
			closeClient(ctx, t, c)
			if open := scan(ctx, t, tenant.from, server); !slices.Equal(open, []int{2049}) {
				t.Errorf("%s: ports %v of %s answer, want 2049 alone", tenant.from.Name, open, server)
			}
		}
		// Nor is there a way through the gateway.
		const beyond = "192.0.2.1"
		if out, err := tenant.from.Command(ctx, "ip", "route", "add", beyond, "via", gateway4).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if open := scan(ctx, t, tenant.from, beyond); len(open) > 0 {
			t.Errorf("%s: ports %v of %s answer", tenant.from.Name, open, beyond)
		}
		if out, err := tenant.from.Command(ctx, "ip", "route", "delete", beyond).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}

	n.deleteExport(ctx, "of-blue")
	n.deleteExport(ctx, "of-red")
	n.deleteNetwork(ctx, "blue")
	n.deleteNetwork(ctx, "red")
	n.finish(ctx)
}

// scan returns the TCP ports of an address that answer at all, be it with a
// refusal: every privileged one, and those of services that are about.
func scan(ctx context.Context, t *testing.T, from *lab.Client, address string) []int {
	t.Helper()
	ports := []int{2049, 4046, 5900, 9477, 16509, 16514, 20048, 32765, 49152}
	for p := 1; p < 1024; p++ {
		ports = append(ports, p)
	}
	var answering []int
	err := netspace.Do(from.NetNS, func() error {
		// All sockets are made on this thread, which is in the namespace; then
		// they wait together.
		type attempt struct{ fd, port int }
		var attempts []attempt
		for _, p := range ports {
			fd, err := connecting(netip.AddrPortFrom(netip.MustParseAddr(address), uint16(p)))
			if err != nil {
				return err
			}
			attempts = append(attempts, attempt{fd, p})
		}
		deadline := time.Now().Add(500 * time.Millisecond) // silence is what is looked for
		for _, a := range attempts {
			fds := []unix.PollFd{{Fd: int32(a.fd), Events: unix.POLLOUT}}
			left := max(0, time.Until(deadline).Milliseconds())
			count, err := unix.Poll(fds, int(left))
			if err != nil && !errors.Is(err, unix.EINTR) {
				return err
			}
			status, err := unix.GetsockoptInt(a.fd, unix.SOL_SOCKET, unix.SO_ERROR)
			if err != nil {
				return err
			}
			if errno := syscall.Errno(status); count > 0 && (errno == 0 || errno == unix.ECONNREFUSED) {
				answering = append(answering, a.port)
			}
			if err := unix.Close(a.fd); err != nil {
				return err
			}
		}
		return ctx.Err()
	})
	if err != nil {
		t.Fatalf("scan %s from %s: %v", address, from.Name, err)
	}
	return answering
}

// connecting is a socket that has begun to connect.
func connecting(to netip.AddrPort) (int, error) {
	family, address := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()})
	if to.Addr().Is4() {
		family, address = unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	if err := unix.Connect(fd, address); err != nil && !errors.Is(err, unix.EINPROGRESS) && !errors.Is(err, unix.ECONNREFUSED) {
		return -1, fmt.Errorf("connect %s: %w", to, err)
	}
	return fd, nil
}
