package integration

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/integration/attack"
	"github.com/causeway-project/causeway/integration/lab"
	"github.com/causeway-project/causeway/integration/wait"
)

// An assault is what a hostile machine sends, and what nobody may see.
type assault struct {
	name    string
	packets iter.Seq[[]byte]

	through bool // meant for somebody behind the gateway: each of two guards must suffice
	heard   bool // may pass the firewall, and must not be answered
	kernel  bool // no setting makes Linux take it
}

const (
	onHost = "192.0.2.10"   // an address of the host, and where its storage might be
	behind = "198.51.100.9" // behind a router that the network has a route to
	behin6 = "fd98::9"
)

// TestAttacks sends from a tenant's machine all that the gateway must not take:
// to its ports and protocols, through it, from and to addresses that are not
// to be. Then somebody opens one guard after the other, until all is seen: no
// row passes because nothing would notice.
func TestAttacks(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 6*time.Minute)
	red := w.bridge(ctx, t, "br-red")
	villain := red.plug(ctx, t, "c-red", client4+"/24", client6+"/64")
	w.share(t, "of-blue")
	w.share(t, "of-red")
	n := w.started(ctx, t, lab.AgentOptions{})
	n.run(ctx, "ip", "address", "add", onHost+"/32", "dev", "lo")
	n.putNetwork(ctx, blueNetwork())
	redNetwork := bridged("red", red.Name, gateway4+"/24", gateway6+"/64")
	redNetwork.Routes = []*nodev1.Route{{Destination: "198.51.100.0/24", Via: client4}, {Destination: "fd98::/64", Via: client6}}
	n.putNetwork(ctx, redNetwork)
	n.putExport(ctx, exported("of-blue", "of-blue"))
	e := exported("of-red", "of-red")
	e.Network = "red"
	n.putExport(ctx, e)
	n.kill() // nobody repairs what is opened here

	wire, err := attack.Open(villain.NetNS, "eth0")
	n.must(err)
	defer wire.Close()
	gateway := lab.Client{NetNS: "/run/netns/cw-red"}
	inRed := func(argv ...string) string {
		t.Helper()
		out, err := gateway.Command(ctx, argv...).CombinedOutput()
		if err != nil {
			t.Fatalf("%q: %v: %s", argv, err, out)
		}
		return string(out)
	}
	mac, err := net.ParseMAC(strings.Fields(inRed("ip", "-brief", "link", "show", "eth0"))[2])
	n.must(err)
	b := battle{t: t, wire: wire, mac: mac, red: witness(ctx, t, gateway.Command, `
		chain in { type filter hook input priority 300; ip dscp 42 counter name seen; ip6 dscp 42 counter name seen; }
		chain on { type filter hook forward priority 300; ip dscp 42 counter name seen; ip6 dscp 42 counter name seen; }`)}
	const before = `chain in { type filter hook prerouting priority -300; %s ip dscp 42 counter name seen; %s ip6 dscp 42 counter name seen; }`
	blue := lab.Client{NetNS: "/run/netns/cw-blue"}
	elsewhere := map[string]func() int{
		// What the bridge gets is for the bridge's owner to refuse: it did not come by the gateway.
		"the host":      witness(ctx, t, onThisHost, fmt.Sprintf(before, `iifname != "br-red"`, `iifname != "br-red"`)),
		"blue":          witness(ctx, t, blue.Command, fmt.Sprintf(before, "", "")),
		"blue's client": witness(ctx, t, n.client.Command, fmt.Sprintf(before, "", "")),
	}

	rows := assaults(mac, wire.MAC, linkLocal(mac))
	for _, row := range rows {
		if seen := b.fight(row, everything); seen != "" {
			t.Errorf("%s: %s", row.name, seen)
		}
	}
	if seen := b.fight(assault{packets: packets(attack.TCP(at(client4, 40000), at(gateway4, 2049), attack.SYN, nil))}, 1); seen == "" {
		t.Error("a connection to the NFS port is not seen")
	}
	for where, count := range elsewhere {
		if k := count(); k != 0 {
			t.Errorf("%s has seen %d packets", where, k)
		}
	}
	blueWire, err := attack.Open(n.client.NetNS, "eth0")
	n.must(err)
	defer blueWire.Close()
	n.must(blueWire.Send(net.HardwareAddr{255, 255, 255, 255, 255, 255}, attack.UDP(at(client4, 9), at("10.77.0.255", 9), nil)))
	until(ctx, t, "blue's witness sees nothing", func() (bool, error) { return elsewhere["blue"]() > 0, nil })

	// One guard is gone, and the other suffices.
	for _, s := range loose {
		inRed("sysctl", "-qw", s)
	}
	inRed("ip", "address", "add", onHost+"/32", "dev", "lo")
	for _, row := range rows {
		if row.through {
			if seen := b.fight(row, everything); seen != "" {
				t.Errorf("%s, and the kernel would forward it: %s", row.name, seen)
			}
		}
	}
	inRed("nft", "delete", "table", "inet", "causeway")
	inRed("nft", "delete", "table", "arp", "causeway")
	inRed("sysctl", "-qw", "net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0", "net.ipv6.conf.eth0.forwarding=0")
	for _, row := range rows {
		if row.through {
			if seen := b.fight(row, everything); seen != "" {
				t.Errorf("%s, and the firewall would let it: %s", row.name, seen)
			}
		}
	}
	// Both are.
	for _, s := range loose {
		inRed("sysctl", "-qw", s)
	}
	for _, row := range rows {
		if seen := b.fight(row, 200); seen == "" && !row.kernel {
			t.Errorf("%s: nothing is seen though the gateway is open", row.name)
		}
	}

	for _, command := range []func(context.Context, ...string) *exec.Cmd{blue.Command, n.client.Command, onThisHost} {
		if out, err := command(ctx, "nft", "delete", "table", "inet", "witness").CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}
	inRed("ip", "address", "delete", onHost+"/32", "dev", "lo")
	n.run(ctx, "ip", "address", "delete", onHost+"/32", "dev", "lo")
	n.start(ctx)
	c := dial(ctx, t, villain, gateway4)
	if got, err := listing(ctx, c, "/"); err != nil || got != "of-red" {
		t.Errorf("afterwards red has %q, %v", got, err)
	}
	closeClient(ctx, t, c)
	n.deleteExport(ctx, "of-blue")
	n.deleteExport(ctx, "of-red")
	n.deleteNetwork(ctx, "blue")
	n.deleteNetwork(ctx, "red")
	n.finish(ctx)
}

// loose are the settings of a gateway's kernel that would take anything.
var loose = []string{
	"net.ipv4.ip_forward=1", "net.ipv4.icmp_echo_ignore_broadcasts=0",
	"net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.eth0.rp_filter=0",
	"net.ipv4.conf.all.accept_source_route=1", "net.ipv4.conf.eth0.accept_source_route=1",
	"net.ipv4.conf.all.route_localnet=1", "net.ipv4.conf.eth0.accept_local=1",
	"net.ipv4.conf.all.arp_ignore=0", "net.ipv4.conf.eth0.arp_ignore=0",
	"net.ipv6.conf.all.forwarding=1", "net.ipv6.conf.eth0.forwarding=1",
	"net.ipv6.conf.all.accept_source_route=1", "net.ipv6.conf.eth0.accept_source_route=1",
}

// assaults on the gateway with this MAC from a machine with that one.
func assaults(gateway, villain net.HardwareAddr, local string) []assault {
	var rows []assault
	row := func(name string, p iter.Seq[[]byte]) *assault {
		rows = append(rows, assault{name: name, packets: p})
		return &rows[len(rows)-1]
	}
	for _, f := range []struct{ name, from, to string }{
		{"IPv4", client4, gateway4}, {"IPv6", client6, gateway6}, {"IPv6 link-local", "fe80::bad", local},
	} {
		from, to := netip.MustParseAddr(f.from), netip.MustParseAddr(f.to)
		ports := 65535
		if to.IsLinkLocalUnicast() {
			ports = 2100 // the rules do not tell these addresses from others
		}
		// Not SYN, of which only so many pass in a second.
		row(f.name+" TCP ports", upTo(ports, func(i int) []byte {
			if i == 2049 {
				return nil
			}
			return attack.TCP(at(f.from, 40000), at(f.to, i), attack.ACK, nil)
		}))
		row(f.name+" SYN to TCP ports", upTo(2000, func(i int) []byte { return attack.TCP(at(f.from, 2049), at(f.to, i), attack.SYN, nil) }))
		row(f.name+" UDP ports", upTo(ports, func(i int) []byte { return attack.UDP(at(f.from, 2049), at(f.to, i), []byte("x")) }))
		row(f.name+" protocols", upTo(255, func(i int) []byte {
			if i == 6 || from.Is4() && i == 1 || from.Is6() && i == 58 {
				return nil
			}
			return attack.IP(from, to, byte(i), make([]byte, 40))
		}))
		row(f.name+" ICMP", upTo(255, func(i int) []byte {
			if from.Is4() && bytes.IndexByte([]byte{3, 8, 11, 12}, byte(i)) >= 0 || from.Is6() && bytes.IndexByte([]byte{1, 2, 3, 4, 128, 130, 135, 136}, byte(i)) >= 0 {
				return nil
			}
			return attack.ICMP(from, to, byte(i), make([]byte, 60))
		}))
	}
	nfs := func(from, to string) iter.Seq[[]byte] {
		return packets(attack.TCP(at(from, 40000), at(to, 2049), attack.SYN, nil), attack.UDP(at(from, 40000), at(to, 111), nil))
	}
	row("to 127.0.0.1", nfs(client4, "127.0.0.1"))
	row("to 127.9.9.9", nfs(client4, "127.9.9.9"))
	row("to ::1", nfs(client6, "::1")).kernel = true
	row("to ::ffff:127.0.0.1", nfs(client6, "::ffff:127.0.0.1")).kernel = true
	row("from 127.0.0.1", nfs("127.0.0.1", gateway4))
	row("from ::1", nfs("::1", gateway6)).kernel = true
	row("from itself", nfs(gateway4, gateway4))
	row("from itself, IPv6", nfs(gateway6, gateway6))
	row("from an address without a route", nfs("203.0.113.7", gateway4))
	row("from an address without a route, IPv6", nfs("fd99::7", gateway6))
	row("from 0.0.0.0", nfs("0.0.0.0", gateway4)).kernel = true
	row("from 255.255.255.255", nfs("255.255.255.255", gateway4)).kernel = true
	row("from multicast", nfs("224.0.0.9", gateway4)).kernel = true
	row("from multicast, IPv6", nfs("ff02::9", gateway6)).kernel = true
	for _, to := range []string{"255.255.255.255", "10.77.0.255", "224.0.0.1"} {
		row("UDP to "+to, packets(attack.UDP(at(client4, 40000), at(to, 111), nil)))
	}
	row("echo to broadcast", packets(attack.ICMP(netip.MustParseAddr(client4), netip.MustParseAddr("10.77.0.255"), 8, make([]byte, 12)))).heard = true
	row("UDP to ff02::1", packets(attack.UDP(at(client6, 40000), at("ff02::1", 111), nil)))
	row("TCP to ff02::1", packets(attack.TCP(at(client6, 40000), at("ff02::1", 111), attack.SYN, nil)))
	row("fragment", packets(attack.IP(netip.MustParseAddr(client6), netip.MustParseAddr(gateway6), 44, append([]byte{6, 0, 0, 9, 0, 0, 0, 1}, make([]byte, 24)...))))

	through := func(name string, p ...[]byte) { row(name, packets(p...)).through = true }
	through("through to the host", attack.TCP(at(client4, 40000), at(onHost, 2049), attack.SYN, nil), attack.UDP(at(client4, 40000), at(onHost, 111), nil))
	rows[len(rows)-1].through = false // opened, the gateway has the address itself
	through("through to a route", attack.TCP(at(client4, 40000), at(behind, 2049), attack.SYN, nil), attack.UDP(at(client4, 40000), at(behind, 2049), nil))
	through("through to a route, IPv6", attack.TCP(at(client6, 40000), at(behin6, 2049), attack.SYN, nil))
	through("through to a neighbour", attack.ICMP(netip.MustParseAddr(client4), netip.MustParseAddr("10.77.0.9"), 8, make([]byte, 12)))
	// Loose source and record route: RFC 791, 3.1; its end is where it leads.
	lsrr := append([]byte{1, 131, 7, 4}, netip.MustParseAddr(behind).AsSlice()...)
	through("source route", attack.IPWithOptions(netip.MustParseAddr(client4), netip.MustParseAddr(gateway4), 17, lsrr, make([]byte, 16)))
	// Routing header of type 0: RFC 5095 forbade it.
	rh0 := append([]byte{59, 2, 0, 1, 0, 0, 0, 0}, netip.MustParseAddr(behin6).AsSlice()...)
	row("routing header", packets(attack.IP(netip.MustParseAddr(client6), netip.MustParseAddr(gateway6), 43, rh0)))

	row("ARP for an address of another link", packets(attack.ARP(villain, netip.MustParseAddr(client4), netip.MustParseAddr(onHost))))
	row("ARP for an address of nobody", packets(attack.ARP(villain, netip.MustParseAddr(client4), netip.MustParseAddr("10.77.0.77")))).kernel = true
	return rows
}

func packets(all ...[]byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for _, p := range all {
			if !yield(p) {
				return
			}
		}
	}
}

// upTo makes packets 0 to last, but for those that are nil.
func upTo(last int, packet func(i int) []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for i := range last + 1 {
			if p := packet(i); p != nil && !yield(p) {
				return
			}
		}
	}
}

func at(address string, port int) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(address), uint16(port))
}

// linkLocal is the address that the kernel makes of a MAC (RFC 4291, A).
func linkLocal(mac net.HardwareAddr) string {
	b := append([]byte{0xfe, 0x80, 7: 0}, mac[0]^2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5])
	a, _ := netip.AddrFromSlice(b)
	return a.String()
}

// A battle is one villain against one gateway.
type battle struct {
	t    *testing.T
	wire *attack.Wire
	mac  net.HardwareAddr
	red  func() int // what the gateway has taken since
}

const everything = 1 << 20

// fight says what was seen of the first packets of an assault.
func (b battle) fight(a assault, most int) string {
	b.t.Helper()
	sync := func() [][]byte {
		b.t.Helper()
		others, err := b.wire.Sync(netip.MustParseAddr(client4), netip.MustParseAddr(gateway4), b.mac)
		if err != nil {
			b.t.Fatalf("%s: %v", a.name, err)
		}
		return others
	}
	sync()
	b.red()
	sent := 0
	for p := range a.packets {
		if sent++; sent > most {
			break
		}
		if err := b.wire.Send(b.mac, p); err != nil {
			b.t.Fatalf("%s: %v", a.name, err)
		}
		if arp := p[0]>>4 == 0; arp {
			if b.resolved() {
				return "the gateway answers"
			}
		}
	}
	others := sync()
	taken := b.red()
	switch {
	case len(others) > 0:
		return fmt.Sprintf("%d packets came from the gateway, the first: %x", len(others), others[0][:min(len(others[0]), 80)])
	case taken > 0 && !a.heard:
		return fmt.Sprintf("the gateway took %d packets", taken)
	}
	return ""
}

// resolved waits for the answer to an ARP request. After it comes that to the
// gateway's own address, which is always given.
func (b battle) resolved() bool {
	b.t.Helper()
	own := netip.MustParseAddr(gateway4)
	if err := b.wire.Send(b.mac, attack.ARP(b.wire.MAC, netip.MustParseAddr(client4), own)); err != nil {
		b.t.Fatal(err)
	}
	for {
		frame, err := b.wire.Receive(time.Now().Add(wait.Long))
		if err != nil || frame == nil {
			b.t.Fatalf("no answer for %s: %v", own, err)
		}
		if !bytes.Equal(frame[12:14], []byte{8, 6}) || frame[21] != 2 { // no ARP reply
			continue
		}
		return !bytes.Equal(frame[28:32], own.AsSlice())
	}
}

// witness makes a table that counts what attacks send, and returns what it has
// counted since the last time.
func witness(ctx context.Context, t *testing.T, command func(context.Context, ...string) *exec.Cmd, chains string) func() int {
	t.Helper()
	cmd := command(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader("table inet witness { counter seen { }\n" + chains + "\n}\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return func() int {
		t.Helper()
		out, err := command(ctx, "nft", "reset", "counter", "inet", "witness", "seen").CombinedOutput()
		words := strings.Fields(string(out))
		for i, word := range words {
			if word == "packets" && i+1 < len(words) && err == nil {
				k, err := strconv.Atoi(words[i+1])
				if err == nil {
					return k
				}
			}
		}
		t.Fatalf("%v: %s", err, out)
		return 0
	}
}

func onThisHost(ctx context.Context, argv ...string) *exec.Cmd {
	return exec.CommandContext(ctx, argv[0], argv[1:]...)
}
