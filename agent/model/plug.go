package model

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/word"
)

var (
	interfaceIDPattern = regexp.MustCompile(`^[!-~]{1,128}$`)
	namespacePattern   = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$`)
)

// validate refuses what no host could have.
func (p Plug) validate() error {
	switch p.Kind {
	case PlugBridge:
		if !bridgePattern.MatchString(p.Bridge) {
			return fault.Invalidf(fault.BadBridge, "bridge %s: give the name of a Linux bridge, at most 15 bytes", word.Quote(p.Bridge))
		}
		return checkTag(p.VLAN)
	case PlugOVS:
		if !bridgePattern.MatchString(p.Bridge) {
			return fault.Invalidf(fault.BadBridge, "bridge %s: give the name of an Open vSwitch bridge, at most 15 bytes", word.Quote(p.Bridge))
		}
		if p.InterfaceID != "" && !interfaceIDPattern.MatchString(p.InterfaceID) {
			return fault.Invalidf(fault.BadPlug, "interface id %s: give 1 to 128 bytes of printable ASCII without spaces, as in the controller's port", word.Quote(p.InterfaceID))
		}
		return checkTag(p.VLAN)
	case PlugVLAN:
		if err := checkDevice(p.Device); err != nil {
			return err
		}
		if p.VLAN == 0 {
			return fault.Invalidf(fault.BadVLAN, "VLAN id 0: give 1 to 4094")
		}
		return checkTag(p.VLAN)
	case PlugVXLAN:
		return checkVXLAN(p)
	case PlugMacvlan:
		return checkDevice(p.Device)
	case PlugNone:
		if !namespacePattern.MatchString(p.Namespace) || strings.HasPrefix(p.Namespace, word.Own) {
			return fault.Invalidf(fault.BadPlug, "namespace %s: give the name of one in /run/netns that somebody else made; names that begin with %s are the agent's own", word.Quote(p.Namespace), word.Own)
		}
		if !bridgePattern.MatchString(p.Interface) || p.Interface == "lo" {
			return fault.Invalidf(fault.BadDevice, "interface %s: give its name within the namespace, at most 15 bytes", word.Quote(p.Interface))
		}
		return nil
	}
	return fault.Invalidf(fault.BadPlug, "plug %s: give bridge, vlan, vxlan, macvlan, ovs or none", word.Quote(string(p.Kind)))
}

func checkDevice(name string) error {
	if !bridgePattern.MatchString(name) || name == "lo" {
		return fault.Invalidf(fault.BadDevice, "device %s: give the name of a network device of the host, at most 15 bytes", word.Quote(name))
	}
	return nil
}

func checkTag(vlan int) error {
	if vlan < 0 || vlan > 4094 {
		return fault.Invalidf(fault.BadVLAN, "VLAN id %d: give 1 to 4094", vlan)
	}
	return nil
}

func checkVXLAN(p Plug) error {
	if err := checkDevice(p.Device); err != nil {
		return err
	}
	if p.VXLAN < 1 || p.VXLAN >= 1<<24 {
		return fault.Invalidf(fault.BadVXLAN, "VXLAN id %d: give 1 to 16777215 (24 bits)", p.VXLAN)
	}
	if p.Port < 0 || p.Port > 65535 {
		return fault.Invalidf(fault.BadVXLAN, "VXLAN port %d: give 1 to 65535, or 0 for 4789", p.Port)
	}
	if len(p.Peers) == 0 || len(p.Peers) > 4096 {
		return fault.Invalidf(fault.BadVXLAN, "%d VXLAN peers: give the addresses of 1 to 4096 other hosts", len(p.Peers))
	}
	for i, a := range append([]netip.Addr{p.Local}, p.Peers...) {
		switch {
		case !a.IsValid() || a.Is4In6() || a.Zone() != "" || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast():
			return fault.Invalidf(fault.BadVXLAN, "VXLAN address %v: give a host's own unicast address", a)
		case a.Is4() != p.Local.Is4():
			return fault.Invalidf(fault.BadVXLAN, "VXLAN peer %v: is of another family than the local address %v", a, p.Local)
		case i > 0 && a == p.Local:
			return fault.Invalidf(fault.BadVXLAN, "VXLAN peer %v: is this host's own address", a)
		case i > 0 && slices.Contains(p.Peers[:i-1], a):
			return fault.Invalidf(fault.BadVXLAN, "VXLAN peer %v: is given twice", a)
		}
	}
	return nil
}
