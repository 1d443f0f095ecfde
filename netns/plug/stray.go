package plug

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	rtnl "github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/netns/kernel"
)

// A namespace that has lost its name may live on: a process is in it, or only
// the kernel's own side of connections whose server was killed, for minutes. A
// link that stands on a device lives with it, and keeps the VLAN's number or
// the hardware address, of which there can be one, and answers for our
// addresses. No file leads there; but the host's namespace can have a number
// for it, and netlink takes that number. A veth pair needs none of this, for
// its end on the host is known.

// numberNamespace gives the network's namespace a number in the host's.
func (s *Site) numberNamespace() error {
	id, err := s.nl.GetNetNsIdByFd(int(s.ns.Fd()))
	if err != nil {
		return fmt.Errorf("get id of %s: %w", s.ns.Name(), err)
	}
	if id >= 0 {
		return nil
	}
	err = s.nl.SetNetNsIdByFd(int(s.ns.Fd()), -1) // whichever is free
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("set id of %s: %w", s.ns.Name(), err)
	}
	return nil
}

// clearStrays removes the links that bear the network's alias in every other
// namespace that has a number.
func (s *Site) clearStrays() error {
	own := -1
	if s.ns != nil {
		var err error
		if own, err = s.nl.GetNetNsIdByFd(int(s.ns.Fd())); err != nil {
			return fmt.Errorf("get id of %s: %w", s.ns.Name(), err)
		}
	}
	ids, err := numbers()
	if err != nil {
		return fmt.Errorf("list namespaces: %w", err)
	}
	for _, id := range ids {
		if id == own {
			continue
		}
		if err := s.clearStray(id); err != nil {
			return fmt.Errorf("look for strays: %w", err)
		}
	}
	return nil
}

func (s *Site) clearStray(id int) error {
	where := rtnl.NewRtAttr(unix.IFLA_TARGET_NETNSID, binary.NativeEndian.AppendUint32(nil, uint32(id)))
	replies, err := kernel.Dump(func() ([][]byte, error) {
		req := rtnl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
		req.AddData(rtnl.NewIfInfomsg(unix.AF_UNSPEC))
		req.AddData(where)
		return req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	})
	if errors.Is(err, unix.EINVAL) {
		return nil // it has gone meanwhile
	}
	if err != nil {
		return err
	}
	for _, r := range replies {
		l, err := netlink.LinkDeserialize(nil, r)
		if err != nil {
			return err
		}
		if l.Attrs().Alias != s.o.Namespace || l.Type() == "veth" {
			continue
		}
		req := rtnl.NewNetlinkRequest(unix.RTM_DELLINK, unix.NLM_F_ACK)
		msg := rtnl.NewIfInfomsg(unix.AF_UNSPEC)
		msg.Index = int32(l.Attrs().Index)
		req.AddData(msg)
		req.AddData(where)
		_, err = req.Execute(unix.NETLINK_ROUTE, 0)
		if err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("delete link %s of namespace %d: %w", l.Attrs().Name, id, err)
		}
	}
	return nil
}

// numbers of all namespaces that have one in that of the calling thread.
func numbers() ([]int, error) {
	replies, err := kernel.Dump(func() ([][]byte, error) {
		req := rtnl.NewNetlinkRequest(unix.RTM_GETNSID, unix.NLM_F_DUMP)
		req.AddData(rtnl.NewRtGenMsg())
		return req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNSID)
	})
	if err != nil {
		return nil, err
	}
	var ids []int
	for _, r := range replies {
		if len(r) < 4 { // struct rtgenmsg, padded
			continue
		}
		if b := kernel.Attribute(r[4:], unix.NETNSA_NSID); len(b) == 4 {
			if id := int32(binary.NativeEndian.Uint32(b)); id >= 0 {
				ids = append(ids, int(id))
			}
		}
	}
	return ids, nil
}
