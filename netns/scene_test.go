package netns

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/causeway-project/causeway/integration/needs"
	"github.com/causeway-project/causeway/netns/kernel"
	"github.com/causeway-project/causeway/netns/plug"
)

// A scene is a plug and what it needs of the world: the tenant's machine is in
// the namespace "ten", with 10.77.0.5 and fd77::5.
type scene struct {
	name    string
	network func() Network
	// build makes the world; the host knows what it needs of it.
	build func(t *testing.T) *Host
	drift []drifting
	// gone are words of ip commands that must fail after Remove.
	gone []string
}

type drifting struct {
	do    []string // ip commands; those that begin with "!" run another program
	drift string
}

const inBlue = "netns exec cw-blue "

// inner are what befalls an interface of every plug.
var inner = []drifting{
	{[]string{inBlue + "ip link set eth0 down"}, "eth0 is down inside"},
	{[]string{inBlue + "ip link set eth0 address 02:00:00:00:00:09"}, "eth0 inside has the mac 02:00:00:00:00:09, not 02:77:00:00:00:02"},
	{[]string{inBlue + "ip link set eth0 mtu 1300"}, "eth0 inside has the mtu 1300"},
	{[]string{inBlue + "ip addr del 10.77.0.2/24 dev eth0"}, "address 10.77.0.2/24 is missing"},
	{[]string{inBlue + "ip addr del fd77::2/64 dev eth0"}, "address fd77::2/64 is missing"},
	{[]string{inBlue + "ip addr add 10.77.0.9/24 dev eth0"}, "address 10.77.0.9/24 is not ours"},
	{[]string{inBlue + "ip route del default"}, "route to 0.0.0.0/0 via 10.77.0.1 is missing"},
	{[]string{inBlue + "nft flush ruleset"}, "firewall: there is no table inet causeway"},
	{[]string{inBlue + "sysctl -qw net.ipv4.ip_forward=1"}, "sysctl net/ipv4/ip_forward is 1, not 0"},
	{[]string{"netns del cw-blue"}, "there is no namespace cw-blue"},
	{[]string{"!umount /run/netns/cw-blue"}, "/run/netns/cw-blue is not a network namespace"},
}

func stackedDrift(is string) []drifting {
	return append([]drifting{
		{[]string{inBlue + "ip link del eth0"}, "there is no eth0 inside"},
		{[]string{inBlue + "ip link set eth0 down", inBlue + "ip link set eth0 name eth9"}, "there is no eth0 inside"},
		{[]string{inBlue + "ip link set eth0 alias mine"}, `eth0 inside has the alias "mine", not "cw-blue"`},
		{[]string{inBlue + "ip link del eth0", inBlue + "ip link add eth0 type bridge"}, "eth0 inside is not " + is},
		{[]string{"link add x1 type bridge", "link set x1 up", inBlue + "ip link del eth0", "link add eth0 netns cw-blue link x1 type macvlan mode bridge", "link del x1"}, "there is no eth0 inside"},
	}, inner...)
}

func scenes() []scene {
	plugged := func(p plug.Plug) func() Network {
		return func() Network {
			n := blue()
			n.Plug = p
			return n
		}
	}
	return []scene{
		{
			name:    "macvlan",
			network: plugged(plug.Macvlan{Device: "p0"}),
			build:   func(t *testing.T) *Host { newWire(t); return newHost() },
			drift: append(stackedDrift("a macvlan on p0"), []drifting{
				{[]string{inBlue + "ip link del eth0", "link add eth0 netns cw-blue link p0 type macvlan mode private"}, "eth0 inside is not a macvlan on p0"},
				{[]string{"link set p0 mtu 1400"}, ""}, // follows by itself
			}...),
		},
		{
			name:    "vlan, by a model of the kernel",
			network: plugged(plug.VLAN{Device: "p0", ID: 100}),
			build: func(t *testing.T) *Host {
				newWire(t)
				h := newHost()
				h.plugs.Kinds = modelVLANs{}
				return h
			},
			drift: stackedDrift("the VLAN 100 of p0"),
		},
		{
			name: "vxlan",
			network: plugged(plug.VXLAN{ID: 42, Device: "under", Local: netip.MustParseAddr("192.0.2.1"), Peers: []netip.Addr{
				netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3"),
			}}),
			build: func(t *testing.T) *Host { newUnderlay(t); return newHost() },
			drift: append(stackedDrift("VXLAN 42 from 192.0.2.1 over under to port 4789"), []drifting{
				{[]string{inBlue + "bridge fdb del 00:00:00:00:00:00 dev eth0 dst 192.0.2.2"}, "peer 192.0.2.2 is missing"},
				{[]string{inBlue + "bridge fdb append 00:00:00:00:00:00 dev eth0 dst 192.0.2.9"}, "peer 192.0.2.9 for 00:00:00:00:00:00 is not ours"},
				{[]string{inBlue + "bridge fdb add 02:00:00:00:00:77 dev eth0 dst 192.0.2.9 self permanent"}, "peer 192.0.2.9 for 02:00:00:00:00:77 is not ours"},
				{[]string{inBlue + "ip link del eth0", "link add eth0 netns cw-blue type vxlan id 43 dev under local 192.0.2.1 dstport 4789"}, "eth0 inside is not VXLAN 42"},
				{[]string{inBlue + "ip link del eth0", "link add eth0 netns cw-blue type vxlan id 42 dev under local 192.0.2.1 dstport 8472"}, "eth0 inside is not VXLAN 42"},
			}...),
		},
		{
			name:    "bridge with a tag, by a model of the kernel",
			network: plugged(plug.Bridge{Name: "br-blue", VLAN: 100}),
			build: func(t *testing.T) *Host {
				newBridge(t, "br-blue")
				newTenant(t, "ten", "br-blue", "10.77.0.5/24", "fd77::5/64")
				h := newHost()
				model := newModelTable()
				h.plugs.VLANs = func(nl *netlink.Handle) plug.PortVLANs { model.nl = nl; return model }
				return h
			},
			drift: append([]drifting{
				{[]string{"link del cwblue"}, "there is no link cwblue"},
				{[]string{"link set cwblue nomaster"}, "link cwblue is not a port of br-blue"},
				{[]string{"!vlan 1"}, "link cwblue is in the VLANs [1 pvid untagged 100 untagged], not in 100 pvid untagged alone"},
				{[]string{"!unvlan 100"}, "link cwblue is in the VLANs [], not in 100 pvid untagged alone"},
			}, inner...),
			gone: []string{"link show cwblue"},
		},
		{
			name:    "ovs",
			network: plugged(plug.OVS{Bridge: "br-int", InterfaceID: "4f3c-port", VLAN: 10}),
			build:   newSwitch,
			drift: append([]drifting{
				{[]string{"link del cwblue"}, "there is no link cwblue"},
				{[]string{"!vsctl del-port cwblue"}, "link cwblue is not a port of br-int"},
				{[]string{"!vsctl del-port cwblue -- add-br br-x -- set Bridge br-x datapath_type=netdev -- add-port br-x cwblue"}, "link cwblue is not a port of br-int"},
				{[]string{"!vsctl set Port cwblue tag=11"}, "port cwblue has the tag 11, not 10 alone"},
				{[]string{"!vsctl set Port cwblue trunks=11,12"}, "port cwblue has the tag 10, not 10 alone"},
				{[]string{"!vsctl remove Interface cwblue external_ids iface-id"}, `port cwblue has external_ids:iface-id "", not "4f3c-port"`},
				{[]string{"!checksums off"}, "eth0 inside leaves checksums to a card"},
			}, inner...),
			gone: []string{"link show cwblue"},
		},
	}
}

// newWire makes a physical device, p0, with the tenant's machine at the other
// end of the wire.
func newWire(t *testing.T) {
	t.Helper()
	needs.Root(t)
	ip(t, "netns add ten")
	t.Cleanup(func() {
		_ = exec.Command("ip", "link", "del", "p0").Run()
		_ = exec.Command("ip", "netns", "del", "ten").Run()
	})
	ip(t, "link add p0 type veth peer name t0 netns ten")
	ip(t, "link set p0 up")
	tenantAddresses(t, "t0")
}

func tenantAddresses(t *testing.T, dev string) {
	t.Helper()
	in(t, "ten", "ip link set lo up")
	in(t, "ten", "ip addr add 10.77.0.5/24 dev "+dev)
	in(t, "ten", "ip addr add fd77::5/64 dev "+dev+" nodad")
	in(t, "ten", "ip link set "+dev+" up")
}

// newUnderlay makes three hosts, 192.0.2.1 to 3, on one segment, under; the
// tenant's machine is on the second, with a VXLAN device of the kernel's own.
func newUnderlay(t *testing.T) {
	t.Helper()
	newBridge(t, "under")
	ip(t, "addr add 192.0.2.1/24 dev under")
	newTenant(t, "ten", "under", "192.0.2.2/24")
	newTenant(t, "third", "under", "192.0.2.3/24")
	in(t, "ten", "ip link add vx0 type vxlan id 42 dev t0 local 192.0.2.2 dstport 4789")
	in(t, "ten", "bridge fdb append 00:00:00:00:00:00 dev vx0 dst 192.0.2.1")
	tenantAddresses(t, "vx0")
}

// do runs the commands of a drift.
func (d drifting) run(t *testing.T, h *Host) {
	t.Helper()
	for _, words := range d.do {
		other, ok := strings.CutPrefix(words, "!")
		f := strings.Fields(other)
		switch {
		case !ok:
			ip(t, words)
		case f[0] == "vlan", f[0] == "unvlan":
			nl, err := kernel.Open()
			if err != nil {
				t.Fatal(err)
			}
			defer nl.Close()
			port, err := nl.LinkByName("cwblue")
			if err != nil {
				t.Fatal(err)
			}
			id, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			if f[0] == "vlan" {
				err = h.plugs.VLANs(nl).Add(port, plug.PortVLAN{ID: id, PVID: true, Untagged: true})
			} else {
				err = h.plugs.VLANs(nl).Remove(port, id)
			}
			if err != nil {
				t.Fatal(err)
			}
		case f[0] == "checksums":
			at(t, "cw-blue", func() error { return leaveChecksums("eth0") })
		case f[0] == "vsctl":
			if _, err := h.plugs.OVS.Run(t.Context(), append([]string{"--"}, f[1:]...)...); err != nil {
				t.Fatal(err)
			}
		default:
			run(t, f[0], f[1:]...)
		}
	}
}

// reached fails the test unless the tenant reaches TCP 2049 in both families,
// and nothing else.
func reached(t *testing.T, ns string) {
	t.Helper()
	for _, port := range []string{"2049", "22"} {
		l := listen(t, ns, "[::]:"+port, "nfs")
		for _, f := range families {
			if port == "2049" {
				hears(t, mustDial(t, "ten", net.JoinHostPort(f.gateway, port)), "nfs")
				continue
			}
			_, err := dial(t, "ten", "tcp", net.JoinHostPort(f.gateway, port), silence)
			noAnswer(t, "port "+port, err)
		}
		l.Close()
	}
}

const (
	sceneEnv = "CAUSEWAY_NETNS_TEST_SCENE"
	ovsdbEnv = "CAUSEWAY_NETNS_TEST_OVSDB"
)

// sceneOfChild is the world that the parent made.
func sceneOfChild() (*Host, Network) {
	h := New(Options{ProbeWait: 40 * time.Millisecond, OVSDB: os.Getenv(ovsdbEnv)})
	for _, sc := range scenes() {
		if sc.name == os.Getenv(sceneEnv) {
			if strings.Contains(sc.name, "model") {
				h.plugs.Kinds = modelVLANs{}
			}
			return h, sc.network()
		}
	}
	return h, blue()
}
