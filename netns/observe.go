package netns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Observe compares the host with n, changing nothing: the namespace, both ends
// of the link, the bridge they lead to, addresses, routes, sysctls and every
// rule of the firewall. It takes one to two milliseconds.
func (h *Host) Observe(ctx context.Context, n Network) (State, error) {
	if err := n.validate(); err != nil {
		return State{}, err
	}
	if err := ctx.Err(); err != nil {
		return State{}, err
	}
	nl, err := newHandle()
	if err != nil {
		return State{}, err
	}
	defer nl.Close()

	outer, br, drift, err := n.observeOuter(nl)
	if err != nil {
		return State{}, err
	}
	ns, err := openNamespace(n.Namespace)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return State{Remains: outer != nil, Drift: append(drift, "there is no namespace "+n.Namespace)}, nil
	case errors.Is(err, errNotNamespace):
		return State{Remains: true, Drift: append(drift, Path(n.Namespace)+" is not a network namespace")}, nil
	case err != nil:
		return State{}, err
	}
	defer ns.Close()

	d, err := firewallDrift(ns)
	if err != nil {
		return State{}, fmt.Errorf("observe %s: %w", n.Namespace, err)
	}
	drift = append(drift, d...)
	err = inside(ns, func() error {
		d, err := n.observeInner(nl, ns, outer, br)
		drift = append(drift, d...)
		return err
	})
	if err != nil {
		return State{}, fmt.Errorf("observe %s: %w", n.Namespace, err)
	}
	return State{Exists: true, Remains: true, Drift: drift}, nil
}

// observeOuter looks at the host's end; outer and br are nil if not there.
func (n Network) observeOuter(nl *netlink.Handle) (outer, br netlink.Link, drift []string, err error) {
	br, err = bridge(nl, n.Bridge)
	if errors.Is(err, ErrNoBridge) {
		br, err = nil, nil
		drift = append(drift, "there is no bridge "+n.Bridge)
	}
	if err != nil {
		return nil, nil, nil, err
	}
	outer, err = link(nl, n.HostLink)
	if err != nil {
		return nil, nil, nil, err
	}
	if outer == nil {
		return nil, br, append(drift, "there is no link "+n.HostLink), nil
	}
	a := outer.Attrs()
	if br != nil && a.MasterIndex != br.Attrs().Index {
		drift = append(drift, fmt.Sprintf("link %s is not a port of %s", n.HostLink, n.Bridge))
	}
	if !up(outer) {
		drift = append(drift, fmt.Sprintf("link %s is down", n.HostLink))
	} else if br != nil && a.MasterIndex == br.Attrs().Index {
		ok, err := forwards(outer)
		if err != nil {
			return nil, nil, nil, err
		}
		if !ok {
			drift = append(drift, fmt.Sprintf("bridge %s does not forward for link %s", n.Bridge, n.HostLink))
		}
	}
	if a.Alias != n.Namespace {
		drift = append(drift, fmt.Sprintf("link %s has the alias %q, not %q", n.HostLink, a.Alias, n.Namespace))
	}
	if br != nil && a.MTU != n.outerMTU(br) {
		drift = append(drift, fmt.Sprintf("link %s has the mtu %d, not %d", n.HostLink, a.MTU, n.outerMTU(br)))
	}
	if mac := n.outerMAC(); !bytes.Equal(a.HardwareAddr, mac) {
		drift = append(drift, fmt.Sprintf("link %s has the mac %s, not %s", n.HostLink, a.HardwareAddr, mac))
	}
	d, err := differ(n.outerSysctls())
	return outer, br, append(drift, d...), err
}

// observeInner runs in the namespace.
func (n Network) observeInner(outerNL *netlink.Handle, ns *os.File, outer, br netlink.Link) ([]string, error) {
	nl, err := newHandle()
	if err != nil {
		return nil, err
	}
	defer nl.Close()

	var drift []string
	lo, err := link(nl, "lo")
	if err != nil {
		return nil, err
	}
	if lo == nil || !up(lo) {
		drift = append(drift, "lo is down inside")
	}
	inner, err := link(nl, Inside)
	if err != nil {
		return nil, err
	}
	if inner == nil {
		return append(drift, "there is no "+Inside+" inside"), nil
	}
	if ok, err := paired(outerNL, ns, outer, inner); err != nil {
		return nil, err
	} else if !ok {
		drift = append(drift, fmt.Sprintf("%s inside is not the other end of %s", Inside, n.HostLink))
	}
	a := inner.Attrs()
	if !up(inner) {
		drift = append(drift, Inside+" is down inside")
	}
	if !bytes.Equal(a.HardwareAddr, n.MAC) {
		drift = append(drift, fmt.Sprintf("%s inside has the mac %s, not %s", Inside, a.HardwareAddr, n.MAC))
	}
	if br != nil && a.MTU != n.mtu(br) {
		drift = append(drift, fmt.Sprintf("%s inside has the mtu %d, not %d", Inside, a.MTU, n.mtu(br)))
	}
	d, err := differ(n.sysctls())
	if err != nil {
		return nil, err
	}
	drift = append(drift, d...)

	addrs, err := addresses(nl, inner)
	if err != nil {
		return nil, err
	}
	for _, p := range n.Addresses {
		switch a, ok := addrs[p]; {
		case !ok:
			drift = append(drift, fmt.Sprintf("address %s is missing", p))
		case a.Flags&unix.IFA_F_DADFAILED != 0:
			drift = append(drift, fmt.Sprintf("address %s is in use by another machine", p))
		case a.Flags&unix.IFA_F_TENTATIVE != 0:
			drift = append(drift, fmt.Sprintf("address %s is not yet known to be free", p))
		}
		delete(addrs, p)
	}
	for p := range addrs {
		drift = append(drift, fmt.Sprintf("address %s is not ours", p))
	}

	routes, err := routes(nl, inner)
	if err != nil {
		return nil, err
	}
	for _, r := range n.Routes {
		if _, ok := routes[r.masked()]; !ok {
			drift = append(drift, fmt.Sprintf("route to %s via %s is missing", r.Destination, r.Via))
		}
		delete(routes, r.masked())
	}
	for r := range routes {
		drift = append(drift, fmt.Sprintf("route to %s via %s is not ours", r.Destination, r.Via))
	}
	return drift, nil
}

// addresses of the interface, without the link-local one that the kernel gives.
func addresses(nl *netlink.Handle, l netlink.Link) (map[netip.Prefix]netlink.Addr, error) {
	list, err := dump(func() ([]netlink.Addr, error) { return nl.AddrList(l, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	out := make(map[netip.Prefix]netlink.Addr, len(list))
	for _, a := range list {
		p, ok := prefix(a.IPNet)
		if !ok || p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() {
			continue
		}
		out[p] = a
	}
	return out, nil
}

// routes are those through routers, and any others that the kernel did not make
// itself from an address.
func routes(nl *netlink.Handle, l netlink.Link) (map[Route]netlink.Route, error) {
	list, err := dump(func() ([]netlink.Route, error) {
		return nl.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	out := make(map[Route]netlink.Route, len(list))
	for _, r := range list {
		if r.Protocol == unix.RTPROT_KERNEL {
			continue
		}
		var key Route
		if r.Dst != nil {
			key.Destination, _ = prefix(r.Dst)
		}
		if via, ok := netip.AddrFromSlice(r.Gw); ok && r.LinkIndex == l.Attrs().Index {
			key.Via = via.Unmap()
		}
		out[key] = r
	}
	return out, nil
}

func (r Route) masked() Route { return Route{r.Destination.Masked(), r.Via} }

func prefix(n *net.IPNet) (netip.Prefix, bool) {
	a, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if !ok || bits == 0 {
		return netip.Prefix{}, false
	}
	if bits == 32 {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, ones), true
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
