package netns

import (
	"github.com/vishvananda/netlink"

	"github.com/causeway-project/causeway/netns/plug"
	"github.com/causeway-project/causeway/netns/sysctl"
)

// retrans is the kernel's own time between two neighbour solicitations.
const retrans = "1000"

const retransPath = "ipv6/neigh/" + plug.Interface + "/retrans_time_ms"

// sysctls of a network's namespace. A new namespace takes the host's values of
// many, so that all that matters is set. They are the documented ones of
// Documentation/networking/ip-sysctl.rst.
func (n Network) sysctls() []sysctl.Setting { return n.sysctlsWith(n.has6()) }

// sysctlsNow are those for as long as the interface has the addresses that it
// has: to switch IPv6 off would take away those that are to stay until others
// are there.
func (n Network) sysctlsNow(nl *netlink.Handle, inner netlink.Link) ([]sysctl.Setting, error) {
	have, err := addresses(nl, inner)
	if err != nil {
		return nil, err
	}
	with6 := n.has6()
	for p := range have {
		with6 = with6 || p.Addr().Is6()
	}
	return n.sysctlsWith(with6), nil
}

func (n Network) sysctlsWith(with6 bool) []sysctl.Setting {
	if _, ok := n.provided(); ok {
		return nil
	}
	var s []sysctl.Setting
	add := func(optional bool, dir string, pairs ...string) {
		for i := 0; i < len(pairs); i += 2 {
			s = append(s, sysctl.Setting{Path: dir + pairs[i], Value: pairs[i+1], Optional: optional})
		}
	}
	add(false, "ipv4/",
		"ip_forward", "0",
		"icmp_echo_ignore_broadcasts", "1",
		// What connections that nobody means to use may cost: a full backlog is
		// answered with cookies, a dead peer is noticed within two minutes, and
		// no connection holds more than 2 MiB either way (all of the host's
		// namespaces share tcp_mem).
		"tcp_syncookies", "1",
		"tcp_synack_retries", "3",
		"tcp_keepalive_time", "60",
		"tcp_keepalive_intvl", "10",
		"tcp_keepalive_probes", "6",
		"tcp_rmem", "4096\t131072\t2097152",
		"tcp_wmem", "4096\t16384\t2097152")
	for _, dir := range []string{"ipv4/conf/all/", "ipv4/conf/" + plug.Interface + "/"} {
		add(false, dir,
			"forwarding", "0",
			"accept_redirects", "0",
			"secure_redirects", "0",
			"send_redirects", "0",
			"accept_source_route", "0",
			"route_localnet", "0",
			"proxy_arp", "0",
			"rp_filter", "1",
			"arp_ignore", "1",
			"arp_announce", "2")
	}
	add(false, "ipv4/conf/"+plug.Interface+"/",
		"arp_notify", "1", // announce again when the hardware address changes
		"promote_secondaries", "1") // one address removed does not take the others of its prefix along

	v4only := !with6
	disable := "0"
	if v4only {
		disable = "1" // no link-local address to be reached at
	}
	add(v4only, "ipv6/conf/all/",
		"forwarding", "0",
		"accept_redirects", "0",
		"accept_source_route", "0")
	add(v4only, "ipv6/conf/"+plug.Interface+"/",
		"disable_ipv6", disable,
		"forwarding", "0",
		"accept_ra", "0",
		"autoconf", "0",
		"router_solicitations", "0",
		"accept_redirects", "0",
		"accept_source_route", "0",
		"proxy_ndp", "0",
		"use_tempaddr", "0",
		"accept_dad", "1",
		"dad_transmits", "2",
		"router_solicitation_delay", "0", // also the longest random wait before detection begins
		"ndisc_notify", "1") // announce addresses, and a new hardware address
	// Kernels may be built without it; where it is, an address must not be used
	// before detection has ended.
	add(true, "ipv6/conf/"+plug.Interface+"/", "optimistic_dad", "0")
	add(true, "ipv6/conf/all/", "optimistic_dad", "0")
	add(v4only, "", retransPath, retrans)
	add(true, "ipv6/conf/lo/", "disable_ipv6", "0") // servers listen on [::], and call [::1]
	return s
}
