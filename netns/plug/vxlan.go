package plug

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/netns/kernel"
)

// VXLANPort is the UDP port that IANA gave to VXLAN (RFC 7348).
const VXLANPort = 4789

// VXLAN is a VXLAN device (RFC 7348), inside the namespace, whose packets go
// over a device of this host to a list of peers: what is for all machines is
// sent to each peer, and who is behind which is learned.
//
// The tenant's network is as closed as the network between the peers: VXLAN
// neither encrypts nor authenticates.
type VXLAN struct {
	ID     int          // required: 1 to 16777215
	Device string       // required: the packets' way
	Local  netip.Addr   // required: this host's address on it
	Peers  []netip.Addr // required: at least one; the other hosts, of Local's family
	Port   int          // UDP; 0 means VXLANPort
}

func (p VXLAN) port() int {
	if p.Port != 0 {
		return p.Port
	}
	return VXLANPort
}

func (p VXLAN) validate(o Options) error {
	if p.ID < 1 || p.ID >= 1<<24 {
		return fmt.Errorf("vxlan %d: not between 1 and %d (24 bits)", p.ID, 1<<24-1)
	}
	if err := validateDevice(p.Device, o); err != nil {
		return err
	}
	if p.Port < 0 || p.Port > 65535 {
		return fmt.Errorf("vxlan port %d: not between 1 and 65535", p.Port)
	}
	if err := validateUnicast("vxlan local address", p.Local); err != nil {
		return err
	}
	if len(p.Peers) == 0 {
		return errors.New("vxlan peers: none given, so that nothing could be reached")
	}
	for i, a := range p.Peers {
		if err := validateUnicast("vxlan peer", a); err != nil {
			return err
		}
		switch {
		case a.Is4() != p.Local.Is4():
			return fmt.Errorf("vxlan peer %s: of another family than the local address %s", a, p.Local)
		case a == p.Local:
			return fmt.Errorf("vxlan peer %s: is this host", a)
		case slices.Contains(p.Peers[:i], a):
			return fmt.Errorf("vxlan peer %s: given twice", a)
		}
	}
	return nil
}

func validateUnicast(what string, a netip.Addr) error {
	if !a.IsValid() || a.Is4In6() || a.Zone() != "" || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() {
		return fmt.Errorf("%s %s: not a machine's address", what, a)
	}
	return nil
}

func (p VXLAN) base(_ context.Context, s *Site) (base, error) {
	headers := 14 + 20 + 8 + 8 // inner Ethernet, IPv4, UDP, VXLAN
	if p.Local.Is6() {
		headers += 20
	}
	b, err := s.onDevice(p.Device, headers)
	if err != nil {
		return base{}, err
	}
	addrs, err := kernel.Dump(func() ([]netlink.Addr, error) { return s.nl.AddrList(b.link, netlink.FAMILY_ALL) })
	if err != nil {
		return base{}, fmt.Errorf("list addresses of %s: %w", p.Device, err)
	}
	for _, a := range addrs {
		if q, ok := kernel.Prefix(a.IPNet); ok && q.Addr() == p.Local {
			return b, nil
		}
	}
	return base{}, fmt.Errorf("vxlan local address %s: is not an address of device %s: %w", p.Local, p.Device, ErrNoDevice)
}

func (p VXLAN) stacked(s *Site) stacked {
	a := s.stackedAttrs()
	a.ParentIndex = 0 // named by VtepDevIndex
	return stacked{
		words: fmt.Sprintf("VXLAN %d from %s over %s to port %d", p.ID, p.Local, p.Device, p.port()),
		make: &netlink.Vxlan{
			LinkAttrs: a, VxlanId: p.ID, VtepDevIndex: s.base.link.Attrs().Index, SrcAddr: p.Local.AsSlice(), Port: p.port(), Learning: true,
		},
		same: func(l netlink.Link) bool {
			v, ok := l.(*netlink.Vxlan)
			return ok && v.VxlanId == p.ID && v.VtepDevIndex == s.base.link.Attrs().Index && v.SrcAddr.Equal(p.Local.AsSlice()) &&
				v.Port == p.port() && v.Learning && v.Group == nil && !v.FlowBased
		},
	}
}

func (p VXLAN) observe(context.Context, *Site) ([]string, bool, error) { return nil, false, nil }

func (p VXLAN) observeInside(s *Site, in *netlink.Handle, inner netlink.Link) ([]string, error) {
	if s.base.link == nil {
		return nil, nil
	}
	drift, err := s.observeStacked(in, inner, p.stacked(s))
	if err != nil || inner.Type() != "vxlan" {
		return drift, err
	}
	have, err := fixedEntries(in, inner)
	if err != nil {
		return nil, err
	}
	for _, a := range p.Peers {
		if !slices.ContainsFunc(have, floodsTo(a)) {
			drift = append(drift, fmt.Sprintf("peer %s is missing", a))
		}
	}
	for _, e := range have {
		if !p.wanted(e) {
			drift = append(drift, fmt.Sprintf("peer %s for %s is not ours", e.IP, e.HardwareAddr))
		}
	}
	return drift, nil
}

func (p VXLAN) attach(ctx context.Context, s *Site) error {
	return s.attachStacked(ctx, p.stacked(s), p.repairPeers)
}

// repairPeers runs in the namespace.
func (p VXLAN) repairPeers(in *netlink.Handle, l netlink.Link) error {
	have, err := fixedEntries(in, l)
	if err != nil {
		return err
	}
	for _, e := range have {
		if p.wanted(e) {
			continue
		}
		e.Flags = netlink.NTF_SELF
		if err := in.NeighDel(&e); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove peer %s: %w", e.IP, err)
		}
	}
	for _, a := range p.Peers {
		if slices.ContainsFunc(have, floodsTo(a)) {
			continue
		}
		err := in.NeighAppend(&netlink.Neigh{
			LinkIndex: l.Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF,
			State: netlink.NUD_PERMANENT | netlink.NUD_NOARP, HardwareAddr: flooded(), IP: a.AsSlice(),
		})
		if err != nil {
			return fmt.Errorf("add peer %s: %w", a, err)
		}
	}
	return nil
}

// flooded is the entry for frames whose place is not known: each of its
// destinations gets a copy.
func flooded() net.HardwareAddr { return make(net.HardwareAddr, 6) }

func floodsTo(a netip.Addr) func(netlink.Neigh) bool {
	return func(e netlink.Neigh) bool {
		return bytes.Equal(e.HardwareAddr, flooded()) && e.IP.Equal(a.AsSlice())
	}
}

func (p VXLAN) wanted(e netlink.Neigh) bool {
	return slices.ContainsFunc(p.Peers, func(a netip.Addr) bool { return floodsTo(a)(e) })
}

// fixedEntries are those of the forwarding table that were set, not learned.
func fixedEntries(in *netlink.Handle, l netlink.Link) ([]netlink.Neigh, error) {
	all, err := kernel.Dump(func() ([]netlink.Neigh, error) { return in.NeighList(l.Attrs().Index, unix.AF_BRIDGE) })
	if err != nil {
		return nil, fmt.Errorf("list peers: %w", err)
	}
	return slices.DeleteFunc(all, func(e netlink.Neigh) bool { return e.State&netlink.NUD_PERMANENT == 0 || e.IP == nil }), nil
}

func (VXLAN) open(*Site) error                        { return nil }
func (VXLAN) await(context.Context, *Site) error      { return nil }
func (VXLAN) detach(_ context.Context, s *Site) error { return s.clearStrays() }
