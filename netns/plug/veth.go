package plug

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
func (o Options) outerMAC() net.HardwareAddr {
	mac := bytes.Clone(o.MAC)
	mac[0] = 0xfe
	if bytes.Equal(mac, o.MAC) {
		mac[5] ^= 1 // both ends alike, and the bridge would keep our frames to itself
	}
	return mac
}

// outerMTU is that of the host's end. It is never below the bridge's: a bridge
// whose mtu nobody set takes its ports' lowest (br_mtu_auto_adjust; Open vSwitch
// does the same), so that one network's wish would reach all others on it.
func (s *Site) outerMTU() int { return max(s.o.MTU, s.base.mtu) }

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
func (s *Site) observeOuter() (drift []string, err error) {
	o := s.o
	if s.outer, err = kernel.Link(s.nl, o.HostLink); err != nil {
		return nil, err
	}
	if s.outer == nil {
		return []string{"there is no link " + o.HostLink}, nil
	}
	a := s.outer.Attrs()
	if !kernel.Up(s.outer) {
		drift = append(drift, fmt.Sprintf("link %s is down", o.HostLink))
	}
	if a.Alias != o.Namespace {
		drift = append(drift, fmt.Sprintf("link %s has the alias %q, not %q", o.HostLink, a.Alias, o.Namespace))
	}
	if mtu := s.outerMTU(); s.base.mtu != 0 && a.MTU != mtu {
		drift = append(drift, fmt.Sprintf("link %s has the mtu %d, not %d", o.HostLink, a.MTU, mtu))
	}
	if mac := o.outerMAC(); !bytes.Equal(a.HardwareAddr, mac) {
		drift = append(drift, fmt.Sprintf("link %s has the mac %s, not %s", o.HostLink, a.HardwareAddr, mac))
	}
	d, err := sysctl.Drift(o.outerSysctls())
	return append(drift, d...), err
}

// observePair runs in the namespace.
func (s *Site) observePair(inner netlink.Link) ([]string, error) {
	ok, err := paired(s.nl, s.ns, s.outer, inner)
	if err != nil || ok {
		return nil, err
	}
	return []string{fmt.Sprintf("%s inside is not the other end of %s", Interface, s.o.HostLink)}, nil
}

// intactPair looks whether the veth pair is there, and leaves s.outer as it is.
// What stands in the pair's place inside is deleted.
func (s *Site) intactPair() (ok bool, err error) {
	if s.outer, err = kernel.Link(s.nl, s.o.HostLink); err != nil {
		return false, err
	}
	err = kernel.Inside(s.ns, func(in *netlink.Handle) error {
		inner, err := kernel.Link(in, Interface)
		if err != nil {
			return err
		}
		if ok, err = paired(s.nl, s.ns, s.outer, inner); ok || err != nil {
			return err
		}
		return kernel.Delete(in, Interface) // and with it its other end, under whatever name
	})
	return ok, err
}

// repairPair makes the veth pair unless it is there.
func (s *Site) repairPair() error {
	ok, err := s.intactPair()
	if ok || err != nil {
		return err
	}
	return s.makePair()
}

// makePair makes the peer inside at once, so that no half of a pair is ever
// without its namespace.
func (s *Site) makePair() (err error) {
	o := s.o
	if err := kernel.Delete(s.nl, o.HostLink); err != nil {
		return err
	}
	pair := &netlink.Veth{
		LinkAttrs:        netlink.NewLinkAttrs(),
		PeerName:         Interface,
		PeerHardwareAddr: o.MAC,
		PeerNamespace:    netlink.NsFd(int(s.ns.Fd())),
		PeerMTU:          uint32(s.MTU()),
	}
	pair.Name, pair.MTU, pair.HardwareAddr = o.HostLink, s.outerMTU(), o.outerMAC()
	if err := s.nl.LinkAdd(pair); err != nil {
		return fmt.Errorf("add veth pair %s: %w", o.HostLink, err)
	}
	crashpoint.Hit(crashpoint.NetnsLink)
	if s.outer, err = s.nl.LinkByName(o.HostLink); err != nil {
		return fmt.Errorf("get link %s: %w", o.HostLink, err)
	}
	return nil
}

// repairOuter does not set the host's end up: that waits for the firewall
// inside.
func (s *Site) repairOuter() error {
	o, a := s.o, s.outer.Attrs()
	if a.Alias != o.Namespace {
		if err := s.nl.LinkSetAlias(s.outer, o.Namespace); err != nil {
			return fmt.Errorf("set alias of %s: %w", o.HostLink, err)
		}
	}
	if mtu := s.outerMTU(); a.MTU != mtu {
		if err := s.nl.LinkSetMTU(s.outer, mtu); err != nil {
			return fmt.Errorf("set mtu %d of %s: %w", mtu, o.HostLink, err)
		}
	}
	if mac := o.outerMAC(); !bytes.Equal(a.HardwareAddr, mac) {
		if err := s.nl.LinkSetHardwareAddr(s.outer, mac); err != nil {
			return fmt.Errorf("set mac %s of %s: %w", mac, o.HostLink, err)
		}
	}
	return sysctl.Write(o.outerSysctls())
}

// outerSysctls are those of the host's end. A bridge port needs no address, and
// what the kernel would send from its link-local one reaches the tenant.
func (o Options) outerSysctls() []sysctl.Setting {
	return []sysctl.Setting{{Path: "ipv6/conf/" + o.HostLink + "/disable_ipv6", Value: "1", Optional: true}}
}
