package vhostuser

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"unsafe"
)

// A ring is one split virtqueue in the guest's memory.
type ring struct {
	num   uint16
	desc  []byte // 16 bytes for each entry
	avail []byte // flags, index, ring, used event: 2 bytes each
	used  []byte // flags, index: 2 bytes each; ring: 8 bytes each; avail event: 2
}

func newRing(m *memory, q *queue) (*ring, error) {
	if q.num == 0 || q.num > maxNum || q.num&(q.num-1) != 0 {
		return nil, fmt.Errorf("queue of %d", q.num)
	}
	n := uint64(q.num)
	r := &ring{num: uint16(q.num), desc: m.atUser(q.desc, 16*n), avail: m.atUser(q.avail, 6+2*n), used: m.atUser(q.used, 6+8*n)}
	switch {
	case r.desc == nil || r.avail == nil || r.used == nil:
		return nil, fmt.Errorf("queue at %#x, %#x and %#x: not in the guest's memory", q.desc, q.avail, q.used)
	case uintptr(unsafe.Pointer(&r.avail[0]))%4 != 0 || uintptr(unsafe.Pointer(&r.used[0]))%4 != 0:
		return nil, fmt.Errorf("queue at %#x and %#x: not aligned", q.avail, q.used)
	}
	return r, nil
}

// head reads flags and index at the beginning of a ring, before whatever is
// read afterwards. Queues are little-endian, as are the machines that we run on.
func head(b []byte) (index uint16) {
	return uint16(atomic.LoadUint32((*uint32)(unsafe.Pointer(&b[0]))) >> 16)
}

func (r *ring) availIndex() uint16 { return head(r.avail) }
func (r *ring) usedIndex() uint16  { return head(r.used) }

// available is the head at position i of the available ring.
func (r *ring) available(i uint16) uint16 {
	return binary.LittleEndian.Uint16(r.avail[4+2*int(i%r.num):])
}

// usedHead is the head at position i of the used ring.
func (r *ring) usedHead(i uint16) uint32 {
	return binary.LittleEndian.Uint32(r.used[4+8*int(i%r.num):])
}

// push gives a request back, with n bytes written to it.
func (r *ring) push(h uint16, n uint32) {
	i := r.usedIndex()
	e := r.used[4+8*int(i%r.num):]
	binary.LittleEndian.PutUint32(e, uint32(h))
	binary.LittleEndian.PutUint32(e[4:], n)
	// With flags 0: we want to hear of each new request. The store comes after
	// what it tells of.
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&r.used[0])), uint32(i+1)<<16)
}

// expect asks the guest to say when it has put something at position i.
func (r *ring) expect(i uint16) {
	binary.LittleEndian.PutUint16(r.used[4+8*int(r.num):], i)
	// Before the available index is read once more: the guest writes that, and
	// then reads this. An exchange is a full barrier, a store is not.
	u := (*uint32)(unsafe.Pointer(&r.used[0]))
	atomic.SwapUint32(u, atomic.LoadUint32(u)&^0xffff)
}

// Flags of a descriptor.
const (
	descNext     = 1
	descWrite    = 2
	descIndirect = 4
)

// A descriptor of a buffer in the guest's memory.
type descriptor struct {
	addr  uint64
	size  uint32
	flags uint16
	next  uint16
}

func parseDescriptor(b []byte) descriptor {
	return descriptor{
		binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint32(b[8:]),
		binary.LittleEndian.Uint16(b[12:]), binary.LittleEndian.Uint16(b[14:]),
	}
}

// buffers follows the chain of a request: what the guest has written, and where
// it wants the answer, as far as the first limit bytes of each.
func (r *ring) buffers(m *memory, h uint16, limit int) (out, in [][]byte, err error) {
	table, i := r.desc, h
	if int(h) >= int(r.num) {
		return nil, nil, fmt.Errorf("head %d of %d", h, r.num)
	}
	if d := parseDescriptor(table[16*int(h):]); d.flags&descIndirect != 0 {
		if d.size == 0 || d.size%16 != 0 || d.size > 16*maxNum {
			return nil, nil, fmt.Errorf("indirect table of %d bytes", d.size)
		}
		if table = m.at(d.addr, uint64(d.size)); table == nil {
			return nil, nil, fmt.Errorf("indirect table at %#x: not in the guest's memory", d.addr)
		}
		i = 0
	}
	outSize, inSize := 0, 0
	for range len(table) / 16 {
		if int(i) >= len(table)/16 {
			return nil, nil, fmt.Errorf("descriptor %d of %d", i, len(table)/16)
		}
		d := parseDescriptor(table[16*int(i):])
		if d.flags&descIndirect != 0 {
			return nil, nil, fmt.Errorf("indirect descriptor in a chain")
		}
		list, have := &out, &outSize
		if d.flags&descWrite != 0 {
			list, have = &in, &inSize
		}
		if want := min(int(d.size), limit-*have); want > 0 {
			b := m.at(d.addr, uint64(want))
			if b == nil {
				return nil, nil, fmt.Errorf("buffer at %#x: not in the guest's memory", d.addr)
			}
			*list = append(*list, b)
			*have += want
		}
		if d.flags&descNext == 0 {
			return out, in, nil
		}
		i = d.next
	}
	return nil, nil, fmt.Errorf("chain without an end")
}
