// Package plug leads networks to this host: it makes the interface inside of a
// namespace, and what that hangs on outside. Addresses, routes and the firewall
// are its caller's.
package plug

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"

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

// Lacking reports whether err is one that the host's owner must cure.
func Lacking(err error) bool {
	for _, e := range []error{ErrNoBridge, ErrNoDevice, ErrMTU, ErrNoVLANs, ErrUnsupported, ErrTaken, ErrNoNamespace} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// A Plug is how a network reaches this host: Bridge, VLAN, VXLAN, Macvlan, OVS
// or Provided, as values.
type Plug interface {
	validate(o Options) error

	// The others are what the methods of Site say.

	base(ctx context.Context, s *Site) (base, error)
	observe(ctx context.Context, s *Site) (drift []string, remains bool, err error)
	observeInside(s *Site, in *netlink.Handle, inner netlink.Link) (drift []string, err error)
	attach(ctx context.Context, s *Site) error
	open(s *Site) error
	await(ctx context.Context, s *Site) error
	detach(ctx context.Context, s *Site) error
}

// A base is what a plug leads to.
type base struct {
	link netlink.Link // a bridge or device of this host; nil where there is none
	mtu  int          // of the interface inside, where the network names none; 0 leaves it
	ovs  ovs.Bridge
}

// validateTag takes 0 for none.
func validateTag(vlan int) error {
	if vlan < 0 || vlan > 4094 {
		return fmt.Errorf("vlan %d: not between 1 and 4094 (IEEE 802.1Q keeps 0 and 4095)", vlan)
	}
	return nil
}
