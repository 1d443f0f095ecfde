package netns

import (
	"bytes"
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"

	"github.com/causeway-project/causeway/agent/crashpoint"
	"github.com/causeway-project/causeway/netns/kernel"
	"github.com/causeway-project/causeway/netns/sysctl"
)

// outerMAC is the address of the host's end. A bridge without an address of its
// own takes its ports' lowest, so that a low one would change the host's
// address on the network: like libvirt we begin with fe.
func (n Network) outerMAC() net.HardwareAddr {
	mac := bytes.Clone(n.MAC)
	mac[0] = 0xfe
	if bytes.Equal(mac, n.MAC) {
		mac[5] ^= 1 // both ends alike, and the bridge would keep our frames to itself
	}
	return mac
}

// outerMTU is that of the host's end. It is never below the bridge's: a bridge
// whose mtu nobody set takes its ports' lowest (br_mtu_auto_adjust; Open vSwitch
// does the same), so that one network's wish would reach all others on it.
func (n Network) outerMTU(b base) int { return max(n.MTU, b.mtu) }

// paired reports whether outer, in the host's namespace, and inner, in ns, are
// the two ends of one veth pair. The ids of namespaces are nl's.
func paired(nl *netlink.Handle, ns *os.File, outer, inner netlink.Link) (bool, error) {
	if outer == nil || inner == nil || outer.Type() != "veth" || inner.Type() != "veth" {
		return false, nil
	}
	id, err := nl.GetNetNsIdByFd(int(ns.Fd()))
	if err != nil {
		return false, fmt.Errorf("get id of %s: %w", ns.Name(), err)
	}
	o, i := outer.Attrs(), inner.Attrs()
	// An index alone could be that of another link in another namespace.
	return o.ParentIndex == i.Index && i.ParentIndex == o.Index && id >= 0 && o.NetNsID == id, nil
}

// observeOuter looks at the host's end of a veth pair.
func (s *site) observeOuter(b base) (drift []string, err error) {
	n := s.n
	if s.outer, err = kernel.Link(s.nl, n.HostLink); err != nil {
		return nil, err
	}
	if s.outer == nil {
		return []string{"there is no link " + n.HostLink}, nil
	}
	a := s.outer.Attrs()
	if !kernel.Up(s.outer) {
		drift = append(drift, fmt.Sprintf("link %s is down", n.HostLink))
	}
	if a.Alias != n.Namespace {
		drift = append(drift, fmt.Sprintf("link %s has the alias %q, not %q", n.HostLink, a.Alias, n.Namespace))
	}
	if mtu := n.outerMTU(b); b.mtu != 0 && a.MTU != mtu {
		drift = append(drift, fmt.Sprintf("link %s has the mtu %d, not %d", n.HostLink, a.MTU, mtu))
	}
	if mac := n.outerMAC(); !bytes.Equal(a.HardwareAddr, mac) {
		drift = append(drift, fmt.Sprintf("link %s has the mac %s, not %s", n.HostLink, a.HardwareAddr, mac))
	}
	d, err := sysctl.Drift(n.outerSysctls())
	return append(drift, d...), err
}

// observePair runs in the namespace.
func (s *site) observePair(inner netlink.Link) ([]string, error) {
	ok, err := paired(s.nl, s.ns, s.outer, inner)
	if err != nil || ok {
		return nil, err
	}
	return []string{fmt.Sprintf("%s inside is not the other end of %s", Inside, s.n.HostLink)}, nil
}

// intactPair looks whether the veth pair is there, and leaves s.outer as it is.
// What stands in the pair's place inside is deleted.
func (s *site) intactPair() (ok bool, err error) {
	if s.outer, err = kernel.Link(s.nl, s.n.HostLink); err != nil {
		return false, err
	}
	err = s.inside(func(in *netlink.Handle) error {
		inner, err := kernel.Link(in, Inside)
		if err != nil {
			return err
		}
		if ok, err = paired(s.nl, s.ns, s.outer, inner); ok || err != nil {
			return err
		}
		return kernel.Delete(in, Inside) // and with it its other end, under whatever name
	})
	return ok, err
}

// repairPair makes the veth pair unless it is there.
func (s *site) repairPair(b base) error {
	ok, err := s.intactPair()
	if ok || err != nil {
		return err
	}
	return s.makePair(b)
}

// makePair makes the peer inside at once, so that no half of a pair is ever
// without its namespace.
func (s *site) makePair(b base) (err error) {
	n := s.n
	if err := kernel.Delete(s.nl, n.HostLink); err != nil {
		return err
	}
	pair := &netlink.Veth{
		LinkAttrs:        netlink.NewLinkAttrs(),
		PeerName:         Inside,
		PeerHardwareAddr: n.MAC,
		PeerNamespace:    netlink.NsFd(int(s.ns.Fd())),
		PeerMTU:          uint32(n.mtu(b)),
	}
	pair.Name, pair.MTU, pair.HardwareAddr = n.HostLink, n.outerMTU(b), n.outerMAC()
	if err := s.nl.LinkAdd(pair); err != nil {
		return fmt.Errorf("add veth pair %s: %w", n.HostLink, err)
	}
	crashpoint.Hit(crashpoint.NetnsLink)
	if s.outer, err = s.nl.LinkByName(n.HostLink); err != nil {
		return fmt.Errorf("get link %s: %w", n.HostLink, err)
	}
	return nil
}

// repairOuter does not set the host's end up: that waits for the firewall
// inside.
func (s *site) repairOuter(b base) error {
	n, a := s.n, s.outer.Attrs()
	if a.Alias != n.Namespace {
		if err := s.nl.LinkSetAlias(s.outer, n.Namespace); err != nil {
			return fmt.Errorf("set alias of %s: %w", n.HostLink, err)
		}
	}
	if mtu := n.outerMTU(b); a.MTU != mtu {
		if err := s.nl.LinkSetMTU(s.outer, mtu); err != nil {
			return fmt.Errorf("set mtu %d of %s: %w", mtu, n.HostLink, err)
		}
	}
	if mac := n.outerMAC(); !bytes.Equal(a.HardwareAddr, mac) {
		if err := s.nl.LinkSetHardwareAddr(s.outer, mac); err != nil {
			return fmt.Errorf("set mac %s of %s: %w", mac, n.HostLink, err)
		}
	}
	return sysctl.Write(n.outerSysctls())
}
