package netns

import (
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/netns/kernel"
	"github.com/causeway-project/causeway/netns/namespace"
	"github.com/causeway-project/causeway/netns/plug"
)

// modelVLANs stands for a kernel with 802.1Q where the tests' has none: a
// macvlan takes the place of the VLAN device, marked by its group with the
// VLAN's id, so that the model has no memory and another process sees the same.
// Its rules are those of vlan_newlink and register_vlan_dev in net/8021q.
type modelVLANs struct{}

const modelGroup = 0xca0000

func (modelVLANs) Known(string) error { return nil }

func (modelVLANs) Add(nl *netlink.Handle, l netlink.Link) error {
	v, ok := l.(*netlink.Vlan)
	if !ok {
		return nl.LinkAdd(l)
	}
	if v.VlanId < 0 || v.VlanId > 4094 {
		return unix.ERANGE
	}
	lower, err := nl.LinkByIndex(v.ParentIndex)
	if err != nil {
		return unix.ENODEV
	}
	if lower.Attrs().Flags&net.FlagLoopback != 0 { // NETIF_F_VLAN_CHALLENGED
		return unix.EOPNOTSUPP
	}
	if v.MTU > lower.Attrs().MTU {
		return unix.ERANGE
	}
	if used, err := modelUsed(v); err != nil || used {
		return fmt.Errorf("vlan %d: %w", v.VlanId, unix.EEXIST)
	}
	m := &netlink.Macvlan{LinkAttrs: v.LinkAttrs, Mode: netlink.MACVLAN_MODE_BRIDGE}
	m.Group = uint32(modelGroup + v.VlanId)
	return nl.LinkAdd(m)
}

func (modelVLANs) Kind(l netlink.Link) netlink.Link {
	m, ok := l.(*netlink.Macvlan)
	if id := int(l.Attrs().Group) - modelGroup; ok && id >= 0 && id <= 4094 {
		return &netlink.Vlan{LinkAttrs: m.LinkAttrs, VlanId: id, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}
	}
	return l
}

// modelUsed looks for the id on the device in all namespaces with a name.
func modelUsed(v *netlink.Vlan) (used bool, err error) {
	namespaces, _, err := New(Options{}).List(background())
	if err != nil {
		return false, err
	}
	for _, name := range namespaces {
		f, err := namespace.Open(name)
		if err != nil {
			continue
		}
		err = namespace.Inside(f, func() error {
			nl, err := kernel.Open()
			if err != nil {
				return err
			}
			defer nl.Close()
			links, err := nl.LinkList()
			for _, l := range links {
				w, ok := modelVLANs{}.Kind(l).(*netlink.Vlan)
				used = used || ok && w.VlanId == v.VlanId && w.ParentIndex == v.ParentIndex
			}
			return err
		})
		f.Close()
		if err != nil {
			return false, err
		}
	}
	return used, nil
}

// modelTable stands for the VLAN table of a kernel with
// CONFIG_BRIDGE_VLAN_FILTERING (net/bridge/br_vlan.c): only ports have one, a
// new port is in VLAN 1, one VLAN at most is the pvid, and what is not there
// cannot be removed.
type modelTable struct {
	nl    *netlink.Handle
	ports map[int]*modelPort // by index
	fail  int                // the n-th change from now fails; 0 none
}

type modelPort struct {
	master int
	vlans  []plug.PortVLAN
}

func newModelTable() *modelTable { return &modelTable{ports: map[int]*modelPort{}} }

func (m *modelTable) Filters(netlink.Link) error { return nil }

func (m *modelTable) port(l netlink.Link) (*modelPort, error) {
	now, err := m.nl.LinkByIndex(l.Attrs().Index)
	if err != nil {
		return nil, unix.ENODEV
	}
	master := now.Attrs().MasterIndex
	if master == 0 {
		delete(m.ports, l.Attrs().Index)
		return nil, unix.EINVAL
	}
	p := m.ports[l.Attrs().Index]
	if p == nil || p.master != master {
		p = &modelPort{master: master, vlans: []plug.PortVLAN{{ID: 1, PVID: true, Untagged: true}}}
		m.ports[l.Attrs().Index] = p
	}
	return p, nil
}

func (m *modelTable) List(l netlink.Link) ([]plug.PortVLAN, error) {
	p, err := m.port(l)
	if err != nil {
		return nil, err
	}
	return slices.Clone(p.vlans), nil
}

func (m *modelTable) change() error {
	if m.fail--; m.fail == 0 {
		return unix.ENOMEM
	}
	return nil
}

func (m *modelTable) Add(l netlink.Link, v plug.PortVLAN) error {
	p, err := m.port(l)
	if err != nil {
		return err
	}
	if v.ID < 1 || v.ID > 4094 {
		return unix.EINVAL
	}
	if err := m.change(); err != nil {
		return err
	}
	p.vlans = slices.DeleteFunc(p.vlans, func(w plug.PortVLAN) bool { return w.ID == v.ID })
	for i := range p.vlans {
		p.vlans[i].PVID = p.vlans[i].PVID && !v.PVID
	}
	p.vlans = append(p.vlans, v)
	slices.SortFunc(p.vlans, func(a, b plug.PortVLAN) int { return a.ID - b.ID })
	return nil
}

func (m *modelTable) Remove(l netlink.Link, id int) error {
	p, err := m.port(l)
	if err != nil {
		return err
	}
	if err := m.change(); err != nil {
		return err
	}
	p.vlans = slices.DeleteFunc(p.vlans, func(w plug.PortVLAN) bool { return w.ID == id })
	return nil
}
