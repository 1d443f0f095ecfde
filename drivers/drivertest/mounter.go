package drivertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/drivers"
	"github.com/causeway-project/causeway/drivers/mounts"
)

// An Env is what one test gives to a backend.
type Env struct {
	// Dir is an own directory of the backend. Opening it again, also from
	// another process, must give the same backend with the same shares.
	Dir string

	// Log is for the driver: what is written there is searched for secrets.
	Log *slog.Logger
}

// A Backend is a driver and what the suite must know to try it.
type Backend struct {
	Mounter drivers.Mounter    // required
	Share   drivers.Connection // required: a share that is there, and can be written by root
	Missing drivers.Connection // required: valid, but not there

	// Invalid connections by what is wrong with them; required.
	Invalid map[string]drivers.Connection

	Properties drivers.Properties // what the driver shall declare
	Abilities  []drivers.Ability  // exactly those it shall have, in describe's order

	// Delete removes Share at the backend under its mounts; nil where no
	// backend would allow that.
	Delete func(t *testing.T)
}

// RunMounter is the contract of drivers.Mounter, tried against the real thing.
// It needs root and Main. open is called for each test anew; it cleans up with
// t.Cleanup. The test that calls RunMounter is started once more, in a child
// process that is killed, so it should do its other work inside open.
func RunMounter(t *testing.T, open func(t *testing.T, e Env) Backend) {
	NeedRoot(t)
	if dir := os.Getenv(victimDir); dir != "" {
		runVictim(t, open(t, Env{Dir: dir, Log: slog.New(slog.DiscardHandler)}), dir)
		return
	}
	for _, test := range []struct {
		name string
		run  func(*bench)
	}{
		{"Described", (*bench).described},
		{"Validate", (*bench).validate},
		{"Twice", (*bench).twice},
		{"NothingThere", (*bench).nothingThere},
		{"Occupied", (*bench).occupied},
		{"Cancelled", (*bench).cancelled},
		{"Killed", (*bench).killed},
		{"ReadOnly", (*bench).readOnly},
		{"Busy", (*bench).busy},
		{"Gone", (*bench).gone},
		{"DirectlyBelow", (*bench).directlyBelow},
		{"Handles", (*bench).handles},
		{"Probe", (*bench).probe},
		{"Usage", (*bench).usage},
		{"Owner", (*bench).owner},
		{"Secret", (*bench).secret},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			b := newBench(t, open, dir)
			test.run(b)
			b.searchLog()
		})
	}
}

// A bench is one test's backend, with a root directory for its mounts.
type bench struct {
	*testing.T
	Backend
	dir    string // of the backend
	root   string
	target string
	log    *lockedBuffer
	told   []string // texts of all errors
}

func newBench(t *testing.T, open func(*testing.T, Env) Backend, dir string) *bench {
	log := &lockedBuffer{}
	root := t.TempDir()
	b := &bench{T: t, dir: dir, root: root, target: filepath.Join(root, "share"), log: log}
	if err := os.Mkdir(b.target, 0o755); err != nil {
		t.Fatal(err)
	}
	b.Backend = open(t, Env{Dir: dir, Log: slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	t.Cleanup(func() {
		if err := mounts.Unmount(context.WithoutCancel(t.Context()), b.target); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	return b
}

// lockedBuffer: a driver may log from several goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// tell keeps an error's text for the search for secrets, and passes it on.
func (b *bench) tell(err error) error {
	if err != nil {
		b.told = append(b.told, fmt.Sprintf("%v %+v %#v", err, err, err))
	}
	return err
}

func (b *bench) want(err, want error) {
	b.Helper()
	if !errors.Is(b.tell(err), want) {
		b.Fatalf("got error %v, want %v", err, want)
	}
}

func (b *bench) must(err error) {
	b.Helper()
	b.want(err, nil)
}

func (b *bench) mount(ro bool) error {
	return b.tell(b.Mounter.Mount(b.Context(), drivers.MountRequest{Connection: b.Share, Target: b.target, ReadOnly: ro}))
}

func (b *bench) unmount() error { return b.tell(b.Mounter.Unmount(b.Context(), b.target)) }

// expect compares what the driver lists with want, and the kernel's count of
// mounts with it: a second one under the first would be listed once.
func (b *bench) expect(want ...drivers.Mounted) {
	b.Helper()
	got, err := b.Mounter.Mounts(b.Context(), b.root)
	b.must(err)
	if d := cmp.Diff(want, got); d != "" && len(want)+len(got) > 0 {
		b.Fatalf("mounts (-want +got):\n%s", d)
	}
	raw, err := mounts.Below(b.root)
	b.must(err)
	if len(raw) != len(want) {
		b.Fatalf("the kernel has %d mounts, want %d: %+v", len(raw), len(want), raw)
	}
}

func (b *bench) described() {
	r, err := drivers.NewRegistry(b.Mounter)
	b.must(err)
	want := []drivers.Description{{Kind: b.Share.Kind, Properties: b.Properties, Abilities: b.Abilities}}
	for range 2 {
		if d := cmp.Diff(want, r.Descriptions()); d != "" {
			b.Errorf("description (-want +got):\n%s", d)
		}
	}
	if b.Properties.CoherentLocks && !b.Properties.SharedWrite {
		b.Error("locks coherent across hosts, of which only one may write")
	}
}

func (b *bench) validate() {
	b.must(b.Mounter.Validate(b.Share))
	b.must(b.Mounter.Validate(b.Missing))
	if len(b.Invalid) == 0 {
		b.Error("the backend names no invalid connection")
	}
	invalid := map[string]drivers.Connection{"long": b.Share, "option": b.Share, "kind": b.Share}
	for name, change := range map[string]func(*drivers.Connection){
		"long":   func(c *drivers.Connection) { c.Source = strings.Repeat("x", 10_000) },
		"option": func(c *drivers.Connection) { c.Options = map[string]string{"no-such-option": "x"} },
		"kind":   func(c *drivers.Connection) { c.Kind = "no-such-kind" },
	} {
		c := invalid[name]
		change(&c)
		invalid[name] = c
	}
	for name, c := range b.Invalid {
		invalid[name] = c
	}
	for name, c := range invalid {
		err := b.tell(b.Mounter.Validate(c))
		if !errors.Is(err, drivers.ErrSource) {
			b.Errorf("%s: got error %v, want %v", name, err, drivers.ErrSource)
			continue
		}
		if len(err.Error()) > 500 || strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' }) {
			b.Errorf("%s: the error is %d bytes long or holds control characters: %.200q", name, len(err.Error()), err)
		}
		// What Validate refuses may not get past Mount either.
		r := drivers.MountRequest{Connection: c, Target: b.target}
		if err := b.tell(b.Mounter.Mount(b.Context(), r)); err == nil {
			b.Errorf("%s: mounted", name)
		}
		b.expect()
	}
}

func (b *bench) twice() {
	for _, ro := range []bool{false, true} {
		b.must(b.mount(ro))
		b.must(b.mount(ro))
		b.expect(drivers.Mounted{Target: b.target, ReadOnly: ro})
		b.must(b.unmount())
		b.must(b.unmount())
		b.expect()
	}
}

func (b *bench) nothingThere() {
	r := drivers.MountRequest{Connection: b.Missing, Target: b.target}
	b.want(b.Mounter.Mount(b.Context(), r), drivers.ErrNotFound)
	b.expect()
	b.must(b.Mounter.Unmount(b.Context(), filepath.Join(b.root, "none")))
	r = drivers.MountRequest{Connection: b.Share, Target: filepath.Join(b.root, "none")}
	if err := b.tell(b.Mounter.Mount(b.Context(), r)); err == nil {
		b.Error("mounted at a target that is not there")
	}
	list, err := b.Mounter.Mounts(b.Context(), filepath.Join(b.root, "none", "none"))
	b.must(err)
	if len(list) != 0 {
		b.Errorf("mounts below a directory that is not there: %+v", list)
	}
	if names, err := os.ReadDir(b.target); err != nil || len(names) != 0 {
		b.Errorf("the target was changed: %v %v", names, err)
	}
}

// occupied: something else, or the same with another mode, is never success.
func (b *bench) occupied() {
	b.must(unix.Mount("other", b.target, "tmpfs", 0, "size=64k"))
	if err := b.mount(false); err == nil {
		b.Error("mounted over something else")
	}
	m, ok, err := mounts.At(b.target)
	b.must(err)
	if !ok || m.FSType != "tmpfs" || m.Source != "other" {
		b.Errorf("something else was replaced: %+v", m)
	}
	b.expect(drivers.Mounted{Target: b.target})
	b.must(b.unmount())

	for _, ro := range []bool{false, true} {
		b.must(b.mount(ro))
		if err := b.mount(!ro); err == nil {
			b.Errorf("mounted with read-only %t is said to be with %t", ro, !ro)
		}
		b.expect(drivers.Mounted{Target: b.target, ReadOnly: ro})
		b.must(b.unmount())
	}
}

// cancelled: whatever happened, the kernel's list is right, and the next calls
// finish the work.
func (b *bench) cancelled() {
	for i := range 20 {
		ctx, cancel := context.WithCancel(b.Context())
		if i == 0 {
			cancel()
		}
		done := make(chan error, 1)
		go func() {
			done <- b.Mounter.Mount(ctx, drivers.MountRequest{Connection: b.Share, Target: b.target})
		}()
		// Not a wait for anything: it spreads the cancels over the call.
		time.Sleep(time.Duration(i) * 20 * time.Microsecond)
		cancel()
		err := b.tell(<-done)
		if i == 0 && err == nil {
			b.Error("mounted although the context had ended")
		}
		b.must(b.mount(false))
		b.expect(drivers.Mounted{Target: b.target})
		if err := b.tell(b.Mounter.Unmount(ctx, b.target)); err == nil {
			b.expect()
		}
		b.must(b.unmount())
		b.expect()
	}
}

func (b *bench) readOnly() {
	file := filepath.Join(b.target, "drivertest")
	b.must(b.mount(false))
	b.must(os.WriteFile(file, []byte("kept"), 0o600))
	b.must(b.unmount())

	b.must(b.mount(true))
	for name, write := range map[string]func() error{
		"write":  func() error { return os.WriteFile(file, []byte("changed"), 0o600) },
		"create": func() error { return os.WriteFile(file+"2", nil, 0o600) },
		"mkdir":  func() error { return os.Mkdir(file+"3", 0o700) },
		"remove": func() error { return os.Remove(file) },
		"chmod":  func() error { return os.Chmod(file, 0o644) },
		"chown":  func() error { return os.Chown(file, 1, 1) },
		"rename": func() error { return os.Rename(file, file+"4") },
		"xattr":  func() error { return unix.Setxattr(file, "user.a", []byte("b"), 0) },
		"times":  func() error { return os.Chtimes(file, time.Now(), time.Now()) },
	} {
		if err := write(); !errors.Is(err, unix.EROFS) {
			b.Errorf("%s on a read-only mount: got %v, want %v", name, err, unix.EROFS)
		}
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != "kept" {
		b.Errorf("read back %q, %v", got, err)
	}
	b.must(b.unmount())

	b.must(b.mount(false))
	b.must(os.Remove(file))
}

func (b *bench) busy() {
	b.must(b.mount(false))
	f, err := os.Open(b.target)
	b.must(err)
	b.want(b.unmount(), drivers.ErrBusy)
	b.expect(drivers.Mounted{Target: b.target})
	b.must(f.Close())
	b.must(b.unmount())
	b.expect()
}

func (b *bench) gone() {
	if b.Delete == nil {
		return // this backend lets no share be deleted under a mount
	}
	b.must(b.mount(false))
	b.Delete(b.T)
	b.expect(drivers.Mounted{Target: b.target, Gone: true})
	if err := b.mount(false); err == nil {
		b.Error("a share that is gone was said to be mounted")
	}
	b.must(b.unmount())
	b.expect()
	b.want(b.mount(false), drivers.ErrNotFound)
}

func (b *bench) directlyBelow() {
	b.must(b.mount(false))
	inner := filepath.Join(b.target, "inner")
	if err := os.Mkdir(inner, 0o755); err != nil {
		b.Fatal(err)
	}
	b.must(unix.Mount("inner", inner, "tmpfs", 0, "size=64k"))
	list, err := b.Mounter.Mounts(b.Context(), b.root)
	b.must(err)
	if d := cmp.Diff([]drivers.Mounted{{Target: b.target}}, list); d != "" {
		b.Errorf("mounts directly below root (-want +got):\n%s", d)
	}
	b.want(b.unmount(), drivers.ErrBusy) // something is mounted below it
	b.must(unix.Unmount(inner, 0))
	b.must(os.Remove(inner))
	b.must(b.unmount())
}

// handles: a gateway identifies a file to its clients by the handle only, and
// opens it by that after a restart.
func (b *bench) handles() {
	if !b.Properties.StableHandles {
		return // the driver does not declare stable handles
	}
	file := filepath.Join(b.target, "drivertest")
	b.must(b.mount(false))
	b.must(os.WriteFile(file, []byte("by handle"), 0o600))
	before, _, err := unix.NameToHandleAt(unix.AT_FDCWD, file, 0)
	b.must(err)
	b.must(b.unmount())
	b.must(b.mount(false))
	after, _, err := unix.NameToHandleAt(unix.AT_FDCWD, file, 0)
	b.must(err)
	if before.Type() != after.Type() || !bytes.Equal(before.Bytes(), after.Bytes()) {
		b.Error("the handle has changed over a remount")
	}
	dir, err := os.Open(b.target)
	b.must(err)
	defer func() { _ = dir.Close() }()
	fd, err := unix.OpenByHandleAt(int(dir.Fd()), before, unix.O_RDONLY|unix.O_CLOEXEC)
	b.must(err)
	f := os.NewFile(uintptr(fd), file)
	defer func() { _ = f.Close() }()
	got := make([]byte, 16)
	n, err := f.Read(got)
	b.must(err)
	if string(got[:n]) != "by handle" {
		b.Errorf("the old handle opens %q", got[:n])
	}
	b.must(os.Remove(file))
}

func (b *bench) probe() {
	p, ok := b.Mounter.(drivers.Prober)
	if !ok {
		return // the driver cannot probe
	}
	b.must(p.Probe(b.Context(), b.Share))
	b.want(p.Probe(b.Context(), b.Missing), drivers.ErrNotFound)
	for name, c := range b.Invalid {
		if err := b.tell(p.Probe(b.Context(), c)); err == nil {
			b.Errorf("%s: found", name)
		}
	}
	b.expect()
}

func (b *bench) owner() {
	r, ok := b.Mounter.(drivers.OwnerReporter)
	if !ok {
		return // the driver cannot tell
	}
	_, err := r.Owner(b.Context(), b.Share)
	b.must(err)
	_, err = r.Owner(b.Context(), b.Missing)
	b.want(err, drivers.ErrNotFound)
	b.expect()
}

func (b *bench) usage() {
	u, ok := b.Mounter.(drivers.UsageReporter)
	if !ok {
		return // the driver cannot report usage
	}
	got, err := u.Usage(b.Context(), b.Share)
	b.must(err)
	if got.Size > 0 && got.Used > got.Size {
		b.Errorf("used more than there is: %+v", got)
	}
	_, err = u.Usage(b.Context(), b.Missing)
	b.want(err, drivers.ErrNotFound)
}

// canary is a secret no driver knows.
const canary = "canary-Zq9-of-drivertest"

// secret goes through every method with a wrong secret, and where the share
// has one with the right one, also on the paths that fail. searchLog looks at
// what that told.
func (b *bench) secret() {
	bad := b.Share
	bad.Secret = drivers.NewSecret([]byte(canary))
	missing := b.Missing
	missing.Secret = bad.Secret
	for _, c := range []drivers.Connection{bad, missing, b.Share, b.Missing} {
		for _, target := range []string{b.target, filepath.Join(b.root, "none")} {
			_ = b.tell(b.Mounter.Validate(c))
			_ = b.tell(b.Mounter.Mount(b.Context(), drivers.MountRequest{Connection: c, Target: target}))
			if p, ok := b.Mounter.(drivers.Prober); ok {
				_ = b.tell(p.Probe(b.Context(), c))
			}
			b.must(b.Mounter.Unmount(b.Context(), target))
		}
	}
}

// searchLog finds secrets in what the driver wrote and returned.
func (b *bench) searchLog() {
	secrets := []string{canary}
	for _, c := range append(slices.Collect(maps.Values(b.Invalid)), b.Share, b.Missing) {
		if !c.Secret.IsZero() {
			secrets = append(secrets, string(c.Secret.Reveal()))
		}
	}
	for _, s := range secrets {
		for _, form := range []string{s, fmt.Sprintf("%x", s), strings.Trim(fmt.Sprint([]byte(s)), "[]")} {
			if strings.Contains(b.log.String(), form) {
				b.Errorf("a secret is in the log:\n%s", b.log)
			}
			if strings.Contains(strings.Join(b.told, "\n"), form) {
				b.Errorf("a secret is in an error:\n%s", strings.Join(b.told, "\n"))
			}
		}
	}
}
