package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
)

// plugFlags say how a network reaches the host: one of them names the kind of
// plug, and others go with it.
type plugFlags struct {
	bridge, vlanDevice, macvlan, ovs, namespace string
	vlan, vxlan, vxlanPort                      int32
	vxlanDevice, vxlanLocal                     string
	vxlanPeers                                  []string
	ifaceID, iface                              string
}

// A plugFlag names a kind of plug; others go with it.
type plugFlag struct {
	name     string
	required []string
	optional []string
}

func plugKinds() []plugFlag {
	return []plugFlag{
		{"bridge", nil, []string{"vlan"}},
		{"vlan-device", []string{"vlan"}, nil},
		{"vxlan", []string{"vxlan-device", "vxlan-local", "vxlan-peer"}, []string{"vxlan-port"}},
		{"macvlan", nil, nil},
		{"ovs", nil, []string{"iface-id", "vlan"}},
		{"namespace", []string{"interface"}, nil},
	}
}

func (p *plugFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&p.bridge, "bridge", "", "plug: a Linux bridge of the host")
	f.StringVar(&p.vlanDevice, "vlan-device", "", "plug: a device of the host that carries the network in a VLAN; with --vlan")
	f.Int32Var(&p.vxlan, "vxlan", 0, "plug: a VXLAN id; with --vxlan-device, --vxlan-local and --vxlan-peer")
	f.StringVar(&p.macvlan, "macvlan", "", "plug: a device of the host, for a macvlan on it")
	f.StringVar(&p.ovs, "ovs", "", "plug: an Open vSwitch bridge of the host")
	f.StringVar(&p.namespace, "namespace", "", "plug: a network namespace that somebody else made; with --interface")

	f.Int32Var(&p.vlan, "vlan", 0, "VLAN id, 1 to 4094, with --vlan-device, --bridge or --ovs")
	f.StringVar(&p.vxlanDevice, "vxlan-device", "", "the device that VXLAN packets leave by")
	f.StringVar(&p.vxlanLocal, "vxlan-local", "", "the host's own address on it")
	f.StringArrayVar(&p.vxlanPeers, "vxlan-peer", nil, "another host of the network; may be repeated")
	f.Int32Var(&p.vxlanPort, "vxlan-port", 0, "UDP port; 0 is 4789")
	f.StringVar(&p.ifaceID, "iface-id", "", "external_ids:iface-id of the Open vSwitch port, by which Neutron or OVN binds it")
	f.StringVar(&p.iface, "interface", "", "the interface's name in the namespace")
}

// given reports whether any of them was.
func (p *plugFlags) given(cmd *cobra.Command) bool {
	given := cmd.Flags().Changed
	return slices.ContainsFunc(plugKinds(), func(k plugFlag) bool {
		return given(k.name) || slices.ContainsFunc(slices.Concat(k.required, k.optional), given)
	})
}

// set gives the network its plug.
func (p *plugFlags) set(cmd *cobra.Command, n *nodev1.Network) error {
	given := cmd.Flags().Changed
	var tag *int32
	if given("vlan") {
		tag = &p.vlan
	}
	var chosen, names []string
	for _, k := range plugKinds() {
		names = append(names, "--"+k.name)
		if given(k.name) {
			chosen = append(chosen, "--"+k.name)
		}
	}
	if len(chosen) != 1 {
		was := "none was given"
		if len(chosen) > 1 {
			was = "not " + strings.Join(chosen, " and ")
		}
		return usage("give one of %s, %s; see '%s --help'", strings.Join(names, ", "), was, cmd.CommandPath())
	}
	fits := map[string]bool{}
	for _, k := range plugKinds() {
		if !given(k.name) {
			continue
		}
		for _, f := range k.required {
			fits[f] = true
			if !given(f) {
				return usage("--%s wants --%s too; see '%s --help'", k.name, f, cmd.CommandPath())
			}
		}
		for _, f := range k.optional {
			fits[f] = true
		}
	}
	for _, k := range plugKinds() {
		for _, f := range slices.Concat(k.required, k.optional) {
			if given(f) && !fits[f] {
				return usage("--%s does not go with %s; see '%s --help'", f, chosen[0], cmd.CommandPath())
			}
		}
	}
	switch chosen[0] {
	case "--bridge":
		n.Plug = &nodev1.Network_Bridge{Bridge: &nodev1.BridgePlug{Bridge: p.bridge, Vlan: tag}}
	case "--vlan-device":
		n.Plug = &nodev1.Network_Vlan{Vlan: &nodev1.VlanPlug{Device: p.vlanDevice, Id: p.vlan}}
	case "--vxlan":
		n.Plug = &nodev1.Network_Vxlan{Vxlan: &nodev1.VxlanPlug{
			Id: p.vxlan, Device: p.vxlanDevice, Local: p.vxlanLocal, Peers: p.vxlanPeers, Port: p.vxlanPort,
		}}
	case "--macvlan":
		n.Plug = &nodev1.Network_Macvlan{Macvlan: &nodev1.MacvlanPlug{Device: p.macvlan}}
	case "--ovs":
		n.Plug = &nodev1.Network_Ovs{Ovs: &nodev1.OvsPlug{Bridge: p.ovs, InterfaceId: p.ifaceID, Vlan: tag}}
	case "--namespace":
		n.Plug = &nodev1.Network_None{None: &nodev1.NonePlug{Namespace: p.namespace, Interface: p.iface}}
	}
	return nil
}

// plugWords say a network's plug in one line.
func plugWords(n *nodev1.Network) string {
	tag := func(id int32) string {
		if id == 0 {
			return ""
		}
		return fmt.Sprintf(" vlan %d", id)
	}
	switch p := n.GetPlug().(type) {
	case *nodev1.Network_Bridge:
		return "bridge " + p.Bridge.GetBridge() + tag(p.Bridge.GetVlan())
	case *nodev1.Network_Vlan:
		return fmt.Sprintf("vlan %d on %s", p.Vlan.GetId(), p.Vlan.GetDevice())
	case *nodev1.Network_Vxlan:
		return fmt.Sprintf("vxlan %d on %s, %d peers", p.Vxlan.GetId(), p.Vxlan.GetDevice(), len(p.Vxlan.GetPeers()))
	case *nodev1.Network_Macvlan:
		return "macvlan on " + p.Macvlan.GetDevice()
	case *nodev1.Network_Ovs:
		return "ovs " + p.Ovs.GetBridge() + tag(p.Ovs.GetVlan())
	case *nodev1.Network_None:
		return p.None.GetInterface() + " in " + p.None.GetNamespace()
	}
	return ""
}

// plugDetail is what the one line leaves out.
func plugDetail(n *nodev1.Network) []string {
	lines := []string{plugWords(n)}
	if v := n.GetVxlan(); v != nil {
		lines = append(lines, "from "+v.GetLocal())
		for _, a := range v.GetPeers() {
			lines = append(lines, "to "+a)
		}
	}
	if id := n.GetOvs().GetInterfaceId(); id != "" {
		lines = append(lines, "iface-id "+id)
	}
	return lines
}
