package netns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/agent/crashpoint"
	"github.com/causeway-project/causeway/netns/arp"
	"github.com/causeway-project/causeway/netns/firewall"
	"github.com/causeway-project/causeway/netns/kernel"
	"github.com/causeway-project/causeway/netns/namespace"
	"github.com/causeway-project/causeway/netns/plug"
	"github.com/causeway-project/causeway/netns/sysctl"
)

// repair takes every step that Ensure needs; each looks first and leaves alone
// what is as wanted. The order matters: the firewall is there before the
// interface is up, the interface is up before addresses are asked for.
func (h *Host) repair(ctx context.Context, n Network) error {
	s, err := h.plugs.Site(n.site())
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.Find(ctx); err != nil {
		return err
	}
	open := namespace.Make
	if _, ok := n.provided(); ok {
		open = namespace.Open
	}
	ns, err := open(n.Namespace)
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := s.Attach(ctx, ns); err != nil {
		return err
	}
	drift, err := firewall.Drift(ns, h.door(n)) // before the interface is up
	if err != nil {
		return err
	}
	if len(drift) != 0 {
		if err := firewall.Write(ns, h.door(n)); err != nil {
			return err
		}
	}
	var in *netlink.Handle // stays in the namespace, whichever thread uses it
	var inner netlink.Link
	err = namespace.Inside(ns, func() (err error) {
		if in, err = kernel.Open(); err != nil {
			return err
		}
		inner, err = h.repairInner(in, n, s.MTU())
		return err
	})
	if in != nil {
		defer in.Close()
	}
	if err != nil {
		return err
	}
	if err := s.Open(); err != nil {
		return err
	}
	// A macvlan whose hardware address another one on the device has.
	err = kernel.Retry(ctx, unix.EADDRINUSE, func() error { return kernel.SetUp(in, inner) })
	if errors.Is(err, unix.EADDRINUSE) {
		err = fmt.Errorf("%w: %w", plug.ErrTaken, err)
	}
	if err != nil {
		return err
	}
	if err := kernel.AwaitCarrier(ctx, in, n.inside()); err != nil {
		return fmt.Errorf("wait for the carrier of %s: %w", n.inside(), err)
	}
	if err := s.Await(ctx); err != nil {
		return err
	}
	return namespace.Inside(ns, func() error {
		err := h.repairAddresses(ctx, n, in, inner)
		settings, more := n.sysctlsNow(in, inner)
		if err := errors.Join(err, more, sysctl.Write(settings)); err != nil {
			return err
		}
		crashpoint.Hit(crashpoint.NetnsAddressed)
		if err := n.repairRoutes(in, inner); err != nil {
			return err
		}
		return arp.Announce(inner, n.addresses4()) // the kernel announces those of IPv6 itself (ndisc_notify)
	})
}

// repairInner sees to all else inside that comes before the interface is up.
func (h *Host) repairInner(nl *netlink.Handle, n Network, mtu int) (netlink.Link, error) {
	lo, err := nl.LinkByName("lo")
	if err != nil {
		return nil, fmt.Errorf("get link lo: %w", err)
	}
	if err := kernel.SetUp(nl, lo); err != nil {
		return nil, err
	}
	name := n.inside()
	inner, err := nl.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("get link %s: %w", name, err)
	}
	a := inner.Attrs()
	if n.MAC != nil && !bytes.Equal(a.HardwareAddr, n.MAC) {
		if err := nl.LinkSetHardwareAddr(inner, n.MAC); err != nil {
			return nil, fmt.Errorf("set mac %s of %s: %w", n.MAC, name, err)
		}
		a.HardwareAddr = n.MAC
	}
	if mtu != 0 && a.MTU != mtu {
		if err := nl.LinkSetMTU(inner, mtu); err != nil {
			return nil, fmt.Errorf("set mtu %d of %s: %w", mtu, name, err)
		}
	}
	if _, ok := n.provided(); ok {
		return inner, nil // its sysctls are its owner's
	}
	settings, err := n.sysctlsNow(nl, inner)
	if err != nil {
		return nil, err
	}
	if err := sysctl.Write(settings); err != nil {
		return nil, err
	}
	// The kernel's duplicate address detection takes dad_transmits times this.
	// It also governs how soon a silent neighbour is given up, so that it is
	// short only while Ensure runs.
	fast := strconv.FormatInt(max(10, h.probeWait.Milliseconds()/2), 10)
	return inner, sysctl.Write([]sysctl.Setting{{Path: retransPath, Value: fast, Optional: true}})
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

// repairRoutes sets the wanted routes before it removes others, so that a new
// router replaces the old one without a gap.
func (n Network) repairRoutes(nl *netlink.Handle, inner netlink.Link) error {
	have, err := n.routes(nl, inner)
	if err != nil {
		return err
	}
	_, provided := n.provided()
	want := make(map[Route]bool)
	for _, r := range n.Routes {
		want[r.masked()] = true
		if _, ok := have[r.masked()]; ok {
			continue
		}
		route := &netlink.Route{
			LinkIndex: inner.Attrs().Index, Dst: kernel.IPNet(r.Destination.Masked()), Gw: r.Via.AsSlice(), Protocol: unix.RTPROT_STATIC,
		}
		set := nl.RouteReplace
		if provided {
			route.Protocol, set = ownerMark, nl.RouteAdd
			for other, old := range have { // ours to another router; one of somebody else's stays
				if other.Destination == r.Destination.Masked() && old.Protocol == ownerMark {
					set = nl.RouteReplace
				}
			}
		}
		err := set(route)
		if provided && errors.Is(err, unix.EEXIST) {
			err = plug.ErrTaken
		}
		if err != nil {
			return fmt.Errorf("set route to %s via %s: %w", r.Destination, r.Via, err)
		}
	}
	if have, err = n.routes(nl, inner); err != nil {
		return err
	}
	for key, r := range have {
		if want[key] || provided && r.Protocol != ownerMark {
			continue
		}
		if err := nl.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove route to %s via %s: %w", key.Destination, key.Via, err)
		}
	}
	return nil
}

// Remove removes the namespace and its links. Nothing there is success, and so
// is what a killed Ensure or Remove left behind. Of what the plug leads to,
// nothing need be there any more.
func (h *Host) Remove(ctx context.Context, n Network) error {
	if err := n.validateNames(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	s, err := h.plugs.Site(n.site())
	if err != nil {
		return err
	}
	defer s.Close()
	ns, err := namespace.Open(n.Namespace)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, namespace.ErrOther) {
		return err
	}
	if ns != nil {
		defer ns.Close()
	}
	if err := s.Detach(ctx, ns); err != nil {
		return err
	}
	if p, ok := n.provided(); ok {
		if err := n.withdraw(p, ns); err != nil {
			return err
		}
		h.log.Debug("network removed", "network", n.Namespace)
		return nil
	}
	if ns != nil {
		// A process may keep the namespace alive, and the host's end may have
		// been renamed: no address of ours stays on the tenant's network.
		err = kernel.Inside(ns, func(in *netlink.Handle) error { return kernel.Delete(in, plug.Interface) })
		if err != nil {
			return err
		}
	}
	if err := namespace.Remove(n.Namespace); err != nil {
		return err
	}
	h.log.Debug("network removed", "network", n.Namespace)
	return nil
}
