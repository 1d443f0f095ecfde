// Package netns makes tenant networks on this host: one named network
// namespace each, with one interface, its addresses and a firewall.
//
// It knows nothing of objects or ledgers: every name is in the Network that it
// is given, so that a fresh agent recognises what an earlier one made.
package netns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/netns/namespace"
	"github.com/causeway-project/causeway/netns/ovs"
	"github.com/causeway-project/causeway/netns/plug"
)

// Prefix begins the name of everything that Causeway makes on a host.
const Prefix = "cw"

// DefaultProbeWait is how long an answer is waited for before an address is
// taken for free. A neighbour on a switched network answers within a
// millisecond; RFC 5227 (1 to 7 s) and RFC 4862 (1 s) were written for slower
// ones, and a network's first export waits for this.
const DefaultProbeWait = 200 * time.Millisecond

// ErrInvalid: the Network could not be made on any host.
var ErrInvalid = errors.New("invalid network")

// ErrAddressInUse: another machine on the network answers for the address.
var ErrAddressInUse = errors.New("address already in use on the network")

// A Network is the wanted state of one namespace.
type Network struct {
	Namespace string         // required: a name in /run/netns; begins with Prefix, unless the plug is Provided: then it must not
	HostLink  string         // required: the host's end of a veth pair, where the plug makes one; begins with Prefix, at most 15 bytes
	Plug      plug.Plug      // required
	Addresses []netip.Prefix // required: at least one
	Routes    []Route
	MTU       int              // bytes, 1280 to 65535; 0 takes what the plug's bridge or device carries
	MAC       net.HardwareAddr // required, unless the plug is Provided: of the interface inside

	// Ports that the network reaches beside TCP 2049; from those of UDP
	// datagrams may also leave. None of them is 0.
	TCPPorts, UDPPorts []uint16
}

// A Route sends packets for Destination to Via.
type Route struct {
	Destination netip.Prefix
	Via         netip.Addr
}

// A State is what of a Network is on the host.
type State struct {
	Exists  bool     // the namespace is there; where it is Provided, our firewall in it
	Remains bool     // something is there, if only a half-made file or a link: Remove has work to do
	Drift   []string // what differs from what is wanted, in words; empty when all is well
}

// Options of a Host.
type Options struct {
	Logger *slog.Logger // nil discards

	// ProbeWait is how long Ensure waits for another machine to answer for an
	// address before it is used. 0 means DefaultProbeWait; below 0, nobody is
	// asked.
	ProbeWait time.Duration

	VSCtl string // path of ovs-vsctl; "" looks for it in PATH
	OVSDB string // where Open vSwitch's database listens, as in "unix:/run/openvswitch/db.sock"; "" leaves it to ovs-vsctl
}

// A Host makes networks on this machine. Its methods may be called at once for
// different networks, and for one network by one caller at a time.
type Host struct {
	log       *slog.Logger
	probeWait time.Duration
	plugs     plug.Host

	neighbours int // that one network may come to know
}

// New returns a Host.
func New(o Options) *Host {
	h := &Host{
		log: o.Logger, probeWait: o.ProbeWait, plugs: plug.Host{OVS: ovs.Client{Command: o.VSCtl, DB: o.OVSDB}},
	}
	h.neighbours = neighbours()
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	if h.probeWait == 0 {
		h.probeWait = DefaultProbeWait
	}
	return h
}

// Path of a namespace's file.
func Path(name string) string { return namespace.Path(name) }

// Check says, changing nothing, whether Ensure could succeed: n is sound
// (ErrInvalid), and the host has what the plug needs (an error that
// plug.Lacking knows).
func (h *Host) Check(ctx context.Context, n Network) error {
	if err := n.validate(); err != nil {
		return err
	}
	s, err := h.plugs.Site(n.site())
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.Find(ctx); err != nil {
		return err
	}
	return s.Makes()
}

// Ensure makes the network, or repairs whatever differs, and returns when its
// addresses can be used: duplicate address detection has ended.
//
// What is as wanted is not touched, so that a gateway in it goes on serving; on
// a healthy network Ensure only reads. Killed half-way, it is finished by the
// next call. Beside the errors of Check it returns ErrAddressInUse: then
// the address is not on the interface, everything else may be.
//
// A namespace that somebody removed from /run/netns is made anew even if a
// process still lives in the old one; compare Inode with the process's.
func (h *Host) Ensure(ctx context.Context, n Network) error {
	if err := h.Check(ctx, n); err != nil {
		return err
	}
	s, err := h.Observe(ctx, n)
	if err != nil {
		return err
	}
	if len(s.Drift) == 0 {
		return nil
	}
	begin := time.Now()
	if err := h.repair(ctx, n); err != nil {
		return fmt.Errorf("network namespace %s: %w", n.Namespace, err)
	}
	if s.Exists {
		h.log.Info("network repaired", "network", n.Namespace, "drift", s.Drift, "dur", time.Since(begin))
	} else {
		h.log.Info("network made", "network", n.Namespace, "dur", time.Since(begin))
	}
	if s, err = h.Observe(ctx, n); err != nil {
		return err
	}
	if len(s.Drift) != 0 {
		return fmt.Errorf("network namespace %s: differs still: %s", n.Namespace, strings.Join(s.Drift, "; "))
	}
	return nil
}

// Inode numbers the namespace that has this name now. A process whose
// /proc/PID/ns/net has another inode lives in an older one and must be started
// again. fs.ErrNotExist if there is no such namespace, or only half of one.
func (h *Host) Inode(name string) (uint64, error) {
	if err := validateNamespace(name); err != nil && !foreignNamespace(name) {
		return 0, err
	}
	f, err := namespace.Open(name)
	if errors.Is(err, namespace.ErrOther) {
		return 0, fmt.Errorf("network namespace %s: %w", name, fs.ErrNotExist)
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, fmt.Errorf("stat %s: %w", f.Name(), err)
	}
	return st.Ino, nil
}

// site is what the plug is to know.
func (n Network) site() plug.Options {
	return plug.Options{Plug: n.Plug, Namespace: n.Namespace, HostLink: n.HostLink, MTU: n.MTU, MAC: n.MAC}
}

// provided returns the plug where somebody else made the namespace.
func (n Network) provided() (plug.Provided, bool) {
	p, ok := n.Plug.(plug.Provided)
	return p, ok
}

// inside is the name of the interface in the namespace.
func (n Network) inside() string {
	if p, ok := n.provided(); ok {
		return p.Interface
	}
	return plug.Interface
}
