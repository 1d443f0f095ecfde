package netns

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	rtnl "github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
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
	// The kernel says ENODEV of a link that goes while it is asked for.
	if errors.As(err, new(netlink.LinkNotFoundError)) || errors.Is(err, unix.ENODEV) {
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

const loopback = net.FlagLoopback

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
// Links without a carrier of their own, such as VXLAN, are never more than
// "unknown", but the flag that they can send is theirs too.
func awaitCarrier(ctx context.Context, nl *netlink.Handle, name string) error {
	return poll(ctx, kernelWait, func() (bool, error) {
		l, err := nl.LinkByName(name)
		if err != nil {
			return false, fmt.Errorf("get link %s: %w", name, err)
		}
		a := l.Attrs()
		sends := a.RawFlags&unix.IFF_LOWER_UP != 0
		return a.OperState == netlink.OperUp || a.OperState == netlink.OperUnknown && sends, nil
	})
}
