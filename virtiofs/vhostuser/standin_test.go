package vhostuser

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// Where a test guest has its things: guest addresses, in one region that begins
// at guestBase, at userBase in QEMU, and at fileOffset in its file.
const (
	guestBase  = 0x4000_0000
	userBase   = 0x7f00_0000_0000
	fileOffset = 0x1000
	guestSize  = 1 << 20

	ringNum  = 8
	descAt   = 0x0
	availAt  = 0x1000
	usedAt   = 0x2000
	bufferAt = 0x10000 // 4 KiB for each head
)

// A guest is the driver's side of one queue.
type guest struct {
	t          testing.TB
	mem        []byte // the region
	state      *State
	kick, call int
	posted     uint16 // requests
	seen       uint16 // answers
}

func newGuest(t testing.TB) *guest {
	t.Helper()
	fd := memfd(t, fileOffset+guestSize)
	mapped, err := unix.Mmap(fd, 0, fileOffset+guestSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{t: t, mem: mapped[fileOffset:], state: &State{}}
	t.Cleanup(func() {
		g.state.Close()
		if err := unix.Munmap(mapped); err != nil {
			t.Error(err)
		}
		unix.Close(g.kick)
		unix.Close(g.call)
	})
	b := binary.NativeEndian.AppendUint32(nil, 1)
	b = binary.NativeEndian.AppendUint32(b, 0)
	for _, v := range []uint64{guestBase, guestSize, userBase, fileOffset} {
		b = binary.NativeEndian.AppendUint64(b, v)
	}
	g.set(Message{Request: SetMemTable, Payload: b, Files: []int{fd}})
	g.start(0)
	return g
}

func (g *guest) set(m Message) {
	g.t.Helper()
	if err := g.state.Apply(&m); err != nil {
		g.t.Fatal(err)
	}
}

// starting is what QEMU sends to start queue 0 at base.
func (g *guest) starting(base uint32) []Message {
	g.t.Helper()
	pair := func(a, b uint32) []byte {
		return binary.NativeEndian.AppendUint32(binary.NativeEndian.AppendUint32(nil, a), b)
	}
	addr := pair(0, 0)
	for _, at := range []uint64{descAt, usedAt, availAt, 0} {
		addr = binary.NativeEndian.AppendUint64(addr, userBase+at)
	}
	event := func() (fd, theirs int) {
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		if err != nil {
			g.t.Fatal(err)
		}
		if theirs, err = unix.Dup(fd); err != nil {
			g.t.Fatal(err)
		}
		return fd, theirs
	}
	var kick, call int
	unix.Close(g.kick)
	unix.Close(g.call)
	g.kick, kick = event()
	g.call, call = event()
	return []Message{
		New(SetFeatures, FeatureProtocol|1<<32),
		{Request: SetVringNum, Payload: pair(0, ringNum)},
		{Request: SetVringBase, Payload: pair(0, base)},
		{Request: SetVringAddr, Payload: addr},
		{Request: SetVringCall, Payload: make([]byte, 8), Files: []int{call}},
		{Request: SetVringKick, Payload: make([]byte, 8), Files: []int{kick}},
	}
}

func (g *guest) start(base uint32) {
	g.t.Helper()
	g.kick, g.call = -1, -1
	for _, m := range g.starting(base) {
		g.set(m)
	}
}

func (g *guest) put16(at int, v uint16) { binary.LittleEndian.PutUint16(g.mem[at:], v) }

func (g *guest) describe(at int, addr uint64, size uint32, flags, next uint16) {
	binary.LittleEndian.PutUint64(g.mem[at:], addr)
	binary.LittleEndian.PutUint32(g.mem[at+8:], size)
	g.put16(at+12, flags)
	g.put16(at+14, next)
}

// A shape is how a request lies in memory.
type shape int

const (
	direct   shape = iota
	indirect       // in a table of its own, and in pieces
	forget         // without room for an answer
	cyclic
	outside
)

// post makes a request of head h available, number unique.
func (g *guest) post(h uint16, unique uint64, s shape) {
	at := bufferAt + int(h)*0x1000
	binary.LittleEndian.PutUint64(g.mem[at+fuseUnique:], unique)
	clear(g.mem[at+0x800 : at+0x900])
	const buffer = guestBase
	d := descAt + 16*int(h)
	switch s {
	case direct: // the second descriptor of the chain lies in the upper half of the table
		g.describe(d, buffer+uint64(at), 80, descNext, h+ringNum/2)
		g.describe(d+16*ringNum/2, buffer+uint64(at)+0x800, 64, descWrite, 0)
	case indirect:
		g.describe(d, buffer+uint64(at)+0xc00, 4*16, descIndirect, 0)
		for i, piece := range []struct {
			offset uint64
			size   uint32
			flags  uint16
		}{{0, 10, descNext}, {10, 70, descNext}, {0x800, 7, descNext | descWrite}, {0x807, 64, descWrite}} {
			g.describe(at+0xc00+16*i, buffer+uint64(at)+piece.offset, piece.size, piece.flags, uint16(i+1))
		}
	case forget:
		g.describe(d, buffer+uint64(at), 80, 0, 0)
	case cyclic:
		g.describe(d, buffer+uint64(at), 80, descNext, h)
	case outside:
		g.describe(d, 1<<62, 80, descNext, h+ringNum/2)
		g.describe(d+16*ringNum/2, guestBase+guestSize-4, 64, descWrite, 0)
	}
	g.put16(availAt+4+2*int(g.posted%ringNum), h)
	g.posted++
	g.put16(availAt+2, g.posted)
}

// done has the back-end answer head h, as it should.
func (g *guest) done(h uint16) {
	i := binary.LittleEndian.Uint16(g.mem[usedAt+2:])
	binary.LittleEndian.PutUint32(g.mem[usedAt+4+8*int(i%ringNum):], uint32(h))
	g.put16(usedAt+2, i+1)
	g.seen = i + 1
}

// An answer as the guest sees it.
type answer struct {
	Head   uint32
	Size   uint32
	Error  int32
	Unique uint64
}

// answers returns those that came since the last call.
func (g *guest) answers() (list []answer) {
	for ; g.seen != binary.LittleEndian.Uint16(g.mem[usedAt+2:]); g.seen++ {
		e := g.mem[usedAt+4+8*int(g.seen%ringNum):]
		a := answer{Head: binary.LittleEndian.Uint32(e), Size: binary.LittleEndian.Uint32(e[4:])}
		if a.Size > 0 {
			out := g.mem[bufferAt+int(a.Head)*0x1000+0x800:]
			a.Error, a.Unique = int32(binary.LittleEndian.Uint32(out[4:])), binary.LittleEndian.Uint64(out[8:])
		}
		list = append(list, a)
	}
	return list
}

func (g *guest) want(want ...answer) {
	g.t.Helper()
	if d := cmp.Diff(want, g.answers()); d != "" {
		g.t.Error(d)
	}
}

func (g *guest) called() bool {
	var b [8]byte
	n, err := unix.Read(g.call, b[:])
	return n == 8 && err == nil
}

func failed(head uint32, unique uint64) answer {
	return answer{head, fuseOutHeader, -int32(unix.ENOTCONN), unique}
}

func (g *guest) standIn(f *Inflight) *StandIn {
	g.t.Helper()
	in, err := NewStandIn(g.state, f)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(in.Close)
	return in
}

func TestStandInInOrder(t *testing.T) {
	g := newGuest(t)
	for u := range uint64(13) { // more than the queue has
		g.post(uint16(u%3), u, direct)
		g.done(uint16(u % 3))
	}
	g.post(2, 100, direct)
	g.post(0, 101, indirect)
	g.post(1, 102, forget)
	in := g.standIn(nil)
	g.want(failed(2, 100), failed(0, 101), answer{Head: 1})
	if !g.called() {
		t.Error("the guest was not told")
	}

	// What comes later is answered when it kicks.
	g.post(3, 103, direct)
	if _, err := unix.Write(g.kick, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(1, len(in.Kicks())); d != "" {
		t.Fatal(d)
	}
	for range 2 {
		in.Kicked(0)
	}
	g.want(failed(3, 103))
	if event := binary.LittleEndian.Uint16(g.mem[usedAt+4+8*ringNum:]); event != g.posted {
		t.Errorf("the guest is to kick at %d, want %d", event, g.posted)
	}
	if in.Answered() != 4 {
		t.Errorf("Answered = %d", in.Answered())
	}
}

func TestStandInSeesAnotherOrder(t *testing.T) {
	g := newGuest(t)
	g.post(0, 1, direct)
	g.post(1, 2, direct)
	g.done(1)
	if _, err := NewStandIn(g.state, nil); !errors.Is(err, ErrBlind) {
		t.Errorf("NewStandIn = %v, want ErrBlind", err)
	}
	g.want()
}

func TestStandInWithInflight(t *testing.T) {
	tests := []struct {
		name string
		died func(g *guest, r []byte) // the back-end's notes when it died
		want []answer
	}{
		{"nothing taken", func(g *guest, r []byte) {
			g.post(0, 1, direct)
			g.post(1, 2, direct)
		}, []answer{failed(0, 1), failed(1, 2)}},
		{"last of a batch answered", func(g *guest, r []byte) {
			for h := range uint16(3) {
				g.post(h, uint64(h), direct)
				r[inflightHeader+int(h)*inflightEntry] = 1
			}
			g.done(2)
			r[inflightHeader+2*inflightEntry] = 0
			binary.NativeEndian.PutUint16(r[14:], 1)
			g.post(3, 3, direct)
		}, []answer{failed(0, 0), failed(1, 1), failed(3, 3)}},
		{"answered, not struck out", func(g *guest, r []byte) {
			for h := range uint16(2) {
				g.post(h, uint64(h), direct)
				r[inflightHeader+int(h)*inflightEntry] = 1
			}
			g.done(1)
			binary.NativeEndian.PutUint16(r[12:], 1)
		}, []answer{failed(0, 0)}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := newGuest(t)
			f, err := NewInflight()
			if err != nil {
				t.Fatal(err)
			}
			f.Begin(g.state, New(SetVringKick, 0))
			tt.died(g, f.region(0))
			g.standIn(f)
			g.want(tt.want...)
		})
	}
}

func TestStandInHostileGuest(t *testing.T) {
	tests := []struct {
		name string
		do   func(g *guest)
		want []answer
	}{
		{"cyclic chain", func(g *guest) { g.post(0, 1, cyclic) }, []answer{{Head: 0}}},
		{"addresses outside", func(g *guest) { g.post(0, 1, outside) }, []answer{{Head: 0}}},
		{"head outside", func(g *guest) { g.post(2, 1, direct); g.put16(availAt+4, 8) }, nil},
		{"index too far", func(g *guest) { g.post(2, 1, direct); g.put16(availAt+2, 9) }, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name+", then death", func(t *testing.T) {
			g := newGuest(t)
			tt.do(g)
			if in, err := NewStandIn(g.state, nil); err == nil {
				in.Close()
			} else if !errors.Is(err, ErrBlind) {
				t.Error(err)
			}
			g.want(tt.want...)
		})
		t.Run("death, then "+tt.name, func(t *testing.T) {
			g := newGuest(t)
			in := g.standIn(nil)
			tt.do(g)
			in.Kicked(0)
			in.Kicked(0)
			g.want(tt.want...)
		})
	}
}

func TestStandInRefuses(t *testing.T) {
	for name, change := range map[string]func(s *State){
		"packed":         func(s *State) { s.features |= FeaturePacked },
		"iommu":          func(s *State) { s.features |= FeatureIOMMU },
		"no memory":      func(s *State) { s.dropRegions(func(region) bool { return true }) },
		"queue outside":  func(s *State) { s.queues[0].used = userBase + guestSize - 8 },
		"queue unequal":  func(s *State) { s.queues[0].num = 7 },
		"queue too long": func(s *State) { s.queues[0].num = 2048 },
		"misaligned":     func(s *State) { s.queues[0].avail++ },
	} {
		g := newGuest(t)
		change(g.state)
		if _, err := NewStandIn(g.state, nil); !errors.Is(err, ErrBlind) {
			t.Errorf("%s: NewStandIn = %v, want ErrBlind", name, err)
		}
	}
}

// QEMU stops and starts the device of a back-end that has ended, as when the
// guest reboots.
func TestStandInServesQEMU(t *testing.T) {
	g := newGuest(t)
	g.state.Note(New(GetFeatures, 0).Reply(0x1234))
	g.post(0, 1, direct)
	in := g.standIn(nil)
	g.want(failed(0, 1))

	ask := func(m Message) []byte {
		t.Helper()
		r, err := in.Handle(&m)
		m.Close()
		if err != nil {
			t.Fatal(err)
		}
		if r == nil {
			return nil
		}
		return r.Payload
	}
	if d := cmp.Diff([]byte{0, 0, 0, 0, 1, 0, 0, 0}, ask(Message{Request: GetVringBase, Payload: make([]byte, 8)})); d != "" {
		t.Errorf("base: %s", d)
	}
	if d := cmp.Diff([]int{-1}, in.Kicks()); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]byte{0x34, 0x12, 0, 0, 0, 0, 0, 0}, ask(Message{Request: GetFeatures})); d != "" {
		t.Errorf("features: %s", d)
	}
	g.post(1, 2, direct)
	in.Kicked(0) // not of a queue that stands still
	g.want()
	for _, m := range g.starting(1) {
		if r := ask(m); r != nil {
			t.Errorf("request %d is answered with %v", m.Request, r)
		}
	}
	g.want(failed(1, 2))
	if !g.called() {
		t.Error("the guest was not told")
	}
	ask(New(SetProtocolFeatures, ProtocolReplyAck))
	if d := cmp.Diff(make([]byte, 8), ask(Message{Request: SetVringEnable, Flags: FlagAck, Payload: make([]byte, 8)})); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(New(0, 0x101).Payload, ask(Message{Request: SetDeviceStateFD})); d != "" {
		t.Error(d)
	}
}

func FuzzStandIn(f *testing.F) {
	f.Add([]byte{}, uint16(3))
	f.Add([]byte{0, 0, 0, 0x40, 0, 0, 0, 0, 0x50, 0, 0, 0, 1, 0, 4, 0}, uint16(1))
	f.Fuzz(func(t *testing.T, descriptors []byte, posted uint16) {
		g := newGuest(t)
		in := g.standIn(nil)
		copy(g.mem[descAt:availAt], descriptors)
		for i := range ringNum {
			g.put16(availAt+4+2*i, uint16(i))
		}
		g.put16(availAt+2, posted)
		in.Kicked(0)
		want := int(posted)
		if posted > ringNum {
			want = 0
		}
		if in.Answered() != uint64(want) {
			t.Errorf("%d answers to %d requests", in.Answered(), posted)
		}
	})
}
