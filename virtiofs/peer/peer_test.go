package peer

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	socket, own := filepath.Join(dir, "sock"), filepath.Join(dir, "own.pid")
	if err := os.WriteFile(own, fmt.Appendf(nil, "%d\n", os.Getpid()), 0o600); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "other.pid")
	if err := os.WriteFile(other, []byte("1"), 0o600); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	connect := func() error {
		t.Helper()
		c, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		s, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		raw, err := s.(*net.UnixConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if ctl := raw.Control(func(fd uintptr) { err = Check(socket, int(fd)) }); ctl != nil {
			t.Fatal(ctl)
		}
		return err
	}
	if err := connect(); err != nil {
		t.Errorf("nobody was admitted, and the mode let us in: %v", err)
	}
	me := uint32(os.Getuid())
	for _, c := range []struct {
		name string
		p    Peer
		want error
	}{
		{"the user", Peer{UID: me}, nil},
		{"the process", Peer{UID: me, PIDFile: own}, nil},
		{"another process of the user", Peer{UID: me, PIDFile: other}, ErrStranger},
		{"no such instance", Peer{UID: me, PIDFile: filepath.Join(dir, "none")}, os.ErrNotExist},
	} {
		if err := c.p.Admit(socket); err != nil {
			t.Fatal(err)
		}
		if err := connect(); !errors.Is(err, c.want) || (err != nil) != (c.want != nil) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	if me != 0 {
		return // only root gives files away
	}
	if err := (Peer{UID: 12345}).Admit(socket); err != nil {
		t.Fatal(err)
	}
	if err := connect(); !errors.Is(err, ErrStranger) {
		t.Errorf("another user: %v", err)
	}
	var st unix.Stat_t
	if err := unix.Stat(socket, &st); err != nil || st.Uid != 12345 || st.Mode&0o777 != 0o600 {
		t.Errorf("socket of %d, mode %o, %v", st.Uid, st.Mode, err)
	}
}
