package intent

import (
	"encoding/json"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-project/causeway/agent/ledger"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/netns/plug"
)

// What agents wrote that knew bridges alone.
func TestRecordWithoutPlugIsOfBridge(t *testing.T) {
	bridge := model.Plug{Kind: model.PlugBridge, Bridge: "br-blue"}
	const old = `{"generation":3,"network":{"bridge":"br-blue","addresses":["10.77.0.2/24"],` +
		`"namespace":"cw-blue","host_link":"cw16477688c0e0","link_mac":"02:00:00:00:00:01"}}`
	r, err := Decode(ledger.Record{Kind: model.KindNetwork, ID: "blue", Body: json.RawMessage(old)})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(bridge, r.Network.Model(), addresses); diff != "" {
		t.Errorf("plug (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(plug.Plug(plug.Bridge{Name: "br-blue"}), r.Network.of("blue")); diff != "" {
		t.Errorf("to the host (-want +got):\n%s", diff)
	}
	if !r.Network.Plug.equal(PlugOf(bridge)) {
		t.Error("the same network, put again, would have other settings")
	}
}

var addresses = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func plugs() map[string]model.Plug {
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	return map[string]model.Plug{
		"bridge":  {Kind: model.PlugBridge, Bridge: "br-blue", VLAN: 100},
		"vlan":    {Kind: model.PlugVLAN, Device: "eth1", VLAN: 100},
		"vxlan":   {Kind: model.PlugVXLAN, Device: "eth1", VXLAN: 42, Local: a, Peers: []netip.Addr{b}, Port: 8472},
		"macvlan": {Kind: model.PlugMacvlan, Device: "eth1"},
		"ovs":     {Kind: model.PlugOVS, Bridge: "br-int", InterfaceID: "port-1", VLAN: 7},
		"none":    {Kind: model.PlugNone, Namespace: "cni-1", Interface: "eth0"},
	}
}

// Every plug outlives the ledger.
func TestPlugRecord(t *testing.T) {
	for name, p := range plugs() {
		t.Run(name, func(t *testing.T) {
			body, err := json.Marshal(&Record{Generation: 1, Network: &Network{Plug: PlugOf(p)}})
			if err != nil {
				t.Fatal(err)
			}
			r, err := Decode(ledger.Record{Kind: model.KindNetwork, ID: "n", Body: body})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(p, r.Network.Model(), addresses); diff != "" {
				t.Errorf("plug (-want +got):\n%s", diff)
			}
			if !r.Network.Plug.equal(PlugOf(p)) {
				t.Error("is not equal to itself")
			}
		})
	}
}

func TestSegments(t *testing.T) {
	all := map[string]string{}
	for name, p := range plugs() {
		i := PlugOf(p)
		if other, ok := all[i.segment()]; ok {
			t.Errorf("%s and %s are one segment", name, other)
		}
		all[i.segment()] = name
		i.VLAN++
		if taken := i.segment() == PlugOf(p).segment(); taken != (name == "vxlan" || name == "none") {
			t.Errorf("%s: another VLAN is the same segment: %t", name, taken)
		}
	}
}
