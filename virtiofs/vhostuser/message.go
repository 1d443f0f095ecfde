package vhostuser

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// A Request is the type of a message from QEMU, and of its reply.
type Request uint32

// The requests that matter here; others pass.
const (
	GetFeatures         Request = 1
	SetFeatures         Request = 2
	SetOwner            Request = 3
	SetMemTable         Request = 5
	SetLogBase          Request = 6
	SetVringNum         Request = 8
	SetVringAddr        Request = 9
	SetVringBase        Request = 10
	GetVringBase        Request = 11
	SetVringKick        Request = 12
	SetVringCall        Request = 13
	SetVringErr         Request = 14
	GetProtocolFeatures Request = 15
	SetProtocolFeatures Request = 16
	GetQueueNum         Request = 17
	SetVringEnable      Request = 18
	GetConfig           Request = 24
	GetInflightFD       Request = 31
	SetInflightFD       Request = 32
	ResetDevice         Request = 34
	GetMaxMemSlots      Request = 36
	AddMemReg           Request = 37
	RemMemReg           Request = 38
	GetStatus           Request = 40
	SetDeviceStateFD    Request = 42
	CheckDeviceState    Request = 43
)

// Flags of a message.
const (
	version     = 1
	versionMask = 3
	FlagReply   = 1 << 2 // it is a reply
	FlagAck     = 1 << 3 // the sender waits for a reply, whatever the request is
)

// Feature bits of SetFeatures and SetProtocolFeatures.
const (
	FeatureProtocol = 1 << 30 // there are protocol features
	FeatureIOMMU    = 1 << 33 // VIRTIO_F_ACCESS_PLATFORM: addresses are not those of memory
	FeaturePacked   = 1 << 34 // VIRTIO_F_RING_PACKED
	featureEventIdx = 1 << 29 // VIRTIO_RING_F_EVENT_IDX

	ProtocolReplyAck = 1 << 3
	ProtocolInflight = 1 << 12
)

const (
	headerSize = 12
	// MaxPayload bounds a message: the longest known is a memory table of eight
	// regions or a device's configuration, both below 300 bytes.
	MaxPayload = 4096
	// MaxFiles bounds the descriptors of a message: a memory table has eight.
	MaxFiles = 32
)

// A Message is one message. Files are descriptors that the receiver owns.
type Message struct {
	Request Request
	Flags   uint32
	Payload []byte
	Files   []int
}

// Close closes the message's descriptors.
func (m *Message) Close() {
	for _, fd := range m.Files {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	m.Files = nil
}

// U64 is a payload of one number; false where it is not one.
func (m Message) U64() (uint64, bool) {
	if len(m.Payload) != 8 {
		return 0, false
	}
	return binary.NativeEndian.Uint64(m.Payload), true
}

// Reply makes a reply of one number to m.
func (m Message) Reply(v uint64) Message {
	return Message{Request: m.Request, Flags: version | FlagReply, Payload: binary.NativeEndian.AppendUint64(nil, v)}
}

// With is m with another number.
func (m Message) With(v uint64) Message {
	m.Payload = binary.NativeEndian.AppendUint64(nil, v)
	return m
}

// Ask makes a request without a payload.
func Ask(r Request) Message { return Message{Request: r, Flags: version} }

// New makes a request of one number.
func New(r Request, v uint64) Message {
	return Message{Request: r, Flags: version, Payload: binary.NativeEndian.AppendUint64(nil, v)}
}

// Answered says whether QEMU waits for a reply to m, where protocol is what was
// negotiated.
func (m Message) Answered(protocol uint64) bool {
	switch m.Request {
	case GetFeatures, GetProtocolFeatures, GetVringBase, GetQueueNum, GetConfig, GetInflightFD, GetMaxMemSlots, GetStatus,
		SetLogBase, SetDeviceStateFD, CheckDeviceState:
		return true
	}
	return m.Flags&FlagAck != 0 && protocol&ProtocolReplyAck != 0
}

// A Conn is one end of a vhost-user connection: a blocking Unix stream socket.
type Conn struct {
	FD      int
	header  [headerSize]byte
	payload [MaxPayload]byte
	control [128 + 4*MaxFiles]byte
}

// Read reads one message, whose payload is good until the next Read. io.EOF
// where the peer has gone between two messages.
func (c *Conn) Read() (Message, error) {
	var m Message
	n := 0
	for n < headerSize {
		// Never more than the header: descriptors come with its first byte, and
		// a longer read might take those of the next message too.
		got, oob, flags, _, err := unix.Recvmsg(c.FD, c.header[n:], c.control[:], unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if oob > 0 {
			if failed := m.take(c.control[:oob]); failed != nil && err == nil {
				err = failed
			}
		}
		switch {
		case err != nil:
			m.Close()
			return Message{}, fmt.Errorf("read message: %w", os.NewSyscallError("recvmsg", err))
		case flags&unix.MSG_CTRUNC != 0:
			m.Close()
			return Message{}, errors.New("read message: too many descriptors")
		case got == 0 && n == 0:
			m.Close()
			return Message{}, io.EOF
		case got == 0:
			m.Close()
			return Message{}, fmt.Errorf("read message: %w", io.ErrUnexpectedEOF)
		}
		n += got
	}
	size, err := m.parseHeader(c.header[:])
	if err == nil {
		m.Payload = c.payload[:size]
		err = readAll(c.FD, m.Payload)
	}
	if err != nil {
		m.Close()
		return Message{}, fmt.Errorf("read message: %w", err)
	}
	return m, nil
}

// parseHeader reads a header and returns the payload's length.
func (m *Message) parseHeader(b []byte) (int, error) {
	m.Request = Request(binary.NativeEndian.Uint32(b))
	m.Flags = binary.NativeEndian.Uint32(b[4:])
	size := binary.NativeEndian.Uint32(b[8:])
	if m.Flags&versionMask != version {
		return 0, fmt.Errorf("request %d has version %d, want %d", m.Request, m.Flags&versionMask, version)
	}
	if size > MaxPayload {
		return 0, fmt.Errorf("request %d has %d bytes, more than %d", m.Request, size, MaxPayload)
	}
	return int(size), nil
}

// take takes the descriptors out of a control message.
func (m *Message) take(oob []byte) error {
	controls, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return err
	}
	for i := range controls {
		if controls[i].Header.Level != unix.SOL_SOCKET || controls[i].Header.Type != unix.SCM_RIGHTS {
			continue
		}
		fds, err := unix.ParseUnixRights(&controls[i])
		if err != nil {
			return err
		}
		m.Files = append(m.Files, fds...)
	}
	if len(m.Files) > MaxFiles {
		return fmt.Errorf("%d descriptors", len(m.Files))
	}
	return nil
}

func readAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Read(fd, b)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return os.NewSyscallError("read", err)
		case n == 0:
			return io.ErrUnexpectedEOF
		default:
			b = b[n:]
		}
	}
	return nil
}

// Write writes m, with copies of its descriptors.
func (c *Conn) Write(m Message) error {
	if len(m.Payload) > MaxPayload {
		return fmt.Errorf("write message: %d bytes, more than %d", len(m.Payload), MaxPayload)
	}
	b := make([]byte, 0, headerSize+len(m.Payload))
	b = binary.NativeEndian.AppendUint32(b, uint32(m.Request))
	b = binary.NativeEndian.AppendUint32(b, m.Flags)
	b = binary.NativeEndian.AppendUint32(b, uint32(len(m.Payload)))
	b = append(b, m.Payload...)
	var rights []byte
	if len(m.Files) > 0 {
		rights = unix.UnixRights(m.Files...)
	}
	for len(b) > 0 {
		n, err := unix.SendmsgN(c.FD, b, rights, nil, unix.MSG_NOSIGNAL)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("write message: %w", os.NewSyscallError("sendmsg", err))
		}
		b, rights = b[n:], nil
	}
	return nil
}
