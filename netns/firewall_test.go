package netns

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/integration/wait"
	"github.com/causeway-project/causeway/netns/plug"
)

// silence is how long a test waits for what must not come; answer is how long
// for what must, on a machine that has much else to do.
const (
	silence = 250 * time.Millisecond
	answer  = wait.Long
)

// dial connects from a named namespace.
func dial(t *testing.T, ns, network, addr string, wait time.Duration) (c net.Conn, err error) {
	t.Helper()
	at(t, ns, func() error {
		d := net.Dialer{Timeout: wait}
		c, err = d.DialContext(t.Context(), network, addr)
		return nil
	})
	if err == nil {
		t.Cleanup(func() { c.Close() })
	}
	return c, err
}

func mustDial(t *testing.T, ns, addr string) net.Conn {
	t.Helper()
	c, err := dial(t, ns, "tcp", addr, answer)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetDeadline(time.Now().Add(answer)); err != nil {
		t.Fatal(err)
	}
	return c
}

// listen greets every TCP client with a word.
func listen(t *testing.T, ns, addr, word string) net.Listener {
	t.Helper()
	var l net.Listener
	at(t, ns, func() (err error) {
		l, err = net.Listen("tcp", addr)
		return err
	})
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.WriteString(c, word)
				_, _ = io.Copy(io.Discard, c)
			}()
		}
	}()
	return l
}

func listenUDP(t *testing.T, ns, addr string) net.PacketConn {
	t.Helper()
	var c net.PacketConn
	at(t, ns, func() (err error) {
		c, err = net.ListenPacket("udp", addr)
		return err
	})
	t.Cleanup(func() { c.Close() })
	return c
}

func hears(t *testing.T, c net.Conn, word string) {
	t.Helper()
	b := make([]byte, len(word))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != word {
		t.Errorf("read %q, %v; want %q", b, err, word)
	}
}

// noAnswer fails the test unless err says that nothing came back at all.
func noAnswer(t *testing.T, what string, err error) {
	t.Helper()
	var nerr net.Error
	if err == nil || !errors.As(err, &nerr) || !nerr.Timeout() {
		t.Errorf("%s: %v, want silence", what, err)
	}
}

// both families of the blue network and of a tenant's machine in it.
var families = []struct{ name, gateway, tenant string }{
	{"v4", "10.77.0.2", "10.77.0.5"},
	{"v6", "fd77::2", "fd77::5"},
}

func blueWithTenant(t *testing.T) (*Host, Network) {
	t.Helper()
	newBridge(t, "br-blue")
	newTenant(t, "ten", "br-blue", "10.77.0.5/24", "fd77::5/64")
	h, n := newHost(), blue()
	ensure(t, h, n)
	return h, n
}

func TestFirewallLetsTenantsReachNFSOnly(t *testing.T) {
	blueWithTenant(t)
	for _, p := range []string{"2049", "111", "22", "20049"} {
		listen(t, "cw-blue", "[::]:"+p, "nfs")
	}
	listen(t, "cw-blue", "127.0.0.1:3000", "loop")
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			hears(t, mustDial(t, "ten", net.JoinHostPort(f.gateway, "2049")), "nfs")
			for _, p := range []string{"111", "22", "20049", "1"} {
				_, err := dial(t, "ten", "tcp", net.JoinHostPort(f.gateway, p), silence)
				noAnswer(t, "port "+p, err)
			}
			// From the source port of NFS too.
			at(t, "ten", func() error {
				d := net.Dialer{Timeout: silence, LocalAddr: &net.TCPAddr{IP: net.ParseIP(f.tenant), Port: 2049}}
				_, err := d.DialContext(t.Context(), "tcp", net.JoinHostPort(f.gateway, "111"))
				noAnswer(t, "port 111 from port 2049", err)
				return nil
			})
			in(t, "ten", "ping -q -c 1 -W 5 "+f.gateway)
		})
	}
	in(t, "ten", "ping -q -c 1 -W 5 -s 4000 10.77.0.2") // in fragments
	if err := exec.Command("ip", "netns", "exec", "ten", "ping", "-c", "1", "-W", "0.3", "-s", "4000", "fd77::2").Run(); err == nil {
		t.Error("fragments of IPv6 pass")
	}
	// Inside, a server may call itself by any address.
	for _, a := range []string{"127.0.0.1:3000", "127.0.0.1:2049", "[::1]:111", "10.77.0.2:22", "[fd77::2]:22"} {
		mustDial(t, "cw-blue", a)
	}
	if _, err := dial(t, "cw-blue", "tcp", "127.0.0.1:9", answer); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("closed port on lo: %v, want a refusal at once", err) // servers try port 111
	}
}

func TestFirewallDropsUDP(t *testing.T) {
	blueWithTenant(t)
	for _, f := range families {
		for _, p := range []string{"2049", "111"} {
			t.Run(f.name+" "+p, func(t *testing.T) {
				server := listenUDP(t, "cw-blue", net.JoinHostPort(f.gateway, p))
				c, err := dial(t, "ten", "udp", net.JoinHostPort(f.gateway, p), answer)
				if err != nil {
					t.Fatal(err)
				}
				for _, size := range []int{100, 4000} { // whole, and in fragments
					if _, err := c.Write(make([]byte, size)); err != nil {
						t.Fatal(err)
					}
				}
				in(t, "ten", "ping -q -c 1 -W 5 "+f.gateway) // by now they have arrived or been dropped
				_ = server.SetReadDeadline(time.Now().Add(time.Millisecond))
				if k, _, err := server.ReadFrom(make([]byte, 8000)); err == nil {
					t.Errorf("%d bytes arrived", k)
				}
				// And no ICMP error tells of a closed port.
				closed, err := dial(t, "ten", "udp", net.JoinHostPort(f.gateway, "9"), answer)
				if err != nil {
					t.Fatal(err)
				}
				_, _ = closed.Write([]byte("x"))
				_ = closed.SetReadDeadline(time.Now().Add(silence))
				_, err = closed.Read(make([]byte, 1))
				noAnswer(t, "closed udp port", err)
			})
		}
	}
}

// A gateway that was taken over cannot reach into the tenant's network.
func TestFirewallKeepsGatewayIn(t *testing.T) {
	blueWithTenant(t)
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			listen(t, "ten", net.JoinHostPort(f.tenant, "80"), "web")
			server := listenUDP(t, "ten", net.JoinHostPort(f.tenant, "53"))
			if _, err := dial(t, "cw-blue", "tcp", net.JoinHostPort(f.tenant, "80"), silence); err == nil {
				t.Error("it connected")
			}
			at(t, "cw-blue", func() error {
				d := net.Dialer{Timeout: silence, LocalAddr: &net.TCPAddr{IP: net.ParseIP(f.gateway), Port: 2049}}
				if _, err := d.DialContext(t.Context(), "tcp", net.JoinHostPort(f.tenant, "80")); err == nil {
					t.Error("it connected from port 2049")
				}
				u := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(f.gateway), Port: 2049}}
				c, err := u.DialContext(t.Context(), "udp", net.JoinHostPort(f.tenant, "53"))
				if err != nil {
					return err
				}
				defer c.Close()
				_, _ = c.Write([]byte("x"))
				return nil
			})
			in(t, "ten", "ping -q -c 1 -W 5 "+f.gateway)
			_ = server.SetReadDeadline(time.Now().Add(time.Millisecond))
			if _, _, err := server.ReadFrom(make([]byte, 8)); err == nil {
				t.Error("a datagram left")
			}
		})
	}
}

// A tenant that routes through the gateway gets nowhere: not to the host, and
// not to another network.
func TestNothingIsForwarded(t *testing.T) {
	blueWithTenant(t)
	newBridge(t, "br-green")
	h, n := newHost(), blue()
	n.Namespace, n.HostLink, n.Plug = "cw-green", "cwgreen", plug.Bridge{Name: "br-green"}
	n.Addresses, n.Routes = prefixes("10.99.0.2/24", "fd99::2/64"), nil
	ensure(t, h, n)
	ip(t, "addr add 10.98.0.1/24 dev br-green")
	listen(t, "cw-green", "[::]:2049", "green")
	l, err := net.Listen("tcp", "[::]:2049") // of the host
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	in(t, "ten", "ip route add default via 10.77.0.2")
	in(t, "ten", "ip -6 route add default via fd77::2")
	for _, a := range []string{"10.99.0.2", "fd99::2", "10.98.0.1"} {
		_, err := dial(t, "ten", "tcp", net.JoinHostPort(a, "2049"), silence)
		noAnswer(t, a, err)
	}
}

func TestSameAddressesOnTwoBridges(t *testing.T) {
	h := newHost()
	for _, colour := range []string{"red", "gold"} {
		newBridge(t, "br-"+colour)
		newTenant(t, "t-"+colour, "br-"+colour, "10.77.0.5/24", "fd77::5/64")
		n := blue()
		n.Namespace, n.HostLink, n.Plug = "cw-"+colour, "cw"+colour, plug.Bridge{Name: "br-" + colour}
		ensure(t, h, n) // with the same MAC too
		listen(t, n.Namespace, "[::]:2049", colour)
	}
	for _, colour := range []string{"red", "gold"} {
		for _, f := range families {
			hears(t, mustDial(t, "t-"+colour, net.JoinHostPort(f.gateway, "2049")), colour)
		}
	}
}

// Fragments of a first packet that hides its ports in the second one.
func TestTinyFragmentsReachOnlyNFS(t *testing.T) {
	blueWithTenant(t)
	server := listenUDP(t, "cw-blue", "10.77.0.2:111")
	at(t, "ten", func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		to := &unix.SockaddrInet4{Addr: [4]byte{10, 77, 0, 2}}
		udp := append([]byte{0x13, 0x88, 0, 111, 0, 24, 0, 0}, "sixteen bytes ok"...)
		for i, part := range [][]byte{udp[:8], udp[8:]} {
			frag := []byte{0x20, 0} // more fragments
			if i == 1 {
				frag = []byte{0, 1} // at 8 bytes
			}
			head := append([]byte{0x45, 0, 0, 0, 0x12, 0x34}, frag...)
			head = append(head, 64, unix.IPPROTO_UDP, 0, 0, 10, 77, 0, 5, 10, 77, 0, 2)
			if err := unix.Sendto(fd, append(head, part...), 0, to); err != nil {
				return os.NewSyscallError("sendto", err)
			}
		}
		return nil
	})
	in(t, "ten", "ping -q -c 1 -W 5 10.77.0.2")
	_ = server.SetReadDeadline(time.Now().Add(time.Millisecond))
	if _, _, err := server.ReadFrom(make([]byte, 64)); err == nil {
		t.Error("a fragmented datagram arrived")
	}
}

func TestRouterAdvertisementsAreIgnored(t *testing.T) {
	h, n := blueWithTenant(t)
	// A router advertisement of fd66::/64: RFC 4861, 4.2 and 4.6.2.
	ra := []byte{134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0,
		3, 4, 64, 0xc0, 0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0, 0, 0,
		0xfd, 0x66, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	at(t, "ten", func() error {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255); err != nil {
			return err
		}
		l, err := net.InterfaceByName("t0")
		if err != nil {
			return err
		}
		to := &unix.SockaddrInet6{ZoneId: uint32(l.Index)}
		copy(to.Addr[:], net.ParseIP("ff02::1"))
		return unix.Sendto(fd, ra, 0, to)
	})
	in(t, "ten", "ping -q -c 1 -W 5 fd77::2")
	healthy(t, h, n) // no foreign address, no foreign route
}

// A network that asked for more ports gets those, and the door falls shut when
// it no longer does.
func TestFirewallOpensFurtherPorts(t *testing.T) {
	h, n := blueWithTenant(t)
	n.TCPPorts, n.UDPPorts = []uint16{111, 20048}, []uint16{111, 32766}
	ensure(t, h, n)
	healthy(t, h, n)
	for _, p := range []string{"2049", "111", "20048", "22"} {
		listen(t, "cw-blue", "[::]:"+p, "nfs")
	}
	// Messages of RFC 5531 as far as the procedure: look-ups and a list.
	call := func(procedure byte) []byte {
		return []byte{1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1, 0x86, 0xa0, 0, 0, 0, 2, 0, 0, 0, procedure, 0, 0, 0, 0}
	}
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			for _, p := range []string{"2049", "111", "20048"} {
				hears(t, mustDial(t, "ten", net.JoinHostPort(f.gateway, p)), "nfs")
			}
			_, err := dial(t, "ten", "tcp", net.JoinHostPort(f.gateway, "22"), silence)
			noAnswer(t, "port 22", err)
			rpcbind := listenUDP(t, "cw-blue", net.JoinHostPort(f.gateway, "111"))
			c, err := dial(t, "ten", "udp", net.JoinHostPort(f.gateway, "111"), answer)
			if err != nil {
				t.Fatal(err)
			}
			for _, procedure := range []byte{4, 5, 1, 3} {
				if _, err := c.Write(call(procedure)); err != nil {
					t.Fatal(err)
				}
			}
			b := make([]byte, 100)
			_ = rpcbind.SetReadDeadline(time.Now().Add(answer))
			k, from, err := rpcbind.ReadFrom(b)
			if err != nil || b[23] != 3 {
				t.Fatalf("read %x, %v; want the look-up alone", b[:k], err)
			}
			if _, err := rpcbind.WriteTo([]byte("yes"), from); err != nil {
				t.Fatal(err)
			}
			_ = c.SetReadDeadline(time.Now().Add(answer))
			if k, err := c.Read(b); err != nil || string(b[:k]) != "yes" {
				t.Errorf("the answer is %q, %v", b[:k], err)
			}
			// What is said first leaves by an open port, and by no other.
			server := listenUDP(t, "ten", net.JoinHostPort(f.tenant, "53"))
			for _, from := range []int{32767, 32766} {
				at(t, "cw-blue", func() error {
					u := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(f.gateway), Port: from}}
					c, err := u.DialContext(t.Context(), "udp", net.JoinHostPort(f.tenant, "53"))
					if err != nil {
						return err
					}
					defer c.Close()
					_, _ = c.Write([]byte{byte(from)})
					return nil
				})
			}
			_ = server.SetReadDeadline(time.Now().Add(answer))
			if k, _, err := server.ReadFrom(b); err != nil || k != 1 || b[0] != byte(32766&0xff) {
				t.Errorf("read %x, %v; want the datagram from the open port alone", b[:k], err)
			}
			if _, err := dial(t, "cw-blue", "tcp", net.JoinHostPort(f.tenant, "80"), silence); err == nil {
				t.Error("it connected")
			}
		})
	}
	n.TCPPorts, n.UDPPorts = nil, nil
	ensure(t, h, n)
	_, err := dial(t, "ten", "tcp", "10.77.0.2:20048", silence)
	noAnswer(t, "port 20048 when the door is shut", err)
}
