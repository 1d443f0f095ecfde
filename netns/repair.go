package netns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
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
