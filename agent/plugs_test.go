package agent

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/ledger"
	"github.com/causeway-project/causeway/netns"
)

func bridgePlug(name string) Plug { return Plug{Kind: PlugBridge, Bridge: name} }

// bridgeOf is the bridge of a network of the fake host; other plugs have one
// that is always there.
func bridgeOf(n netns.Network) string {
	if p, ok := n.Plug.(netns.Bridge); ok {
		return p.Name
	}
	return "br-blue"
}

// What agents wrote that knew bridges alone.
func TestRecordWithoutPlugIsOfBridge(t *testing.T) {
	const old = `{"generation":3,"network":{"bridge":"br-blue","addresses":["10.77.0.2/24"],` +
		`"namespace":"cw-blue","host_link":"cw16477688c0e0","link_mac":"02:00:00:00:00:01"}}`
	r, err := decode(ledger.Record{Kind: kindNetwork, ID: "blue", Body: json.RawMessage(old)})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(bridgePlug("br-blue"), r.Network.plug(), addresses); diff != "" {
		t.Errorf("plug (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(netns.Plug(netns.Bridge{Name: "br-blue"}), r.Network.of("blue")); diff != "" {
		t.Errorf("to the host (-want +got):\n%s", diff)
	}
	if !r.Network.plugIntent.equal(plugIntentOf(bridgePlug("br-blue"))) {
		t.Error("the same network, put again, would have other settings")
	}
}

var addresses = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func plugs() map[string]Plug {
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	return map[string]Plug{
		"bridge":  {Kind: PlugBridge, Bridge: "br-blue", VLAN: 100},
		"vlan":    {Kind: PlugVLAN, Device: "eth1", VLAN: 100},
		"vxlan":   {Kind: PlugVXLAN, Device: "eth1", VXLAN: 42, Local: a, Peers: []netip.Addr{b}, Port: 8472},
		"macvlan": {Kind: PlugMacvlan, Device: "eth1"},
		"ovs":     {Kind: PlugOVS, Bridge: "br-int", InterfaceID: "port-1", VLAN: 7},
		"none":    {Kind: PlugNone, Namespace: "cni-1", Interface: "eth0"},
	}
}

// Every plug outlives the ledger.
func TestPlugRecord(t *testing.T) {
	for name, p := range plugs() {
		t.Run(name, func(t *testing.T) {
			body, err := json.Marshal(&record{Generation: 1, Network: &networkIntent{plugIntent: plugIntentOf(p)}})
			if err != nil {
				t.Fatal(err)
			}
			r, err := decode(ledger.Record{Kind: kindNetwork, ID: "n", Body: body})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(p, r.Network.plug(), addresses); diff != "" {
				t.Errorf("plug (-want +got):\n%s", diff)
			}
			if !r.Network.plugIntent.equal(plugIntentOf(p)) {
				t.Error("is not equal to itself")
			}
		})
	}
}

func TestCheckPlug(t *testing.T) {
	change := func(name string, f func(*Plug)) Plug {
		p := plugs()[name]
		f(&p)
		return p
	}
	for name, p := range plugs() {
		if err := checkPlug(p); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	a6 := netip.MustParseAddr("fd00::1")
	for _, test := range []struct {
		name string
		plug Plug
		want fault.Reason
	}{
		{"no plug", Plug{}, fault.BadPlug},
		{"unknown plug", Plug{Kind: "tap"}, fault.BadPlug},
		{"tag 4095", change("bridge", func(p *Plug) { p.VLAN = 4095 }), fault.BadVLAN},
		{"tag below 0", change("ovs", func(p *Plug) { p.VLAN = -1 }), fault.BadVLAN},
		{"VLAN 0", change("vlan", func(p *Plug) { p.VLAN = 0 }), fault.BadVLAN},
		{"VLAN 4095", change("vlan", func(p *Plug) { p.VLAN = 4095 }), fault.BadVLAN},
		{"no device", change("vlan", func(p *Plug) { p.Device = "" }), fault.BadDevice},
		{"device that climbs", change("macvlan", func(p *Plug) { p.Device = "../x" }), fault.BadDevice},
		{"loopback", change("macvlan", func(p *Plug) { p.Device = "lo" }), fault.BadDevice},
		{"VXLAN 0", change("vxlan", func(p *Plug) { p.VXLAN = 0 }), fault.BadVXLAN},
		{"VXLAN of 25 bits", change("vxlan", func(p *Plug) { p.VXLAN = 1 << 24 }), fault.BadVXLAN},
		{"no peers", change("vxlan", func(p *Plug) { p.Peers = nil }), fault.BadVXLAN},
		{"no local address", change("vxlan", func(p *Plug) { p.Local = netip.Addr{} }), fault.BadVXLAN},
		{"peer of the other family", change("vxlan", func(p *Plug) { p.Peers = []netip.Addr{a6} }), fault.BadVXLAN},
		{"this host a peer", change("vxlan", func(p *Plug) { p.Peers = []netip.Addr{p.Local} }), fault.BadVXLAN},
		{"VXLAN port", change("vxlan", func(p *Plug) { p.Port = 65536 }), fault.BadVXLAN},
		{"interface id with a space", change("ovs", func(p *Plug) { p.InterfaceID = "a b" }), fault.BadPlug},
		{"long interface id", change("ovs", func(p *Plug) { p.InterfaceID = strings.Repeat("x", 129) }), fault.BadPlug},
		{"bridge that is an option", change("ovs", func(p *Plug) { p.Bridge = "--db=x" }), fault.BadBridge},
		{"namespace of the agent's", change("none", func(p *Plug) { p.Namespace = "cw-blue" }), fault.BadPlug},
		{"namespace that climbs", change("none", func(p *Plug) { p.Namespace = "../x" }), fault.BadPlug},
		{"no interface", change("none", func(p *Plug) { p.Interface = "" }), fault.BadDevice},
	} {
		t.Run(test.name, func(t *testing.T) {
			var e *fault.Error
			if err := checkPlug(test.plug); !errors.As(err, &e) || e.Reason != test.want || e.Kind != fault.Invalid {
				t.Errorf("%v, want %s", err, test.want)
			}
		})
	}
}

func TestSegments(t *testing.T) {
	all := map[string]string{}
	for name, p := range plugs() {
		i := plugIntentOf(p)
		if other, ok := all[i.segment()]; ok {
			t.Errorf("%s and %s are one segment", name, other)
		}
		all[i.segment()] = name
		i.VLAN++
		if taken := i.segment() == plugIntentOf(p).segment(); taken != (name == "vxlan" || name == "none") {
			t.Errorf("%s: another VLAN is the same segment: %t", name, taken)
		}
	}
}
