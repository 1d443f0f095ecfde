package plug

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	rtnl "github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/netns/kernel"
)

// Bridge is a veth pair, with one end in the namespace and one a port of a
// Linux bridge.
type Bridge struct {
	Name string // required: a Linux bridge of this host

	// VLAN makes the port an access port of this VLAN, 1 to 4094. The bridge
	// must filter VLANs: it is never switched here, for all its ports would
	// feel it. 0 leaves the port as the bridge makes it.
	VLAN int
}

func (p Bridge) validate(o Options) error {
	if !kernel.ValidLinkName(p.Name) {
		return fmt.Errorf("bridge %q: no name of a link", p.Name)
	}
	if p.Name == o.HostLink {
		return fmt.Errorf("bridge %q: is the host link too", p.Name)
	}
	return validateTag(p.VLAN)
}

func (p Bridge) base(_ context.Context, s *Site) (base, error) {
	l, err := bridge(s.nl, p.Name)
	if err != nil {
		return base{}, err
	}
	if p.VLAN != 0 {
		if err := s.h.vlans(s.nl).Filters(l); err != nil {
			return base{}, fmt.Errorf("bridge %s: %w", p.Name, err)
		}
	}
	return base{link: l, mtu: l.Attrs().MTU}, nil
}

func (p Bridge) observe(_ context.Context, s *Site) (drift []string, remains bool, err error) {
	drift, err = s.observeOuter()
	if err != nil || s.outer == nil || s.base.link == nil {
		return drift, s.outer != nil, err
	}
	port := s.outer.Attrs().MasterIndex == s.base.link.Attrs().Index
	if !port {
		return append(drift, fmt.Sprintf("link %s is not a port of %s", s.o.HostLink, p.Name)), true, nil
	}
	if kernel.Up(s.outer) {
		ok, err := forwards(s.outer)
		if err != nil {
			return nil, true, err
		}
		if !ok {
			drift = append(drift, fmt.Sprintf("bridge %s does not forward for link %s", p.Name, s.o.HostLink))
		}
	}
	if p.VLAN != 0 {
		have, err := s.h.vlans(s.nl).List(s.outer)
		if err != nil {
			return nil, true, err
		}
		if !slices.Equal(have, []PortVLAN{p.access()}) {
			drift = append(drift, fmt.Sprintf("link %s is in the VLANs %v, not in %v alone", s.o.HostLink, have, p.access()))
		}
	}
	return drift, true, nil
}

func (p Bridge) observeInside(s *Site, _ *netlink.Handle, inner netlink.Link) ([]string, error) {
	return s.observePair(inner)
}

// attach makes the host's end a port of the bridge, and of its VLAN alone,
// before it is up: a new port is in the bridge's default VLAN.
func (p Bridge) attach(_ context.Context, s *Site) error {
	if err := s.repairPair(); err != nil {
		return err
	}
	if err := s.repairOuter(); err != nil {
		return err
	}
	if s.outer.Attrs().MasterIndex != s.base.link.Attrs().Index {
		if p.VLAN != 0 {
			if err := s.nl.LinkSetDown(s.outer); err != nil {
				return fmt.Errorf("set %s down: %w", s.o.HostLink, err)
			}
			s.outer.Attrs().Flags &^= 1 // net.FlagUp
		}
		// From one bridge to the other in one request: the pair stays as it is.
		if err := s.nl.LinkSetMaster(s.outer, s.base.link); err != nil {
			return fmt.Errorf("make %s a port of %s: %w", s.o.HostLink, p.Name, err)
		}
	}
	if p.VLAN == 0 {
		return nil
	}
	return p.repairVLAN(s.h.vlans(s.nl), s.outer)
}

// repairVLAN takes the port out of every other VLAN first: while it is in two,
// another tenant's broadcasts would reach the gateway.
func (p Bridge) repairVLAN(table PortVLANs, port netlink.Link) error {
	have, err := table.List(port)
	if err != nil {
		return err
	}
	for _, v := range have {
		if v == p.access() {
			continue
		}
		if err := table.Remove(port, v.ID); err != nil {
			return fmt.Errorf("take %s out of VLAN %d: %w", port.Attrs().Name, v.ID, err)
		}
	}
	if slices.Contains(have, p.access()) {
		return nil
	}
	if err := table.Add(port, p.access()); err != nil {
		return fmt.Errorf("put %s into VLAN %d: %w", port.Attrs().Name, p.VLAN, err)
	}
	return nil
}

func (p Bridge) open(s *Site) error { return kernel.SetUp(s.nl, s.outer) }

func (p Bridge) await(ctx context.Context, s *Site) error {
	return awaitForwarding(ctx, p.Name, s.outer)
}

func (p Bridge) detach(_ context.Context, s *Site) error { return kernel.Delete(s.nl, s.o.HostLink) }

// access is the VLAN of a port whose machine knows nothing of VLANs.
func (p Bridge) access() PortVLAN { return PortVLAN{ID: p.VLAN, PVID: true, Untagged: true} }

// A PortVLAN is one VLAN of a bridge's port.
type PortVLAN struct {
	ID       int
	PVID     bool // of frames that come in untagged
	Untagged bool // frames leave without the tag
}

func (v PortVLAN) String() string {
	words := []string{strconv.Itoa(v.ID)}
	if v.PVID {
		words = append(words, "pvid")
	}
	if v.Untagged {
		words = append(words, "untagged")
	}
	return strings.Join(words, " ")
}

// PortVLANs is the VLAN table of a host's bridges. It stands here because
// kernels may be built without it (CONFIG_BRIDGE_VLAN_FILTERING): the tests
// have a model of it.
type PortVLANs interface {
	// Filters says whether the bridge separates VLANs: ErrNoVLANs, or
	// ErrUnsupported where the kernel cannot.
	Filters(bridge netlink.Link) error
	// List the VLANs of a port, by id.
	List(port netlink.Link) ([]PortVLAN, error)
	Add(port netlink.Link, v PortVLAN) error
	// Remove is success where the port is not in the VLAN.
	Remove(port netlink.Link, id int) error
}

// kernelVLANs is the kernel's table: RTM_*LINK of the family AF_BRIDGE.
type kernelVLANs struct{ nl *netlink.Handle }

func (kernelVLANs) Filters(l netlink.Link) error {
	br, ok := l.(*netlink.Bridge)
	switch {
	case !ok || br.VlanFiltering == nil: // attribute left out by kernels without it
		return fmt.Errorf("this kernel's bridges know no VLANs (CONFIG_BRIDGE_VLAN_FILTERING): %w", ErrUnsupported)
	case !*br.VlanFiltering:
		name := l.Attrs().Name
		return fmt.Errorf("set it with \"ip link set %s type bridge vlan_filtering 1\": %w", name, ErrNoVLANs)
	}
	return nil
}

func (k kernelVLANs) List(port netlink.Link) ([]PortVLAN, error) {
	all, err := kernel.Dump(func() ([]map[int32][]*rtnl.BridgeVlanInfo, error) {
		m, err := k.nl.BridgeVlanList()
		return []map[int32][]*rtnl.BridgeVlanInfo{m}, err
	})
	if err != nil {
		return nil, fmt.Errorf("list VLANs: %w", unsupported(err))
	}
	var out []PortVLAN
	for _, v := range all[0][int32(port.Attrs().Index)] {
		out = append(out, PortVLAN{int(v.Vid), v.PortVID(), v.EngressUntag()})
	}
	slices.SortFunc(out, func(a, b PortVLAN) int { return a.ID - b.ID })
	return out, nil
}

func (k kernelVLANs) Add(port netlink.Link, v PortVLAN) error {
	return unsupported(k.nl.BridgeVlanAdd(port, uint16(v.ID), v.PVID, v.Untagged, false, true))
}

func (k kernelVLANs) Remove(port netlink.Link, id int) error {
	err := k.nl.BridgeVlanDel(port, uint16(id), false, false, false, true)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return unsupported(err)
}

// unsupported marks the kernel's word for what it was built without.
func unsupported(err error) error {
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return err
}

func bridge(nl *netlink.Handle, name string) (netlink.Link, error) {
	l, err := kernel.Link(nl, name)
	switch {
	case err != nil:
		return nil, err
	case l == nil:
		return nil, fmt.Errorf("bridge %s: there is no such link: make it with \"ip link add %s type bridge\": %w", name, name, ErrNoBridge)
	case l.Type() != "bridge":
		return nil, fmt.Errorf("bridge %s: is a %s: name a Linux bridge: %w", name, l.Type(), ErrNoBridge)
	}
	return l, nil
}

// forwards reports whether a bridge forwards what it gets from this port. It
// does not while the bridge is down, nor for twice the forward delay where it
// speaks the spanning tree protocol: then no question for a duplicate address
// would be heard. The calling thread is in the host's namespace.
func forwards(port netlink.Link) (bool, error) {
	req := rtnl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	msg := rtnl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(port.Attrs().Index)
	req.AddData(msg)
	replies, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil {
		return false, fmt.Errorf("get link %s: %w", port.Attrs().Name, err)
	}
	for _, r := range replies {
		if len(r) < unix.SizeofIfInfomsg {
			continue
		}
		b := kernel.Attribute(r[unix.SizeofIfInfomsg:], unix.IFLA_LINKINFO, rtnl.IFLA_INFO_SLAVE_DATA, rtnl.IFLA_BRPORT_STATE)
		if len(b) == 1 && b[0] == brStateForwarding {
			return true, nil
		}
	}
	return false, nil
}

const brStateForwarding = 3 // linux/if_bridge.h

// awaitForwarding returns when the bridge forwards. Where that takes longer
// than anybody should wait in here, the next Ensure goes on waiting.
func awaitForwarding(ctx context.Context, bridge string, port netlink.Link) error {
	err := kernel.Poll(ctx, kernel.Wait, func() (bool, error) { return forwards(port) })
	if err != nil {
		return fmt.Errorf("wait for bridge %s to forward for %s (is the bridge up? does it speak the spanning tree protocol?): %w", bridge, port.Attrs().Name, err)
	}
	return nil
}
