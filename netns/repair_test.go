package netns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/netns/namespace"
	"github.com/causeway-project/causeway/netns/plug"
)

func TestEnsureMakesEverything(t *testing.T) {
	newBridge(t, "br-blue")
	h, n := newHost(), blue()
	state, err := h.Observe(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(State{Drift: []string{"there is no link cwblue", "there is no namespace cw-blue"}}, state); diff != "" {
		t.Errorf("before (-want +got):\n%s", diff)
	}
	ensure(t, h, n)
	healthy(t, h, n)

	// Asked of other programs, so that a fault common to Ensure and Observe shows.
	for _, c := range []struct{ got, want string }{
		{ip(t, "-d link show cwblue"), "master br-blue"},
		{ip(t, "-d link show cwblue"), "alias cw-blue"},
		{ip(t, "-d link show cwblue"), "state UP"},
		{ip(t, "addr show cwblue"), "link/ether fe:77:00:00:00:02"},
		{in(t, "cw-blue", "ip addr show eth0"), "link/ether 02:77:00:00:00:02"},
		{in(t, "cw-blue", "ip addr show eth0"), "inet 10.77.0.2/24"},
		{in(t, "cw-blue", "ip addr show eth0"), "inet6 fd77::2/64 scope global \n"}, // no flag
		{in(t, "cw-blue", "ip addr show lo"), "inet 127.0.0.1/8"},
		{in(t, "cw-blue", "ip route"), "default via 10.77.0.1 dev eth0 proto static"},
		{in(t, "cw-blue", "ip -6 route"), "fd88::/48 via fd77::1 dev eth0 proto static"},
		{in(t, "cw-blue", "nft list ruleset"), "tcp dport 2049 accept"},
		{in(t, "cw-blue", "sysctl net.ipv6.conf.eth0.accept_ra"), "= 0"},
		{ip(t, "netns list"), "cw-blue"},
		{run(t, "findmnt", "-no", "PROPAGATION", "/run/netns"), "shared"},
	} {
		if !strings.Contains(c.got, c.want) {
			t.Errorf("no %q in:\n%s", c.want, c.got)
		}
	}
	if got := ip(t, "addr show cwblue"); strings.Contains(got, "inet") {
		t.Errorf("the host's end has an address:\n%s", got)
	}
}

func TestIPv4OnlyHasNoIPv6(t *testing.T) {
	newBridge(t, "br-blue")
	h, n := newHost(), blue()
	n.Addresses, n.Routes = n.Addresses[:1], n.Routes[:1]
	ensure(t, h, n)
	healthy(t, h, n)
	if got := in(t, "cw-blue", "ip -6 addr show eth0"); got != "" {
		t.Errorf("eth0 has:\n%s", got)
	}
	if got := in(t, "cw-blue", "ip -6 addr show lo"); !strings.Contains(got, "::1/128") {
		t.Errorf("lo has no ::1, which servers expect:\n%s", got)
	}
	n = blue()
	ensure(t, h, n) // and the family can come later
	healthy(t, h, n)
}

// A gateway serves in the network: a second Ensure must send nothing to the
// kernel that changes anything. Every change is announced to subscribers.
func TestEnsureOfHealthyNetworkChangesNothing(t *testing.T) {
	newBridge(t, "br-blue")
	h, n := newHost(), blue()
	ensure(t, h, n)
	rules := in(t, "cw-blue", "nft -a -t list ruleset") // with handles: a new rule has a new one

	groups := []uint{
		unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE,
		unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF, unix.RTNLGRP_NSID,
	}
	var sockets []*nl.NetlinkSocket
	subscribe := func() error {
		s, err := nl.Subscribe(unix.NETLINK_ROUTE, groups...)
		if err == nil {
			sockets = append(sockets, s)
			t.Cleanup(s.Close)
		}
		return err
	}
	if err := subscribe(); err != nil {
		t.Fatal(err)
	}
	at(t, n.Namespace, subscribe)
	for range 3 {
		if err := h.Ensure(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	if got := in(t, "cw-blue", "nft -a -t list ruleset"); got != rules {
		t.Errorf("the firewall was written again (-first +last):\n%s", cmp.Diff(rules, got))
	}
	// The end of each stream: a change of our own, on lo.
	ip(t, "link set lo alias end")
	in(t, "cw-blue", "ip link set lo alias end")
	for _, s := range sockets {
		for end := false; !end; {
			msgs, _, err := s.Receive()
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range msgs {
				// lo is link 1 everywhere; its index follows the first 4 bytes.
				if m.Header.Type == unix.RTM_NEWLINK && binary.NativeEndian.Uint32(m.Data[4:]) == 1 {
					end = true
				} else if !end {
					t.Errorf("Ensure caused a message of type %d: % x", m.Header.Type, m.Data)
				}
			}
		}
	}
}

func TestDriftIsSeenAndRepaired(t *testing.T) {
	newBridge(t, "br-blue")
	ip(t, "link set br-blue mtu 1450") // or it would follow its ports'
	newBridge(t, "br-other")
	h, n := newHost(), blue()
	ensure(t, h, n)

	const inNS = "netns exec cw-blue "
	table := inNS + "nft "
	tests := []struct {
		name  string
		do    []string // ip commands
		drift string
	}{
		{"pair deleted", []string{"link del cwblue"}, "there is no link cwblue"},
		{"pair deleted inside", []string{inNS + "ip link del eth0"}, "there is no eth0 inside"},
		{"no port", []string{"link set cwblue nomaster"}, "link cwblue is not a port of br-blue"},
		{"port of another bridge", []string{"link set cwblue master br-other"}, "link cwblue is not a port of br-blue"},
		{"host end down", []string{"link set cwblue down"}, "link cwblue is down"},
		{"inner end down", []string{inNS + "ip link set eth0 down"}, "eth0 is down inside"},
		{"lo down", []string{inNS + "ip link set lo down"}, "lo is down inside"},
		{"alias", []string{"link set cwblue alias mine"}, `link cwblue has the alias "mine", not "cw-blue"`},
		{"host end's mtu", []string{"link set cwblue mtu 1400"}, "link cwblue has the mtu 1400, not 1450"},
		{"inner end's mtu", []string{inNS + "ip link set eth0 mtu 1400"}, "eth0 inside has the mtu 1400, not 1450"},
		{"host end's mac", []string{"link set cwblue address 02:00:00:00:00:09"}, "link cwblue has the mac 02:00:00:00:00:09, not fe:77:00:00:00:02"},
		{"inner end's mac", []string{inNS + "ip link set eth0 address 02:00:00:00:00:09"}, "eth0 inside has the mac 02:00:00:00:00:09, not 02:77:00:00:00:02"},
		{"host end renamed", []string{"link set cwblue down", "link set cwblue name cwgreen"}, "there is no link cwblue"},
		{"inner end renamed", []string{inNS + "ip link set eth0 down", inNS + "ip link set eth0 name eth9"}, "there is no eth0 inside"},
		{"host end of another kind", []string{"link del cwblue", "link add cwblue type bridge"}, "there is no eth0 inside"},
		{"peer elsewhere", []string{"link del cwblue", "link add cwblue type veth peer name eth0"}, "there is no eth0 inside"},
		{"both ends outside, another pair inside", []string{
			"link del cwblue", "link add cwblue type veth peer name eth0",
			"link add x1 type veth peer name eth0 netns cw-blue",
		}, "eth0 inside is not the other end of cwblue"},
		{"IPv4 address removed", []string{inNS + "ip addr del 10.77.0.2/24 dev eth0"}, "address 10.77.0.2/24 is missing"},
		{"IPv6 address removed", []string{inNS + "ip addr del fd77::2/64 dev eth0"}, "address fd77::2/64 is missing"},
		{"foreign IPv4 address", []string{inNS + "ip addr add 10.77.0.9/24 dev eth0"}, "address 10.77.0.9/24 is not ours"},
		{"foreign IPv6 address", []string{inNS + "ip addr add fd99::9/64 dev eth0 nodad"}, "address fd99::9/64 is not ours"},
		{"other prefix length", []string{inNS + "ip addr del 10.77.0.2/24 dev eth0", inNS + "ip addr add 10.77.0.2/16 dev eth0"}, "address 10.77.0.2/16 is not ours"},
		{"route removed", []string{inNS + "ip route del default"}, "route to 0.0.0.0/0 via 10.77.0.1 is missing"},
		{"IPv6 route removed", []string{inNS + "ip -6 route del fd88::/48"}, "route to fd88::/48 via fd77::1 is missing"},
		{"route to another router", []string{inNS + "ip route replace default via 10.77.0.8"}, "route to 0.0.0.0/0 via 10.77.0.8 is not ours"},
		{"foreign route", []string{inNS + "ip route add 10.99.0.0/16 via 10.77.0.8"}, "route to 10.99.0.0/16 via 10.77.0.8 is not ours"},
		{"foreign IPv6 route", []string{inNS + "ip -6 route add fd99::/48 via fd77::8"}, "route to fd99::/48 via fd77::8 is not ours"},
		{"forwarding", []string{inNS + "sysctl -qw net.ipv4.ip_forward=1"}, "sysctl net/ipv4/ip_forward is 1, not 0"},
		{"IPv6 forwarding", []string{inNS + "sysctl -qw net.ipv6.conf.all.forwarding=1"}, "sysctl net/ipv6/conf/all/forwarding is 1, not 0"},
		{"router advertisements", []string{inNS + "sysctl -qw net.ipv6.conf.eth0.accept_ra=2"}, "sysctl net/ipv6/conf/eth0/accept_ra is 2, not 0"},
		{"IPv6 off", []string{inNS + "sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1"}, "address fd77::2/64 is missing"},
		{"left by a killed Ensure", []string{inNS + "sysctl -qw net.ipv6.neigh.eth0.retrans_time_ms=100"}, "sysctl net/ipv6/neigh/eth0/retrans_time_ms is 100, not 1000"},
		{"IPv6 on the host's end", []string{"netns exec self sysctl -qw net.ipv6.conf.cwblue.disable_ipv6=0"}, "sysctl net/ipv6/conf/cwblue/disable_ipv6 is 0, not 1"},
		{"firewall flushed", []string{table + "flush ruleset"}, "firewall: there is no table inet causeway"},
		{"chain flushed", []string{table + "flush chain inet causeway input"}, "firewall: the rules of chain input were altered"},
		{"rule added", []string{table + "insert rule inet causeway input accept"}, "firewall: the rules of chain input were altered"},
		{"rule added to forward", []string{table + "add rule inet causeway forward accept"}, "firewall: the rules of chain forward were altered"},
		{"rule replaced", []string{table + "flush chain inet causeway output", table + "add rule inet causeway output accept"}, "firewall: the rules of chain output were altered"},
		{"policy", []string{table + "chain inet causeway input { policy accept ; }"}, "firewall: chain input is missing or of another kind"},
		{"arp table deleted", []string{table + "delete table arp causeway"}, "firewall: there is no table arp causeway"},
		{"arp chain flushed", []string{table + "flush chain arp causeway input"}, "firewall: the rules of arp chain input were altered"},
		{"neighbours not counted", []string{table + "flush chain inet causeway near4"}, "firewall: the rules of chain near4 were altered"},
		{"connections not counted", []string{table + "flush chain inet causeway input", table + "flush chain inet causeway output", table + "delete set inet causeway callers4"},
			"firewall: set callers4 of table inet causeway is missing or of another kind"},
		{"chain added", []string{table + "add chain inet causeway more"}, "firewall: chain more is not ours"},
		{"table dormant", []string{table + "add table inet causeway { flags dormant ; }"}, "firewall: table inet causeway is dormant"},
		{"namespace deleted", []string{"netns del cw-blue"}, "there is no namespace cw-blue"},
	}
	touch(t, namespace.Path("self"))
	run(t, "mount", "--bind", "/proc/self/ns/net", "/run/netns/self")
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", "self").Run() })
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for _, words := range test.do {
				ip(t, words)
			}
			state, err := h.Observe(t.Context(), n)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(strings.Join(state.Drift, "\n"), test.drift) {
				t.Errorf("drift %q, want %q among it", state.Drift, test.drift)
			}
			if err := h.Ensure(t.Context(), n); err != nil {
				t.Fatal(err)
			}
			healthy(t, h, n)
			_, links, err := h.List(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{"cwblue"}, links); diff != "" {
				t.Errorf("links (-want +got):\n%s", diff)
			}
			for _, l := range []string{"eth0", "eth9", "x1", "cwgreen"} {
				if _, err := netlink.LinkByName(l); err == nil && l != "eth0" {
					t.Errorf("link %s is left on the host", l)
				}
			}
		})
	}
}

func TestChangedNetwork(t *testing.T) {
	newBridge(t, "br-blue")
	newBridge(t, "br-other")
	h, n := newHost(), blue()
	ensure(t, h, n)
	n.Plug = plug.Bridge{Name: "br-other"}
	n.Addresses = prefixes("10.77.0.3/24", "fd77::3/64", "10.78.0.3/24")
	n.MTU = 1400
	n.MAC = mac("fe:77:00:00:00:03")
	n.Routes = nil
	if err := h.Ensure(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	healthy(t, h, n)
}

func TestMTU(t *testing.T) {
	newBridge(t, "br-blue")
	ip(t, "link set br-blue mtu 9000")
	newTenant(t, "ten", "br-blue", "10.77.0.5/24", "fd77::5/64")
	ip(t, "link set ten mtu 9000")
	in(t, "ten", "ip link set t0 mtu 9000")
	h, n := newHost(), blue()
	ensure(t, h, n)
	for _, l := range []string{ip(t, "link show cwblue"), in(t, "cw-blue", "ip link show eth0"), ip(t, "link show br-blue")} {
		if !strings.Contains(l, "mtu 9000") {
			t.Errorf("mtu not the bridge's:\n%s", l)
		}
	}
	in(t, "ten", "ping -q -c 1 -W 5 -M do -s 8900 10.77.0.2")
	in(t, "ten", "ping -q -c 1 -W 5 -M do -s 8900 fd77::2")

	n.MTU = 1400
	if err := h.Ensure(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	healthy(t, h, n)
	if l := in(t, "cw-blue", "ip link show eth0"); !strings.Contains(l, "mtu 1400") {
		t.Errorf("mtu not the network's:\n%s", l)
	}
	if l := ip(t, "link show br-blue"); !strings.Contains(l, "mtu 9000") {
		t.Errorf("one network lowered its bridge:\n%s", l)
	}
}

// Of two networks on a bridge whose mtu nobody set, one wants a lower one.
func TestMTUOfOneNetworkLeavesTheOthers(t *testing.T) {
	newBridge(t, "br-blue")
	h, n := newHost(), blue()
	ensure(t, h, n)
	low := blue()
	low.Namespace, low.HostLink, low.MTU, low.MAC = "cw-low", "cwlow", 1400, mac("02:77:00:00:00:07")
	low.Addresses, low.Routes = prefixes("10.77.0.7/24"), nil
	ensure(t, h, low)
	healthy(t, h, low)
	healthy(t, h, n)
}

// Over a bridge that forwards nothing, no duplicate would be found.
func TestBridgeThatDoesNotForward(t *testing.T) {
	newBridge(t, "br-blue")
	newTenant(t, "ten", "br-blue", "10.77.0.2/24")
	ip(t, "link set br-blue down")
	h, n := newHost(), blue()
	n.Addresses, n.Routes = n.Addresses[:1], nil
	t.Cleanup(func() { _ = h.Remove(context.WithoutCancel(t.Context()), n) })
	ctx, cancel := context.WithTimeout(t.Context(), silence)
	defer cancel()
	if err := h.Ensure(ctx, n); err == nil || !strings.Contains(err.Error(), "br-blue") {
		t.Errorf("ensure over a bridge that is down: %v", err)
	}
	state, err := h.Observe(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(state.Drift, "\n"); !strings.Contains(got, "bridge br-blue does not forward for link cwblue") {
		t.Errorf("drift %q", state.Drift)
	}
	ip(t, "link set br-blue up")
	if err := h.Ensure(t.Context(), n); !errors.Is(err, ErrAddressInUse) {
		t.Errorf("ensure: %v, want ErrAddressInUse", err)
	}
}

// Two networks share nothing but the directory.
func TestManyAtOnce(t *testing.T) {
	newBridge(t, "br-blue")
	h := newHost()
	var g errgroup.Group
	for i := range 16 {
		n := blue()
		n.Namespace, n.HostLink = fmt.Sprintf("cw-n%d", i), fmt.Sprintf("cwn%d", i)
		n.MAC = mac(fmt.Sprintf("02:77:00:00:01:%02x", i))
		n.Addresses, n.Routes = prefixes(fmt.Sprintf("10.77.0.%d/24", i+2), fmt.Sprintf("fd77::%x/64", i+2)), nil
		g.Go(func() error {
			for range 2 {
				if err := h.Ensure(t.Context(), n); err != nil {
					return err
				}
				if s, err := h.Observe(t.Context(), n); err != nil || len(s.Drift) != 0 {
					return fmt.Errorf("%s: %v, %w", n.Namespace, s.Drift, err)
				}
				if err := h.Remove(t.Context(), n); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	nothingLeft(t, h)
}

func BenchmarkObserve(b *testing.B) {
	if os.Getuid() != 0 {
		b.Skip("needs root: makes network namespaces")
	}
	if err := exec.Command("ip", "link", "add", "br-blue", "type", "bridge").Run(); err != nil {
		b.Fatal(err)
	}
	defer exec.Command("ip", "link", "del", "br-blue").Run()
	if err := exec.Command("ip", "link", "set", "br-blue", "up").Run(); err != nil {
		b.Fatal(err)
	}
	h, n := New(Options{ProbeWait: -1}), blue()
	defer h.Remove(context.WithoutCancel(b.Context()), n)
	if err := h.Ensure(b.Context(), n); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := h.Observe(b.Context(), n); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEnsureAndRemove(b *testing.B) {
	if os.Getuid() != 0 {
		b.Skip("needs root: makes network namespaces")
	}
	if err := exec.Command("ip", "link", "add", "br-blue", "type", "bridge").Run(); err != nil {
		b.Fatal(err)
	}
	defer exec.Command("ip", "link", "del", "br-blue").Run()
	if err := exec.Command("ip", "link", "set", "br-blue", "up").Run(); err != nil {
		b.Fatal(err)
	}
	for name, wait := range map[string]time.Duration{"unprobed": -1, "probed": 0} {
		b.Run(name, func(b *testing.B) {
			h, n := New(Options{ProbeWait: wait}), blue()
			var making time.Duration
			for b.Loop() {
				begin := time.Now()
				if err := h.Ensure(b.Context(), n); err != nil {
					b.Fatal(err)
				}
				making += time.Since(begin)
				if err := h.Remove(b.Context(), n); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(making.Microseconds())/float64(b.N)/1000, "ms/ensure")
		})
	}
}

func TestCheck(t *testing.T) {
	newBridge(t, "br-blue")
	h, n := newHost(), blue()
	if err := h.Check(t.Context(), n); err != nil {
		t.Error(err)
	}
	ip(t, "link add x1 type veth peer name x2")
	t.Cleanup(func() { ip(t, "link del x1") })
	for bridge, words := range map[string]string{
		"br-none": `ip link add br-none type bridge`,
		"x1":      "is a veth",
	} {
		n.Plug = plug.Bridge{Name: bridge}
		for verb, f := range map[string]func() error{
			"check":  func() error { return h.Check(t.Context(), n) },
			"ensure": func() error { return h.Ensure(t.Context(), n) },
		} {
			if err := f(); !errors.Is(err, plug.ErrNoBridge) || !strings.Contains(err.Error(), words) {
				t.Errorf("%s with bridge %s: %v, want ErrNoBridge and %q", verb, bridge, err, words)
			}
		}
	}
	if _, err := os.Stat(namespace.Path(n.Namespace)); err == nil {
		t.Error("a refused Ensure left a namespace")
	}
}
