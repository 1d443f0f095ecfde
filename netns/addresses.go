package netns

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/netns/arp"
	"github.com/causeway-project/causeway/netns/kernel"
)

// addresses of the interface, without the link-local one that the kernel gives.
func addresses(nl *netlink.Handle, l netlink.Link) (map[netip.Prefix]netlink.Addr, error) {
	list, err := kernel.Dump(func() ([]netlink.Addr, error) { return nl.AddrList(l, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	out := make(map[netip.Prefix]netlink.Addr, len(list))
	for _, a := range list {
		p, ok := kernel.Prefix(a.IPNet)
		if !ok || p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() {
			continue
		}
		out[p] = a
	}
	return out, nil
}

// repairAddresses adds the missing addresses that nobody else has, and then
// removes foreign ones: a network whose addresses change keeps the old ones
// where one of the new ones is taken. Both families are asked for at the same
// time: the kernel asks for IPv6, and since it asks for nothing in IPv4 we do,
// before the address is set.
func (h *Host) repairAddresses(ctx context.Context, n Network, nl *netlink.Handle, inner netlink.Link) error {
	have, err := addresses(nl, inner)
	if err != nil {
		return err
	}
	foreign := maps.Clone(have)
	if _, provided := n.provided(); provided {
		if foreign, err = onlyMarked(inner, have); err != nil {
			return err
		}
	}
	ours := map[netip.Addr]bool{} // by whatever prefix length
	for p, a := range foreign {
		switch {
		case a.Flags&unix.IFA_F_DADFAILED != 0:
			if err := removeAddress(nl, inner, a); err != nil {
				return err
			}
			delete(have, p)
			delete(foreign, p)
			continue
		case slices.Contains(n.Addresses, p):
			delete(foreign, p)
		}
		ours[p.Addr()] = true
	}
	var new4, new6 []netip.Prefix
	for _, p := range n.Addresses {
		if _, ok := have[p]; ok {
			continue
		}
		if p.Addr().Is4() {
			new4 = append(new4, p)
		} else {
			new6 = append(new6, p)
		}
	}
	for _, p := range new6 {
		flags := 0
		if h.probeWait < 0 || ours[p.Addr()] {
			flags = unix.IFA_F_NODAD
		}
		for q, a := range foreign { // the kernel has an IPv6 address once, with one prefix length
			if q.Addr() != p.Addr() {
				continue
			}
			if err := removeAddress(nl, inner, a); err != nil {
				return err
			}
			delete(foreign, q)
		}
		if err := n.addAddress(nl, inner, p, flags); err != nil {
			return err
		}
	}
	var taken error
	ask := slices.DeleteFunc(slices.Clone(new4), func(p netip.Prefix) bool { return ours[p.Addr()] })
	if len(ask) != 0 && h.probeWait > 0 {
		used, err := arp.Probe(ctx, inner, ask, h.probeWait)
		if err != nil {
			return fmt.Errorf("look for duplicate addresses: %w", err)
		}
		for _, p := range used {
			taken = errors.Join(taken, fmt.Errorf("address %s: %w", p.Addr(), ErrAddressInUse))
			new4 = slices.DeleteFunc(new4, func(q netip.Prefix) bool { return q == p })
		}
	}
	for _, p := range new4 {
		if err := n.addAddress(nl, inner, p, 0); err != nil {
			return err
		}
	}
	used, err := h.awaitDetection(ctx, n, nl, inner)
	if err != nil {
		return fmt.Errorf("wait for duplicate address detection: %w", err)
	}
	for _, a := range used {
		p, _ := kernel.Prefix(a.IPNet)
		if !slices.Contains(n.Addresses, p) {
			continue // a provided interface has others too
		}
		taken = errors.Join(taken, fmt.Errorf("address %s: %w", p.Addr(), ErrAddressInUse))
		if err := removeAddress(nl, inner, a); err != nil {
			return err
		}
	}
	if taken != nil {
		return taken
	}
	for _, a := range foreign {
		if err := removeAddress(nl, inner, a); err != nil {
			return err
		}
	}
	return nil
}

func removeAddress(nl *netlink.Handle, l netlink.Link, a netlink.Addr) error {
	if err := nl.AddrDel(l, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("remove address %s: %w", a.IPNet, err)
	}
	return nil
}

func (n Network) addAddress(nl *netlink.Handle, l netlink.Link, p netip.Prefix, flags int) (err error) {
	if _, ok := n.provided(); ok {
		err = addMarked(l, p, flags)
	} else {
		err = nl.AddrAdd(l, &netlink.Addr{IPNet: kernel.IPNet(p), Flags: flags})
	}
	if err != nil {
		return fmt.Errorf("add address %s: %w", p, err)
	}
	return nil
}

// awaitDetection returns when no address is tentative any more, with those that
// another machine has.
func (h *Host) awaitDetection(ctx context.Context, n Network, nl *netlink.Handle, inner netlink.Link) (used []netlink.Addr, err error) {
	if !n.has6() {
		return nil, nil
	}
	err = kernel.Poll(ctx, kernel.Wait+h.probeWait, func() (bool, error) {
		have, err := addresses(nl, inner)
		if err != nil {
			return false, err
		}
		used = used[:0]
		done := true
		for _, a := range have {
			switch {
			case a.Flags&unix.IFA_F_DADFAILED != 0:
				used = append(used, a)
			case a.Flags&unix.IFA_F_TENTATIVE != 0:
				done = false
			}
		}
		return done, nil
	})
	return used, err
}
