package model

import (
	"net"
	"net/netip"
	"path"
	"regexp"
	"slices"

	"github.com/causeway-project/causeway/agent/access"
	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/word"
)

// Limits of the words that callers choose beside ids. They become names in
// libvirt and the kernel, and Ganesha's paths, so their alphabet is small: what
// is refused here never reaches another syntax.
var (
	tagPattern    = regexp.MustCompile(`^[!-~]{1,36}$`)
	bridgePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,14}$`)
	// mount(8) takes such words for the names of block devices.
	deviceTag     = regexp.MustCompile(`^(?i:LABEL|UUID|PARTLABEL|PARTUUID|ID)=`)
	pseudoPattern = regexp.MustCompile(`^(/[A-Za-z0-9._@+-]{1,255})+$`)
)

// Validate refuses what no attachment can be. Its connection is the driver's
// matter.
func (at Attachment) Validate() error {
	if err := word.CheckID("attachment", at.ID); err != nil {
		return err
	}
	if at.Instance == "" || len(at.Instance) > 255 || !word.Printable(at.Instance) {
		return fault.Invalidf(fault.BadInstance, "instance %s: give the name or UUID of a libvirt domain, at most 255 printable bytes", word.Quote(at.Instance))
	}
	if !tagPattern.MatchString(at.Tag) {
		return fault.Invalidf(fault.BadTag, "tag %s: use 1 to 36 bytes of printable ASCII without spaces", word.Quote(at.Tag))
	}
	if deviceTag.MatchString(at.Tag) {
		return fault.Invalidf(fault.BadTag, "tag %s: mount would take it for the name of a block device", word.Quote(at.Tag))
	}
	if p := at.MountAt; p != "" && (!path.IsAbs(p) || path.Clean(p) != p || p == "/" || len(p) > 1024 || !word.Printable(p)) {
		return fault.Invalidf(fault.BadMountPath, "mount path %s: give a clean absolute path in the guest, for example /mnt/docs", word.Quote(p))
	}
	if err := at.Settings.Validate(); err != nil {
		return err
	}
	return at.IDs.Validate()
}

// Validate refuses what no export can be. Its connection is the driver's matter.
func (e Export) Validate() error {
	if err := word.CheckID("export", e.ID); err != nil {
		return err
	}
	if err := word.CheckID("network", e.Network); err != nil {
		return err
	}
	if len(e.Pseudo) > 1000 || !pseudoPattern.MatchString(e.Pseudo) || path.Clean(e.Pseudo) != e.Pseudo {
		return fault.Invalidf(fault.BadPseudo, "pseudo path %s: give a clean absolute path of A-Z a-z 0-9 . _ @ + -, for example /docs", word.Quote(e.Pseudo))
	}
	return access.CheckAll(e.Rules)
}

// Validate refuses what no network can be on any host.
func (n Network) Validate() error {
	if err := word.CheckID("network", n.ID); err != nil {
		return err
	}
	if err := n.Plug.validate(); err != nil {
		return err
	}
	if err := checkNFSVersions(n.NFSVersions); err != nil {
		return err
	}
	if len(n.Addresses) == 0 || len(n.Addresses) > 64 {
		return fault.Invalidf(fault.BadAddress, "%d addresses: give 1 to 64 with a prefix length each, for example 10.77.0.2/24", len(n.Addresses))
	}
	seen := map[netip.Addr]bool{}
	for _, p := range n.Addresses {
		if why := badAddress(p); why != "" {
			return fault.Invalidf(fault.BadAddress, "address %v %s", p, why)
		}
		if seen[p.Addr()] {
			return fault.Invalidf(fault.BadAddress, "address %v is given twice", p.Addr())
		}
		seen[p.Addr()] = true
	}
	for i, p := range n.Addresses {
		for _, q := range n.Addresses[:i] {
			if p.Overlaps(q) && p.Bits() != q.Bits() && !p.IsSingleIP() && !q.IsSingleIP() {
				return fault.Invalidf(fault.BadAddress, "addresses %v and %v overlap: give both the tenant network's prefix length", q, p)
			}
		}
	}
	for _, r := range n.Routes {
		if err := checkRoute(r, n.Addresses); err != nil {
			return err
		}
	}
	if n.MTU != 0 && (n.MTU < 1280 || n.MTU > 65535) {
		return fault.Invalidf(fault.BadMTU, "MTU %d: give 1280 (the least that IPv6 works with) to 65535 bytes, or 0 for what the plug carries", n.MTU)
	}
	if n.MAC != "" {
		mac, err := net.ParseMAC(n.MAC)
		if err != nil || len(mac) != 6 || mac[0]&1 != 0 || slices.Equal(mac, make(net.HardwareAddr, 6)) {
			return fault.Invalidf(fault.BadMAC, "MAC %s: give six bytes of a unicast address, for example 02:00:00:12:34:56", word.Quote(n.MAC))
		}
	}
	return nil
}

// badAddress says why a gateway cannot have the address, or nothing.
func badAddress(p netip.Prefix) string {
	if !p.IsValid() {
		return "is not an address with a prefix length: write it as 10.77.0.2/24"
	}
	a := p.Addr()
	switch {
	case a.Is4In6() || a.Zone() != "":
		return "must be plain IPv4 or IPv6"
	case a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "cannot be a gateway's: give a unicast address of the tenant's network"
	case p.Bits() == 0:
		return "covers every network there is: give the tenant network's own prefix length"
	case a.Is4() && p.Bits() < 31 && a == p.Masked().Addr():
		return "is the network's own: give a host's"
	case a.Is4() && p.Bits() < 31 && a == broadcast(p):
		return "is the network's broadcast address: give a host's"
	}
	return ""
}

func broadcast(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom4(b)
}

func checkRoute(r Route, addresses []netip.Prefix) error {
	if !r.Destination.IsValid() || r.Destination != r.Destination.Masked() || !r.Via.IsValid() ||
		r.Destination.Addr().Is4() != r.Via.Is4() {
		return fault.Invalidf(fault.BadRoute, "route %v via %v: give a prefix and a next hop of one family, for example 0.0.0.0/0 via 10.77.0.1", r.Destination, r.Via)
	}
	if !slices.ContainsFunc(addresses, func(p netip.Prefix) bool { return p.Contains(r.Via) }) {
		return fault.Invalidf(fault.BadRoute, "route %v: its next hop %v is on none of the network's prefixes", r.Destination, r.Via)
	}
	return nil
}
