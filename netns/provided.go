package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	rtnl "github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/netns/firewall"
	"github.com/causeway-project/causeway/netns/kernel"
	"github.com/causeway-project/causeway/netns/plug"
)

// ownerMark is on all that is set in a namespace of somebody else: the protocol
// of routes (rtnetlink(7): 5 to 255 are for programs to choose; no program in
// iproute2's rt_protos has this one) and of addresses (IFA_PROTO, Linux 5.18).
// Older kernels do not keep the latter: then the addresses stay on the
// interface until its owner removes it.
const ownerMark = 0x63

// withdraw removes from a namespace of somebody else what bears our mark, and
// the firewall last: until then the namespace is as closed as before. ns is nil
// where there is none.
func (n Network) withdraw(p plug.Provided, ns *os.File) error {
	if ns == nil {
		return nil
	}
	owner, there, err := firewall.Owner(ns)
	if err != nil || !there || owner != "" && owner != p.Owner {
		return err
	}
	err = kernel.Inside(ns, func(in *netlink.Handle) error {
		inner, err := kernel.Link(in, p.Interface)
		if err != nil || inner == nil {
			return err
		}
		have, err := n.routes(in, inner)
		if err != nil {
			return err
		}
		for key, r := range have {
			if r.Protocol != ownerMark {
				continue
			}
			if err := in.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("remove route to %s via %s: %w", key.Destination, key.Via, err)
			}
		}
		marked, err := markedAddresses(inner)
		if err != nil {
			return err
		}
		for q := range marked {
			if err := in.AddrDel(inner, &netlink.Addr{IPNet: kernel.IPNet(q)}); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
				return fmt.Errorf("remove address %s: %w", q, err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return firewall.Delete(ns)
}

const ifaProto = 11 // IFA_PROTO of linux/if_addr.h

// addMarked adds an address with our mark. The calling thread is in the
// namespace.
func addMarked(l netlink.Link, p netip.Prefix, flags int) error {
	family := unix.AF_INET
	if p.Addr().Is6() {
		family = unix.AF_INET6
	}
	req := rtnl.NewNetlinkRequest(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	msg := rtnl.NewIfAddrmsg(family)
	msg.Index, msg.Prefixlen = uint32(l.Attrs().Index), uint8(p.Bits())
	req.AddData(msg)
	req.AddData(rtnl.NewRtAttr(unix.IFA_LOCAL, p.Addr().AsSlice()))
	req.AddData(rtnl.NewRtAttr(unix.IFA_ADDRESS, p.Addr().AsSlice()))
	req.AddData(rtnl.NewRtAttr(unix.IFA_FLAGS, binary.NativeEndian.AppendUint32(nil, uint32(flags))))
	req.AddData(rtnl.NewRtAttr(ifaProto, []byte{ownerMark}))
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// markedAddresses of an interface are those with our mark. The calling thread
// is in the namespace.
func markedAddresses(l netlink.Link) (map[netip.Prefix]bool, error) {
	replies, err := kernel.Dump(func() ([][]byte, error) {
		req := rtnl.NewNetlinkRequest(unix.RTM_GETADDR, unix.NLM_F_DUMP)
		req.AddData(rtnl.NewIfAddrmsg(unix.AF_UNSPEC))
		return req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWADDR)
	})
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	out := map[netip.Prefix]bool{}
	for _, r := range replies {
		if len(r) < unix.SizeofIfAddrmsg {
			continue
		}
		head, attrs := rtnl.DeserializeIfAddrmsg(r), r[unix.SizeofIfAddrmsg:]
		if int(head.Index) != l.Attrs().Index {
			continue
		}
		if mark := kernel.Attribute(attrs, ifaProto); len(mark) != 1 || mark[0] != ownerMark {
			continue
		}
		local := kernel.Attribute(attrs, unix.IFA_LOCAL)
		if local == nil { // as IPv6 addresses are told
			local = kernel.Attribute(attrs, unix.IFA_ADDRESS)
		}
		if a, ok := netip.AddrFromSlice(local); ok {
			out[netip.PrefixFrom(a, int(head.Prefixlen))] = true
		}
	}
	return out, nil
}

// onlyMarked are those of the addresses that bear our mark.
func onlyMarked(l netlink.Link, all map[netip.Prefix]netlink.Addr) (map[netip.Prefix]netlink.Addr, error) {
	marked, err := markedAddresses(l)
	if err != nil {
		return nil, err
	}
	out := map[netip.Prefix]netlink.Addr{}
	for p, a := range all {
		if marked[p] {
			out[p] = a
		}
	}
	return out, nil
}
