package netns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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
