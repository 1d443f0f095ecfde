// Package firewall writes and compares the nftables of a network's namespace.
package firewall

import (
	"encoding/binary"
	"fmt"
	"os"
	"reflect"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// tableName is the nftables table, of family inet, in each namespace.
const tableName = "causeway"

// NFSPort is the one TCP port that a tenant reaches in every network.
const NFSPort = 2049

// RPCBindPort over UDP answers look-ups alone: see ruleset.
const RPCBindPort = 111

// A Door is what is open between a namespace and its network.
type Door struct {
	Interface string   // required: its name in the namespace
	TCP       []uint16 // ports that a tenant reaches beside NFSPort
	UDP       []uint16 // ports that a tenant reaches, and from which datagrams may leave
}

// A chain is one base chain at a hook, with the policy drop.
type chain struct {
	name  string
	hook  *nftables.ChainHook
	rules [][]expr.Any
}

// ruleset is the whole ruleset of a namespace. It is the same for every network
// but for the ports of its Door, which is shut unless the network asked for
// NFSv3.
//
// It keeps no state. Connection tracking would cost each packet a look-up, and
// a tenant's flood would fill a table that (net.netfilter.nf_conntrack_max)
// counts for each namespace but takes the host's memory; and nothing is gained:
// the only connections are those to known ports, and what may leave is known by
// its source port. Fragments: IPv4 is reassembled before the input hook; of
// IPv6, fragments after the first match no port and are dropped, which harms
// nobody, since TCP does not send any.
//
//	input    lo; TCP to 2049 and the door's; echo requests, errors, neighbour discovery, MLD queries
//	forward  nothing
//	output   lo; TCP from those ports but for two cases; echo replies, neighbour discovery, MLD reports
//
// Where the door has UDP ports, datagrams come and go by them. To rpcbind only
// the look-up of one program gets through (procedure 3 of all versions: RFC
// 1833, 2.2.1 and 3.2), whose answer is shorter than the question: a list of
// all would make the gateway an amplifier for whoever forges his address.
//
// The two cases: a SYN without ACK would open a connection into the tenant's
// network; and the kernel's answer to a SYN at a closed port (RFC 9293, 3.10.7.1:
// RST|ACK with sequence 0) would tell clients that the gateway is gone for the
// instant that its restart takes, whereupon Linux waits 3 s before it tries
// again; without an answer it repeats the SYN after 1 s. A reset in a living
// connection has another sequence number, and the answer to a segment of a
// forgotten one has no ACK: both pass, so that clients notice at once.
func ruleset(door Door) []chain {
	const (
		fin, syn, rst, ack = 0x01, 0x02, 0x04, 0x10

		sport, dport, sequence, flags = 0, 2, 4, 13 // offsets in a TCP header: RFC 9293, 3.1

		procedure = 8 + 5*4 // behind the UDP header: RFC 5531, 9
		getAddr   = 3
	)
	inside := door.Interface
	echo4, echo6 := byte(8), byte(128)
	input := [][]expr.Any{
		rule(accept, iifname("lo")),
	}
	output := [][]expr.Any{rule(accept, oifname("lo"))}
	opened := append([]uint16{NFSPort}, door.TCP...)
	for _, p := range opened {
		input = append(input, rule(accept, iifname(inside), l4proto(unix.IPPROTO_TCP), transport(dport, port(p))))
		output = append(output, rule(drop, l4proto(unix.IPPROTO_TCP), transport(sport, port(p)),
			masked(flags, fin|syn|rst|ack, rst|ack), transport(sequence, []byte{0, 0, 0, 0})))
	}
	output = append(output, rule(drop, l4proto(unix.IPPROTO_TCP), masked(flags, syn|ack, syn)))
	for _, p := range opened {
		output = append(output, rule(accept, oifname(inside), l4proto(unix.IPPROTO_TCP), transport(sport, port(p))))
	}
	for _, p := range door.UDP {
		in := [][]expr.Any{iifname(inside), l4proto(unix.IPPROTO_UDP), transport(dport, port(p))}
		if p == RPCBindPort {
			in = append(in, transport(procedure, []byte{0, 0, 0, getAddr}))
		}
		input = append(input, rule(accept, in...))
		output = append(output, rule(accept, oifname(inside), l4proto(unix.IPPROTO_UDP), transport(sport, port(p))))
	}
	// Destination unreachable (with "fragmentation needed"), time exceeded,
	// parameter problem.
	for _, t := range []byte{3, echo4, 11, 12} {
		input = append(input, rule(accept, iifname(inside), ipv4(), l4proto(unix.IPPROTO_ICMP), transport(0, []byte{t})))
	}
	// Destination unreachable, packet too big, time exceeded, parameter problem,
	// MLD query, neighbour solicitation and advertisement. No router
	// advertisement and no redirect.
	for _, t := range []byte{1, 2, 3, 4, echo6, 130, 135, 136} {
		input = append(input, rule(accept, iifname(inside), ipv6(), l4proto(unix.IPPROTO_ICMPV6), transport(0, []byte{t})))
	}
	output = append(output, rule(accept, oifname(inside), ipv4(), l4proto(unix.IPPROTO_ICMP), transport(0, []byte{0})))
	// Echo reply, MLD reports and done, neighbour solicitation and advertisement.
	for _, t := range []byte{129, 131, 132, 135, 136, 143} {
		output = append(output, rule(accept, oifname(inside), ipv6(), l4proto(unix.IPPROTO_ICMPV6), transport(0, []byte{t})))
	}
	return []chain{
		{"input", nftables.ChainHookInput, input},
		{"forward", nftables.ChainHookForward, nil},
		{"output", nftables.ChainHookOutput, output},
	}
}

// Write replaces the table of a namespace in one transaction: there is
// no instant without it. An owner is written on its first rule.
func Write(ns *os.File, door Door, owner string) error {
	c, err := nftables.New(nftables.WithNetNSFd(int(ns.Fd())))
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	table := &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet}
	c.AddTable(table) // so that there is one to delete
	c.DelTable(table)
	c.AddTable(table)
	policy := nftables.ChainPolicyDrop
	for _, want := range ruleset(door) {
		ch := c.AddChain(&nftables.Chain{
			Name: want.name, Table: table, Hooknum: want.hook, Policy: &policy,
			Priority: nftables.ChainPriorityFilter, Type: nftables.ChainTypeFilter,
		})
		for i, exprs := range want.rules {
			r := &nftables.Rule{Table: table, Chain: ch, Exprs: exprs}
			if i == 0 && owner != "" {
				r.UserData = userdata.AppendString(nil, userdata.TypeComment, ownerComment+owner)
			}
			c.AddRule(r)
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("write firewall: %w", err)
	}
	return nil
}

// ownerComment begins the comment that names who wrote the table.
const ownerComment = "causeway network "

// Owner reads who wrote the table of a namespace, if it is there: ""
// where nobody is named.
func Owner(ns *os.File) (owner string, there bool, err error) {
	c, err := nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(int(ns.Fd())))
	if err != nil {
		return "", false, fmt.Errorf("open nftables: %w", err)
	}
	defer c.CloseLasting()
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return "", false, fmt.Errorf("read firewall: %w", err)
	}
	for _, ch := range chains {
		if ch.Table.Name != tableName {
			continue
		}
		there = true
		rules, err := c.GetRules(ch.Table, ch)
		if err != nil {
			return "", false, fmt.Errorf("read firewall: %w", err)
		}
		for _, r := range rules {
			words, _ := userdata.GetString(r.UserData, userdata.TypeComment)
			if o, ok := strings.CutPrefix(words, ownerComment); ok {
				owner = o
			}
		}
	}
	return owner, there, nil
}

// Delete removes the table of a namespace.
func Delete(ns *os.File) error {
	c, err := nftables.New(nftables.WithNetNSFd(int(ns.Fd())))
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	table := &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet}
	c.AddTable(table) // so that there is one to delete
	c.DelTable(table)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("remove firewall: %w", err)
	}
	return nil
}

// Drift compares the table of a namespace with the wanted one,
// expression by expression. It is not for a locked thread: the library waits in
// the runtime's poller, and each wait would be two changes of thread (measured:
// 1.6 ms instead of 0.4).
func Drift(ns *os.File, door Door) ([]string, error) {
	c, err := nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(int(ns.Fd())))
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	defer c.CloseLasting()

	tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("read firewall: %w", err)
	}
	var table *nftables.Table
	for _, t := range tables {
		if t.Name == tableName {
			table = t
		}
	}
	switch {
	case table == nil:
		return []string{"firewall: there is no table inet " + tableName}, nil
	case table.Flags != 0:
		return []string{"firewall: table inet " + tableName + " is dormant"}, nil
	}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("read firewall: %w", err)
	}
	have := make(map[string]*nftables.Chain)
	for _, ch := range chains {
		if ch.Table.Name == tableName {
			have[ch.Name] = ch
		}
	}
	var drift []string
	for _, want := range ruleset(door) {
		ch := have[want.name]
		delete(have, want.name)
		if ch == nil || ch.Type != nftables.ChainTypeFilter || !is(ch.Hooknum, *want.hook) ||
			!is(ch.Priority, *nftables.ChainPriorityFilter) || !is(ch.Policy, nftables.ChainPolicyDrop) {
			drift = append(drift, "firewall: chain "+want.name+" is missing or of another kind")
			continue
		}
		rules, err := c.GetRules(table, ch)
		if err != nil {
			return nil, fmt.Errorf("read firewall: %w", err)
		}
		got := make([][]expr.Any, len(rules))
		for i, r := range rules {
			got[i] = r.Exprs
		}
		if len(got) != len(want.rules) || len(got) != 0 && !reflect.DeepEqual(got, want.rules) {
			drift = append(drift, "firewall: the rules of chain "+want.name+" were altered")
		}
	}
	for name := range have {
		drift = append(drift, "firewall: chain "+name+" is not ours")
	}
	return drift, nil
}

func is[T comparable](p *T, v T) bool { return p != nil && *p == v }

// The matches are written as the kernel gives them back, so that the two can be
// compared: one register, names padded to 16 bytes.

const accept, drop = expr.VerdictAccept, expr.VerdictDrop

func rule(v expr.VerdictKind, matches ...[]expr.Any) []expr.Any {
	var all []expr.Any
	for _, m := range matches {
		all = append(all, m...)
	}
	return append(all, &expr.Verdict{Kind: v})
}

func equals(data []byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data}
}

func metaIs(key expr.MetaKey, data []byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, equals(data)}
}

func ifname(s string) []byte { return append([]byte(s), make([]byte, 16-len(s))...) }

func iifname(s string) []expr.Any { return metaIs(expr.MetaKeyIIFNAME, ifname(s)) }
func oifname(s string) []expr.Any { return metaIs(expr.MetaKeyOIFNAME, ifname(s)) }
func ipv4() []expr.Any            { return metaIs(expr.MetaKeyNFPROTO, []byte{unix.NFPROTO_IPV4}) }
func ipv6() []expr.Any            { return metaIs(expr.MetaKeyNFPROTO, []byte{unix.NFPROTO_IPV6}) }
func l4proto(p byte) []expr.Any   { return metaIs(expr.MetaKeyL4PROTO, []byte{p}) }

func port(p uint16) []byte { return binary.BigEndian.AppendUint16(nil, p) }

func load(offset, length int) expr.Any {
	return &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: uint32(offset), Len: uint32(length)}
}

// transport matches bytes of the TCP or ICMP header.
func transport(offset int, data []byte) []expr.Any {
	return []expr.Any{load(offset, len(data)), equals(data)}
}

// masked matches the bits of mask in one byte of the TCP header.
func masked(offset int, mask, value byte) []expr.Any {
	return []expr.Any{
		load(offset, 1),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{mask}, Xor: []byte{0}},
		equals([]byte{value}),
	}
}
