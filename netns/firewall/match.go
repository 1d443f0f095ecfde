package firewall

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The matches are written as the kernel gives them back, so that the two can be
// compared: one register, names padded to 16 bytes.

const accept, drop, back = expr.VerdictAccept, expr.VerdictDrop, expr.VerdictReturn

func rule(v expr.VerdictKind, matches ...[]expr.Any) []expr.Any {
	return append(slices.Concat(matches...), &expr.Verdict{Kind: v})
}

func jump(chain string, matches ...[]expr.Any) []expr.Any {
	return append(slices.Concat(matches...), &expr.Verdict{Kind: expr.VerdictJump, Chain: chain})
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

// payload matches bytes behind a header's beginning.
func payload(base expr.PayloadBase, offset int, data []byte) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: 1, Base: base, Offset: uint32(offset), Len: uint32(len(data))}, equals(data)}
}

// within matches an address of the IP header, in a prefix.
func within(offset int, p netip.Prefix) []expr.Any {
	size := p.Addr().BitLen() / 8
	match := []expr.Any{address(offset, size)}
	if !p.IsSingleIP() {
		mask := make([]byte, size)
		for i := range p.Bits() {
			mask[i/8] |= 1 << (7 - i%8)
		}
		match = append(match, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(size), Mask: mask, Xor: make([]byte, size)})
	}
	return append(match, equals(p.Masked().Addr().AsSlice()))
}

func address(offset, size int) expr.Any {
	return &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: uint32(offset), Len: uint32(size)}
}

// remember matches when the address at offset is in the set, or there is room
// for it.
func remember(set *nftables.Set, offset int, more ...expr.Any) []expr.Any {
	return []expr.Any{
		address(offset, int(set.KeyType.Bytes)),
		&expr.Dynset{SrcRegKey: 1, SetName: set.Name, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: set.Timeout, Exprs: more},
	}
}

// unreturnable matches a source that is not reached by the way it came from.
func unreturnable() []expr.Any {
	return []expr.Any{&expr.Fib{Register: 1, FlagSADDR: true, FlagIIF: true, FlagPRESENT: true, ResultOIF: true}, equals([]byte{0})}
}

// A rate is what may pass in a second, and how much of it at once.
type rate struct {
	second uint64
	burst  uint32
}

// over matches what comes beyond the rate.
func (r rate) over() expr.Any {
	return &expr.Limit{Type: expr.LimitTypePkts, Rate: r.second, Over: true, Unit: expr.LimitTimeSecond, Burst: r.burst}
}

// addresses is a set that rules fill, and that forgets.
func addresses(name string, kind nftables.SetDatatype, size int, forget time.Duration) *nftables.Set {
	return &nftables.Set{Name: name, KeyType: kind, Dynamic: true, HasTimeout: true, Timeout: forget, Size: uint32(size)}
}

// present matches when the port at offset is in the set.
func present(set *nftables.Set, offset int) []expr.Any {
	return []expr.Any{load(offset, 2), &expr.Lookup{SourceRegister: 1, SetName: set.Name}}
}

// from matches when the address at offset is in the set.
func from(set *nftables.Set, offset int) []expr.Any {
	return []expr.Any{address(offset, int(set.KeyType.Bytes)), &expr.Lookup{SourceRegister: 1, SetName: set.Name}}
}

// absent matches when the port at offset is not in the set.
func absent(set *nftables.Set, offset int) []expr.Any {
	return []expr.Any{load(offset, 2), &expr.Lookup{SourceRegister: 1, SetName: set.Name, Invert: true}}
}

// add puts what was looked for into a set, too. It matches if there is room.
func add(set *nftables.Set) []expr.Any {
	return []expr.Any{&expr.Dynset{SrcRegKey: 1, SetName: set.Name, Operation: unix.NFT_DYNSET_OP_ADD, Timeout: set.Timeout}}
}

// owned matches what is sent through a socket that a process has, or is about
// to close.
func owned() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeySKUID, Register: 1},
		&expr.Cmp{Op: expr.CmpOpGte, Register: 1, Data: make([]byte, 4)}, // any user
	}
}
