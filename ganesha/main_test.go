package ganesha

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/agent/process"
	"github.com/causeway-project/causeway/drivers/mounts"
	"github.com/causeway-project/causeway/integration/needs"
	"github.com/causeway-project/causeway/integration/nfs41"
	"github.com/causeway-project/causeway/integration/programs"
	"github.com/causeway-project/causeway/integration/wait"
)

var built = programs.Built{Packages: []string{"cmd/causeway-launch"}}

// insideEnv marks the test binary that TestMain started in its own namespaces.
const insideEnv = "CAUSEWAY_GANESHA_TEST_INSIDE"

// TestMain runs the tests again in network, mount and process namespaces of
// their own, so that nothing of theirs is seen on the host and all of it ends
// with them. There / is shared, as systemd makes it, and /run is empty.
func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	if os.Getenv(insideEnv) == "" {
		os.Exit(again())
	}
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, "namespaces of the test:", err)
		os.Exit(1)
	}
	code := m.Run()
	if err := built.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "clean up:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func again() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return max(exit.ExitCode(), 1)
	}
	fmt.Fprintln(os.Stderr, "namespaces of the test:", err)
	return 1
}

func prepare() error {
	steps := []struct {
		source, target, kind string
		flags                uintptr
	}{
		{"", "/", "", unix.MS_REC | unix.MS_PRIVATE},
		{"proc", "/proc", "proc", 0},
		{"run", "/run", "tmpfs", 0},
		{"", "/", "", unix.MS_REC | unix.MS_SHARED},
	}
	for _, s := range steps {
		if err := unix.Mount(s.source, s.target, s.kind, s.flags, ""); err != nil {
			return fmt.Errorf("mount %s: %w", s.target, err)
		}
	}
	return nil
}

// library builds causeway-preload.so once for all tests.
func library(t testing.TB) string {
	t.Helper()
	file := "/run/" + Library
	if _, err := os.Stat(file); err == nil {
		return file
	}
	build := exec.Command("preload/build", filepath.Dir(file))
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", Library, err, out)
	}
	return file
}

// binds is Mounts as the agent has it.
type binds struct{}

func (binds) Bind(source, target string) error {
	return mounts.BindPath(source, target, mounts.BindOptions{})
}

func (binds) Unmount(ctx context.Context, target string) error { return mounts.Unmount(ctx, target) }

func (binds) Kind(dir string) (source, fstype string, err error) {
	m, err := mounts.Holding(dir)
	return m.Source, m.FSType, err
}

// A site is one gateway in a namespace of its own.
type site struct {
	t testing.TB
	o Options
	g *Gateway
}

var sites atomic.Int64 // names no two sites alike

func newSite(t testing.TB) *site {
	t.Helper()
	needs.Root(t)
	needs.Programs(t, "ganesha.nfsd", "dbus-daemon")
	return newSiteOn(t, "")
}

// onBoth runs a test with the host's Ganesha and with that of Debian 13.
func onBoth(t *testing.T, test func(t *testing.T, system string)) {
	t.Run("host", func(t *testing.T) {
		needs.Root(t)
		needs.Programs(t, "ganesha.nfsd", "dbus-daemon")
		test(t, "")
	})
	t.Run("trixie", func(t *testing.T) {
		needs.Root(t)
		system, err := filepath.Abs("../.cache/debian13")
		if err == nil {
			_, err = os.Stat(system + nfsdPath)
		}
		needs.Met(t, err)
		test(t, system)
	})
}

func newSiteOn(t testing.TB, system string) *site {
	t.Helper()
	needs.Root(t)
	needs.Programs(t, "ip", "mke2fs", "mount")
	name := fmt.Sprintf("cwt%d", sites.Add(1))
	dir := "/run/" + name
	s := &site{t: t, o: Options{
		RunDir:   dir + "/run",
		StateDir: dir + "/state",
		Exports:  dir + "/exports",
		NetNS:    "/run/netns/" + name,
		Library:  library(t),
		System:   system,
		Lease:    2 * time.Second, // its half is how often grace is looked at
		Grace:    3 * time.Second,
		Mounts:   binds{},
		Starter:  &process.Starter{Launcher: built.Path(t, "causeway-launch")},
		Logger:   slog.New(slog.NewTextHandler(t.Output(), nil)),
	}}
	s.addNetNS()
	if err := os.MkdirAll(s.o.Exports, 0o755); err != nil {
		t.Fatal(err)
	}
	s.mountFS(s.o.Exports)
	if err := mounts.Shared(s.o.Exports); err != nil {
		t.Fatal(err)
	}
	s.g = New(s.o)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), wait.Long)
		defer cancel()
		if t.Failed() {
			t.Logf("the log of ganesha ends:\n%s", s.g.lastLog())
		}
		if err := s.g.Stop(ctx, StopOptions{Forget: true}); err != nil {
			t.Errorf("stop: %v", err)
		}
		s.ip("netns", "del", name)
	})
	return s
}

func (s *site) ip(args ...string) {
	s.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		s.t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func (s *site) addNetNS() {
	s.t.Helper()
	name := filepath.Base(s.o.NetNS)
	s.ip("netns", "add", name)
	s.ip("-n", name, "link", "set", "lo", "up")
}

// mountFS mounts an empty file system of its own that this Ganesha can export.
// From 5.3 on that is no tmpfs.
func (s *site) mountFS(target string) {
	s.t.Helper()
	is, err := installed(s.o.System)
	if err != nil {
		s.t.Fatal(err)
	}
	if is.before(5, 3) {
		s.mount("test", target, "tmpfs", 0)
		return
	}
	s.mountDisk(target)
}

// mountDisk mounts an empty ext4.
func (s *site) mountDisk(target string) {
	s.t.Helper()
	image := fmt.Sprintf("/run/%s-%d.ext4", filepath.Base(s.o.NetNS), sites.Add(1))
	for _, args := range [][]string{
		{"mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-N", "1024", image, "8M"},
		{"mount", "-o", "loop", image, target},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			s.t.Fatalf("%s: %v\n%s", args, err, out)
		}
	}
	if err := os.Remove(filepath.Join(target, "lost+found")); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = unix.Unmount(target, unix.MNT_DETACH) // the test may have unmounted it
		_ = os.Remove(image)                      // it lies in memory, and goes with the test anyway
	})
}

func (s *site) mount(source, target, kind string, flags uintptr) {
	s.t.Helper()
	if err := unix.Mount(source, target, kind, flags, ""); err != nil {
		s.t.Fatalf("mount %s: %v", target, err)
	}
	s.t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) }) // the test may have unmounted it
}

// start starts the gateway with these exports.
func (s *site) start(exports ...Export) {
	s.t.Helper()
	if err := s.g.Start(s.t.Context(), func() []Export { return exports }); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) put(e Export) {
	s.t.Helper()
	if refused, err := s.g.Put(s.t.Context(), e); err != nil || len(refused) > 0 {
		s.t.Fatal(refused, err)
	}
	s.has(e)
}

func (s *site) has(e Export) {
	s.t.Helper()
	if has, err := s.g.Has(s.t.Context(), e); err != nil || !has {
		s.t.Fatalf("Has(%d) = %v, %v; want true", e.ID, has, err)
	}
}

func (s *site) pid() int {
	s.t.Helper()
	st, err := s.g.Status(s.t.Context())
	if err != nil || !st.Running {
		s.t.Fatalf("Status = %+v, %v; want a running gateway", st, err)
	}
	return st.PID
}

// tree makes a directory that can be exported under an id, and an export of it
// to every client.
func (s *site) tree(id uint16) Export {
	s.t.Helper()
	path := filepath.Join(s.o.Exports, fmt.Sprint(id))
	if err := os.MkdirAll(path, 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Chmod(path, 0o777); err != nil {
		s.t.Fatal(err)
	}
	return Export{
		ID: id, Path: path, Pseudo: fmt.Sprintf("/share%d", id), FSID: uint64(id) + 1000,
		Rules: []Rule{rule("127.0.0.0/8", ReadWrite, SquashNone)},
	}
}

// share is tree on a file system of its own.
func (s *site) share(id uint16) Export {
	s.t.Helper()
	e := s.tree(id)
	s.mountFS(e.Path)
	if err := os.Chmod(e.Path, 0o777); err != nil {
		s.t.Fatal(err)
	}
	return e
}

type identity struct {
	from     string // source address
	uid, gid uint32
}

// client is a real NFSv4.1 client in the gateway's namespace.
func (s *site) client(who identity) *nfs41.Client {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), wait.Long)
	defer cancel()
	c, err := nfs41.Dial(ctx, s.options(who))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(s.t.Context()), 2*time.Second)
		defer cancel()
		_ = c.Close(ctx) // the gateway may be gone
	})
	return c
}

func (s *site) options(who identity) nfs41.Options {
	o := nfs41.Options{
		Address: "127.0.0.1:2049", NetNS: s.o.NetNS, Minor: 1,
		Owner: fmt.Sprintf("%s %v %d", s.t.Name(), who, sites.Add(1)),
		UID:   who.uid, GID: who.gid,
	}
	if who.from != "" {
		o.LocalAddr = netip.MustParseAddr(who.from)
	}
	return o
}

// stop stops a process, and returns when none of its threads runs any more.
func (s *site) stop(pid int) {
	s.t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		s.t.Fatal(err)
	}
	wait.Until(s.t, fmt.Sprintf("no thread of %d runs", pid), func() bool {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		if err != nil || len(tasks) == 0 {
			s.t.Fatalf("threads of %d: %v, %v", pid, tasks, err)
		}
		running := 0
		for _, task := range tasks {
			text, err := os.ReadFile(task)
			if err == nil && !strings.Contains(string(text), ") T ") {
				running++
			}
		}
		return running == 0
	})
}

// kill ends a process at once and waits until the gateway's Ganesha has ended.
func (s *site) kill(pid int) {
	s.t.Helper()
	done := s.g.Done()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		s.t.Fatal(err)
	}
	wait.Closed(s.t, "the gateway ends", done)
}
