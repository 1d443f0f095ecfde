package intent

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/ganesha"
	"github.com/causeway-project/causeway/netns"
)

// A Network is one in the ledger.
type Network struct {
	Plug
	Addresses []netip.Prefix `json:"addresses"`
	Routes    []Route        `json:"routes,omitempty"`
	MTU       int            `json:"mtu,omitempty"`
	MAC       string         `json:"mac,omitempty"` // as the caller said

	NFSVersions []model.NFSVersion `json:"nfs_versions,omitempty"` // see versionsOf

	Namespace string `json:"namespace"`
	HostLink  string `json:"host_link"`
	LinkMAC   string `json:"link_mac"`

	// Former is what was made before the plug changed, until all of it is gone.
	// While it is there nothing of the present plug has been made.
	Former *Network `json:"former,omitempty"`
}

// Differs names the first setting in which two networks differ, as their
// callers said them; none is "".
func (n *Network) Differs(o *Network) string {
	switch {
	case !n.Plug.equal(o.Plug):
		return "plug"
	case !slices.Equal(n.Addresses, o.Addresses):
		return "set of addresses"
	case !slices.Equal(n.Routes, o.Routes):
		return "set of routes"
	case n.MTU != o.MTU:
		return "MTU"
	case n.MAC != o.MAC:
		return "MAC"
	case !slices.Equal(n.NFSVersions, o.NFSVersions):
		return "set of NFS versions"
	}
	return ""
}

// A Route is one of a network in the ledger.
type Route struct {
	Destination netip.Prefix `json:"destination"`
	Via         netip.Addr   `json:"via"`
}

// NetworkOf is what is noted of a new network, on the host of that name.
func NetworkOf(n model.Network, hostname string) *Network {
	to := &Network{
		Plug: PlugOf(n.Plug), Addresses: slices.Clone(n.Addresses), MTU: n.MTU, MAC: strings.ToLower(n.MAC),
		Namespace: namespaceName(n.ID), HostLink: linkName(n.ID), LinkMAC: strings.ToLower(n.MAC),
	}
	to.NFSVersions = versionsOf(n.NFSVersions)
	switch {
	case n.Plug.Kind == model.PlugNone:
		to.Namespace = n.Plug.Namespace
	case n.MAC == "":
		to.LinkMAC = linkMAC(n.ID, hostname)
	}
	for _, r := range n.Routes {
		to.Routes = append(to.Routes, Route(r))
	}
	return to
}

// ChangedTo is the next generation of a network's record. What was made by the
// former plug is remembered until it is gone, and what can stay keeps its names.
func (r *Record) ChangedTo(want Network) *Record {
	is := r.Network
	if want.MAC == "" && is.MAC == "" && want.LinkMAC != "" && is.LinkMAC != "" {
		want.LinkMAC = is.LinkMAC
	}
	want.Former = is.Former
	switch {
	case is.Former != nil: // then nothing of what is has been made
	case is.sameMake(want.Plug):
		want.Namespace, want.HostLink = is.Namespace, is.HostLink
	default:
		want.Former = is
	}
	next := r.Next()
	next.Network = &want
	return next
}

// Meets says why network id, as n, cannot be on one host with network other.
func (r *Network) Meets(other, id string, n *Network) error {
	if r.HostLink == n.HostLink {
		return fault.Invalidf(fault.BadID, "network id %q makes the same link name as %q: choose another", id, other)
	}
	if r.segment() != n.segment() {
		return nil // another segment may well use the same addresses
	}
	if n.single() {
		return &fault.Error{
			Kind: fault.Precondition, Reason: fault.PlugTaken, Metadata: map[string]string{"network": other},
			Message: fmt.Sprintf("network %s has the %s already, and a host can have it once: use that network", other, n.segment()),
		}
	}
	if taken, ok := sameAddress(r.Addresses, n.Addresses); ok {
		return &fault.Error{
			Kind: fault.Precondition, Reason: fault.AddressTaken, Metadata: map[string]string{"network": other, "address": taken.String()},
			Message: fmt.Sprintf("address %v is network %s's on the same segment: choose another", taken, other),
		}
	}
	return nil
}

func sameAddress(a, b []netip.Prefix) (netip.Addr, bool) {
	for _, p := range a {
		if slices.ContainsFunc(b, func(q netip.Prefix) bool { return p.Addr() == q.Addr() }) {
			return p.Addr(), true
		}
	}
	return netip.Addr{}, false
}

// ForHost says it to the package that makes it.
func (n *Network) ForHost(id string) netns.Network {
	out := netns.Network{
		Namespace: n.Namespace, HostLink: n.HostLink, Plug: n.of(id), Addresses: n.Addresses, MTU: n.MTU,
	}
	out.TCPPorts, out.UDPPorts = n.Served().Ports()
	if n.LinkMAC != "" {
		out.MAC = mustMAC(n.LinkMAC)
	}
	for _, r := range n.Routes {
		out.Routes = append(out.Routes, netns.Route{Destination: r.Destination, Via: r.Via})
	}
	return out
}

func mustMAC(s string) net.HardwareAddr {
	mac, err := net.ParseMAC(s)
	if err != nil {
		return nil // a record of ours holds a MAC; netns refuses one without
	}
	return mac
}

// versionsOf is what the ledger holds: sorted, and nothing where a network
// has what every network has by default.
func versionsOf(versions []model.NFSVersion) []model.NFSVersion {
	versions = slices.Sorted(slices.Values(versions))
	if slices.Equal(versions, defaultVersions()) {
		return nil
	}
	return versions
}

func defaultVersions() []model.NFSVersion {
	var versions []model.NFSVersion
	for _, v := range ganesha.DefaultVersions() {
		versions = append(versions, model.NFSVersion(v))
	}
	return versions
}

// Versions are those that the network serves.
func (n *Network) Versions() []model.NFSVersion {
	if len(n.NFSVersions) == 0 {
		return defaultVersions()
	}
	return slices.Clone(n.NFSVersions)
}

// Served says them in the terms of the part that serves them.
func (n *Network) Served() ganesha.Versions {
	var versions ganesha.Versions
	for _, v := range n.NFSVersions {
		versions = append(versions, ganesha.Version(v))
	}
	return versions
}

// GatewaySettings names what of a network is rendered into its gateway's
// configuration: one that was started with another name is started anew, once,
// and its clients reclaim. What every network has by default is "": gateways of
// earlier agents have no name, and an upgrade is to restart none.
func (n *Network) GatewaySettings() string {
	var words []string
	for _, v := range n.NFSVersions {
		words = append(words, "nfs "+string(v))
	}
	return strings.Join(words, ", ")
}
