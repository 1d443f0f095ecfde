package netns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"

	"github.com/vishvananda/netlink"
	rtnl "github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/netns/firewall"
	"github.com/causeway-project/causeway/netns/kernel"
	"github.com/causeway-project/causeway/netns/namespace"
)

// Provided is an interface that somebody else, such as a CNI plugin or Neutron's
// agent, has put into a named namespace of their own. Neither is ever made,
// renamed or removed here, and no sysctl is set. What is set, and removed again,
// is the firewall and whichever of addresses, routes, MTU and MAC the network
// names; addresses and routes of others stay as they are.
type Provided struct {
	Interface string // required: its name in the namespace

	// Owner names who sets this namespace's firewall: two that were given the
	// same namespace are told apart, and the second is refused.
	Owner string // required: 1 to 64 letters, digits, - _ or .
}

// ownerMark is on all that is set in a namespace of somebody else: the protocol
// of routes (rtnetlink(7): 5 to 255 are for programs to choose; no program in
// iproute2's rt_protos has this one) and of addresses (IFA_PROTO, Linux 5.18).
// Older kernels do not keep the latter: then the addresses stay on the
// interface until its owner removes it.
const ownerMark = 0x63

func (p Provided) validate(n Network) error {
	if !kernel.ValidLinkName(p.Interface) || p.Interface == "lo" {
		return fmt.Errorf("interface %q: no name of a link in the namespace: %w", p.Interface, ErrInvalid)
	}
	if p.Owner == "" || len(p.Owner) > 64 || !plain(undotted(p.Owner)) {
		return fmt.Errorf("owner %q: not 1 to 64 letters, digits, - _ or .: %w", p.Owner, ErrInvalid)
	}
	return nil
}

func (p Provided) base(_ context.Context, s *site) (base, error) {
	ns, err := namespace.Open(s.n.Namespace)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return base{}, fmt.Errorf("namespace %s: is not in %s: whoever provides it must make it first: %w", s.n.Namespace, namespace.Dir, ErrNoNamespace)
	case errors.Is(err, namespace.ErrOther):
		return base{}, fmt.Errorf("namespace %s: %w: %w", s.n.Namespace, ErrNoNamespace, err)
	case err != nil:
		return base{}, err
	}
	defer ns.Close()
	owner, _, err := firewall.Owner(ns)
	if err != nil {
		return base{}, err
	}
	if owner != "" && owner != p.Owner {
		return base{}, fmt.Errorf("namespace %s: its firewall is network %s's: %w", s.n.Namespace, owner, ErrTaken)
	}
	err = namespace.Inside(ns, func() error {
		in, err := kernel.Open()
		if err != nil {
			return err
		}
		defer in.Close()
		l, err := kernel.Link(in, p.Interface)
		if err == nil && l == nil {
			err = fmt.Errorf("interface %s: is not in namespace %s: whoever provides it must make it first: %w", p.Interface, s.n.Namespace, ErrNoNamespace)
		}
		return err
	})
	return base{}, err
}

func (p Provided) observe(_ context.Context, s *site, _ base) ([]string, bool, error) {
	if s.ns == nil {
		return nil, false, nil
	}
	owner, there, err := firewall.Owner(s.ns)
	// Flushed, it has no owner: it may be ours.
	return nil, there && (owner == p.Owner || owner == ""), err
}

func (Provided) observeInside(*site, base, *netlink.Handle, netlink.Link) ([]string, error) {
	return nil, nil
}

func (Provided) attach(context.Context, *site, base) error                 { return nil }
func (Provided) open(*site) error                                          { return nil }
func (Provided) await(context.Context, *site, *netlink.Handle, base) error { return nil }

// detach removes what bears our mark, and the firewall last: until then the
// namespace is as closed as before.
func (p Provided) detach(_ context.Context, s *site) error {
	if s.ns == nil {
		return nil
	}
	owner, there, err := firewall.Owner(s.ns)
	if err != nil || !there || owner != "" && owner != p.Owner {
		return err
	}
	err = s.inside(func(in *netlink.Handle) error {
		inner, err := kernel.Link(in, p.Interface)
		if err != nil || inner == nil {
			return err
		}
		have, err := s.n.routes(in, inner)
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
	return firewall.Delete(s.ns)
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
