package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/netns/namespace"
	"github.com/causeway-project/causeway/netns/plug"
)

func TestPlugs(t *testing.T) {
	for _, sc := range scenes() {
		t.Run(sc.name, func(t *testing.T) {
			h, n := sc.build(t), sc.network()
			s, err := h.Observe(t.Context(), n)
			if err != nil || s.Exists || s.Remains || len(s.Drift) == 0 {
				t.Fatalf("before: %+v, %v", s, err)
			}
			ensure(t, h, n)
			healthy(t, h, n)
			reached(t, n.Namespace)
			before := in(t, n.Namespace, "ip -d link show eth0") + in(t, n.Namespace, "nft -a -t list ruleset")
			if err := h.Ensure(t.Context(), n); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, in(t, n.Namespace, "ip -d link show eth0")+in(t, n.Namespace, "nft -a -t list ruleset")); diff != "" {
				t.Errorf("a second Ensure changed it (-before +after):\n%s", diff)
			}
			for _, d := range sc.drift {
				t.Run(strings.Join(d.do, "; "), func(t *testing.T) {
					d.run(t, h)
					s, err := h.Observe(t.Context(), n)
					if err != nil {
						t.Fatal(err)
					}
					if got := strings.Join(s.Drift, "\n"); !strings.Contains(got, d.drift) || d.drift == "" && got != "" {
						t.Errorf("drift %q, want %q among it", s.Drift, d.drift)
					}
					if err := h.Ensure(t.Context(), n); err != nil {
						t.Fatal(err)
					}
					healthy(t, h, n)
				})
			}
			reached(t, n.Namespace)
			for range 2 {
				if err := h.Remove(t.Context(), n); err != nil {
					t.Fatal(err)
				}
				nothingLeft(t, h)
			}
			if s, err := h.Observe(t.Context(), n); err != nil || s.Exists || s.Remains {
				t.Errorf("after: %+v, %v", s, err)
			}
			for _, words := range sc.gone {
				if out, err := exec.Command("ip", strings.Fields(words)...).CombinedOutput(); err == nil {
					t.Errorf("left: %s", out)
				}
			}
		})
	}
}

// Whatever instruction a kill hits, the next Ensure finishes and the next
// Remove leaves nothing; TestKilledAnywhere does it with a bridge.
func TestPlugsKilledAnywhere(t *testing.T) {
	for _, sc := range scenes() {
		if strings.Contains(sc.name, "tag") {
			continue // the model's table would end with the process
		}
		t.Run(sc.name, func(t *testing.T) {
			h, n := sc.build(t), sc.network()
			ensure(t, h, n)
			for i := range 16 {
				verb := []string{"ensure", "remove"}[i%2]
				if verb == "ensure" {
					if err := h.Remove(t.Context(), n); err != nil {
						t.Fatal(err)
					}
				}
				cmd := child(t, verb)
				cmd.Env = append(cmd.Env, sceneEnv+"="+sc.name, ovsdbEnv+"="+h.plugs.OVS.DB)
				out, err := cmd.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				if _, err := out.Read(make([]byte, 16)); err != nil {
					t.Fatal(err)
				}
				<-time.After(time.Duration(i) * 4 * time.Millisecond)
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
				if err := h.Ensure(t.Context(), n); err != nil {
					t.Fatalf("after %s was killed: %v", verb, err)
				}
				healthy(t, h, n)
			}
			if err := h.Remove(t.Context(), n); err != nil {
				t.Fatal(err)
			}
			nothingLeft(t, h)
		})
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

// A VLAN's number and a hardware address can be once on a device. A namespace
// that somebody unnamed holds ours as long as a process lives in it.
func TestStrayLinkIsTakenFromUnnamedNamespace(t *testing.T) {
	for _, sc := range scenes()[:3] {
		t.Run(sc.name, func(t *testing.T) {
			h, n := sc.build(t), sc.network()
			ensure(t, h, n)
			cmd := exec.CommandContext(t.Context(), "nsenter", "--net="+namespace.Path(n.Namespace), "sh", "-c", "echo in; exec sleep 1000")
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
			if _, err := out.Read(make([]byte, 8)); err != nil {
				t.Fatal(err)
			}
			ip(t, "netns del cw-blue")
			if err := h.Ensure(t.Context(), n); err != nil {
				t.Fatal(err)
			}
			healthy(t, h, n)
			reached(t, n.Namespace)
		})
	}
}

// The one of two networks that comes second is told.
func TestNumberTaken(t *testing.T) {
	for _, sc := range scenes()[1:3] {
		t.Run(sc.name, func(t *testing.T) {
			h, n := sc.build(t), sc.network()
			ensure(t, h, n)
			second := sc.network()
			second.Namespace, second.HostLink, second.MAC = "cw-second", "cwsecond", mac("02:77:00:00:00:03")
			second.Addresses, second.Routes = prefixes("10.77.0.3/24"), nil
			t.Cleanup(func() { _ = h.Remove(context.WithoutCancel(t.Context()), second) })
			if err := h.Ensure(t.Context(), second); !errors.Is(err, plug.ErrTaken) {
				t.Errorf("ensure: %v, want ErrTaken", err)
			}
			healthy(t, h, n)
		})
	}
}

// Several gateways on one device reach one another and the wire, and the host
// reaches none.
func TestMacvlanIsClosedToTheHost(t *testing.T) {
	newWire(t)
	ip(t, "addr add 10.77.0.8/24 dev p0")
	h, n := newHost(), scenes()[0].network()
	ensure(t, h, n)
	listen(t, "cw-blue", "[::]:2049", "nfs")
	_, err := net.DialTimeout("tcp", "10.77.0.2:2049", silence)
	if err == nil {
		t.Error("the host reached the gateway")
	}
}

// A duplicate is found over every plug.
func TestPlugsFindDuplicates(t *testing.T) {
	for _, sc := range scenes() {
		t.Run(sc.name, func(t *testing.T) {
			h, n := sc.build(t), sc.network()
			n.Addresses, n.Routes = prefixes("10.77.0.5/24", "fd77::5/64"), nil
			t.Cleanup(func() { _ = h.Remove(context.WithoutCancel(t.Context()), n) })
			h.probeWait = time.Second // of a busy machine's switch in user space
			err := h.Ensure(t.Context(), n)
			if !errors.Is(err, ErrAddressInUse) {
				t.Fatalf("ensure: %v, want ErrAddressInUse", err)
			}
			for _, a := range []string{"10.77.0.5", "fd77::5"} {
				if !strings.Contains(err.Error(), a) {
					t.Errorf("%v: not %s", err, a)
				}
			}
		})
	}
}

// What the host lacks is said before anything is made, with its cure.
func TestPlugsThatTheHostLacks(t *testing.T) {
	newWire(t)
	newBridge(t, "br-plain")
	ip(t, "link add down0 type bridge")
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", "down0").Run() })
	local, peers := netip.MustParseAddr("192.0.2.1"), []netip.Addr{netip.MustParseAddr("192.0.2.2")}
	tests := []struct {
		name string
		plug plug.Plug
		mtu  int
		want error
		cure string
	}{
		{"macvlan on nothing", plug.Macvlan{Device: "p7"}, 0, plug.ErrNoDevice, "ip link"},
		{"macvlan on what is down", plug.Macvlan{Device: "down0"}, 0, plug.ErrNoDevice, "ip link set down0 up"},
		{"macvlan on lo", plug.Macvlan{Device: "lo"}, 0, plug.ErrNoDevice, "loopback"},
		{"macvlan, mtu", plug.Macvlan{Device: "p0"}, 1501, plug.ErrMTU, "1500"},
		{"vlan on nothing", plug.VLAN{Device: "p7", ID: 5}, 0, plug.ErrNoDevice, "ip link"},
		{"vlan, mtu", plug.VLAN{Device: "p0", ID: 5}, 9000, plug.ErrMTU, "1500"},
		{"vxlan on nothing", plug.VXLAN{ID: 5, Device: "p7", Local: local, Peers: peers}, 0, plug.ErrNoDevice, "ip link"},
		{"vxlan from elsewhere", plug.VXLAN{ID: 5, Device: "p0", Local: local, Peers: peers}, 0, plug.ErrNoDevice, "not an address"},
		{"vxlan, mtu", plug.VXLAN{ID: 5, Device: "p0", Local: local, Peers: peers}, 1451, plug.ErrMTU, "1450"},
		{"ovs without ovs", plug.OVS{Bridge: "br-int"}, 0, plug.ErrUnsupported, "apt-get install openvswitch-switch"},
		{"bridge without VLANs", plug.Bridge{Name: "br-plain", VLAN: 5}, 0, nil, "VLAN"},
		{"no bridge", plug.Bridge{Name: "br-none"}, 0, plug.ErrNoBridge, "ip link add br-none type bridge"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h := New(Options{VSCtl: "no-such-vsctl"})
			n := blue()
			n.Plug, n.MTU = test.plug, test.mtu
			for verb, f := range map[string]func(context.Context, Network) error{"check": h.Check, "ensure": h.Ensure} {
				err := f(t.Context(), n)
				if test.want == nil && (errors.Is(err, plug.ErrNoVLANs) || errors.Is(err, plug.ErrUnsupported)) {
					t.Logf("%s: %v", verb, err)
				} else if test.want == nil || !errors.Is(err, test.want) {
					t.Errorf("%s: %v, want %v", verb, err, test.want)
				}
				if err != nil && !strings.Contains(err.Error(), test.cure) {
					t.Errorf("%s: %v: without %q", verb, err, test.cure)
				}
			}
			s, err := h.Observe(t.Context(), n)
			if err != nil || len(s.Drift) == 0 || s.Exists || s.Remains {
				t.Errorf("observe: %+v, %v", s, err)
			}
			nothingLeft(t, h)
			if err := h.Remove(t.Context(), n); err != nil {
				t.Errorf("remove: %v", err)
			}
		})
	}
}

// The device of a plug goes and comes back.
func TestDeviceReturns(t *testing.T) {
	newWire(t)
	h, n := newHost(), scenes()[0].network()
	ensure(t, h, n)
	ip(t, "link del p0")
	if err := h.Ensure(t.Context(), n); !errors.Is(err, plug.ErrNoDevice) {
		t.Errorf("ensure without the device: %v", err)
	}
	s, err := h.Observe(t.Context(), n)
	if err != nil || !s.Exists || !strings.Contains(strings.Join(s.Drift, "\n"), "there is no such link") {
		t.Errorf("observe without the device: %+v, %v", s, err)
	}
	ip(t, "link add p0 type veth peer name t0 netns ten")
	ip(t, "link set p0 up")
	tenantAddresses(t, "t0")
	if err := h.Ensure(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	healthy(t, h, n)
	reached(t, n.Namespace)
}

// Whether this kernel has 802.1Q: where it has, the real thing is used, and
// where not, the error says what is missing.
func TestKernelVLAN(t *testing.T) {
	newWire(t)
	h, n := newHost(), scenes()[1].network()
	t.Cleanup(func() { _ = h.Remove(context.WithoutCancel(t.Context()), n) })
	err := h.Ensure(t.Context(), n)
	if errors.Is(err, plug.ErrUnsupported) {
		nothingLeft(t, h) // refused before anything was made
		if !strings.Contains(err.Error(), "modprobe 8021q") {
			t.Errorf("%v: without the cure", err)
		}
		t.Skipf("this kernel has no 802.1Q links (%v): the model of them was tested instead", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	healthy(t, h, n)
	in(t, "ten", "ip link add link t0 name v100 type vlan id 100")
	in(t, "ten", "ip addr flush dev t0")
	tenantAddresses(t, "v100")
	reached(t, n.Namespace)
}

// The same for the VLANs of bridges.
func TestKernelBridgeVLAN(t *testing.T) {
	newBridge(t, "br-blue")
	h, n := newHost(), blue()
	n.Plug = plug.Bridge{Name: "br-blue", VLAN: 100}
	if out, err := exec.Command("ip", "link", "set", "br-blue", "type", "bridge", "vlan_filtering", "1").CombinedOutput(); err != nil {
		if err := h.Check(t.Context(), n); !errors.Is(err, plug.ErrUnsupported) && !errors.Is(err, plug.ErrNoVLANs) {
			t.Errorf("check: %v, want ErrUnsupported or ErrNoVLANs", err)
		}
		t.Skipf("this kernel's bridges filter no VLANs (%s): a model of their table was tested instead", strings.TrimSpace(string(out)))
	}
	newTenant(t, "ten", "br-blue", "10.77.0.5/24", "fd77::5/64")
	ensure(t, h, n)
	healthy(t, h, n)
	_, err := dial(t, "ten", "tcp", "10.77.0.2:2049", silence)
	noAnswer(t, "another VLAN", err)
	run(t, "bridge", "vlan", "add", "dev", "ten", "vid", "100", "pvid", "untagged")
	reached(t, n.Namespace)
}

func TestValidatePlugs(t *testing.T) {
	a, b, c := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("fd00::2")
	tests := []struct {
		plug  plug.Plug
		words string
	}{
		{plug.Bridge{Name: "br0", VLAN: 4094}, ""},
		{plug.Bridge{Name: "br0", VLAN: 4095}, "4095"},
		{plug.Bridge{Name: "br0", VLAN: -1}, "vlan -1"},
		{plug.VLAN{Device: "eth1", ID: 1}, ""},
		{plug.VLAN{Device: "eth1"}, "vlan 0"},
		{plug.VLAN{Device: "eth1", ID: 4095}, "vlan 4095"},
		{plug.VLAN{ID: 5}, "device"},
		{plug.VLAN{Device: "a/b", ID: 5}, "device"},
		{plug.VXLAN{ID: 1<<24 - 1, Device: "eth1", Local: a, Peers: []netip.Addr{b}}, ""},
		{plug.VXLAN{ID: 1 << 24, Device: "eth1", Local: a, Peers: []netip.Addr{b}}, "24 bits"},
		{plug.VXLAN{ID: 0, Device: "eth1", Local: a, Peers: []netip.Addr{b}}, "24 bits"},
		{plug.VXLAN{ID: 1, Device: "eth1", Local: a}, "peers"},
		{plug.VXLAN{ID: 1, Device: "eth1", Peers: []netip.Addr{b}}, "local"},
		{plug.VXLAN{ID: 1, Device: "eth1", Local: a, Peers: []netip.Addr{c}}, "family"},
		{plug.VXLAN{ID: 1, Device: "eth1", Local: a, Peers: []netip.Addr{a}}, "this host"},
		{plug.VXLAN{ID: 1, Device: "eth1", Local: a, Peers: []netip.Addr{b, b}}, "twice"},
		{plug.VXLAN{ID: 1, Device: "eth1", Local: a, Peers: []netip.Addr{netip.MustParseAddr("239.1.1.1")}}, "machine's"},
		{plug.VXLAN{ID: 1, Device: "eth1", Local: a, Peers: []netip.Addr{b}, Port: 65536}, "port"},
		{plug.Macvlan{}, "device"},
		{plug.Macvlan{Device: "cwblue"}, "host link"},
		{plug.OVS{Bridge: "br-int"}, ""},
		{plug.OVS{Bridge: "br-int", InterfaceID: `a"b\c,d=e`}, ""},
		{plug.OVS{Bridge: "br int"}, "bridge"},
		{plug.OVS{Bridge: "--db=x"}, ""}, // the kernel would take it; it never is an option, see TestOVSNames
		{plug.OVS{Bridge: "br-int", InterfaceID: "a b"}, "printable"},
		{plug.OVS{Bridge: "br-int", InterfaceID: strings.Repeat("x", 129)}, "128"},
		{plug.OVS{Bridge: "br-int", VLAN: 4095}, "4095"},
		{plug.Provided{Interface: "eth0", Owner: "blue"}, "namespace"}, // of our own name
	}
	for _, test := range tests {
		t.Run(fmt.Sprintf("%T%+v", test.plug, test.plug), func(t *testing.T) {
			n := blue()
			n.Plug = test.plug
			err := n.validate()
			if test.words == "" && err != nil || test.words != "" && (!errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), test.words)) {
				t.Errorf("%v, want %q", err, test.words)
			}
		})
	}
}

// A port that is not yet in its VLAN alone is never up: in another one it would
// hear another tenant.
func TestTagCutShort(t *testing.T) {
	newBridge(t, "br-blue")
	for nth := 1; nth <= 2; nth++ { // out of VLAN 1, into VLAN 100
		h, n := newHost(), blue()
		n.Plug = plug.Bridge{Name: "br-blue", VLAN: 100}
		model := newModelTable()
		h.plugs.VLANs = func(nl *netlink.Handle) plug.PortVLANs { model.nl = nl; return model }
		model.fail = nth
		t.Cleanup(func() { _ = h.Remove(context.WithoutCancel(t.Context()), n) })
		if err := h.Ensure(t.Context(), n); !errors.Is(err, unix.ENOMEM) {
			t.Fatalf("ensure, change %d fails: %v", nth, err)
		}
		if model.fail != 0 {
			t.Fatalf("change %d was not made", nth)
		}
		if l := ip(t, "link show cwblue"); strings.Contains(l, ",UP") || strings.Contains(l, "<UP") {
			t.Errorf("change %d failed, and the port is up:\n%s", nth, l)
		}
		if err := h.Ensure(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		healthy(t, h, n)
		if err := h.Remove(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
}
