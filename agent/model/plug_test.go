package model

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/causeway-project/causeway/agent/fault"
)

func somePlugs() map[string]Plug {
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

func TestPlugs(t *testing.T) {
	change := func(name string, f func(*Plug)) Plug {
		p := somePlugs()[name]
		f(&p)
		return p
	}
	for name, p := range somePlugs() {
		if err := p.validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	a6 := netip.MustParseAddr("fd00::1")
	for _, test := range []struct {
		Name string
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
		t.Run(test.Name, func(t *testing.T) {
			var e *fault.Error
			if err := test.plug.validate(); !errors.As(err, &e) || e.Reason != test.want || e.Kind != fault.Invalid {
				t.Errorf("%v, want %s", err, test.want)
			}
		})
	}
}
