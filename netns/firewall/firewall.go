// Package firewall writes and compares the nftables of a network's namespace.
package firewall

import (
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// tableName is that of both tables, of the families inet and arp, in each
// namespace.
const tableName = "causeway"

// NFSPort is the one TCP port that a tenant reaches in every network.
const NFSPort = 2049

// RPCBindPort over UDP answers look-ups alone: see tables.
const RPCBindPort = 111

// A Door is what is open between a namespace and its network.
type Door struct {
	Interface string         // required: its name in the namespace
	TCP       []uint16       // ports that a tenant reaches beside NFSPort
	UDP       []uint16       // ports that a tenant reaches, and from which datagrams may leave
	Prefixes  []netip.Prefix // required: of its addresses

	// Neighbours is how many machines on the link, of each family, the
	// namespace may come to know in a short time.
	Neighbours int // required

	Owner string // is named in a comment, where it is not empty
}

// What a network may ask of the kernel and of its gateway. An honest one comes
// nowhere near: hundreds of machines behind one address, with 16 connections
// each, come back within seconds of a restart, and thousands of machines within
// half a minute.
var (
	connectionsOfOne = rate{256, 4096} // from one address
	connectionsOfAll = rate{1024, 16384}
	echoes           = rate{256, 256}
	datagrams        = rate{1024, 4096}
)

const (
	// A full table makes the kernel give up entries that were not confirmed for
	// 5 s (neigh_forced_gc): only younger ones can shut others out. And so long
	// it takes until a tenant who filled its own set is served again.
	forgetNeighbour = 10 * time.Second

	callers      = 4096 // whose connections are counted one by one
	forgetCaller = 20 * time.Second

	resets = 4096 // that are held back at a time
	// closing is how long a process takes to close its sockets; a multiple of all
	// the kernel's ticks, and less than a new one needs to listen.
	closing = 20 * time.Millisecond
)

func (d Door) tcp() []uint16 { return append([]uint16{NFSPort}, d.TCP...) }

// A table is all of ours of one family.
type table struct {
	family nftables.TableFamily
	sets   []*nftables.Set
	chains []chain
}

// A chain is a base chain at a hook, with the policy drop, or one without a hook
// that others jump to.
type chain struct {
	name  string
	hook  *nftables.ChainHook
	rules [][]expr.Any
}

// tables are the whole ruleset of a namespace. It is the same for every network
// but for its addresses and the ports of its Door, which has none unless the
// network asked for NFSv3.
//
// It keeps no state of connections. Connection tracking would cost each packet
// a look-up, and a tenant's flood would fill a table whose size
// (net.netfilter.nf_conntrack_max) is counted for each namespace but takes the
// host's memory; and little is gained: the only connections are those to known
// ports, and what may leave is known by its source port. Fragments: IPv4 is
// reassembled before the input hook; of IPv6, fragments after the first match no
// port and are dropped, which harms nobody, since TCP does not send any.
//
//	input    lo; TCP to 2049 and the door's; echo requests, errors, neighbour discovery, MLD queries
//	forward  nothing
//	output   lo; TCP from those ports but for what follows; echo replies, neighbour discovery, MLD reports
//
// Where the door has UDP ports, datagrams come and go by them. To rpcbind only
// the look-up of one program gets through (procedure 3 of all versions: RFC
// 1833, 2.2.1 and 3.2), whose answer is shorter than the question: a list of
// all would make the gateway an amplifier for whoever forges his address.
//
// A SYN without ACK would open a connection into the tenant's network. The other
// cases are of a gateway that has died and will listen again within some 50 ms.
// A Linux client that meets a closed port in that time repeats its SYN after
// 1 s, and after 3 s where it is refused. So it had better come later:
//
//   - The kernel's answer to a SYN at a closed port (RFC 9293, 3.10.7.1: RST|ACK
//     with sequence 0) is dropped.
//   - The first FIN of a connection is dropped: that which is sent while a
//     process still owns the socket. The kernel repeats it without an owner, not
//     before 200 ms (TCP_RTO_MIN).
//   - So is the reset that answers data for a forgotten connection (RST without
//     ACK), and what follows it for as long as the set held remembers. The client
//     repeats its data after 200 ms or more, and that answer passes, as do all to
//     the same port for as long as a client may wait between two (TCP_RTO_MAX).
//   - The reset of a socket that is closed with data unread (RST|ACK) passes: nobody
//     would repeat it, and a client with nothing left to send would hear of it
//     minutes later. Yet for a moment no SYN of that client's is taken: the dying
//     process closes one socket after the other, its listener too, and a
//     connection that it still took would be reset as well. After two such ends
//     a Linux client waits 3 s.
//
// Neighbours: the kernel has one table of them for each family, for the host
// and all its namespaces together (net.ipv4.neigh.default.gc_thresh3). A tenant
// that asks from invented addresses, or has us answer them, would fill it, and
// nobody on the host could reach a new machine. So each namespace comes to know
// a number of them, and has nothing to do with others: whoever asks is noted
// before the kernel hears of it, and so is whoever is answered on the link.
func tables(d Door) []table {
	near4 := addresses("near4", nftables.TypeIPAddr, d.Neighbours, forgetNeighbour)
	near6 := addresses("near6", nftables.TypeIP6Addr, d.Neighbours, forgetNeighbour)
	callers4 := addresses("callers4", nftables.TypeIPAddr, callers, forgetCaller)
	callers6 := addresses("callers6", nftables.TypeIP6Addr, callers, forgetCaller)
	// Ports of clients, whose addresses do not matter: of two with one port the
	// second hears of the end at once.
	told := addresses("told", nftables.TypeInetService, resets, 2*time.Minute)
	held := addresses("held", nftables.TypeInetService, resets, 160*time.Millisecond) // a multiple of all the kernel's ticks
	reset4 := addresses("reset4", nftables.TypeIPAddr, resets, closing)
	reset6 := addresses("reset6", nftables.TypeIP6Addr, resets, closing)
	inet := table{
		family: nftables.TableFamilyINet,
		sets:   []*nftables.Set{near4, near6, callers4, callers6, told, held, reset4, reset6},
		chains: []chain{
			{"input", nftables.ChainHookInput, input(d, near6, callers4, callers6, reset4, reset6)},
			{"forward", nftables.ChainHookForward, nil},
			{"near4", nil, [][]expr.Any{rule(back, ipv4(), remember(near4, destination4)), rule(drop)}},
			{"near6", nil, [][]expr.Any{rule(back, ipv6(), remember(near6, destination6)), rule(drop)}},
			{"output", nftables.ChainHookOutput, output(d, told, held, reset4, reset6)},
		},
	}
	asking := addresses("near", nftables.TypeIPAddr, d.Neighbours, forgetNeighbour)
	const operation, sender = 6, 14 // RFC 826, for Ethernet and IPv4
	const arpIn = 0                 // NF_ARP_IN of linux/netfilter_arp.h
	request, reply := []byte{0, 1}, []byte{0, 2}
	arp := table{
		family: nftables.TableFamilyARP,
		sets:   []*nftables.Set{asking},
		chains: []chain{{"input", nftables.ChainHookRef(arpIn), [][]expr.Any{
			// A reply makes no neighbour that was not asked for (arp_accept), nor
			// does the question for a duplicate (RFC 5227).
			rule(accept, payload(expr.PayloadBaseNetworkHeader, operation, reply)),
			rule(accept, payload(expr.PayloadBaseNetworkHeader, operation, request), payload(expr.PayloadBaseNetworkHeader, sender, make([]byte, 4))),
			rule(accept, payload(expr.PayloadBaseNetworkHeader, operation, request), remember(asking, sender)),
		}}},
	}
	return []table{inet, arp}
}

// Offsets in headers: RFC 791, 3.1; RFC 8200, 3; RFC 9293, 3.1.
const (
	source4, destination4 = 12, 16
	source6, destination6 = 8, 24

	sport, dport, sequence, flags = 0, 2, 4, 13
	fin, syn, rst, ack            = 0x01, 0x02, 0x04, 0x10
)

func input(d Door, near6, callers4, callers6, reset4, reset6 *nftables.Set) [][]expr.Any {
	const (
		procedure = 8 + 5*4 // behind the UDP header: RFC 5531, 9
		getAddr   = 3
	)
	name := d.Interface
	connection := func(more ...[]expr.Any) []expr.Any {
		return rule(drop, append([][]expr.Any{iifname(name), l4proto(unix.IPPROTO_TCP), masked(flags, syn|ack, syn)}, more...)...)
	}
	in := [][]expr.Any{
		rule(accept, iifname("lo")),
		connection(ipv4(), from(reset4, source4)),
		connection(ipv6(), from(reset6, source6)),
		connection(unreturnable()), // IPv6 has no rp_filter, and takes what seems to come from itself
		connection(ipv4(), remember(callers4, source4, connectionsOfOne.over())),
		connection(ipv6(), remember(callers6, source6, connectionsOfOne.over())),
		connection([]expr.Any{connectionsOfAll.over()}),
	}
	for _, p := range d.tcp() {
		in = append(in, rule(accept, iifname(name), l4proto(unix.IPPROTO_TCP), transport(dport, port(p))))
	}
	if len(d.UDP) != 0 {
		in = append(in,
			rule(drop, iifname(name), l4proto(unix.IPPROTO_UDP), unreturnable()),
			rule(drop, iifname(name), l4proto(unix.IPPROTO_UDP), []expr.Any{datagrams.over()}))
	}
	for _, p := range d.UDP {
		match := [][]expr.Any{iifname(name), l4proto(unix.IPPROTO_UDP), transport(dport, port(p))}
		if p == RPCBindPort {
			match = append(match, transport(procedure, []byte{0, 0, 0, getAddr}))
		}
		in = append(in, rule(accept, match...))
	}
	icmp4 := func(t byte) [][]expr.Any {
		return [][]expr.Any{iifname(name), ipv4(), l4proto(unix.IPPROTO_ICMP), transport(0, []byte{t})}
	}
	icmp6 := func(t byte) [][]expr.Any {
		return [][]expr.Any{iifname(name), ipv6(), l4proto(unix.IPPROTO_ICMPV6), transport(0, []byte{t})}
	}
	const echo4, echo6, solicitation = 8, 128, 135
	in = append(in,
		rule(drop, append(icmp4(echo4), []expr.Any{echoes.over()})...),
		rule(drop, append(icmp6(echo6), []expr.Any{echoes.over()})...))
	// Destination unreachable (with "fragmentation needed"), time exceeded,
	// parameter problem.
	for _, t := range []byte{3, echo4, 11, 12} {
		in = append(in, rule(accept, icmp4(t)...))
	}
	// Destination unreachable, packet too big, time exceeded, parameter problem,
	// MLD query, neighbour advertisement. No router advertisement and no redirect.
	for _, t := range []byte{1, 2, 3, 4, echo6, 130, 136} {
		in = append(in, rule(accept, icmp6(t)...))
	}
	return append(in,
		rule(accept, append(icmp6(solicitation), payload(expr.PayloadBaseNetworkHeader, source6, make([]byte, 16)))...), // for a duplicate
		rule(accept, append(icmp6(solicitation), remember(near6, source6))...))
}

func output(d Door, told, held, reset4, reset6 *nftables.Set) [][]expr.Any {
	name := d.Interface
	out := [][]expr.Any{rule(accept, oifname("lo"))}
	for _, p := range d.tcp() {
		out = append(out, rule(drop, l4proto(unix.IPPROTO_TCP), transport(sport, port(p)),
			masked(flags, fin|syn|rst|ack, rst|ack), transport(sequence, []byte{0, 0, 0, 0})))
	}
	sent := func(mask, value byte) []expr.Any {
		return slices.Concat(l4proto(unix.IPPROTO_TCP), transport(sport, port(NFSPort)), masked(flags, mask, value))
	}
	nfs := func(mask, value byte, more ...[]expr.Any) []expr.Any {
		return rule(drop, append([][]expr.Any{sent(mask, value)}, more...)...)
	}
	out = append(out,
		nfs(fin, fin, owned()),
		nfs(rst|ack, rst, absent(told, dport), add(told), add(held)),
		nfs(rst|ack, rst, present(held, dport)),
		slices.Concat(sent(rst|ack, rst|ack), ipv4(), remember(reset4, destination4)),
		slices.Concat(sent(rst|ack, rst|ack), ipv6(), remember(reset6, destination6)),
		rule(drop, l4proto(unix.IPPROTO_TCP), masked(flags, syn|ack, syn)))
	for _, p := range near(d.Prefixes) {
		if p.Addr().Is4() {
			out = append(out, jump("near4", ipv4(), within(destination4, p)))
		} else {
			out = append(out, jump("near6", ipv6(), within(destination6, p)))
		}
	}
	for _, p := range d.tcp() {
		out = append(out, rule(accept, oifname(name), l4proto(unix.IPPROTO_TCP), transport(sport, port(p))))
	}
	for _, p := range d.UDP {
		out = append(out, rule(accept, oifname(name), l4proto(unix.IPPROTO_UDP), transport(sport, port(p))))
	}
	out = append(out, rule(accept, oifname(name), ipv4(), l4proto(unix.IPPROTO_ICMP), transport(0, []byte{0})))
	// Echo reply, MLD reports and done, neighbour solicitation and advertisement.
	for _, t := range []byte{129, 131, 132, 135, 136, 143} {
		out = append(out, rule(accept, oifname(name), ipv6(), l4proto(unix.IPPROTO_ICMPV6), transport(0, []byte{t})))
	}
	return out
}

// near are the prefixes on the link, each once, and that of link-local
// addresses.
func near(all []netip.Prefix) []netip.Prefix {
	seen := map[netip.Prefix]bool{}
	var out []netip.Prefix
	for _, p := range append(all[:len(all):len(all)], netip.MustParsePrefix("fe80::/10")) {
		if p = p.Masked(); !seen[p] {
			seen[p] = true
			out = append(out, p)
		}
	}
	return out
}
