package netns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	rtnl "github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/agent/crashpoint"
)

// newHandle opens a netlink socket in the namespace of the calling thread,
// where it stays.
func newHandle() (*netlink.Handle, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return nl, nil
}

// link returns the link of that name, or nil if there is none.
func link(nl *netlink.Handle, name string) (netlink.Link, error) {
	l, err := nl.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get link %s: %w", name, err)
	}
	return l, nil
}

func bridge(nl *netlink.Handle, name string) (netlink.Link, error) {
	l, err := link(nl, name)
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

// repairPair makes the veth pair unless it is there, and returns the host's end.
// The peer is made inside at once, so that no half of a pair is ever without its
// namespace.
func (n Network) repairPair(nl *netlink.Handle, ns *os.File, br netlink.Link) (netlink.Link, error) {
	outer, err := link(nl, n.HostLink)
	if err != nil {
		return nil, err
	}
	ok := false
	err = inside(ns, func() error {
		in, err := newHandle()
		if err != nil {
			return err
		}
		defer in.Close()
		inner, err := link(in, Inside)
		if err != nil {
			return err
		}
		if ok, err = paired(nl, ns, outer, inner); ok || err != nil {
			return err
		}
		return deleteLink(in, Inside) // and with it its other end, under whatever name
	})
	if ok || err != nil {
		return outer, err
	}
	if err := deleteLink(nl, n.HostLink); err != nil {
		return nil, err
	}
	pair := &netlink.Veth{
		LinkAttrs:        netlink.NewLinkAttrs(),
		PeerName:         Inside,
		PeerHardwareAddr: n.MAC,
		PeerNamespace:    netlink.NsFd(int(ns.Fd())),
		PeerMTU:          uint32(n.mtu(br)),
	}
	pair.Name, pair.MTU, pair.HardwareAddr = n.HostLink, n.outerMTU(br), n.outerMAC()
	if err := nl.LinkAdd(pair); err != nil {
		return nil, fmt.Errorf("add veth pair %s: %w", n.HostLink, err)
	}
	crashpoint.Hit(crashpoint.NetnsLink)
	if outer, err = nl.LinkByName(n.HostLink); err != nil {
		return nil, fmt.Errorf("get link %s: %w", n.HostLink, err)
	}
	return outer, nil
}

// repairOuter makes the host's end a port of the bridge. It does not set it up:
// that waits for the firewall inside.
func (n Network) repairOuter(nl *netlink.Handle, outer, br netlink.Link) error {
	a := outer.Attrs()
	if a.Alias != n.Namespace {
		if err := nl.LinkSetAlias(outer, n.Namespace); err != nil {
			return fmt.Errorf("set alias of %s: %w", n.HostLink, err)
		}
	}
	if mtu := n.outerMTU(br); a.MTU != mtu {
		if err := nl.LinkSetMTU(outer, mtu); err != nil {
			return fmt.Errorf("set mtu %d of %s: %w", mtu, n.HostLink, err)
		}
	}
	if mac := n.outerMAC(); !bytes.Equal(a.HardwareAddr, mac) {
		if err := nl.LinkSetHardwareAddr(outer, mac); err != nil {
			return fmt.Errorf("set mac %s of %s: %w", mac, n.HostLink, err)
		}
	}
	if err := writeSysctls(n.outerSysctls()); err != nil {
		return err
	}
	if a.MasterIndex != br.Attrs().Index {
		// From one bridge to the other in one request: the pair stays as it is.
		if err := nl.LinkSetMaster(outer, br); err != nil {
			return fmt.Errorf("make %s a port of %s: %w", n.HostLink, n.Bridge, err)
		}
	}
	return nil
}

// mtu is that of the inner end.
func (n Network) mtu(br netlink.Link) int {
	if n.MTU != 0 {
		return n.MTU
	}
	return br.Attrs().MTU
}

// outerMTU is that of the host's end. It is never below the bridge's: a bridge
// whose mtu nobody set takes its ports' lowest (br_mtu_auto_adjust), so that one
// network's wish would reach all others on it.
func (n Network) outerMTU(br netlink.Link) int { return max(n.MTU, br.Attrs().MTU) }

func up(l netlink.Link) bool { return l.Attrs().Flags&net.FlagUp != 0 }

func setUp(nl *netlink.Handle, l netlink.Link) error {
	if up(l) {
		return nil
	}
	if err := nl.LinkSetUp(l); err != nil {
		return fmt.Errorf("set %s up: %w", l.Attrs().Name, err)
	}
	return nil
}

// deleteLink deletes a link if it is there.
func deleteLink(nl *netlink.Handle, name string) error {
	l, err := link(nl, name)
	if err != nil || l == nil {
		return err
	}
	// It may go by itself at the same time: with its other end, or with a
	// namespace that the kernel is still taking apart.
	if err := nl.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete link %s: %w", name, err)
	}
	return nil
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
		b := attribute(r[unix.SizeofIfInfomsg:], unix.IFLA_LINKINFO, rtnl.IFLA_INFO_SLAVE_DATA, rtnl.IFLA_BRPORT_STATE)
		if len(b) == 1 && b[0] == brStateForwarding {
			return true, nil
		}
	}
	return false, nil
}

const brStateForwarding = 3 // linux/if_bridge.h

// attribute follows a path of nested netlink attributes.
func attribute(b []byte, path ...uint16) []byte {
	for _, step := range path {
		attrs, err := rtnl.ParseRouteAttr(b)
		if err != nil {
			return nil
		}
		b = nil
		for _, a := range attrs {
			if a.Attr.Type&rtnl.NLA_TYPE_MASK == step {
				b = a.Value
			}
		}
	}
	return b
}

// awaitForwarding returns when the bridge forwards. Where that takes longer
// than anybody should wait in here, the next Ensure goes on waiting.
func awaitForwarding(ctx context.Context, bridge string, port netlink.Link) error {
	err := poll(ctx, kernelWait, func() (bool, error) { return forwards(port) })
	if err != nil {
		return fmt.Errorf("wait for bridge %s to forward for %s (is the bridge up? does it speak the spanning tree protocol?): %w", bridge, port.Attrs().Name, err)
	}
	return nil
}

// dump repeats a listing that changed under way, which would have holes.
func dump[T any](list func() ([]T, error)) (all []T, err error) {
	for range 20 {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

// awaitCarrier returns when frames can leave through the interface inside.
func awaitCarrier(ctx context.Context, nl *netlink.Handle) error {
	return poll(ctx, kernelWait, func() (bool, error) {
		l, err := nl.LinkByName(Inside)
		if err != nil {
			return false, fmt.Errorf("get link %s: %w", Inside, err)
		}
		return l.Attrs().OperState == netlink.OperUp, nil
	})
}
