package main

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// socketDir is short: t.TempDir is too long for a socket's path.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cw-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestSocketIsMadeAndRemoved(t *testing.T) {
	path := filepath.Join(socketDir(t), "made", "agent.sock")
	gid := uint32(os.Getgid())
	if os.Getuid() == 0 {
		gid = 4242
	}
	l, err := listen(socketConfig{Path: path, Mode: 0o640}, gid)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Sys().(*syscall.Stat_t).Gid; info.Mode() != fs.ModeSocket|0o640 || got != gid {
		t.Errorf("socket has mode %s and group %d", info.Mode(), got)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestSocketInUseIsLeftAlone(t *testing.T) {
	path := filepath.Join(socketDir(t), "s")
	c := socketConfig{Path: path, Mode: 0o600}
	gid := uint32(os.Getgid())
	first, err := listen(c, gid)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = first.Close() }()
	if _, err := listen(c, gid); err == nil || !strings.Contains(err.Error(), "another process answers at "+path) {
		t.Errorf("second: %v", err)
	}
	if _, err := net.Dial("unix", path); err != nil {
		t.Errorf("the first is disturbed: %v", err)
	}
}

// TestSocketOfADyingAgentIsReplaced: what it had forked holds the listener a
// moment longer.
func TestSocketOfADyingAgentIsReplaced(t *testing.T) {
	path := filepath.Join(socketDir(t), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	time.AfterFunc(100*time.Millisecond, func() { _ = l.Close() })
	next, err := listen(socketConfig{Path: path, Mode: 0o600}, uint32(os.Getgid()))
	if err != nil {
		t.Fatal(err)
	}
	_ = next.Close()
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(socketDir(t), "s")
	for _, left := range []string{path, path + newSuffix} { // killed while listening, and before the rename
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: left, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		_ = l.Close()
	}
	l, err := listen(socketConfig{Path: path, Mode: 0o600}, uint32(os.Getgid()))
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
}

func TestFileInTheSocketsPlaceIsLeftAlone(t *testing.T) {
	path := filepath.Join(socketDir(t), "s")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listen(socketConfig{Path: path, Mode: 0o600}, 0); err == nil || !strings.Contains(err.Error(), "is not a socket") {
		t.Errorf("error %v", err)
	}
	if data, _ := os.ReadFile(path); string(data) != "precious" {
		t.Errorf("the file has %q", data)
	}
}

func TestOneAgentPerStateDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	lock, err := lockState(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := "pid " + strconv.Itoa(os.Getpid())
	if _, err := lockState(dir); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), dir) {
		t.Errorf("second lock: %v", err)
	}
	lock.release()
	again, err := lockState(dir)
	if err != nil {
		t.Fatal(err)
	}
	again.release()
}

func TestSocketGroup(t *testing.T) {
	var logged bytes.Buffer
	log := slog.New(slog.NewTextHandler(&logged, nil))
	for name, want := range map[string]uint32{"root": 0, "0": 0, "4242": 4242} {
		if gid, err := socketGroup(name, log); err != nil || gid != want {
			t.Errorf("group %s: %d, %v", name, gid, err)
		}
	}
	if logged.Len() > 0 {
		t.Errorf("logged %s", &logged)
	}
	if _, err := socketGroup("no-such-group", log); err == nil || !strings.Contains(err.Error(), "groupadd") {
		t.Errorf("unknown group: %v", err)
	}
	gid, err := socketGroup(defaultGroup, log)
	if err != nil || gid == 0 && !strings.Contains(logged.String(), "only root") {
		t.Errorf("default group: %d, %v, logged %q", gid, err, &logged)
	}
}

const childListens = "CAUSEWAY_TEST_LISTEN"

// TestChildListens is the agent that systemd started: it greets one caller.
func TestChildListens(t *testing.T) {
	if os.Getenv(childListens) == "" {
		return // not a test of its own
	}
	l, err := listen(socketConfig{Path: "/nonexistent/s"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_, err = conn.Write([]byte("LISTEN_FDS=" + os.Getenv("LISTEN_FDS")))
	if err := errors.Join(err, conn.Close(), l.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestSocketFromSystemd(t *testing.T) {
	path := filepath.Join(socketDir(t), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	passed, err := l.File() // is descriptor 3 there, as systemd has it
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = passed.Close() }()
	// Only the shell knows the process's number before it is the agent.
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh", os.Args[0], "-test.run=^TestChildListens$")
	cmd.Env = append(os.Environ(), childListens+"=1", "LISTEN_FDS=1", "GORACE=atexit_sleep_ms=0")
	cmd.ExtraFiles = []*os.File{passed}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	// An end without a greeting, too: the child was the only other owner.
	_ = l.Close()
	_ = passed.Close()
	greeting, err := io.ReadAll(conn)
	if waitErr := cmd.Wait(); err != nil || waitErr != nil || string(greeting) != "LISTEN_FDS=" {
		t.Errorf("greeting %q, %v, %v\n%s", greeting, err, waitErr, &said)
	}
}

func TestSocketForAnotherProcess(t *testing.T) {
	t.Setenv("LISTEN_PID", "1")
	t.Setenv("LISTEN_FDS", "1")
	path := filepath.Join(socketDir(t), "s")
	l, err := listen(socketConfig{Path: path, Mode: 0o600}, uint32(os.Getgid()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("no socket of its own: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}
