// Package kernel speaks with this host's kernel about links and addresses, over
// netlink, and waits for what it does in its own time.
package kernel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	rtnl "github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/netns/namespace"
)

// Open opens a netlink socket in the namespace of the calling thread, where it
// stays.
func Open() (*netlink.Handle, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return nl, nil
}

// Inside runs f on a thread in the namespace, with a handle there.
func Inside(ns *os.File, f func(in *netlink.Handle) error) error {
	return namespace.Inside(ns, func() error {
		in, err := Open()
		if err != nil {
			return err
		}
		defer in.Close()
		return f(in)
	})
}

// Link returns the link of that name, or nil if there is none.
func Link(nl *netlink.Handle, name string) (netlink.Link, error) {
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

// Up reports whether a link was set up when l was looked at.
func Up(l netlink.Link) bool { return l.Attrs().Flags&net.FlagUp != 0 }

// SetUp sets a link up unless it is.
func SetUp(nl *netlink.Handle, l netlink.Link) error {
	if Up(l) {
		return nil
	}
	if err := nl.LinkSetUp(l); err != nil {
		return fmt.Errorf("set %s up: %w", l.Attrs().Name, err)
	}
	return nil
}

// Delete deletes a link if it is there.
func Delete(nl *netlink.Handle, name string) error {
	l, err := Link(nl, name)
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

// Attribute follows a path of nested netlink attributes: nil if there is none.
func Attribute(b []byte, path ...uint16) []byte {
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

// Dump repeats a listing that changed under way, which would have holes.
func Dump[T any](list func() ([]T, error)) (all []T, err error) {
	for range 20 {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

// AwaitCarrier returns when frames can leave through a link.
// Links without a carrier of their own, such as VXLAN, are never more than
// "unknown", but the flag that they can send is theirs too.
func AwaitCarrier(ctx context.Context, nl *netlink.Handle, name string) error {
	return Poll(ctx, Wait, func() (bool, error) {
		l, err := nl.LinkByName(name)
		if err != nil {
			return false, fmt.Errorf("get link %s: %w", name, err)
		}
		a := l.Attrs()
		sends := a.RawFlags&unix.IFF_LOWER_UP != 0
		return a.OperState == netlink.OperUp || a.OperState == netlink.OperUnknown && sends, nil
	})
}

// MaxLinkName is IFNAMSIZ without the final NUL.
const MaxLinkName = 15

// ValidLinkName reports whether the kernel would take s as a link's name
// (dev_valid_name); of other than ASCII it is stricter.
func ValidLinkName(s string) bool {
	if s == "" || len(s) > MaxLinkName || s == "." || s == ".." {
		return false
	}
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || c == '/' || c == ':' {
			return false
		}
	}
	return true
}

// Prefix is an address with its length as netlink tells it.
func Prefix(n *net.IPNet) (netip.Prefix, bool) {
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

// IPNet is an address with its length as netlink takes it.
func IPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
