package vhostuser

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ErrBlind says that the requests in flight cannot be known, or not be
// answered.
var ErrBlind = errors.New("the requests in flight cannot be answered")

// A StandIn answers in the place of a back-end that has ended: every request of
// the guest with the error ENOTCONN, and QEMU's messages so that it can stop and
// unplug the device.
type StandIn struct {
	state    *State
	inflight *Inflight // nil: the back-end answered requests in their order
	rings    []standing
	memory   *memory // nil: to be mapped
	answered uint64
}

// standing is a queue that is being answered.
type standing struct {
	*ring
	next uint16 // position in the available ring
}

// NewStandIn takes over from a back-end all of whose processes have ended, and
// answers what that left. Where inflight is nil requests are taken to have been
// answered in their order, as a back-end of one thread does, unless the rings
// contradict. ErrBlind, and then nothing was answered.
func NewStandIn(s *State, inflight *Inflight) (*StandIn, error) {
	in := &StandIn{state: s, inflight: inflight}
	left, err := in.takeOver()
	if err != nil {
		in.unmap()
		return nil, fmt.Errorf("%w: %w", ErrBlind, err)
	}
	for i := range in.rings {
		if r := &in.rings[i]; r.ring != nil {
			for _, h := range left[i] {
				in.answer(r, h)
			}
			in.drain(i)
			in.signal(i)
		}
	}
	return in, nil
}

// Answered counts the requests.
func (in *StandIn) Answered() uint64 { return in.answered }

// takeOver finds out what is in flight, and changes nothing.
func (in *StandIn) takeOver() (left [][]uint16, err error) {
	if in.state.features&(FeatureIOMMU|FeaturePacked) != 0 {
		return nil, fmt.Errorf("features %#x: a queue of another kind than we know", in.state.features)
	}
	if in.inflight != nil && in.state.offered[GetProtocolFeatures]&ProtocolInflight != 0 {
		return nil, errors.New("QEMU keeps what is in flight itself")
	}
	left = make([][]uint16, len(in.state.queues))
	for i := range in.state.queues {
		q := &in.state.queues[i]
		if !q.started {
			continue
		}
		if err := in.begin(i); err != nil {
			return nil, err
		}
		r := &in.rings[i]
		used, avail := r.usedIndex(), r.availIndex()
		if in.inflight != nil {
			left[i], err = in.inflight.outstanding(i, q, used)
		} else {
			err = r.inOrder(q.base, used, avail)
		}
		if err != nil {
			return nil, err
		}
		// Each that was taken is answered or in flight.
		r.next = used + uint16(len(left[i]))
		if avail-r.next > r.num {
			return nil, fmt.Errorf("queue %d: %d requests of %d", i, avail-r.next, r.num)
		}
	}
	return left, nil
}

// begin maps queue i, whose answers begin at its base.
func (in *StandIn) begin(i int) error {
	if in.memory == nil {
		m, err := mapMemory(in.state.regions)
		if err != nil {
			return err
		}
		in.memory = m
	}
	for i >= len(in.rings) {
		in.rings = append(in.rings, standing{})
	}
	q := &in.state.queues[i]
	r, err := newRing(in.memory, q)
	if err != nil {
		return err
	}
	in.rings[i] = standing{r, q.base}
	return nil
}

// inOrder checks that requests were answered in the order in which they came,
// as far back as both rings tell.
func (r *ring) inOrder(base, used, avail uint16) error {
	if avail-used > r.num {
		return fmt.Errorf("%d requests in a queue of %d", avail-used, r.num)
	}
	for i := used - 1; i != base-1 && avail-i <= r.num; i-- {
		if uint32(r.available(i)) != r.usedHead(i) {
			return errors.New("they were answered in another order than they came in")
		}
	}
	return nil
}

// Kicks lists the descriptors that tell of new requests, by queue; -1 for
// queues that are not to be looked at.
func (in *StandIn) Kicks() []int {
	fds := make([]int, len(in.rings))
	for i := range in.rings {
		fds[i] = -1
		if in.rings[i].ring != nil {
			fds[i] = in.state.queues[i].kick
		}
	}
	return fds
}

// Kicked answers what is new in queue i, whose kick is readable.
func (in *StandIn) Kicked(i int) {
	// It may be somebody's that reads it first, so it must not block.
	p := []unix.PollFd{{Fd: int32(in.state.queues[i].kick), Events: unix.POLLIN}}
	if n, err := unix.Poll(p, 0); err == nil && n == 1 && p[0].Revents&unix.POLLIN != 0 {
		var b [8]byte
		_, _ = unix.Read(in.state.queues[i].kick, b[:])
	}
	if in.drain(i) {
		in.signal(i)
	}
}

// drain answers all that is available in queue i, and says whether there was
// anything.
func (in *StandIn) drain(i int) (some bool) {
	r := &in.rings[i]
	if r.ring == nil {
		return false
	}
	for {
		avail := r.availIndex()
		if avail-r.next > r.num {
			// The guest's queue makes no sense any more: leave it alone.
			r.ring = nil
			return some
		}
		if avail == r.next {
			r.expect(r.next)
			if r.availIndex() == r.next {
				return some
			}
			continue
		}
		h := r.available(r.next)
		r.next++
		if h >= r.num {
			r.ring = nil
			return some
		}
		in.answer(r, h)
		some = true
	}
}

// Of FUSE (Linux include/uapi/linux/fuse.h): struct fuse_in_header has the
// request's number at 8, struct fuse_out_header is length, error and number.
const (
	fuseInHeader  = 40
	fuseUnique    = 8
	fuseOutHeader = 16
)

// answer gives request h back with ENOTCONN, what the guest would get without a
// device. One that wants no answer, or that makes no sense, gets none.
func (in *StandIn) answer(r *standing, h uint16) {
	in.answered++
	request, reply, err := r.buffers(in.memory, h, fuseInHeader)
	var header [fuseInHeader]byte
	n := 0
	for _, b := range request {
		n += copy(header[n:], b)
	}
	space := 0
	for _, b := range reply {
		space += len(b)
	}
	if err != nil || n < fuseInHeader || space < fuseOutHeader {
		r.push(h, 0)
		return
	}
	var out [fuseOutHeader]byte
	binary.LittleEndian.PutUint32(out[:], fuseOutHeader)
	failed := -int32(unix.ENOTCONN)
	binary.LittleEndian.PutUint32(out[4:], uint32(failed))
	copy(out[8:], header[fuseUnique:fuseUnique+8])
	rest := out[:]
	for _, b := range reply {
		rest = rest[copy(b, rest):]
	}
	r.push(h, fuseOutHeader)
}

// signal tells the guest that there are answers. Once too often does no harm.
func (in *StandIn) signal(i int) {
	if fd := in.state.queues[i].call; fd >= 0 {
		_, _ = unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
}

// Handle does what QEMU asks for, and returns the reply, nil where QEMU wants
// none. It takes the descriptors that it keeps out of m.
func (in *StandIn) Handle(m *Message) (*Message, error) {
	s := in.state
	var reply *Message
	if m.Answered(s.protocol) {
		r := in.Reply(*m)
		reply = &r
	}
	switch m.Request {
	case SetMemTable, AddMemReg, RemMemReg:
		in.unmap()
	}
	if err := s.Apply(m); err != nil {
		return nil, err
	}
	switch m.Request {
	case GetVringBase, ResetDevice:
		for i := range in.rings {
			if !s.queues[i].started {
				in.rings[i].ring = nil
			}
		}
	case SetMemTable, AddMemReg, RemMemReg:
		for i := range in.rings {
			if in.rings[i].ring != nil {
				next := in.rings[i].next
				if err := in.begin(i); err != nil {
					return nil, err
				}
				in.rings[i].next = next
			}
		}
	case SetVringKick, SetVringCall:
		v, _ := m.U64()
		i := int(v & ringIndex)
		if m.Request == SetVringKick {
			if err := in.begin(i); err != nil {
				return nil, err
			}
			in.drain(i)
		}
		in.signal(i)
	}
	return reply, nil
}

// Reply is the reply to a request that the back-end took and did not live to
// answer.
func (in *StandIn) Reply(m Message) Message {
	s := in.state
	switch m.Request {
	case GetVringBase:
		b := append([]byte(nil), m.Payload...)
		if len(b) == 8 {
			if i := binary.NativeEndian.Uint32(b); int64(i) < int64(len(in.rings)) {
				binary.NativeEndian.PutUint32(b[4:], uint32(in.rings[i].next))
			}
		}
		return Message{Request: m.Request, Flags: version | FlagReply, Payload: b}
	case GetConfig:
		return Message{Request: m.Request, Flags: version | FlagReply} // none is an error
	case GetFeatures, GetProtocolFeatures, GetQueueNum, GetMaxMemSlots:
		return m.Reply(s.offered[m.Request])
	case SetDeviceStateFD:
		return m.Reply(ringNoFD | 1) // the state cannot be had
	case GetInflightFD, CheckDeviceState, GetStatus:
		return m.Reply(1)
	}
	return m.Reply(0)
}

func (in *StandIn) unmap() {
	if in.memory != nil {
		in.memory.close()
		in.memory = nil
	}
}

// Close lets go of the guest's memory.
func (in *StandIn) Close() {
	in.unmap()
	in.rings = nil
}
