package plug

import (
	"context"
	"net"
	"os"

	"github.com/vishvananda/netlink"

	"github.com/causeway-project/causeway/netns/kernel"
	"github.com/causeway-project/causeway/netns/ovs"
)

// Interface is the name of the interface in every namespace that is not Provided.
const Interface = "eth0"

// A Host is what plugs need of this machine.
type Host struct {
	OVS ovs.Client

	// Kernels may be built without these: the tests have models of them.
	VLANs func(*netlink.Handle) PortVLANs // nil: the kernel's
	Kinds LinkKinds                       // nil: the kernel's
}

func (h Host) vlans(nl *netlink.Handle) PortVLANs {
	if h.VLANs == nil {
		return kernelVLANs{nl}
	}
	return h.VLANs(nl)
}

func (h Host) kinds() LinkKinds {
	if h.Kinds == nil {
		return kernelKinds{}
	}
	return h.Kinds
}

// Options of a Site: what a plug is to know of the network.
type Options struct {
	Plug      Plug             // required
	Namespace string           // required: its name, and the alias of its links
	HostLink  string           // required: the host's end of a veth pair, where the plug makes one
	MTU       int              // bytes, of the interface inside; 0 takes what the plug carries
	MAC       net.HardwareAddr // required, unless the plug is Provided: of the interface inside
}

// Validate refuses what no host could make of the plug. Of the other options
// only HostLink is compared.
func (o Options) Validate() error { return o.Plug.validate(o) }

// A Site is one network on this host, while somebody works on it: Find comes
// first, but for Detach; then Observe and ObserveInside, or Attach, Open and
// Await.
type Site struct {
	h    Host
	o    Options
	nl   *netlink.Handle // in the host's namespace
	host *os.File        // the host's namespace
	ns   *os.File        // the network's namespace; nil while there is none

	base  base         // empty until found
	outer netlink.Link // the host's end of a veth pair, once looked at
}

// Site opens what is needed to work on a network, until Close. The calling
// thread is in the host's namespace, also for the methods unless they say
// otherwise.
func (h Host) Site(o Options) (*Site, error) {
	host, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	nl, err := kernel.Open()
	if err != nil {
		host.Close()
		return nil, err
	}
	return &Site{h: h, o: o, nl: nl, host: host}, nil
}

// Close leaves the host as it is.
func (s *Site) Close() {
	s.nl.Close()
	s.host.Close()
}

// Find looks for what the plug leads to, changing nothing. If the host cannot
// have the plug now, the error is one that Lacking knows.
func (s *Site) Find(ctx context.Context) error {
	b, err := s.o.Plug.base(ctx, s)
	if err != nil {
		return err
	}
	s.base = b
	return nil
}

// Makes is ErrUnsupported where the kernel makes no links of the plug's kind.
func (s *Site) Makes() error {
	switch s.o.Plug.(type) {
	case VLAN:
		return s.h.kinds().Known("vlan")
	case Macvlan:
		return s.h.kinds().Known("macvlan")
	case VXLAN:
		return s.h.kinds().Known("vxlan")
	}
	return nil
}

// MTU of the interface inside; 0 leaves it as it is.
func (s *Site) MTU() int {
	if s.o.MTU != 0 {
		return s.o.MTU
	}
	return s.base.mtu
}

// Observe compares the host's side, changing nothing. ns is nil where there is
// no namespace, and Find may have found nothing: that is not said again.
func (s *Site) Observe(ctx context.Context, ns *os.File) (drift []string, remains bool, err error) {
	s.ns = ns
	return s.o.Plug.observe(ctx, s)
}

// ObserveInside compares the interface inside with what Observe saw; the
// calling thread and in are in the namespace.
func (s *Site) ObserveInside(in *netlink.Handle, inner netlink.Link) (drift []string, err error) {
	return s.o.Plug.observeInside(s, in, inner)
}

// Attach makes the interface inside, and what it hangs on, unless it is there.
// The host's side stays closed. Killed half-way, it is finished by the next
// call.
func (s *Site) Attach(ctx context.Context, ns *os.File) error {
	s.ns = ns
	return s.o.Plug.attach(ctx, s)
}

// Open lets the network in; the firewall is there.
func (s *Site) Open() error { return s.o.Plug.open(s) }

// Await returns when frames pass, for only then duplicate addresses are seen.
func (s *Site) Await(ctx context.Context) error { return s.o.Plug.await(ctx, s) }

// Detach removes what is on the host's side, whatever of it is there; what the
// plug leads to is not looked for. ns is nil where there is no namespace.
func (s *Site) Detach(ctx context.Context, ns *os.File) error {
	s.ns = ns
	return s.o.Plug.detach(ctx, s)
}
