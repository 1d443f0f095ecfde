package netns

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/integration/wait"
	"github.com/causeway-project/causeway/netns/namespace"
)

// While a gateway starts again, its port is closed. A refusal would make a
// Linux client wait 3 s; unanswered, it sends its SYN again after 1 s.
func TestDeadPortIsSilent(t *testing.T) {
	blueWithTenant(t)
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			addr := net.JoinHostPort(f.gateway, "2049")
			_, err := dial(t, "ten", "tcp", addr, silence)
			noAnswer(t, "closed port", err)

			// A SYN that waits is served by the new process.
			type result struct {
				c   net.Conn
				err error
			}
			done := make(chan result, 1)
			go func() {
				c, err := dial(t, "ten", "tcp", addr, answer)
				done <- result{c, err}
			}()
			l := listen(t, "cw-blue", "[::]:2049", "back")
			r := <-done
			if r.err != nil {
				t.Fatal(r.err)
			}
			_ = r.c.SetDeadline(time.Now().Add(answer))
			hears(t, r.c, "back")
			l.Close()
		})
	}
}

// serve is a server that neither reads nor closes.
func serve() error {
	l, err := net.Listen("tcp", "[::]:2049")
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			_, _ = io.WriteString(c, "hello")
			select {}
		}()
	}
}

// held is less than the kernel waits before it repeats a segment. By then
// another process listens.
const held = 150 * time.Millisecond

// The silence of a dead port must not swallow what tells a client that its
// connection has ended; it comes when another process may listen. A reset that
// the kernel does not repeat comes at once.
func TestKilledServersClientsLearn(t *testing.T) {
	blueWithTenant(t)
	for _, f := range families {
		for _, unread := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s unread=%t", f.name, unread), func(t *testing.T) {
				server := child(t, "serve", "nsenter", "--net="+namespace.Path("cw-blue"))
				out, err := server.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := server.Start(); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait() })
				if _, err := io.ReadFull(out, make([]byte, len("ready"))); err != nil {
					t.Fatal(err)
				}
				c := mustDial(t, "ten", net.JoinHostPort(f.gateway, "2049"))
				hears(t, c, "hello")
				if unread { // then the kernel sends RST instead of FIN
					if _, err := c.Write([]byte("never read")); err != nil {
						t.Fatal(err)
					}
					in(t, "ten", "ping -q -c 1 -W 5 "+f.gateway)
				}
				began := time.Now()
				if err := server.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				_, err = c.Read(make([]byte, 1))
				switch {
				case unread && !errors.Is(err, syscall.ECONNRESET):
					t.Errorf("read: %v, want a reset", err)
				case !unread && err != io.EOF:
					t.Errorf("read: %v, want the end", err)
				case !unread && time.Since(began) < held:
					t.Errorf("the end came after %s", time.Since(began))
				}
			})
		}
	}
}

// A client whose connection was reset with data unread does not meet the
// listener of a process that is about to close it too: its first SYN is lost,
// the next one, a second later, is not.
func TestResetClientsComeLater(t *testing.T) {
	blueWithTenant(t)
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			var l net.Listener
			at(t, "cw-blue", func() (err error) {
				l, err = net.Listen("tcp", "[::]:2049")
				return err
			})
			defer l.Close()
			addr := net.JoinHostPort(f.gateway, "2049")
			for range 20 { // on a busy machine the SYN may come too late to be lost
				c := mustDial(t, "ten", addr)
				s, err := l.Accept()
				if err != nil {
					t.Fatal(err)
				}
				if err := s.(*net.TCPConn).SetLinger(0); err != nil { // reset it
					t.Fatal(err)
				}
				s.Close()
				if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
					t.Fatalf("read: %v, want a reset", err)
				}
				began := time.Now()
				again := mustDial(t, "ten", addr)
				took := time.Since(began)
				again.Close()
				if s, err = l.Accept(); err != nil {
					t.Fatal(err)
				}
				s.Close()
				if took > 900*time.Millisecond {
					return
				}
			}
			t.Error("every SYN was answered at once")
		})
	}
}

// A segment of a connection that the new server never had is answered with a
// reset without ACK (RFC 9293, 3.10.7.1), with and without a listener. Only that
// which answers the repeated segment passes.
func TestForgottenConnectionIsReset(t *testing.T) {
	blueWithTenant(t)
	for _, f := range families {
		for _, listening := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s listening=%t", f.name, listening), func(t *testing.T) {
				var l net.Listener
				at(t, "cw-blue", func() (err error) {
					l, err = net.Listen("tcp", "[::]:2049")
					return err
				})
				defer l.Close()
				c := mustDial(t, "ten", net.JoinHostPort(f.gateway, "2049"))
				s, err := l.Accept()
				if err != nil {
					t.Fatal(err)
				}
				// A socket in repair mode is closed without a packet: tcp(7).
				raw, err := s.(*net.TCPConn).SyscallConn()
				if err != nil {
					t.Fatal(err)
				}
				if err := raw.Control(func(fd uintptr) {
					if err := unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_REPAIR, 1); err != nil {
						t.Error(err)
					}
				}); err != nil {
					t.Fatal(err)
				}
				s.Close()
				if !listening {
					l.Close()
				}
				began := time.Now()
				for range 3 { // each is answered
					if _, err := c.Write([]byte("still there?")); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("read: %v, want a reset", err)
				}
				if took := time.Since(began); took < held {
					t.Errorf("the reset came after %s", took)
				}
			})
		}
	}
}

// Repairs must not cost a client its connection.
func TestRepairKeepsConnections(t *testing.T) {
	h, n := blueWithTenant(t)
	newBridge(t, "br-other")
	listen(t, "cw-blue", "[::]:2049", "nfs")
	var conns []net.Conn
	for _, f := range families {
		c := mustDial(t, "ten", net.JoinHostPort(f.gateway, "2049"))
		hears(t, c, "nfs")
		conns = append(conns, c)
	}
	for _, words := range []string{
		"link set cwblue master br-other",
		"link set cwblue nomaster",
		"link set cwblue down",
		"netns exec cw-blue nft flush ruleset",
		"netns exec cw-blue nft insert rule inet causeway input drop",
		"netns exec cw-blue ip addr add 10.77.0.9/24 dev eth0",
		"netns exec cw-blue ip route del default",
		"link set cwblue alias x",
	} {
		ip(t, words)
		if err := h.Ensure(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		healthy(t, h, n)
		for i, c := range conns {
			_ = c.SetDeadline(time.Now().Add(answer))
			if _, err := c.Write(bytes.Repeat([]byte("x"), 100)); err != nil {
				t.Fatalf("%s: connection %d: %v", words, i, err)
			}
			acknowledged(t, c)
		}
	}
}

// acknowledged returns when the peer's kernel has all that was written.
func acknowledged(t *testing.T, c net.Conn) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	wait.Until(t, "all is acknowledged", func() bool {
		var left int
		var ioctlErr error
		err := raw.Control(func(fd uintptr) { left, ioctlErr = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
		if err := errors.Join(err, ioctlErr); err != nil {
			t.Fatal(err)
		}
		return left == 0
	})
}
