package rpc

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
)

// Every plug comes back as it was given.
func TestTranslatePlugs(t *testing.T) {
	for _, in := range []*nodev1.Network{
		{Plug: &nodev1.Network_Bridge{Bridge: &nodev1.BridgePlug{Bridge: "br0", Vlan: proto.Int32(100)}}},
		{Plug: &nodev1.Network_Vlan{Vlan: &nodev1.VlanPlug{Device: "eth1", Id: 100}}},
		{Plug: &nodev1.Network_Vxlan{Vxlan: &nodev1.VxlanPlug{
			Id: 42, Device: "eth1", Local: "192.0.2.1", Peers: []string{"192.0.2.2", "192.0.2.3"}, Port: 8472,
		}}},
		{Plug: &nodev1.Network_Macvlan{Macvlan: &nodev1.MacvlanPlug{Device: "eth1"}}},
		{Plug: &nodev1.Network_Ovs{Ovs: &nodev1.OvsPlug{Bridge: "br-int", InterfaceId: "port-1", Vlan: proto.Int32(7)}}},
		{Plug: &nodev1.Network_None{None: &nodev1.NonePlug{Namespace: "cni-1", Interface: "eth0"}}},
	} {
		t.Run(fmt.Sprintf("%T", in.Plug), func(t *testing.T) {
			p, err := plugFrom(in)
			if err != nil {
				t.Fatal(err)
			}
			out := &nodev1.Network{}
			plugTo(p, out)
			if !proto.Equal(in, out) {
				t.Errorf("%v, want %v", out, in)
			}
		})
	}
}
