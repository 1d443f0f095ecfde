package nfs41_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/causeway-project/causeway/integration/needs"
	"github.com/causeway-project/causeway/integration/nfs41"
)

// A server is a real Ganesha in a network namespace of its own, which ends
// with the test.
type server struct {
	dir   string
	netns string
	cmd   *exec.Cmd
	epoch int64 // of the last start: by itself Ganesha takes the second of its start
}

const config = `
NFS_CORE_PARAM { Protocols = 4; Enable_NLM = false; Enable_RQUOTA = false; Enable_UDP = false; }
NFSv4 { Minor_Versions = 1,2; Lease_Lifetime = 3; Grace_Period = 5; RecoveryBackend = fs; RecoveryRoot = %[1]s/recovery; Only_Numeric_Owners = true; }
NFS_KRB5 { Active_krb5 = false; CCacheDir = %[1]s/cc; }
EXPORT_DEFAULTS { Protocols = 4; Transports = TCP; SecType = sys; Access_Type = None; }
EXPORT { Export_Id = 1; Path = %[1]s/rw; Pseudo = /rw; Squash = no_root_squash; Access_Type = RW; FSAL { Name = VFS; } }
EXPORT { Export_Id = 2; Path = %[1]s/ro; Pseudo = /ro; Squash = root_squash; Access_Type = RO; FSAL { Name = VFS; } }
`

func start(t *testing.T) *server {
	t.Helper()
	needs.Root(t)
	needs.Programs(t, "ganesha.nfsd")
	s := &server{dir: t.TempDir()}
	for _, d := range []string{"rw", "ro", "recovery", "cc"} {
		if err := os.MkdirAll(filepath.Join(s.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(s.dir, "conf"), fmt.Appendf(nil, config, s.dir), 0o600); err != nil {
		t.Fatal(err)
	}
	// The holder of the network namespace lives as long as the test.
	holder := exec.Command("unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec cat")
	stdin, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close(); holder.Wait() })
	if _, err := out.Read(make([]byte, 3)); err != nil {
		t.Fatalf("no network namespace: %v", err)
	}
	s.netns = fmt.Sprintf("/proc/%d/ns/net", holder.Process.Pid)
	s.run(t)
	t.Cleanup(func() { s.kill(t) })
	return s
}

// run starts the server and does not wait for it: a client does.
func (s *server) run(t *testing.T) {
	t.Helper()
	s.epoch = max(s.epoch+1, time.Now().Unix())
	s.cmd = exec.Command("nsenter", "--net="+s.netns, "ganesha.nfsd", "-F", "-N", "NIV_EVENT",
		"-L", filepath.Join(s.dir, "log"), "-f", filepath.Join(s.dir, "conf"), "-p", filepath.Join(s.dir, "pid"), "-E", fmt.Sprint(s.epoch))
	// No bus: a bus of the host must not see this server.
	s.cmd.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS=unix:path="+filepath.Join(s.dir, "no-bus"))
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
}

func (s *server) kill(t *testing.T) {
	t.Helper()
	s.cmd.Process.Kill()
	s.cmd.Wait()
	if t.Failed() {
		if log, err := os.ReadFile(filepath.Join(s.dir, "log")); err == nil {
			t.Logf("server: %s", log[max(0, len(log)-4000):])
		}
	}
}

func dial(t *testing.T, s *server, o nfs41.Options) *nfs41.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if o.Address == "" {
		o.Address, o.NetNS = "127.0.0.1:2049", s.netns
	}
	if o.Owner == "" {
		o.Owner = "test"
	}
	c, err := nfs41.Dial(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return c
}

func TestIO(t *testing.T) {
	s := start(t)
	c := dial(t, s, nfs41.Options{})
	ctx := t.Context()

	big := bytes.Repeat([]byte("0123456789abcdef"), 40<<10) // 640 KiB, several calls
	if err := c.Mkdir(ctx, "/rw/dir", 0o750); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteFile(ctx, "/rw/dir/big", big, 0o640); err != nil {
		t.Fatal(err)
	}
	if got, err := c.ReadFile(ctx, "/rw/dir/big"); err != nil || !bytes.Equal(got, big) {
		t.Fatalf("ReadFile: %d bytes, %v", len(got), err)
	}
	if got, err := os.ReadFile(filepath.Join(s.dir, "rw/dir/big")); err != nil || !bytes.Equal(got, big) {
		t.Fatalf("on the host: %d bytes, %v", len(got), err)
	}
	if err := c.WriteFile(ctx, "/rw/dir/big", []byte("short"), 0o640); err != nil {
		t.Fatal(err)
	}
	a, err := c.Stat(ctx, "/rw/dir/big")
	if err != nil || a.Type != nfs41.Regular || a.Size != 5 || a.Mode != 0o640 || a.Owner != "0" || a.Group != "0" {
		t.Fatalf("Stat: %+v, %v", a, err)
	}
	root, err := c.Stat(ctx, "/")
	if err != nil || root.FSID == a.FSID || root.Type != nfs41.Directory {
		t.Fatalf("Stat of the root: %+v, %v", root, err)
	}
	names := map[string]bool{"big": true}
	for i := range 500 {
		name := fmt.Sprintf("file-%03d", i)
		names[name] = true
		if err := os.WriteFile(filepath.Join(s.dir, "rw/dir", name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := c.ReadDir(ctx, "/rw/dir")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !names[e.Name] || e.Type != nfs41.Regular || e.Err != nil {
			t.Errorf("unexpected or repeated %+v", e)
		}
		delete(names, e.Name)
	}
	if len(names) != 0 {
		t.Errorf("missing: %v", names)
	}
	if err := c.Remove(ctx, "/rw/dir/big"); err != nil {
		t.Fatal(err)
	}
	top, err := c.ReadDir(ctx, "/")
	if err != nil || len(top) != 2 {
		t.Errorf("ReadDir of the root: %+v, %v", top, err)
	}
}

// TestUnstable: what a server that was killed may have lost is told.
func TestUnstable(t *testing.T) {
	s := start(t)
	c := dial(t, s, nfs41.Options{})
	ctx := t.Context()
	f, err := c.Open(ctx, "/rw/unstable", nfs41.OpenOptions{Access: nfs41.Write, Create: nfs41.Truncate, Mode: 0o600, Unstable: true})
	if err != nil {
		t.Fatal(err)
	}
	write := func() error {
		_, err := f.WriteAt(ctx, []byte("a line"), 0)
		return err
	}
	if err := errors.Join(write(), write(), f.Sync(ctx)); err != nil {
		t.Fatal(err)
	}
	if err := write(); err != nil {
		t.Fatal(err)
	}
	s.kill(t)
	s.run(t)
	if err := f.Sync(ctx); err == nil {
		t.Error("Sync says nothing of the restart")
	}
	if err := errors.Join(write(), f.Sync(ctx), f.Close(ctx)); err != nil {
		t.Error(err)
	}
}

func TestErrors(t *testing.T) {
	s := start(t)
	root := dial(t, s, nfs41.Options{})
	user := dial(t, s, nfs41.Options{Owner: "user", UID: 1000, GID: 1000, Groups: []uint32{4711}})
	ctx := t.Context()
	for path, mode := range map[string]os.FileMode{"rw/secret": 0o600, "rw/shared": 0o660, "ro/file": 0o644} {
		path = filepath.Join(s.dir, path)
		if err := errors.Join(os.WriteFile(path, []byte("x"), mode), os.Chmod(path, mode), os.Chown(path, 0, 4711)); err != nil {
			t.Fatal(err)
		}
	}
	open := func(c *nfs41.Client, path string, o nfs41.OpenOptions) error {
		f, err := c.Open(ctx, path, o)
		if err == nil {
			err = f.Close(ctx)
		}
		return err
	}
	exclusive := nfs41.OpenOptions{Access: nfs41.Write, Create: nfs41.Exclusive, Mode: 0o600}
	for _, tt := range []struct {
		name string
		err  error
		want error
	}{
		{"missing", open(root, "/rw/none", nfs41.OpenOptions{Access: nfs41.Read}), nfs41.NOENT},
		{"no such export", open(root, "/none/none", nfs41.OpenOptions{Access: nfs41.Read}), nfs41.NOENT},
		{"permission", open(user, "/rw/secret", nfs41.OpenOptions{Access: nfs41.Read}), nfs41.ACCESS},
		{"auxiliary group", open(user, "/rw/shared", nfs41.OpenOptions{Access: nfs41.ReadWrite}), nil},
		{"exists", open(root, "/rw/secret", exclusive), nfs41.EXIST},
		{"read-only open", open(root, "/ro/file", nfs41.OpenOptions{Access: nfs41.Write}), nfs41.ROFS},
		{"read-only create", open(root, "/ro/new", exclusive), nfs41.ROFS},
		{"read-only read", open(root, "/ro/file", nfs41.OpenOptions{Access: nfs41.Read}), nil},
		{"read-only remove", root.Remove(ctx, "/ro/file"), nfs41.ROFS},
		{"not a directory", root.Mkdir(ctx, "/rw/secret/x", 0o700), nfs41.NOTDIR},
	} {
		if !errors.Is(tt.err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, tt.err, tt.want)
		}
	}
	if got := nfs41.ROFS.Error(); got != "NFS4ERR_ROFS" {
		t.Error(got)
	}
}

// A writer, a lock's owner and an idle client live through the server's death:
// nothing is lost, nobody else gets the lock, and a new file can be made as
// soon as all have come back.
func TestRestart(t *testing.T) {
	s := start(t)
	writer := dial(t, s, nfs41.Options{Owner: "writer"})
	idle := dial(t, s, nfs41.Options{Owner: "idle"})
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()

	rw := nfs41.OpenOptions{Access: nfs41.ReadWrite, Create: nfs41.Unchecked, Mode: 0o600}
	f, err := writer.Open(ctx, "/rw/file", rw)
	if err != nil {
		t.Fatal(err)
	}
	held, err := idle.Open(ctx, "/rw/locked", rw)
	if err != nil {
		t.Fatal(err)
	}
	if err := held.Lock(ctx, 0, 100); err != nil {
		t.Fatal(err)
	}
	var written atomic.Int64
	stop := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		for i := uint64(0); ; i++ {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if _, err := f.WriteAt(ctx, fmt.Appendf(nil, "%08d", i), 8*i); err != nil {
				done <- err
				return
			}
			written.Add(1)
		}
	}()
	await := func(n int64) {
		t.Helper()
		for tick := time.NewTicker(time.Millisecond); written.Load() < n; <-tick.C {
			select {
			case err := <-done:
				t.Fatalf("writer: %v", err)
			default:
			}
		}
	}
	for round := 1; round <= 2; round++ {
		await(written.Load() + 20)
		s.kill(t)
		s.run(t)
		await(written.Load() + 20)
		// This waits for GRACE, which ends when both clients have come back.
		if err := writer.WriteFile(ctx, "/rw/new", []byte("new"), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := writer.Stats(); got.Reclaimed != round || got.Lost != 0 {
			t.Fatalf("writer after restart %d: %+v", round, got)
		}
	}
	other, err := writer.Open(ctx, "/rw/locked", rw)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Lock(ctx, 50, 100); !errors.Is(err, nfs41.DENIED) {
		t.Errorf("lock of a range that is held: %v", err)
	}
	if err := held.Unlock(ctx); err != nil {
		t.Error(err)
	}
	if err := other.Lock(ctx, 50, 100); err != nil {
		t.Error(err)
	}
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	for i := range written.Load() {
		fmt.Fprintf(&want, "%08d", i)
	}
	if got, err := os.ReadFile(filepath.Join(s.dir, "rw/file")); err != nil || string(got) != want.String() {
		t.Errorf("%d bytes of %d written, %v", len(got), want.Len(), err)
	}
	for _, f := range []*nfs41.File{f, held, other} {
		if err := f.Close(ctx); err != nil {
			t.Error(err)
		}
	}
}

// A client whose state has expired at the server opens its file again.
func TestExpired(t *testing.T) {
	s := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	c := dial(t, s, nfs41.Options{})
	f, err := c.Open(ctx, "/rw/file", nfs41.OpenOptions{Access: nfs41.ReadWrite, Create: nfs41.Unchecked, Mode: 0o600})
	if err != nil {
		t.Fatal(err)
	}
	s.kill(t)
	if err := os.RemoveAll(filepath.Join(s.dir, "recovery", "v4recov")); err != nil {
		t.Fatal(err)
	}
	s.run(t)
	if _, err := f.WriteAt(ctx, []byte("again"), 0); err != nil {
		t.Fatal(err)
	}
	if got := c.Stats(); got.Lost != 1 || got.Reclaimed != 0 {
		t.Errorf("%+v", got)
	}
	if err := f.Close(ctx); err != nil {
		t.Error(err)
	}
}

// An answer that is lost with its connection is asked for again, in the same
// slot, and what must be done once is done once.
func TestLostAnswer(t *testing.T) {
	s := start(t)
	address, lose := nfs41.LossyProxy(t, s.netns, "127.0.0.1:2049")
	c := dial(t, s, nfs41.Options{Address: address})
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()

	before := c.Stats() // its first connections may have come before the server
	lose.Store(true)
	f, err := c.Open(ctx, "/rw/file", nfs41.OpenOptions{Access: nfs41.ReadWrite, Create: nfs41.Exclusive, Mode: 0o600})
	if err != nil {
		t.Fatal(err)
	}
	lose.Store(true)
	if err := c.Mkdir(ctx, "/rw/dir", 0o700); err != nil {
		t.Error(err)
	}
	if got := c.Stats(); got.Connects != before.Connects+2 || got.Sessions != before.Sessions {
		t.Errorf("%+v", got)
	}
	// A READ is not kept by the server: a new session is needed, the file not.
	if _, err := f.WriteAt(ctx, []byte("data"), 0); err != nil {
		t.Fatal(err)
	}
	lose.Store(true)
	p := make([]byte, 10)
	if n, err := f.ReadAt(ctx, p, 0); err != nil || string(p[:n]) != "data" {
		t.Errorf("ReadAt: %q, %v", p[:n], err)
	}
	if got := c.Stats(); got.Connects <= before.Connects+2 || got.Reclaimed != 0 || got.Lost != 0 {
		t.Errorf("%+v", got)
	}
	if err := f.Close(ctx); err != nil {
		t.Error(err)
	}
}

func TestDialGivesUp(t *testing.T) {
	s := start(t)
	s.kill(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err := nfs41.Dial(ctx, nfs41.Options{Address: "127.0.0.1:2049", NetNS: s.netns, Owner: "x"})
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("Dial: %v", err)
	}
	if _, err := nfs41.Dial(t.Context(), nfs41.Options{Address: "127.0.0.1:2049", NetNS: "/nonexistent", Owner: "x"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Dial in no namespace: %v", err)
	}
}
