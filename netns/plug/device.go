package plug

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	rtnl "github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/agent/crashpoint"
	"github.com/causeway-project/causeway/netns/kernel"
)

// VLAN is an 802.1Q device on a physical device, inside the namespace.
type VLAN struct {
	Device string // required: carries the VLAN, tagged
	ID     int    // required: 1 to 4094
}

func (p VLAN) validate(o Options) error {
	if err := validateDevice(p.Device, o); err != nil {
		return err
	}
	if p.ID == 0 {
		return errors.New("vlan 0: not between 1 and 4094 (IEEE 802.1Q keeps 0 and 4095)")
	}
	return validateTag(p.ID)
}

func (p VLAN) base(_ context.Context, s *Site) (base, error) { return s.onDevice(p.Device, 0) }

func (p VLAN) stacked(s *Site) stacked {
	return stacked{
		words: fmt.Sprintf("the VLAN %d of %s", p.ID, p.Device),
		make: &netlink.Vlan{
			LinkAttrs: s.stackedAttrs(), VlanId: p.ID, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q,
		},
		same: func(l netlink.Link) bool {
			v, ok := l.(*netlink.Vlan)
			return ok && v.VlanId == p.ID && v.VlanProtocol == netlink.VLAN_PROTOCOL_8021Q && v.ParentIndex == s.base.link.Attrs().Index
		},
	}
}

func (p VLAN) observeInside(s *Site, in *netlink.Handle, inner netlink.Link) ([]string, error) {
	if s.base.link == nil {
		return nil, nil
	}
	return s.observeStacked(in, inner, p.stacked(s))
}

func (p VLAN) attach(ctx context.Context, s *Site) error {
	return s.attachStacked(ctx, p.stacked(s), nil)
}

// Macvlan is a macvlan, in mode bridge, on a device: frames reach the device's
// network and other macvlans on it, but never this host.
type Macvlan struct {
	Device string // required
}

func (p Macvlan) validate(o Options) error { return validateDevice(p.Device, o) }

func (p Macvlan) base(_ context.Context, s *Site) (base, error) { return s.onDevice(p.Device, 0) }

func (p Macvlan) stacked(s *Site) stacked {
	return stacked{
		words: "a macvlan on " + p.Device,
		make:  &netlink.Macvlan{LinkAttrs: s.stackedAttrs(), Mode: netlink.MACVLAN_MODE_BRIDGE},
		same: func(l netlink.Link) bool {
			v, ok := l.(*netlink.Macvlan)
			return ok && v.Mode == netlink.MACVLAN_MODE_BRIDGE && v.ParentIndex == s.base.link.Attrs().Index
		},
	}
}

func (p Macvlan) observeInside(s *Site, in *netlink.Handle, inner netlink.Link) ([]string, error) {
	if s.base.link == nil {
		return nil, nil
	}
	return s.observeStacked(in, inner, p.stacked(s))
}

func (p Macvlan) attach(ctx context.Context, s *Site) error {
	return s.attachStacked(ctx, p.stacked(s), nil)
}

// The links that stand on a device are made inside the namespace in one
// request, and nothing of them is on the host's side: a killed Ensure leaves
// all of the link or nothing, and the namespace takes it along.

func (VLAN) observe(context.Context, *Site) ([]string, bool, error)    { return nil, false, nil }
func (VLAN) open(*Site) error                                          { return nil }
func (VLAN) await(context.Context, *Site) error                        { return nil }
func (VLAN) detach(_ context.Context, s *Site) error                   { return s.clearStrays() }
func (Macvlan) observe(context.Context, *Site) ([]string, bool, error) { return nil, false, nil }
func (Macvlan) open(*Site) error                                       { return nil }
func (Macvlan) await(context.Context, *Site) error                     { return nil }
func (Macvlan) detach(_ context.Context, s *Site) error                { return s.clearStrays() }

// LinkKinds makes links and tells their kind. It stands here because kernels
// may be built without 802.1Q: the tests have a model of such links.
type LinkKinds interface {
	// Known is ErrUnsupported where the kernel makes no links of a kind. It has
	// the kernel load the module, where there is one.
	Known(kind string) error
	Add(nl *netlink.Handle, l netlink.Link) error
	Kind(l netlink.Link) netlink.Link
}

type kernelKinds struct{}

// Known asks for a link without saying on what: a kernel that knows the kind
// finds that wrong, and makes none (vlan_validate, macvlan_common_newlink,
// vxlan_validate).
func (kernelKinds) Known(kind string) error {
	req := rtnl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	req.AddData(rtnl.NewIfInfomsg(unix.AF_UNSPEC))
	info := rtnl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(rtnl.IFLA_INFO_KIND, rtnl.NonZeroTerminated(kind))
	req.AddData(info)
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); errors.Is(err, unix.EOPNOTSUPP) {
		return unknownKind(kind)
	}
	return nil // whatever else is wrong shows when the link is made
}

func unknownKind(kind string) error {
	module := kind
	if kind == "vlan" {
		module = "8021q"
	}
	return fmt.Errorf("this kernel makes no links of the kind %s: load it with \"modprobe %s\": %w", kind, module, ErrUnsupported)
}

func (kernelKinds) Add(nl *netlink.Handle, l netlink.Link) error { return nl.LinkAdd(l) }
func (kernelKinds) Kind(l netlink.Link) netlink.Link             { return l }

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

func validateDevice(name string, o Options) error {
	if !kernel.ValidLinkName(name) {
		return fmt.Errorf("device %q: no name of a link", name)
	}
	if name == o.HostLink {
		return fmt.Errorf("device %q: is the host link too", name)
	}
	return nil
}

// onDevice finds a plug's device. Headers of the given length leave so much
// less room.
func (s *Site) onDevice(name string, headers int) (base, error) {
	l, err := device(s.nl, name)
	if err != nil {
		return base{}, err
	}
	b := base{link: l, mtu: l.Attrs().MTU - headers}
	if s.o.MTU > b.mtu {
		return base{}, fmt.Errorf("mtu %d: device %s carries no more than %d: %w", s.o.MTU, name, b.mtu, ErrMTU)
	}
	if b.mtu < 1280 {
		return base{}, fmt.Errorf("device %s: carries no more than %d bytes, below what IPv6 needs: %w", name, b.mtu, ErrNoDevice)
	}
	return b, nil
}

// A stacked is a link that stands on another.
type stacked struct {
	words string
	make  netlink.Link
	same  func(netlink.Link) bool // whether a link is this one, but for the namespace of its device
}

func (s *Site) stackedAttrs() netlink.LinkAttrs {
	a := netlink.NewLinkAttrs()
	a.Name, a.ParentIndex, a.MTU, a.HardwareAddr = Interface, s.base.link.Attrs().Index, s.MTU(), s.o.MAC
	if s.ns != nil {
		a.Namespace = netlink.NsFd(int(s.ns.Fd()))
	}
	return a
}

// sameStacked runs in the namespace. The index of a device alone could be that
// of another device in another namespace.
func (s *Site) sameStacked(in *netlink.Handle, l netlink.Link, want stacked) (bool, error) {
	if l == nil || !want.same(s.h.kinds().Kind(l)) {
		return false, nil
	}
	id, err := in.GetNetNsIdByFd(int(s.host.Fd()))
	if err != nil {
		return false, fmt.Errorf("get id of the host's namespace: %w", err)
	}
	return id >= 0 && l.Attrs().NetNsID == id, nil
}

func (s *Site) observeStacked(in *netlink.Handle, inner netlink.Link, want stacked) (drift []string, err error) {
	ok, err := s.sameStacked(in, inner, want)
	if err != nil {
		return nil, err
	}
	if !ok {
		return []string{fmt.Sprintf("%s inside is not %s", Interface, want.words)}, nil
	}
	if a := inner.Attrs().Alias; a != s.o.Namespace {
		drift = append(drift, fmt.Sprintf("%s inside has the alias %q, not %q", Interface, a, s.o.Namespace))
	}
	return drift, nil
}

// attachStacked makes the link unless it is there, and calls more with it, in
// the namespace.
func (s *Site) attachStacked(ctx context.Context, want stacked, more func(in *netlink.Handle, l netlink.Link) error) error {
	ok := false
	err := kernel.Inside(s.ns, func(in *netlink.Handle) error {
		l, err := kernel.Link(in, Interface)
		if err != nil {
			return err
		}
		if ok, err = s.sameStacked(in, l, want); ok || err != nil {
			return err
		}
		if err := kernel.Delete(in, Interface); err != nil {
			return err
		}
		return s.clearRenamed(in, want)
	})
	if err != nil {
		return err
	}
	if !ok {
		if err := s.addStacked(ctx, want); err != nil {
			return err
		}
		crashpoint.Hit(crashpoint.NetnsLink)
	}
	return kernel.Inside(s.ns, func(in *netlink.Handle) error {
		l, err := in.LinkByName(Interface)
		if err != nil {
			return fmt.Errorf("get link %s: %w", Interface, err)
		}
		if l.Attrs().Alias != s.o.Namespace {
			if err := in.LinkSetAlias(l, s.o.Namespace); err != nil {
				return fmt.Errorf("set alias of %s: %w", Interface, err)
			}
		}
		if more == nil {
			return nil
		}
		return more(in, l)
	})
}

func (s *Site) addStacked(ctx context.Context, want stacked) error {
	if err := s.numberNamespace(); err != nil {
		return err
	}
	if err := s.clearStrays(); err != nil {
		return err
	}
	err := kernel.Retry(ctx, unix.EEXIST, func() error { return s.h.kinds().Add(s.nl, want.make) })
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("add %s: %w", want.words, unknownKind(want.make.Type()))
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("add %s: it is on this host already (see \"ip -d link\", also in other namespaces): %w", want.words, ErrTaken)
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("add %s: the device is a port of a bridge or bond: name that: %w", want.words, ErrNoDevice)
	default:
		return fmt.Errorf("add %s: %w", want.words, err)
	}
}

// clearRenamed removes the link under another name in its own namespace, where
// all is ours.
func (s *Site) clearRenamed(in *netlink.Handle, want stacked) error {
	all, err := kernel.Dump(in.LinkList)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, l := range all {
		ok, err := s.sameStacked(in, l, want)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if err := kernel.Delete(in, l.Attrs().Name); err != nil {
			return err
		}
	}
	return nil
}
