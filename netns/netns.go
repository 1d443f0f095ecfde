// Package netns makes tenant networks on this host: one named network
// namespace each, with one interface, its addresses and a firewall.
//
// It knows nothing of objects or ledgers: every name is in the Network that it
// is given, so that a fresh agent recognises what an earlier one made.
package netns

import (
	"context"
	"errors"
	"net"
	"net/netip"
)

// Prefix begins the name of everything that Causeway makes on a host.
const Prefix = "cw"

// ErrNoBridge: the bridge is not there, or is not a bridge.
var ErrNoBridge = errors.New("no such bridge")

// ErrAddressInUse: another machine on the network answers for the address.
var ErrAddressInUse = errors.New("address already in use on the network")

// A Network is the wanted state of one namespace.
type Network struct {
	Namespace string         // required: a name in /run/netns, begins with Prefix
	HostLink  string         // required: the host's end of the veth pair, begins with Prefix, at most 15 bytes
	Bridge    string         // required: a Linux bridge that HostLink becomes a port of
	Addresses []netip.Prefix // required: at least one
	Routes    []Route
	MTU       int              // bytes; 0 takes the bridge's
	MAC       net.HardwareAddr // required: of the inner end
}

// A Route sends packets for Destination to Via.
type Route struct {
	Destination netip.Prefix
	Via         netip.Addr
}

// A State is what of a Network is on the host.
type State struct {
	Exists bool     // the namespace is there
	Drift  []string // what differs from what is wanted, in words; empty when all is well
}

// A Host makes networks on this machine.
type Host struct{}

// Path of a namespace's file.
func Path(namespace string) string { return "/run/netns/" + namespace }

// Check says, changing nothing, whether Ensure could succeed: the bridge is
// there (ErrNoBridge).
func (h *Host) Check(ctx context.Context, n Network) error { panic("written next") }

// Ensure makes the network, or repairs whatever differs, and returns when its
// addresses can be used (duplicate address detection has ended; ErrAddressInUse).
// What is as wanted is not touched, so that a gateway in it goes on serving.
func (h *Host) Ensure(ctx context.Context, n Network) error { panic("written next") }

// Remove removes the namespace and its links. Nothing there is success.
func (h *Host) Remove(ctx context.Context, n Network) error { panic("written next") }

// Observe compares the host with n, changing nothing.
func (h *Host) Observe(ctx context.Context, n Network) (State, error) { panic("written next") }

// List names the namespaces and host links that begin with Prefix.
func (h *Host) List(ctx context.Context) (namespaces, links []string, err error) {
	panic("written next")
}

// Watch calls changed, until ctx ends, when a link, address or namespace of
// ours may have changed. It may call too often, never too rarely.
func (h *Host) Watch(ctx context.Context, changed func()) error { panic("written next") }
