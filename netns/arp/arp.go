// Package arp asks an Ethernet network for the owners of IPv4 addresses, and
// tells it of new ones: RFC 826 and RFC 5227.
package arp

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// probes is how often each address is asked for.
const probes = 2

// Probe asks, over the interface, whether another machine has one of the
// addresses, and returns those that are taken. It is the ARP probe of RFC 5227,
// 2.1.1, with shorter times. The calling thread is in the namespace.
func Probe(ctx context.Context, l netlink.Link, addrs []netip.Prefix, wait time.Duration) ([]netip.Prefix, error) {
	s, err := open(l)
	if err != nil {
		return nil, err
	}
	defer s.close()

	used := make(map[netip.Addr]bool)
	end := time.Now().Add(wait)
	for i := range probes {
		for _, p := range addrs {
			if err := s.send(netip.IPv4Unspecified(), p.Addr()); err != nil {
				return nil, err
			}
		}
		until := end.Add(-wait * time.Duration(probes-1-i) / probes)
		// The clock decides, not silence: a tenant that floods the network with
		// ARP does not hold us here.
		for len(used) < len(addrs) && time.Now().Before(until) {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			// Short waits, so that a cancelled context is noticed.
			m, ok, err := s.receive(min(time.Until(until), 50*time.Millisecond))
			if err != nil {
				return nil, err
			}
			if !ok {
				continue
			}
			for _, p := range addrs {
				// Its owner, or one that asks for it at the same instant.
				if m.sender == p.Addr() || m.sender.IsUnspecified() && m.target == p.Addr() {
					used[p.Addr()] = true
				}
			}
		}
	}
	var out []netip.Prefix
	for _, p := range addrs {
		if used[p.Addr()] {
			out = append(out, p)
		}
	}
	return out, nil
}

// Announce tells the network where the addresses are (RFC 5227, 2.3), so that
// bridges and neighbours forget an earlier place. The calling thread is in the
// namespace.
func Announce(l netlink.Link, addrs []netip.Addr) error {
	s, err := open(l)
	if err != nil {
		return fmt.Errorf("announce addresses: %w", err)
	}
	defer s.close()
	for _, a := range addrs {
		if err := s.send(a, a); err != nil {
			return fmt.Errorf("announce address %s: %w", a, err)
		}
	}
	return nil
}

// A message of another machine.
type message struct {
	sender, target netip.Addr
}

// packetLen is the length of an ARP packet for IPv4 on Ethernet (RFC 826): types 2+2,
// lengths 1+1, operation 2, sender 6+4, target 6+4.
const packetLen = 28

type socket struct {
	fd  int
	mac net.HardwareAddr
	to  unix.SockaddrLinklayer
}

func open(l netlink.Link) (*socket, error) {
	proto := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ARP))
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	a := unix.SockaddrLinklayer{Protocol: proto, Ifindex: l.Attrs().Index}
	if err := unix.Bind(fd, &a); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bind packet socket to %s: %w", l.Attrs().Name, err)
	}
	a.Halen = 6
	copy(a.Addr[:], []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	return &socket{fd: fd, mac: l.Attrs().HardwareAddr, to: a}, nil
}

func (s *socket) close() { unix.Close(s.fd) }

// send broadcasts an ARP request.
func (s *socket) send(sender, target netip.Addr) error {
	b := make([]byte, 0, packetLen)
	b = append(b, 0, 1, 8, 0, 6, 4, 0, 1) // Ethernet, IPv4, their lengths, request
	b = append(b, s.mac...)
	b = append(b, sender.AsSlice()...)
	b = append(b, make([]byte, 6)...)
	b = append(b, target.AsSlice()...)
	if err := unix.Sendto(s.fd, b, 0, &s.to); err != nil {
		return fmt.Errorf("send arp request for %s: %w", target, err)
	}
	return nil
}

// receive returns the next ARP message of another machine; ok is false if there
// was none in time, or something else came.
func (s *socket) receive(wait time.Duration) (m message, ok bool, err error) {
	if wait > 0 {
		fds := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}
		ts := unix.NsecToTimespec(wait.Nanoseconds())
		if _, err := unix.Ppoll(fds, &ts, nil); err != nil && !errors.Is(err, unix.EINTR) {
			return message{}, false, fmt.Errorf("wait for arp: %w", err)
		}
	}
	b := make([]byte, 64)
	k, _, err := unix.Recvfrom(s.fd, b, unix.MSG_DONTWAIT)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return message{}, false, nil
	case err != nil:
		return message{}, false, fmt.Errorf("receive arp: %w", err)
	}
	m, mac, ok := parse(b[:k])
	if !ok || bytes.Equal(mac, s.mac) { // our own probe, sent back to us
		return message{}, false, nil
	}
	return m, true, nil
}

// parse takes apart what any machine on the network may have sent.
func parse(b []byte) (m message, mac net.HardwareAddr, ok bool) {
	if len(b) < packetLen || !bytes.Equal(b[:6], []byte{0, 1, 8, 0, 6, 4}) {
		return message{}, nil, false
	}
	return message{
		sender: netip.AddrFrom4([4]byte(b[14:18])),
		target: netip.AddrFrom4([4]byte(b[24:28])),
	}, net.HardwareAddr(b[8:14]), true
}
