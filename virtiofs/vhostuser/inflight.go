package vhostuser

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Inflight is memory in which a back-end keeps, for each queue, which requests
// it has taken and not yet answered, so that they are known when it has died
// ("Inflight I/O tracking" in vhost-user.rst). QEMU does not ask for it with a
// virtiofs device, so somebody between the two has to.
//
// libvhost-user, on which QEMU's virtiofsd is built, keeps it whenever it is
// told to, though virtiofsd does not offer it: vu_queue_pop notes a request,
// vu_queue_push strikes it out (subprojects/libvhost-user/libvhost-user.c).
type Inflight struct {
	fd  int
	mem []byte
}

// Of the layout for split queues, for maxNum requests in each of
// inflightQueues queues: virtiofsd has one for requests and one to forget.
const (
	inflightQueues = 2
	inflightHeader = 16
	inflightEntry  = 16
	inflightStride = (inflightHeader + maxNum*inflightEntry + 63) / 64 * 64
	inflightQueued = inflightQueues * inflightStride
	inflightSize   = inflightQueued + 1 // the last byte is ours: not 0 when a queue was begun anew that had been used
)

const inflightName = "vhost-inflight"

// NewInflight makes empty memory.
func NewInflight() (*Inflight, error) {
	fd, err := unix.MemfdCreate(inflightName, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("make memory for requests in flight: %w", os.NewSyscallError("memfd_create", err))
	}
	var mem []byte
	if err = unix.Ftruncate(fd, inflightSize); err == nil {
		if _, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL); err == nil {
			mem, err = unix.Mmap(fd, 0, inflightSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		}
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make memory for requests in flight: %w", err)
	}
	return &Inflight{fd: fd, mem: mem}, nil
}

// Message gives the memory to a back-end. Its descriptor stays ours: do not
// close the message.
func (f *Inflight) Message() Message {
	b := binary.NativeEndian.AppendUint64(nil, inflightQueued)
	b = binary.NativeEndian.AppendUint64(b, 0)
	b = binary.NativeEndian.AppendUint16(b, inflightQueues)
	b = binary.NativeEndian.AppendUint16(b, maxNum)
	b = append(b, 0, 0, 0, 0)
	return Message{Request: SetInflightFD, Flags: version, Payload: b, Files: []int{f.fd}}
}

// Begin forgets what was noted of the queue that kick is about to start.
func (f *Inflight) Begin(s *State, kick Message) {
	v, ok := kick.U64()
	if i := v & ringIndex; ok && i < inflightQueues {
		r := f.region(int(i))
		if used(r) {
			f.mem[inflightQueued] = 1
		}
		clear(r)
		if i < uint64(len(s.queues)) {
			// Nothing is in flight then, so both rings are where it begins.
			binary.NativeEndian.PutUint16(r[14:], s.queues[i].base)
		}
	}
}

func (f *Inflight) region(i int) []byte {
	return f.mem[i*inflightStride : (i+1)*inflightStride]
}

// used says whether a back-end has noted a request in a region. It numbers them,
// so that something is left of each.
func used(r []byte) bool {
	anything := func(b byte) bool { return b != 0 }
	return slices.ContainsFunc(r[14:], anything)
}

// Used says whether a guest may ever have made a request of a device: false only
// where the process pid, which passes its messages on, has an Inflight in which
// no back-end has noted any.
func Used(pid int) (bool, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, err := os.ReadDir(dir)
	if err != nil {
		return true, err
	}
	for _, fd := range fds {
		path := filepath.Join(dir, fd.Name())
		if to, err := os.Readlink(path); err != nil || to != "/memfd:"+inflightName+" (deleted)" {
			continue
		}
		mem, err := os.ReadFile(path)
		if err != nil || len(mem) != inflightSize {
			return true, err
		}
		f := Inflight{mem: mem}
		return used(f.region(0)) || used(f.region(1)) || mem[inflightQueued] != 0, nil
	}
	return true, nil
}

// outstanding lists the requests that the back-end had taken, where used is the
// index of the used ring. The back-end must have ended.
func (f *Inflight) outstanding(i int, q *queue, used uint16) ([]uint16, error) {
	if i >= inflightQueues || q.num > maxNum {
		return nil, fmt.Errorf("queue %d of %d: nothing was noted of it", i, q.num)
	}
	r := f.region(i)
	last, noted := binary.NativeEndian.Uint16(r[12:]), binary.NativeEndian.Uint16(r[14:])
	var heads []uint16
	for h := range uint16(q.num) {
		if r[inflightHeader+int(h)*inflightEntry] == 0 {
			continue
		}
		// It died after the request was answered and before it was struck out.
		if noted != used && h == last {
			continue
		}
		heads = append(heads, h)
	}
	return heads, nil
}
