// Package attack speaks as a hostile machine on a tenant's network: frames of
// its own making, from whatever address it likes.
package attack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/integration/netspace"
)

// A Wire is a link of one namespace, below the kernel's own protocols. It is
// not for several goroutines at once.
type Wire struct {
	MAC   net.HardwareAddr
	fd    int
	index int
}

// Open the link of the namespace at path.
func Open(netns, link string) (*Wire, error) {
	w := &Wire{fd: -1}
	err := netspace.Do(netns, func() error {
		l, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		w.MAC, w.index = l.HardwareAddr, l.Index
		all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
		if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(all)); err != nil {
			return os.NewSyscallError("socket", err)
		}
		if err := unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: l.Index}); err != nil {
			return os.NewSyscallError("bind", err)
		}
		return os.NewSyscallError("setsockopt", unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20))
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open wire %s of %s: %w", link, netns, err), w.Close())
	}
	return w, nil
}

// Close the wire.
func (w *Wire) Close() error {
	if w.fd < 0 {
		return nil
	}
	return os.NewSyscallError("close", unix.Close(w.fd))
}

// Send a packet, of IP or ARP, to a machine.
func (w *Wire) Send(to net.HardwareAddr, packet []byte) error {
	kind := uint16(typeARP)
	switch packet[0] >> 4 {
	case 4:
		kind = typeIPv4
	case 6:
		kind = typeIPv6
	}
	b := append(bytes.Clone(to), w.MAC...)
	b = append(binary.BigEndian.AppendUint16(b, kind), packet...)
	for {
		_, err := unix.Write(w.fd, b)
		if errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue // the other side is slower
		}
		return os.NewSyscallError("write", err)
	}
}

// Receive returns the next frame that somebody else has sent, or nil when the
// time is up.
func (w *Wire) Receive(until time.Time) ([]byte, error) {
	b := make([]byte, 65536)
	for {
		k, from, err := unix.Recvfrom(w.fd, b, 0)
		switch {
		case err == nil:
			if l, ok := from.(*unix.SockaddrLinklayer); ok && l.Pkttype != unix.PACKET_OUTGOING && k >= 14 {
				return b[:k], nil
			}
		case errors.Is(err, unix.EAGAIN):
			left := time.Until(until)
			if left <= 0 {
				return nil, nil
			}
			_, err = unix.Poll([]unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
			if err != nil && !errors.Is(err, unix.EINTR) {
				return nil, os.NewSyscallError("poll", err)
			}
		case !errors.Is(err, unix.EINTR):
			return nil, os.NewSyscallError("recvfrom", err)
		}
	}
}

// Sync asks a machine for an echo until it comes, and returns what else the
// machine has sent meanwhile, but for what neighbours say to each other. All
// that was sent before has then been seen by the machine.
func (w *Wire) Sync(from, to netip.Addr, mac net.HardwareAddr) (others [][]byte, err error) {
	end := time.Now().Add(time.Minute)
	for round := byte(1); time.Now().Before(end); round++ {
		request := ICMP(from, to, 8, []byte{0xca, 0xfe, 0, round})
		request[1] = 0 // not Mark
		binary.BigEndian.PutUint16(request[10:], 0)
		binary.BigEndian.PutUint16(request[10:], checksum(request[:20]))
		if err := w.Send(mac, request); err != nil {
			return nil, err
		}
		for patience := time.Now().Add(time.Second); ; {
			frame, err := w.Receive(patience)
			if err != nil {
				return nil, err
			}
			if frame == nil {
				break
			}
			if !bytes.Equal(frame[6:12], mac) || neighbourly(frame) {
				continue
			}
			if bytes.Contains(frame, []byte{0xca, 0xfe, 0, round}) && frame[23] == protocolICMP {
				return others, nil
			}
			others = append(others, bytes.Clone(frame))
		}
	}
	return nil, fmt.Errorf("sync with %s: no echo came", to)
}

// neighbourly is ARP, neighbour discovery and what routers ask of listeners.
func neighbourly(frame []byte) bool {
	switch binary.BigEndian.Uint16(frame[12:]) {
	case typeARP:
		return true
	case typeIPv6:
		if len(frame) <= 62 {
			return true
		}
		kind, at := frame[20], 54
		if kind == 0 { // a hop-by-hop header, as listeners' reports have
			kind, at = frame[54], 62
		}
		return kind == protocolICMPv6 && frame[at] >= 130 && frame[at] <= 143
	}
	return false
}
