package plug

import (
	"context"
	"errors"
	"fmt"
	"os/exec"

	"github.com/vishvananda/netlink"

	"github.com/causeway-project/causeway/netns/kernel"
	"github.com/causeway-project/causeway/netns/namespace"
	"github.com/causeway-project/causeway/netns/ovs"
)

// OVS is a veth pair, with one end in the namespace and one a port of an Open
// vSwitch bridge, with the name that Neutron or OVN binds it by.
//
// Not an internal port moved into the namespace: ovs-vswitchd makes those anew
// when it starts, and with its userspace datapath in the host's namespace; the
// veth pair outlives it.
type OVS struct {
	Bridge      string // required: a bridge of Open vSwitch
	InterfaceID string // external_ids:iface-id, 1 to 128 printable bytes; "" where no controller binds the port

	// VLAN is the port's access tag, 1 to 4094. 0 leaves the tag alone: Neutron's
	// agent sets one of its own.
	VLAN int
}

func (p OVS) validate(o Options) error {
	if !kernel.ValidLinkName(p.Bridge) {
		return fmt.Errorf("open vswitch bridge %q: no name of a link", p.Bridge)
	}
	if p.Bridge == o.HostLink {
		return fmt.Errorf("open vswitch bridge %q: is the host link too", p.Bridge)
	}
	if len(p.InterfaceID) > 128 {
		return fmt.Errorf("interface id of %d bytes: more than 128", len(p.InterfaceID))
	}
	for _, c := range []byte(p.InterfaceID) {
		if c <= ' ' || c >= 0x7f {
			return fmt.Errorf("interface id %q: not printable ASCII without spaces", p.InterfaceID)
		}
	}
	return validateTag(p.VLAN)
}

func (p OVS) base(ctx context.Context, s *Site) (base, error) {
	b := base{mtu: 1500}
	var there bool
	var err error
	if b.ovs, there, err = s.h.OVS.Look(ctx, p.Bridge, s.o.HostLink); err != nil {
		return base{}, unavailable(err)
	}
	if !there {
		return base{}, fmt.Errorf("open vswitch bridge %s: there is none: make it with \"ovs-vsctl add-br %s\": %w", p.Bridge, p.Bridge, ErrNoBridge)
	}
	// The bridge's own port is a link of the host.
	if b.link, err = kernel.Link(s.nl, p.Bridge); err != nil {
		return base{}, err
	}
	if b.link != nil {
		b.mtu = b.link.Attrs().MTU
	}
	return b, nil
}

func (p OVS) ids(o Options) map[string]string {
	ids := map[string]string{"causeway-network": o.Namespace, "attached-mac": o.MAC.String(), "iface-status": "active"}
	if p.InterfaceID != "" {
		ids["iface-id"] = p.InterfaceID
	}
	return ids
}

func (p OVS) observe(_ context.Context, s *Site) (drift []string, remains bool, err error) {
	drift, err = s.observeOuter()
	remains = s.outer != nil || s.base.ovs.Port != nil
	if err != nil || s.base.mtu == 0 {
		return drift, remains, err
	}
	name, port := s.o.HostLink, s.base.ovs.Port
	switch {
	case port == nil || !port.Here:
		return append(drift, fmt.Sprintf("link %s is not a port of %s", name, p.Bridge)), remains, nil
	case port.Number < 1:
		drift = append(drift, fmt.Sprintf("open vswitch does not serve port %s: %s", name, port.Fault))
	case p.VLAN != 0 && (port.Tag != p.VLAN || port.Trunks):
		drift = append(drift, fmt.Sprintf("port %s has the tag %d, not %d alone", name, port.Tag, p.VLAN))
	}
	for k, v := range p.ids(s.o) {
		if port.IDs[k] != v {
			drift = append(drift, fmt.Sprintf("port %s has external_ids:%s %q, not %q", name, k, port.IDs[k], v))
		}
	}
	return drift, remains, nil
}

func (p OVS) observeInside(s *Site, in *netlink.Handle, inner netlink.Link) ([]string, error) {
	drift, err := s.observePair(inner)
	if err != nil || !s.base.ovs.Userspace {
		return drift, err
	}
	on, err := kernel.OffloadsChecksums(Interface)
	if on {
		drift = append(drift, Interface+" inside leaves checksums to a card")
	}
	return drift, err
}

// attach takes the port away before its link is made anew: a port whose link
// changes under it may go on with the old one.
func (p OVS) attach(ctx context.Context, s *Site) error {
	port := s.base.ovs.Port
	ok, err := s.intactPair()
	if err != nil {
		return err
	}
	if port != nil && (!ok || !port.Here || port.Number < 1) {
		if err := s.h.OVS.Remove(ctx, s.o.HostLink); err != nil {
			return unavailable(err)
		}
		port = nil
	}
	if !ok {
		if err := s.makePair(); err != nil {
			return err
		}
	}
	if s.base.ovs.Userspace {
		// A userspace datapath reads frames as a program would, and nothing adds
		// the checksums that the kernel has left out.
		if err := namespace.Inside(s.ns, func() error { return kernel.ComputeChecksums(Interface) }); err != nil {
			return err
		}
	}
	if err := s.repairOuter(); err != nil {
		return err
	}
	o := ovs.PortOptions{Name: s.o.HostLink, Bridge: p.Bridge, Tag: p.VLAN, IDs: p.ids(s.o)}
	if port != nil {
		return unavailable(s.h.OVS.Set(ctx, o))
	}
	return unavailable(s.h.OVS.Add(ctx, o))
}

func (p OVS) open(s *Site) error { return kernel.SetUp(s.nl, s.outer) }

// await asks until the port is served; ovs-vsctl has waited for ovs-vswitchd,
// which opens links a little later where it met them too early.
func (p OVS) await(ctx context.Context, s *Site) error {
	fault := ""
	err := kernel.Poll(ctx, kernel.Wait, func() (bool, error) {
		b, _, err := s.h.OVS.Look(ctx, p.Bridge, s.o.HostLink)
		if err != nil || b.Port == nil {
			return false, unavailable(err)
		}
		fault = b.Port.Fault
		return b.Port.Number > 0, nil
	})
	if err != nil {
		return fmt.Errorf("wait for open vswitch to serve port %s %s: %w", s.o.HostLink, fault, err)
	}
	return nil
}

func (p OVS) detach(ctx context.Context, s *Site) error {
	// Where Open vSwitch was uninstalled, its database is nobody's any more.
	if err := s.h.OVS.Remove(ctx, s.o.HostLink); err != nil && !errors.Is(err, exec.ErrNotFound) {
		return unavailable(err)
	}
	return kernel.Delete(s.nl, s.o.HostLink)
}

// unavailable marks a failure of Open vSwitch as one that the host's owner must
// cure.
func unavailable(err error) error {
	if errors.Is(err, ovs.ErrUnavailable) {
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return err
}
