package rpc

import (
	"fmt"
	"net/netip"

	"google.golang.org/protobuf/proto"

	"github.com/causeway-project/causeway/agent/model"
	nodev1 "github.com/causeway-project/causeway/api/node/v1"
)

// plugFrom reads the plug of a network. Which values would do is the agent's to
// say.
func plugFrom(n *nodev1.Network) (model.Plug, error) {
	switch p := n.GetPlug().(type) {
	case *nodev1.Network_Bridge:
		if err := checkNeeds(need{"network.bridge.bridge", p.Bridge.GetBridge()}); err != nil {
			return model.Plug{}, err
		}
		return model.Plug{Kind: model.PlugBridge, Bridge: p.Bridge.GetBridge(), VLAN: int(p.Bridge.GetVlan())},
			checkGivenTag("network.bridge.vlan", p.Bridge.Vlan)
	case *nodev1.Network_Vlan:
		return model.Plug{Kind: model.PlugVLAN, Device: p.Vlan.GetDevice(), VLAN: int(p.Vlan.GetId())},
			checkNeeds(need{"network.vlan.device", p.Vlan.GetDevice()})
	case *nodev1.Network_Vxlan:
		return vxlanFrom(p.Vxlan)
	case *nodev1.Network_Macvlan:
		return model.Plug{Kind: model.PlugMacvlan, Device: p.Macvlan.GetDevice()},
			checkNeeds(need{"network.macvlan.device", p.Macvlan.GetDevice()})
	case *nodev1.Network_Ovs:
		if err := checkNeeds(need{"network.ovs.bridge", p.Ovs.GetBridge()}); err != nil {
			return model.Plug{}, err
		}
		return model.Plug{Kind: model.PlugOVS, Bridge: p.Ovs.GetBridge(), InterfaceID: p.Ovs.GetInterfaceId(), VLAN: int(p.Ovs.GetVlan())},
			checkGivenTag("network.ovs.vlan", p.Ovs.Vlan)
	case *nodev1.Network_None:
		return model.Plug{Kind: model.PlugNone, Namespace: p.None.GetNamespace(), Interface: p.None.GetInterface()},
			checkNeeds(need{"network.none.namespace", p.None.GetNamespace()}, need{"network.none.interface", p.None.GetInterface()})
	}
	return model.Plug{}, required("network.plug")
}

// checkGivenTag refuses a tag of 0, which is not the same as none.
func checkGivenTag(field string, vlan *int32) error {
	if vlan != nil && *vlan == 0 {
		return malformed(field, "0 is no VLAN id: give 1 to 4094, or leave it out")
	}
	return nil
}

func givenTag(vlan int) *int32 {
	if vlan == 0 {
		return nil
	}
	return proto.Int32(int32(vlan))
}

func vxlanFrom(p *nodev1.VxlanPlug) (model.Plug, error) {
	if err := checkNeeds(need{"network.vxlan.device", p.GetDevice()}, need{"network.vxlan.local", p.GetLocal()}); err != nil {
		return model.Plug{}, err
	}
	if len(p.GetPeers()) == 0 {
		return model.Plug{}, required("network.vxlan.peers")
	}
	to := model.Plug{Kind: model.PlugVXLAN, Device: p.GetDevice(), VXLAN: int(p.GetId()), Port: int(p.GetPort())}
	var err error
	if to.Local, err = netip.ParseAddr(p.GetLocal()); err != nil {
		return model.Plug{}, malformed("network.vxlan.local", "%q is not an address; write it like 192.0.2.1", p.GetLocal())
	}
	for i, s := range p.GetPeers() {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return model.Plug{}, malformed(fmt.Sprintf("network.vxlan.peers[%d]", i), "%q is not an address; write it like 192.0.2.2", s)
		}
		to.Peers = append(to.Peers, a)
	}
	return to, nil
}

func plugTo(p model.Plug, to *nodev1.Network) {
	switch p.Kind {
	case model.PlugBridge:
		to.Plug = &nodev1.Network_Bridge{Bridge: &nodev1.BridgePlug{Bridge: text(p.Bridge), Vlan: givenTag(p.VLAN)}}
	case model.PlugVLAN:
		to.Plug = &nodev1.Network_Vlan{Vlan: &nodev1.VlanPlug{Device: text(p.Device), Id: int32(p.VLAN)}}
	case model.PlugVXLAN:
		v := &nodev1.VxlanPlug{Id: int32(p.VXLAN), Device: text(p.Device), Local: p.Local.String(), Port: int32(p.Port)}
		for _, a := range p.Peers {
			v.Peers = append(v.Peers, a.String())
		}
		to.Plug = &nodev1.Network_Vxlan{Vxlan: v}
	case model.PlugMacvlan:
		to.Plug = &nodev1.Network_Macvlan{Macvlan: &nodev1.MacvlanPlug{Device: text(p.Device)}}
	case model.PlugOVS:
		to.Plug = &nodev1.Network_Ovs{Ovs: &nodev1.OvsPlug{Bridge: text(p.Bridge), InterfaceId: text(p.InterfaceID), Vlan: givenTag(p.VLAN)}}
	case model.PlugNone:
		to.Plug = &nodev1.Network_None{None: &nodev1.NonePlug{Namespace: text(p.Namespace), Interface: text(p.Interface)}}
	}
}
