package netns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/netns/firewall"
	"github.com/causeway-project/causeway/netns/kernel"
	"github.com/causeway-project/causeway/netns/namespace"
	"github.com/causeway-project/causeway/netns/plug"
	"github.com/causeway-project/causeway/netns/sysctl"
)

// Observe compares the host with n, changing nothing: the namespace, the
// plug, the interface, addresses, routes, sysctls and every rule of the
// firewall. It takes one to two milliseconds, with Open vSwitch some more: a
// program is asked.
func (h *Host) Observe(ctx context.Context, n Network) (State, error) {
	if err := n.validate(); err != nil {
		return State{}, err
	}
	if err := ctx.Err(); err != nil {
		return State{}, err
	}
	s, err := h.plugs.Site(n.site())
	if err != nil {
		return State{}, err
	}
	defer s.Close()

	var drift []string
	switch err := s.Find(ctx); {
	case plug.Lacking(err):
		drift = []string{err.Error()}
	case err != nil:
		return State{}, err
	}
	ns, err := namespace.Open(n.Namespace)
	half := errors.Is(err, namespace.ErrOther)
	if err != nil && !half && !errors.Is(err, fs.ErrNotExist) {
		return State{}, err
	}
	if ns != nil {
		defer ns.Close()
	}
	d, remains, err := s.Observe(ctx, ns)
	if err != nil {
		return State{}, fmt.Errorf("observe %s: %w", n.Namespace, err)
	}
	drift = append(drift, d...)
	_, provided := n.provided()
	switch {
	case half:
		return State{Remains: !provided, Drift: append(drift, namespace.Path(n.Namespace)+" is not a network namespace")}, nil
	case ns == nil:
		return State{Remains: remains, Drift: append(drift, "there is no namespace "+n.Namespace)}, nil
	}
	if d, err = firewall.Drift(ns, h.door(n)); err != nil {
		return State{}, fmt.Errorf("observe %s: %w", n.Namespace, err)
	}
	drift = append(drift, d...)
	err = kernel.Inside(ns, func(in *netlink.Handle) error {
		d, err := n.observeInner(in, s)
		drift = append(drift, d...)
		return err
	})
	if err != nil {
		return State{}, fmt.Errorf("observe %s: %w", n.Namespace, err)
	}
	return State{Exists: !provided || remains, Remains: !provided || remains, Drift: drift}, nil
}

// observeInner runs in the namespace.
func (n Network) observeInner(nl *netlink.Handle, s *plug.Site) ([]string, error) {
	name := n.inside()
	_, provided := n.provided()
	var drift []string
	lo, err := kernel.Link(nl, "lo")
	if err != nil {
		return nil, err
	}
	if lo == nil || !kernel.Up(lo) {
		drift = append(drift, "lo is down inside")
	}
	inner, err := kernel.Link(nl, name)
	if err != nil {
		return nil, err
	}
	if inner == nil {
		return append(drift, "there is no "+name+" inside"), nil
	}
	d, err := s.ObserveInside(nl, inner)
	if err != nil {
		return nil, err
	}
	drift = append(drift, d...)
	a := inner.Attrs()
	if !kernel.Up(inner) {
		drift = append(drift, name+" is down inside")
	}
	if n.MAC != nil && !bytes.Equal(a.HardwareAddr, n.MAC) {
		drift = append(drift, fmt.Sprintf("%s inside has the mac %s, not %s", name, a.HardwareAddr, n.MAC))
	}
	if mtu := s.MTU(); mtu != 0 && a.MTU != mtu {
		drift = append(drift, fmt.Sprintf("%s inside has the mtu %d, not %d", name, a.MTU, mtu))
	}
	if d, err = sysctl.Drift(n.sysctls()); err != nil {
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
	if provided {
		if addrs, err = onlyMarked(inner, addrs); err != nil {
			return nil, err
		}
	}
	for p := range addrs {
		drift = append(drift, fmt.Sprintf("address %s is not ours", p))
	}

	routes, err := n.routes(nl, inner)
	if err != nil {
		return nil, err
	}
	for _, r := range n.Routes {
		if _, ok := routes[r.masked()]; !ok {
			drift = append(drift, fmt.Sprintf("route to %s via %s is missing", r.Destination, r.Via))
		}
		delete(routes, r.masked())
	}
	for r, have := range routes {
		if provided && have.Protocol != ownerMark {
			continue
		}
		drift = append(drift, fmt.Sprintf("route to %s via %s is not ours", r.Destination, r.Via))
	}
	return drift, nil
}
