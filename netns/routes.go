package netns

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/netns/kernel"
	"github.com/causeway-project/causeway/netns/plug"
)

// routes are those through routers, and any others that the kernel did not make
// itself from an address.
func (n Network) routes(nl *netlink.Handle, l netlink.Link) (map[Route]netlink.Route, error) {
	list, err := kernel.Dump(func() ([]netlink.Route, error) {
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
			key.Destination, _ = kernel.Prefix(r.Dst)
		}
		if via, ok := netip.AddrFromSlice(r.Gw); ok && r.LinkIndex == l.Attrs().Index {
			key.Via = via.Unmap()
		}
		out[key] = r
	}
	return out, nil
}

func (r Route) masked() Route { return Route{r.Destination.Masked(), r.Via} }

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
