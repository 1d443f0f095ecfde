package integration

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/causeway-project/causeway/integration/attack"
	"github.com/causeway-project/causeway/integration/lab"
	"github.com/causeway-project/causeway/integration/netspace"
)

// A flooded world has a hostile tenant, red, beside blue.
type flooded struct {
	*node
	villain *lab.Client
	honest  *lab.Client // of red
	wire    *attack.Wire
	mac     net.HardwareAddr // of red's gateway
	leave   func()
}

func beside(ctx context.Context, t *testing.T) flooded {
	t.Helper()
	w := theWorld(t)
	red := w.bridge(ctx, t, "br-red")
	f := flooded{villain: red.plug(ctx, t, "c-red", client4+"/16", client6+"/64"), honest: red.plug(ctx, t, "c-red2", "10.77.0.8/16", "fd77::8/64")}
	w.share(t, "of-blue")
	w.share(t, "of-red")
	f.node = w.started(ctx, t, lab.AgentOptions{})
	f.putNetwork(ctx, blueNetwork())
	f.putNetwork(ctx, bridged("red", red.Name, gateway4+"/16", gateway6+"/64"))
	f.putExport(ctx, exported("of-blue", "of-blue"))
	e := exported("of-red", "of-red")
	e.Network = "red"
	f.putExport(ctx, e)
	var err error
	f.wire, err = attack.Open(f.villain.NetNS, "eth0")
	f.must(err)
	t.Cleanup(func() { f.wire.Close() })
	f.mac, err = net.ParseMAC(strings.Fields(f.inRed(ctx, "ip", "-brief", "link", "show", "eth0"))[2])
	f.must(err)
	f.leave = func() {
		for _, id := range []string{"of-blue", "of-red"} {
			f.deleteExport(ctx, id)
		}
		for _, id := range []string{"blue", "red"} {
			f.deleteNetwork(ctx, id)
		}
		f.finish(ctx)
	}
	return f
}

func (f flooded) inRed(ctx context.Context, argv ...string) string {
	f.t.Helper()
	gateway := lab.Client{NetNS: "/run/netns/cw-red"}
	out, err := gateway.Command(ctx, argv...).CombinedOutput()
	if err != nil {
		f.t.Fatalf("%q: %v: %s", argv, err, out)
	}
	return string(out)
}

// invented is the i-th address that nobody has.
func invented(like string, i int) netip.Addr {
	if like == gateway4 {
		return netip.AddrFrom4([4]byte{10, 77, byte(1 + i/250), byte(1 + i%250)})
	}
	b := netip.MustParseAddr("fd77::1:0:0").As16()
	binary.BigEndian.PutUint32(b[12:], uint32(i))
	return netip.AddrFrom16(b)
}

// TestInventedNeighbours speaks from addresses that nobody has, for a
// neighbour of which there is room on the whole host for some thousand. What
// the gateway comes to know of them is bounded, as is shown without the bound.
func TestInventedNeighbours(t *testing.T) {
	ctx := limited(t, 6*time.Minute)
	f := beside(ctx, t)
	const (
		room = 2 * 256 // as package netns has it where the kernel's table is as small as it comes
		many = 600
	)
	gateways := map[string]netip.Addr{"-4": netip.MustParseAddr(gateway4), "-6": netip.MustParseAddr(gateway6)}
	ways := []struct {
		name, family string
		packet       func(from, to netip.Addr) []byte
	}{
		{"ARP", "-4", func(from, to netip.Addr) []byte { return attack.ARP(f.wire.MAC, from, to) }},
		{"SYN", "-4", func(from, to netip.Addr) []byte {
			return attack.TCP(netip.AddrPortFrom(from, 40000), netip.AddrPortFrom(to, 2049), attack.SYN, nil)
		}},
		{"segment", "-4", func(from, to netip.Addr) []byte {
			return attack.TCP(netip.AddrPortFrom(from, 40000), netip.AddrPortFrom(to, 2049), attack.ACK, nil)
		}},
		{"echo", "-4", func(from, to netip.Addr) []byte { return attack.ICMP(from, to, 8, make([]byte, 8)) }},
		{"solicitation", "-6", func(from, to netip.Addr) []byte {
			return attack.ICMP(from, to, 135, attack.Solicitation(to, f.wire.MAC))
		}},
		{"SYN, IPv6", "-6", func(from, to netip.Addr) []byte {
			return attack.TCP(netip.AddrPortFrom(from, 40000), netip.AddrPortFrom(to, 2049), attack.SYN, nil)
		}},
		{"segment, IPv6", "-6", func(from, to netip.Addr) []byte {
			return attack.TCP(netip.AddrPortFrom(from, 40000), netip.AddrPortFrom(to, 2049), attack.ACK, nil)
		}},
		{"echo, IPv6", "-6", func(from, to netip.Addr) []byte { return attack.ICMP(from, to, 128, make([]byte, 8)) }},
	}
	speak := func(way, first, count int) (known int) {
		t.Helper()
		to := gateways[ways[way].family]
		for i := range count {
			f.must(f.wire.Send(f.mac, ways[way].packet(invented(to.String(), first+i), to)))
		}
		if _, err := f.wire.Sync(netip.MustParseAddr(client4), gateways["-4"], f.mac); err != nil {
			t.Fatal(err)
		}
		return strings.Count(f.inRed(ctx, "ip", ways[way].family, "neigh", "show", "nud", "all"), "dev eth0")
	}
	for i, way := range ways {
		f.inRed(ctx, "ip", way.family, "neigh", "flush", "dev", "eth0", "nud", "all")
		if known := speak(i, i*many, many); known > room+20 { // and those of multicast
			t.Errorf("%s: the gateway knows %d machines after %d were invented, want %d at most", way.name, known, many, room)
		}
	}
	// Others still come to know whom they never met.
	fresh := tenantBridge{f.blue}.plug(ctx, t, "c-new", "10.77.0.66/24", "fd77::66/64")
	for _, server := range []string{gateway4, gateway6} {
		c := dial(ctx, t, fresh, server)
		if got, err := listing(ctx, c, "/"); err != nil || got != "of-blue" {
			t.Errorf("a new machine of blue's has %q, %v from %s", got, err, server)
		}
		closeClient(ctx, t, c)
	}
	// Without the bound, each way makes more of them: not many, for the table is everybody's.
	f.kill()
	f.inRed(ctx, "nft", "delete", "table", "inet", "causeway")
	f.inRed(ctx, "nft", "delete", "table", "arp", "causeway")
	for i, way := range ways {
		f.inRed(ctx, "ip", way.family, "neigh", "flush", "dev", "eth0", "nud", "all")
		if known := speak(i, (len(ways)+i)*many, 300); known < 280 {
			t.Errorf("%s: the gateway knows %d machines after 300 were invented and nothing kept it: this proves nothing", way.name, known)
		}
	}
	f.inRed(ctx, "ip", "neigh", "flush", "dev", "eth0", "nud", "all")
	f.inRed(ctx, "ip", "-6", "neigh", "flush", "dev", "eth0", "nud", "all")
	f.start(ctx)
	f.leave()
}

// TestFloods lets a tenant do its worst to its own gateway. Another tenant's
// operations go on, the gateway's memory is bounded, and when it is over the
// tenant's honest machines have their share again.
func TestFloods(t *testing.T) {
	ctx := limited(t, 6*time.Minute)
	f := beside(ctx, t)
	blue := dial(ctx, t, f.client, gateway4)
	for _, flood := range []struct {
		name string
		run  func(ctx context.Context) error
	}{
		{"half-open sessions", func(ctx context.Context) error {
			return f.packets(ctx, func(i int) []byte {
				from := netip.AddrPortFrom(invented(gateway4, i%60000), uint16(1024+i%60000))
				return attack.TCP(from, at(gateway4, 2049), attack.SYN, nil)
			})
		}},
		{"datagrams", func(ctx context.Context) error {
			return f.packets(ctx, func(i int) []byte {
				return attack.UDP(at(client4, 1024+i%60000), at(gateway4, 2049), make([]byte, 1400))
			})
		}},
		{"echo requests", func(ctx context.Context) error {
			return f.packets(ctx, func(i int) []byte {
				return attack.ICMP(netip.MustParseAddr(client4), netip.MustParseAddr(gateway4), 8, make([]byte, 1400))
			})
		}},
		{"connections", func(ctx context.Context) error { return f.connections(ctx, 1500, nil) }},
		{"halves of a record's header", func(ctx context.Context) error { return f.connections(ctx, 100, []byte{0x80}) }},
		{"null calls", func(ctx context.Context) error { return f.connections(ctx, 8, null()) }},
		{"large fragments", func(ctx context.Context) error {
			return f.connections(ctx, 8, append([]byte{0x7f, 0xff, 0xff, 0xff}, make([]byte, 64<<10)...))
		}},
	} {
		t.Run(flood.name, func(t *testing.T) {
			flooding, stop := context.WithTimeout(ctx, 1500*time.Millisecond)
			defer stop()
			ended := make(chan error, 1)
			go func() { ended <- flood.run(flooding) }()
			var err error
			operations, most := 0, 0
			for running := true; running; operations++ {
				if data, err := blue.ReadFile(ctx, "/of-blue/hello"); err != nil || string(data) != "from of-blue\n" {
					t.Fatalf("blue reads %q, %v", data, err)
				}
				most = max(most, f.resident())
				select {
				case err = <-ended:
					running = false
				default:
				}
			}
			if err != nil {
				t.Errorf("flood: %v", err)
			}
			if most > 600<<20 {
				t.Errorf("the gateway took %d MiB", most>>20)
			}
			begin := time.Now()
			until(ctx, t, "red's honest machine is not served again", func() (bool, error) {
				c, err := tryDial(ctx, f.honest, gateway4, fmt.Sprint(t.Name(), operations))
				if err != nil {
					return false, err
				}
				defer c.Close(ctx)
				got, err := listing(ctx, c, "/")
				return got == "of-red", err
			})
			t.Logf("%d operations beside it; %d MiB at most; served again after %s", operations, most>>20, time.Since(begin).Round(time.Millisecond))
		})
	}
	closeClient(ctx, t, blue)
	f.leave()
}

// packets sends as fast as it can until ctx ends.
func (f flooded) packets(ctx context.Context, packet func(i int) []byte) error {
	for i := 0; ctx.Err() == nil; i++ {
		if err := f.wire.Send(f.mac, packet(i)); err != nil {
			return err
		}
	}
	return nil
}

// connections opens that many at a time, says the same on each again and
// again, and reads nothing but what makes room, until ctx ends.
func (f flooded) connections(ctx context.Context, count int, words []byte) error {
	var each sync.WaitGroup
	for range min(count, 100) {
		each.Go(func() {
			var open []net.Conn
			defer func() {
				for _, c := range open {
					c.Close()
				}
			}()
			for ctx.Err() == nil {
				if len(open) < max(1, count/100) {
					c, err := connectFrom(ctx, f.villain)
					if err != nil {
						continue
					}
					open = append(open, c)
					stop := context.AfterFunc(ctx, func() { c.Close() })
					defer stop()
				}
				for i, c := range open {
					if len(words) == 1 { // once is what it takes
						_, _ = c.Write(words)
						<-ctx.Done()
					} else if len(words) > 1 {
						_ = c.SetDeadline(time.Now().Add(50 * time.Millisecond))
						_, err := c.Write(words)
						_, _ = c.Read(make([]byte, 64<<10))
						if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
							c.Close()
							open = slices.Delete(open, i, i+1)
							break
						}
					}
				}
				if len(words) == 0 && len(open) >= max(1, count/100) {
					<-ctx.Done()
				}
			}
		})
	}
	each.Wait()
	return nil
}

func connectFrom(ctx context.Context, from *lab.Client) (c net.Conn, err error) {
	err = netspace.Do(from.NetNS, func() (err error) {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		var d net.Dialer
		c, err = d.DialContext(ctx, "tcp", net.JoinHostPort(gateway4, "2049"))
		return err
	})
	return c, err
}

// null is a batch of calls of NFS's procedure 0 (RFC 5531, 9 and 11).
func null() []byte {
	one := []byte{0x80, 0, 0, 40, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1, 0x86, 0xa3, 0, 0, 0, 4, 0, 0, 0, 0,
		0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	return slices.Repeat(one, 200)
}

// resident memory of red's gateway, in bytes; 0 while there is none.
func (f flooded) resident() int {
	for _, pid := range pidsBelow(f.RunDir) {
		cmdline, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
		status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
		if err != nil || !strings.Contains(string(cmdline), "gateways/red") || programOf(pid) != "ganesha.nfsd" {
			continue
		}
		for line := range strings.Lines(string(status)) {
			if words := strings.Fields(line); len(words) == 3 && words[0] == "VmRSS:" {
				kib, _ := strconv.Atoi(words[1])
				return kib << 10
			}
		}
	}
	return 0
}
