package attack

import (
	"encoding/binary"
	"net"
	"net/netip"
)

// Types of Ethernet frames.
const (
	typeIPv4 = 0x0800
	typeARP  = 0x0806
	typeIPv6 = 0x86dd
)

// Protocols above IP.
const (
	protocolICMP   = 1
	protocolTCP    = 6
	protocolUDP    = 17
	protocolICMPv6 = 58
)

// Flags of a TCP segment.
const (
	SYN = 0x02
	ACK = 0x10
)

// Mark is the DSCP of every packet that IP makes: ours are told by it from
// those of others.
const Mark = 42

// IP makes a packet of the addresses' family. No field is checked.
func IP(src, dst netip.Addr, protocol byte, payload []byte) []byte {
	return IPWithOptions(src, dst, protocol, nil, payload)
}

// IPWithOptions puts options, of a multiple of four bytes, behind the header
// of IPv4; IPv6 has none.
func IPWithOptions(src, dst netip.Addr, protocol byte, options, payload []byte) []byte {
	var b []byte
	if src.Is4() {
		b = append(b, byte(0x45+len(options)/4), Mark<<2)
		b = binary.BigEndian.AppendUint16(b, uint16(20+len(options)+len(payload)))
		b = append(b, 0, 0, 0, 0, 64, protocol, 0, 0)
		b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
		b = append(b, options...)
		binary.BigEndian.PutUint16(b[10:], checksum(b))
	} else {
		b = append(b, 0x60|Mark>>2, Mark<<6&0xff, 0, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
		b = append(b, protocol, 255) // as neighbour discovery asks for
		b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
	}
	return append(b, payload...)
}

// TCP makes a packet with one segment.
func TCP(src, dst netip.AddrPort, flags byte, data []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, src.Port())
	b = binary.BigEndian.AppendUint16(b, dst.Port())
	b = append(b, 0, 0, 1, 0, 0, 0, 2, 0, 5<<4, flags, 0xff, 0xff, 0, 0, 0, 0)
	return transport(src.Addr(), dst.Addr(), protocolTCP, 16, append(b, data...))
}

// UDP makes a packet with one datagram.
func UDP(src, dst netip.AddrPort, data []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, src.Port())
	b = binary.BigEndian.AppendUint16(b, dst.Port())
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(data)))
	return transport(src.Addr(), dst.Addr(), protocolUDP, 6, append(append(b, 0, 0), data...))
}

// ICMP makes a packet with a message of the family's ICMP; rest is what comes
// behind the checksum.
func ICMP(src, dst netip.Addr, kind byte, rest []byte) []byte {
	b := append([]byte{kind, 0, 0, 0}, rest...)
	if src.Is4() {
		binary.BigEndian.PutUint16(b[2:], checksum(b))
		return IP(src, dst, protocolICMP, b)
	}
	return transport(src, dst, protocolICMPv6, 2, b)
}

// transport fills in a checksum over the payload and the addresses (RFC 9293,
// 3.1; RFC 8200, 8.1).
func transport(src, dst netip.Addr, protocol byte, at int, b []byte) []byte {
	pseudo := append(src.AsSlice(), dst.AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(b)))
	pseudo = append(pseudo, 0, 0, 0, protocol)
	binary.BigEndian.PutUint16(b[at:], checksum(append(pseudo, b...)))
	return IP(src, dst, protocol, b)
}

// Solicitation is the body of a neighbour solicitation (RFC 4861, 4.3).
func Solicitation(target netip.Addr, from net.HardwareAddr) []byte {
	b := append(make([]byte, 4), target.AsSlice()...)
	return append(append(b, 1, 1), from...)
}

// ARP makes a request (RFC 826).
func ARP(from net.HardwareAddr, sender, target netip.Addr) []byte {
	b := append([]byte{0, 1, 8, 0, 6, 4, 0, 1}, from...)
	b = append(append(b, sender.AsSlice()...), make([]byte, 6)...)
	return append(b, target.AsSlice()...)
}

// checksum of RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
