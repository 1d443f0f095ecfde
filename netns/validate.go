package netns

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/causeway-project/causeway/netns/kernel"
)

// validate refuses what no host could make. Names reach paths and netlink
// messages, so that only a small alphabet is let through.
func (n Network) validate() error {
	if err := n.validateNames(); err != nil {
		return err
	}
	if err := n.site().Validate(); err != nil {
		return fmt.Errorf("%w: %w", err, ErrInvalid)
	}
	if n.MTU != 0 && (n.MTU < 1280 || n.MTU > 65535) {
		return fmt.Errorf("mtu %d: not between 1280 and 65535: %w", n.MTU, ErrInvalid)
	}
	if _, ok := n.provided(); !ok || n.MAC != nil {
		if err := validateMAC(n.MAC); err != nil {
			return err
		}
	}
	if len(n.Addresses) == 0 {
		return fmt.Errorf("addresses: none given: %w", ErrInvalid)
	}
	if slices.Contains(n.TCPPorts, 0) || slices.Contains(n.UDPPorts, 0) {
		return fmt.Errorf("port 0: none can listen there: %w", ErrInvalid)
	}
	seen := make(map[netip.Addr]bool)
	for _, p := range n.Addresses {
		if err := validateAddress(p); err != nil {
			return err
		}
		if seen[p.Addr()] {
			return fmt.Errorf("address %s: given twice: %w", p.Addr(), ErrInvalid)
		}
		seen[p.Addr()] = true
	}
	if a, b, ok := overlap(n.Addresses); ok {
		return fmt.Errorf("addresses %s and %s: their prefixes overlap, so that it is not known which reaches a machine: give both the same length: %w", a, b, ErrInvalid)
	}
	to := make(map[netip.Prefix]bool)
	for _, r := range n.Routes {
		if err := n.validateRoute(r); err != nil {
			return err
		}
		d := r.Destination.Masked()
		if to[d] {
			return fmt.Errorf("route to %s: given twice: %w", d, ErrInvalid)
		}
		to[d] = true
	}
	return nil
}

// validateNames is all that Remove needs: what is not named as ours is never
// touched.
func (n Network) validateNames() error {
	if n.Plug == nil {
		return fmt.Errorf("plug: none given: %w", ErrInvalid)
	}
	_, provided := n.provided()
	switch {
	case !provided:
		if err := validateNamespace(n.Namespace); err != nil {
			return err
		}
	case !foreignNamespace(n.Namespace):
		return fmt.Errorf("namespace %q: not up to 64 letters, digits, - _ or . that do not begin with %s, as ours do: %w", n.Namespace, Prefix, ErrInvalid)
	}
	if !strings.HasPrefix(n.HostLink, Prefix) || !plain(n.HostLink) || len(n.HostLink) > kernel.MaxLinkName {
		return fmt.Errorf("host link %q: not %s and up to %d letters, digits, - or _: %w", n.HostLink, Prefix, kernel.MaxLinkName-len(Prefix), ErrInvalid)
	}
	return nil
}

func validateNamespace(name string) error {
	if !strings.HasPrefix(name, Prefix) || !plain(undotted(name)) || strings.Contains(name, "..") || len(name) > maxNamespace {
		return fmt.Errorf("namespace %q: not %s and up to %d letters, digits, -, _ or single dots: %w", name, Prefix, maxNamespace-len(Prefix), ErrInvalid)
	}
	return nil
}

// foreignNamespace reports whether name could be that of a namespace which
// somebody else made.
func foreignNamespace(name string) bool {
	return plain(undotted(name)) && len(name) <= 64 && !strings.HasPrefix(name, Prefix) && strings.Trim(name, ".") != ""
}

func undotted(s string) string { return strings.ReplaceAll(s, ".", "_") }

// overlap finds two addresses whose prefixes overlap without being the same. A
// single address within another's prefix is well known where it is.
func overlap(all []netip.Prefix) (a, b netip.Prefix, found bool) {
	for i, a := range all {
		for _, b := range all[:i] {
			if a.Overlaps(b) && a.Bits() != b.Bits() && !a.IsSingleIP() && !b.IsSingleIP() {
				return b, a, true
			}
		}
	}
	return a, b, false
}

const maxNamespace = 80 // a file's name; an id of the agent's has 63 bytes

// plain reports whether s has only letters, digits, - and _.
func plain(s string) bool {
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return s != ""
}

func validateMAC(mac net.HardwareAddr) error {
	if len(mac) != 6 {
		return fmt.Errorf("mac %q: not 6 bytes: %w", mac.String(), ErrInvalid)
	}
	if mac[0]&1 != 0 || mac.String() == "00:00:00:00:00:00" {
		return fmt.Errorf("mac %s: not a single machine's: %w", mac, ErrInvalid)
	}
	return nil
}

func validateAddress(p netip.Prefix) error {
	a := p.Addr()
	switch {
	case !p.IsValid():
		return fmt.Errorf("address %s: not an address and prefix length: %w", p, ErrInvalid)
	case p.Bits() == 0:
		return fmt.Errorf("address %s: prefix length 0 takes in everything: %w", p, ErrInvalid)
	case a.Is4In6():
		return fmt.Errorf("address %s: write it as IPv4: %w", p, ErrInvalid)
	case a.IsUnspecified(), a.IsLoopback(), a.IsMulticast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Errorf("address %s: no machine can have it on a network: %w", p, ErrInvalid)
	case a.Is6() && a.IsLinkLocalUnicast():
		return fmt.Errorf("address %s: link-local addresses are the kernel's to give: %w", p, ErrInvalid)
	case a.Is4() && p.Bits() < 31 && (a == p.Masked().Addr() || a == last4(p)):
		return fmt.Errorf("address %s: is the network's own or its broadcast address: %w", p, ErrInvalid)
	case a.Is6() && p.Bits() < 127 && a == p.Masked().Addr():
		return fmt.Errorf("address %s: is the subnet-router anycast address (RFC 4291): %w", p, ErrInvalid)
	}
	return nil
}

// last4 is the highest address of an IPv4 prefix.
func last4(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom4(b)
}

func (n Network) validateRoute(r Route) error {
	d, via := r.Destination, r.Via
	switch {
	case !d.IsValid() || d.Addr().Is4In6():
		return fmt.Errorf("route to %s: not a prefix: %w", d, ErrInvalid)
	case !via.IsValid() || via.Is4In6() || via.Zone() != "" || via.IsUnspecified() || via.IsLoopback() || via.IsMulticast():
		return fmt.Errorf("route to %s: via %s: not a router's address: %w", d, via, ErrInvalid)
	case d.Addr().Is4() != via.Is4():
		return fmt.Errorf("route to %s: via %s: of the other family: %w", d, via, ErrInvalid)
	}
	family := false // whether there is an address of the route's family
	for _, p := range n.Addresses {
		family = family || p.Addr().Is4() == via.Is4()
		if p.Addr() == via {
			return fmt.Errorf("route to %s: via %s: is the network's own address: %w", d, via, ErrInvalid)
		}
		if p.Masked() == d.Masked() {
			return fmt.Errorf("route to %s: is the network's own prefix: %w", d, ErrInvalid)
		}
	}
	if via.Is6() && via.IsLinkLocalUnicast() && family {
		return nil
	}
	for _, p := range n.Addresses {
		if p.Contains(via) {
			return nil
		}
	}
	return fmt.Errorf("route to %s: via %s: not in the prefix of any address: %w", d, via, ErrInvalid)
}

// has6 reports whether the network has an IPv6 address.
func (n Network) has6() bool {
	for _, p := range n.Addresses {
		if p.Addr().Is6() {
			return true
		}
	}
	return false
}

// addresses4 are the network's IPv4 addresses.
func (n Network) addresses4() (all []netip.Addr) {
	for _, p := range n.Addresses {
		if p.Addr().Is4() {
			all = append(all, p.Addr())
		}
	}
	return all
}
