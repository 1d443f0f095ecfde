package intent

import (
	"cmp"
	"fmt"
	"net/netip"
	"reflect"
	"slices"

	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/netns/plug"
)

// A Plug is one in the ledger. Records of agents that knew bridges alone have
// no kind: they say bridge.
type Plug struct {
	Kind        model.PlugKind `json:"plug,omitempty"`
	Bridge      string         `json:"bridge,omitempty"`
	Device      string         `json:"device,omitempty"`
	VLAN        int            `json:"vlan,omitempty"`
	VXLAN       int            `json:"vxlan,omitempty"`
	Local       netip.Addr     `json:"local,omitzero"`
	Peers       []netip.Addr   `json:"peers,omitempty"`
	Port        int            `json:"port,omitempty"`
	InterfaceID string         `json:"interface_id,omitempty"`
	Provided    string         `json:"provided,omitempty"` // the namespace, as the caller said
	Interface   string         `json:"interface,omitempty"`
}

func (p Plug) kind() model.PlugKind {
	if p.Kind == "" {
		return model.PlugBridge
	}
	return p.Kind
}

// Model is a plug as its caller said it.
func (p Plug) Model() model.Plug {
	return model.Plug{
		Kind: p.kind(), Bridge: p.Bridge, Device: p.Device, VLAN: p.VLAN,
		VXLAN: p.VXLAN, Local: p.Local, Peers: slices.Clone(p.Peers), Port: p.Port,
		InterfaceID: p.InterfaceID, Namespace: p.Provided, Interface: p.Interface,
	}
}

// PlugOf is the ledger's form of a plug.
func PlugOf(p model.Plug) Plug {
	return Plug{
		Kind: p.Kind, Bridge: p.Bridge, Device: p.Device, VLAN: p.VLAN,
		VXLAN: p.VXLAN, Local: p.Local, Peers: slices.Clone(p.Peers), Port: p.Port,
		InterfaceID: p.InterfaceID, Provided: p.Namespace, Interface: p.Interface,
	}
}

func (p Plug) equal(o Plug) bool {
	if !slices.Equal(p.Peers, o.Peers) {
		return false
	}
	p.Kind, o.Kind, p.Peers, o.Peers = p.kind(), o.kind(), nil, nil
	return reflect.DeepEqual(p, o)
}

// sameMake reports whether one plug can become the other in place, so that the
// namespace and the gateway in it stay.
func (p Plug) sameMake(o Plug) bool {
	if p.kind() == model.PlugVXLAN {
		p.Peers, o.Peers = nil, nil
	}
	return p.equal(o)
}

// segment names what two networks of one host share when they meet on the
// wire: there no address can be both's.
func (p Plug) segment() string {
	switch p.kind() {
	case model.PlugVXLAN:
		return fmt.Sprintf("vxlan %d port %d", p.VXLAN, cmp.Or(p.Port, plug.VXLANPort))
	case model.PlugNone:
		return "namespace " + p.Provided
	}
	return fmt.Sprintf("%s %s%s vlan %d", p.kind(), p.Bridge, p.Device, p.VLAN)
}

// single reports whether a host can have a segment once.
func (p Plug) single() bool {
	switch p.kind() {
	case model.PlugVLAN, model.PlugVXLAN, model.PlugNone:
		return true
	}
	return false
}

// of says it to the package that makes it.
func (p Plug) of(id string) plug.Plug {
	switch p.kind() {
	case model.PlugVLAN:
		return plug.VLAN{Device: p.Device, ID: p.VLAN}
	case model.PlugVXLAN:
		return plug.VXLAN{ID: p.VXLAN, Device: p.Device, Local: p.Local, Peers: p.Peers, Port: p.Port}
	case model.PlugMacvlan:
		return plug.Macvlan{Device: p.Device}
	case model.PlugOVS:
		return plug.OVS{Bridge: p.Bridge, InterfaceID: p.InterfaceID, VLAN: p.VLAN}
	case model.PlugNone:
		return plug.Provided{Interface: p.Interface, Owner: id}
	}
	return plug.Bridge{Name: p.Bridge, VLAN: p.VLAN}
}
