package vhostuser

import (
	"errors"
	"io"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// pair returns two connected ends.
func pair(t testing.TB) (a, b *Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.Close(fds[0])
		unix.Close(fds[1])
	})
	return &Conn{FD: fds[0]}, &Conn{FD: fds[1]}
}

func memfd(t testing.TB, size int64) int {
	t.Helper()
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	if err == nil {
		err = unix.Ftruncate(fd, size)
	}
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func TestMessages(t *testing.T) {
	a, b := pair(t)
	file := memfd(t, 5)
	defer unix.Close(file)
	sent := []Message{
		New(SetFeatures, 1<<32),
		{Request: SetOwner, Flags: version, Payload: []byte{}},
		{Request: SetVringCall, Flags: version | FlagAck, Payload: []byte{1, 0, 0, 0, 0, 0, 0, 0}, Files: []int{file, file}},
		New(SetFeatures, 7).Reply(9),
	}
	for _, m := range sent {
		if err := a.Write(m); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range sent {
		got, err := b.Read()
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range got.Files {
			var st unix.Stat_t
			if err := unix.Fstat(fd, &st); err != nil || st.Size != 5 {
				t.Errorf("descriptor of %d bytes, %v", st.Size, err)
			}
		}
		files := len(got.Files)
		got.Close()
		if d := cmp.Diff(want.Payload, got.Payload); d != "" || files != len(want.Files) || got.Request != want.Request || got.Flags != want.Flags {
			t.Errorf("got %+v with %d descriptors, want %+v", got, files, want)
		}
	}
	unix.Shutdown(a.FD, unix.SHUT_WR)
	if _, err := b.Read(); !errors.Is(err, io.EOF) {
		t.Errorf("Read at the end = %v, want EOF", err)
	}
}

func TestBadMessages(t *testing.T) {
	for name, bytes := range map[string]string{
		"cut header":  "\x01\x00\x00\x00\x01",
		"cut payload": "\x01\x00\x00\x00\x01\x00\x00\x00\x08\x00\x00\x00abc",
		"version":     "\x01\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00",
		"too long":    "\x01\x00\x00\x00\x01\x00\x00\x00\x01\x10\x00\x00",
	} {
		a, b := pair(t)
		if _, err := unix.Write(a.FD, []byte(bytes)); err != nil {
			t.Fatal(err)
		}
		unix.Shutdown(a.FD, unix.SHUT_WR)
		if m, err := b.Read(); err == nil || err == io.EOF {
			t.Errorf("%s: Read = %+v, %v, want an error", name, m, err)
		}
	}
}

// openFiles counts this process's descriptors.
func openFiles(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func FuzzState(f *testing.F) {
	f.Add([]byte("\x05\x00\x00\x00\x01\x00\x00\x00\x28\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00" + "01234567" + "\x00\x10\x00\x00\x00\x00\x00\x00" + "76543210" + "\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Add([]byte("\x09\x00\x00\x00\x01\x00\x00\x00\x28\x00\x00\x00\x3f\x00\x00\x00"))
	f.Add([]byte("\x0c\x00\x00\x00\x01\x00\x00\x00\x08\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00"))
	f.Add([]byte("\x0d\x00\x00\x00\x01\x00\x00\x00\x08\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00")) // a queue that was never started
	f.Fuzz(func(t *testing.T, b []byte) {
		before := openFiles(t)
		var s State
		for len(b) >= headerSize {
			var m Message
			size, err := m.parseHeader(b)
			b = b[headerSize:]
			if err != nil || size > len(b) {
				break
			}
			m.Payload, b = b[:size], b[size:]
			m.Files = []int{memfd(t, 1<<16)}
			_ = s.Apply(&m)
			m.Close()
		}
		// Whatever it is, taking over either works or is refused.
		if in, err := NewStandIn(&s, nil); err == nil {
			in.Close()
		}
		s.Close()
		if after := openFiles(t); after != before {
			t.Errorf("%d descriptors are left", after-before)
		}
	})
}
