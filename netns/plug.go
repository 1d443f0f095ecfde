package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"

	"github.com/causeway-project/causeway/netns/kernel"
	"github.com/causeway-project/causeway/netns/namespace"
	"github.com/causeway-project/causeway/netns/ovs"
)

// What keeps a plug from a host. Each is the host's to cure; the error's text
// says how.
var (
	// ErrNoBridge: the bridge is not there, or is not a bridge.
	ErrNoBridge = errors.New("no such bridge")
	// ErrNoDevice: the physical device is not there, is down, or carries nothing.
	ErrNoDevice = errors.New("device cannot be used")
	// ErrMTU: larger than what the plug's device can carry.
	ErrMTU = errors.New("mtu too large")
	// ErrNoVLANs: the bridge does not separate VLANs.
	ErrNoVLANs = errors.New("bridge does not filter VLANs")
	// ErrUnsupported: the kernel, or a program that is needed, lacks the plug.
	ErrUnsupported = errors.New("not supported on this host")
	// ErrTaken: what can be there once on a host belongs to somebody else.
	ErrTaken = errors.New("taken by somebody else")
	// ErrNoNamespace: the namespace or interface that somebody else was to
	// provide is not there.
	ErrNoNamespace = errors.New("not provided")
)

// A Plug is how a network reaches this host: Bridge, VLAN, VXLAN, Macvlan, OVS
// or Provided, as values.
type Plug interface {
	validate(n Network) error

	// base finds what the plug leads to, changing nothing. The errors above say
	// that the host cannot have it now.
	base(ctx context.Context, s *site) (base, error)

	// observe compares the host's side. s.ns may be nil, and b empty: the
	// drift then says so already.
	observe(ctx context.Context, s *site, b base) (drift []string, remains bool, err error)

	// observeInside compares the interface with what observe saw; the calling
	// thread and in are in the namespace.
	observeInside(s *site, b base, in *netlink.Handle, inner netlink.Link) (drift []string, err error)

	// attach makes the interface inside, and what it hangs on, unless it is
	// there. The host's side stays closed.
	attach(ctx context.Context, s *site, b base) error

	// open lets the network in; the firewall is there.
	open(s *site) error

	// await returns when frames pass, for only then duplicate addresses are seen.
	await(ctx context.Context, s *site, in *netlink.Handle, b base) error

	// detach removes what is on the host's side; b is not looked for.
	detach(ctx context.Context, s *site) error
}

// A base is what a plug leads to.
type base struct {
	link netlink.Link // a bridge or device of this host; nil where there is none
	mtu  int          // of the interface inside, where the network names none; 0 leaves it
	ovs  ovs.Bridge
}

// A site is one network on this host, while a method works on it.
type site struct {
	h    *Host
	n    Network
	nl   *netlink.Handle // in the host's namespace
	host *os.File        // the host's namespace
	ns   *os.File        // the network's namespace; nil while there is none

	outer netlink.Link // the host's end of a veth pair, once looked at
}

func (h *Host) site(n Network) (*site, error) {
	host, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	nl, err := kernel.Open()
	if err != nil {
		host.Close()
		return nil, err
	}
	return &site{h: h, n: n, nl: nl, host: host}, nil
}

func (s *site) close() {
	s.nl.Close()
	s.host.Close()
	if s.ns != nil {
		s.ns.Close()
	}
}

// inside runs f on a thread in the network's namespace, with a handle there.
func (s *site) inside(f func(in *netlink.Handle) error) error {
	return namespace.Inside(s.ns, func() error {
		in, err := kernel.Open()
		if err != nil {
			return err
		}
		defer in.Close()
		return f(in)
	})
}

// lacking reports whether err is one that the host's owner must cure, so that
// Observe calls it drift.
func lacking(err error) bool {
	for _, e := range []error{ErrNoBridge, ErrNoDevice, ErrMTU, ErrNoVLANs, ErrUnsupported, ErrTaken, ErrNoNamespace} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// provided returns the plug where somebody else made the namespace.
func (n Network) provided() (Provided, bool) {
	p, ok := n.Plug.(Provided)
	return p, ok
}

// inside is the name of the interface in the namespace.
func (n Network) inside() string {
	if p, ok := n.provided(); ok {
		return p.Interface
	}
	return Inside
}

// mtu is that of the interface inside; 0 leaves it as it is.
func (n Network) mtu(b base) int {
	if n.MTU != 0 {
		return n.MTU
	}
	return b.mtu
}

// device finds a device of this host that carries a plug.
func device(nl *netlink.Handle, name string) (netlink.Link, error) {
	l, err := kernel.Link(nl, name)
	switch {
	case err != nil:
		return nil, err
	case l == nil:
		return nil, fmt.Errorf("device %s: there is no such link (see \"ip link\"): %w", name, ErrNoDevice)
	case l.Attrs().Flags&net.FlagLoopback != 0:
		return nil, fmt.Errorf("device %s: is the loopback, which reaches no network: %w", name, ErrNoDevice)
	case !kernel.Up(l):
		return nil, fmt.Errorf("device %s: is down: set it up with \"ip link set %s up\": %w", name, name, ErrNoDevice)
	}
	return l, nil
}

func validateDevice(name string, n Network) error {
	if !kernel.ValidLinkName(name) {
		return fmt.Errorf("device %q: no name of a link: %w", name, ErrInvalid)
	}
	if name == n.HostLink {
		return fmt.Errorf("device %q: is the host link too: %w", name, ErrInvalid)
	}
	return nil
}

// validateTag takes 0 for none.
func validateTag(vlan int) error {
	if vlan < 0 || vlan > 4094 {
		return fmt.Errorf("vlan %d: not between 1 and 4094 (IEEE 802.1Q keeps 0 and 4095): %w", vlan, ErrInvalid)
	}
	return nil
}

func validateUnicast(what string, a netip.Addr) error {
	if !a.IsValid() || a.Is4In6() || a.Zone() != "" || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() {
		return fmt.Errorf("%s %s: not a machine's address: %w", what, a, ErrInvalid)
	}
	return nil
}
