package vhostuser

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	maxRegions = 512  // QEMU has as many slots at most (libvhost-user, VHOST_USER_MAX_RAM_SLOTS)
	maxQueues  = 64   // virtiofsd has two
	maxNum     = 1024 // of entries in a queue (QEMU, VIRTQUEUE_MAX_SIZE)

	ringIndex = 0xff   // of the payload of SetVringKick and its like
	ringNoFD  = 1 << 8 // no descriptor comes with it
)

// A region is a part of the guest's memory.
type region struct {
	guest, size, user, offset uint64
	fd                        int
}

// A queue is what QEMU has said of one virtqueue.
type queue struct {
	num               uint32
	desc, used, avail uint64 // QEMU's own addresses
	base              uint16 // of the available ring, where it begins
	kick, call        int    // descriptors, -1 where there is none
	started           bool
}

// A State is what QEMU has set in a back-end, and what the back-end has offered.
type State struct {
	features, protocol uint64
	offered            map[Request]uint64 // what the back-end answered to what asks for a number
	regions            []region
	queues             []queue
}

// Protocol is the set of negotiated protocol features.
func (s *State) Protocol() uint64 { return s.protocol }

// Offered is what the back-end answered to r, 0 where it was not asked.
func (s *State) Offered(r Request) uint64 { return s.offered[r] }

// Running says whether the guest's driver uses a queue.
func (s *State) Running() bool {
	for i := range s.queues {
		if s.queues[i].started {
			return true
		}
	}
	return false
}

// Note records a reply of the back-end.
func (s *State) Note(reply Message) {
	switch reply.Request {
	case GetFeatures, GetProtocolFeatures, GetQueueNum, GetMaxMemSlots:
		if v, ok := reply.U64(); ok {
			if s.offered == nil {
				s.offered = map[Request]uint64{}
			}
			s.offered[reply.Request] = v
		}
	}
}

// Apply records a request of QEMU's. It keeps the descriptors that it needs, and
// takes them out of m. An error says that m makes no sense.
func (s *State) Apply(m *Message) error {
	if err := s.apply(m); err != nil {
		return fmt.Errorf("request %d: %w", m.Request, err)
	}
	return nil
}

func (s *State) apply(m *Message) error {
	switch m.Request {
	case SetFeatures, SetProtocolFeatures:
		v, ok := m.U64()
		if !ok {
			return fmt.Errorf("payload of %d bytes", len(m.Payload))
		}
		if m.Request == SetFeatures {
			s.features = v
		} else {
			s.protocol = v
		}
	case SetMemTable:
		return s.setMemory(m)
	case AddMemReg:
		return s.addRegion(m)
	case RemMemReg:
		return s.removeRegion(m)
	case SetVringNum, SetVringBase, GetVringBase:
		if len(m.Payload) != 8 {
			return fmt.Errorf("payload of %d bytes", len(m.Payload))
		}
		q, err := s.queue(binary.NativeEndian.Uint32(m.Payload))
		if err != nil {
			return err
		}
		v := binary.NativeEndian.Uint32(m.Payload[4:])
		switch m.Request {
		case SetVringNum:
			q.num = v
		case SetVringBase:
			q.base = uint16(v)
		default:
			q.started = false
			setFD(&q.kick, -1)
			setFD(&q.call, -1)
		}
	case SetVringAddr:
		if len(m.Payload) < 40 {
			return fmt.Errorf("payload of %d bytes", len(m.Payload))
		}
		q, err := s.queue(binary.NativeEndian.Uint32(m.Payload))
		if err != nil {
			return err
		}
		q.desc = binary.NativeEndian.Uint64(m.Payload[8:])
		q.used = binary.NativeEndian.Uint64(m.Payload[16:])
		q.avail = binary.NativeEndian.Uint64(m.Payload[24:])
	case SetVringKick, SetVringCall:
		return s.setEvent(m)
	case ResetDevice:
		for i := range s.queues {
			s.queues[i].started = false
		}
	}
	return nil
}

func (s *State) queue(index uint32) (*queue, error) {
	if index >= maxQueues {
		return nil, fmt.Errorf("queue %d", index)
	}
	for int(index) >= len(s.queues) {
		s.queues = append(s.queues, queue{kick: -1, call: -1})
	}
	return &s.queues[index], nil
}

func (s *State) setEvent(m *Message) error {
	v, ok := m.U64()
	if !ok {
		return fmt.Errorf("payload of %d bytes", len(m.Payload))
	}
	q, err := s.queue(uint32(v & ringIndex))
	if err != nil {
		return err
	}
	fd := -1
	if v&ringNoFD == 0 {
		if len(m.Files) != 1 {
			return fmt.Errorf("%d descriptors, want one", len(m.Files))
		}
		fd, m.Files = m.Files[0], nil
	}
	if m.Request == SetVringCall {
		setFD(&q.call, fd)
		return nil
	}
	setFD(&q.kick, fd)
	q.started = true
	return nil
}

func setFD(old *int, fd int) {
	if *old >= 0 {
		unix.Close(*old)
	}
	*old = fd
}

// A region's description has 32 bytes.
const regionSize = 32

func parseRegion(b []byte) (region, error) {
	r := region{
		guest: binary.NativeEndian.Uint64(b), size: binary.NativeEndian.Uint64(b[8:]),
		user: binary.NativeEndian.Uint64(b[16:]), offset: binary.NativeEndian.Uint64(b[24:]), fd: -1,
	}
	if r.size == 0 || r.guest+r.size < r.guest || r.user+r.size < r.user || r.offset+r.size < r.offset || r.offset+r.size > 1<<62 {
		return region{}, fmt.Errorf("region of %d bytes at %#x, offset %#x", r.size, r.guest, r.offset)
	}
	return r, nil
}

func (s *State) setMemory(m *Message) error {
	if len(m.Payload) < 8 {
		return fmt.Errorf("payload of %d bytes", len(m.Payload))
	}
	n := binary.NativeEndian.Uint32(m.Payload)
	if uint64(len(m.Payload)) < 8+uint64(n)*regionSize || int(n) != len(m.Files) {
		return fmt.Errorf("%d regions in %d bytes with %d descriptors", n, len(m.Payload), len(m.Files))
	}
	var rs []region
	for i := range int(n) {
		r, err := parseRegion(m.Payload[8+i*regionSize:])
		if err != nil {
			return err
		}
		rs = append(rs, r)
	}
	for i := range rs {
		rs[i].fd = m.Files[i]
	}
	m.Files = nil
	s.dropRegions(func(region) bool { return true })
	s.regions = rs
	return nil
}

func (s *State) addRegion(m *Message) error {
	if len(m.Payload) < 8+regionSize || len(m.Files) != 1 || len(s.regions) >= maxRegions {
		return fmt.Errorf("payload of %d bytes with %d descriptors, beside %d regions", len(m.Payload), len(m.Files), len(s.regions))
	}
	r, err := parseRegion(m.Payload[8:])
	if err != nil {
		return err
	}
	r.fd, m.Files = m.Files[0], nil
	s.regions = append(s.regions, r)
	return nil
}

func (s *State) removeRegion(m *Message) error {
	if len(m.Payload) < 8+regionSize {
		return fmt.Errorf("payload of %d bytes", len(m.Payload))
	}
	gone, err := parseRegion(m.Payload[8:])
	if err != nil {
		return err
	}
	s.dropRegions(func(r region) bool { return r.guest == gone.guest && r.size == gone.size && r.user == gone.user })
	return nil
}

func (s *State) dropRegions(gone func(region) bool) {
	kept := s.regions[:0]
	for _, r := range s.regions {
		if gone(r) {
			setFD(&r.fd, -1)
			continue
		}
		kept = append(kept, r)
	}
	s.regions = kept
}

// Close closes all that s holds.
func (s *State) Close() {
	s.dropRegions(func(region) bool { return true })
	for i := range s.queues {
		setFD(&s.queues[i].kick, -1)
		setFD(&s.queues[i].call, -1)
	}
	s.queues = nil
}
