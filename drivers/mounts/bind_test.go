package mounts_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/drivers"
	"github.com/causeway-project/causeway/drivers/mounts"
)

func TestBindFlags(t *testing.T) {
	for _, ro := range []bool{false, true} {
		dir := tree(t)
		src, target := mkdir(t, dir, "src"), mkdir(t, dir, "target")
		must(t, mounts.BindPath(src, target, mounts.BindOptions{ReadOnly: ro}))
		var st unix.Statfs_t
		must(t, unix.Statfs(target, &st))
		const want = unix.ST_NOSUID | unix.ST_NODEV
		if st.Flags&want != want || (st.Flags&unix.ST_RDONLY != 0) != ro {
			t.Errorf("read-only %t: flags %#x", ro, st.Flags)
		}
		err := os.WriteFile(filepath.Join(target, "f"), nil, 0o600)
		if errors.Is(err, unix.EROFS) != ro {
			t.Errorf("read-only %t: write: %v", ro, err)
		}
		// The source stays as it was.
		must(t, os.WriteFile(filepath.Join(src, "g"), nil, 0o600))
	}
}

// A read-only source gives a read-only bind, asked for or not; the second call
// must know its own work again.
func TestBindOfReadOnlySource(t *testing.T) {
	dir := tree(t)
	src, target := mkdir(t, dir, "src"), mkdir(t, dir, "target")
	must(t, unix.Mount("ro", src, "tmpfs", unix.MS_RDONLY, ""))
	for range 2 {
		must(t, mounts.BindPath(src, target, mounts.BindOptions{}))
	}
	if n := count(t, target); n != 1 {
		t.Errorf("%d mounts", n)
	}
}

func TestBindNeverStacks(t *testing.T) {
	dir := tree(t)
	src, other, target := mkdir(t, dir, "src"), mkdir(t, dir, "other"), mkdir(t, dir, "target")
	rw, ro := mounts.BindOptions{}, mounts.BindOptions{ReadOnly: true}
	for range 3 {
		must(t, mounts.BindPath(src, target, rw))
	}
	wantErr(t, mounts.BindPath(other, target, rw), mounts.ErrOccupied)
	wantErr(t, mounts.BindPath(src, target, ro), mounts.ErrOccupied)
	if n := count(t, target); n != 1 {
		t.Errorf("%d mounts", n)
	}
	must(t, mounts.Unmount(t.Context(), target))

	// Somebody's bind without our flags is not ours.
	must(t, unix.Mount(src, target, "", unix.MS_BIND, ""))
	wantErr(t, mounts.BindPath(src, target, rw), mounts.ErrOccupied)
}

// Neither what is mounted below the source nor what will be may show: a tenant
// would see another file system of the host.
func TestBindIsOneMountOnly(t *testing.T) {
	dir := tree(t)
	// As under systemd, where everything is shared.
	must(t, unix.Mount("", dir, "", unix.MS_SHARED, ""))
	src, target := mkdir(t, dir, "src"), mkdir(t, dir, "target")
	before, after := mkdir(t, src, "before"), mkdir(t, src, "after")
	tmpfs(t, "before", before)
	write(t, before, "outside")
	must(t, mounts.BindPath(src, target, mounts.BindOptions{}))
	tmpfs(t, "after", after)
	write(t, after, "outside")
	for _, name := range []string{"before", "after"} {
		if _, err := os.Stat(filepath.Join(target, name, "outside")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the other file system shows: %v", name, err)
		}
	}
	if n := count(t, target); n != 1 {
		t.Errorf("%d mounts", n)
	}
}

func TestBindRefuses(t *testing.T) {
	dir := tree(t)
	mkdir(t, dir, "src")
	write(t, dir, "file")
	must(t, os.Symlink(mkdir(t, dir, "target"), filepath.Join(dir, "link")))
	for name, c := range map[string]struct {
		source, target string
		want           error
	}{
		"source missing": {"none", "target", drivers.ErrNotFound},
		"source file":    {"file", "target", unix.ENOTDIR},
		"source link":    {"link", "target", unix.ENOTDIR},
		"target missing": {"src", "none", fs.ErrNotExist},
		"target file":    {"src", "file", unix.ENOTDIR},
		"target link":    {"src", "link", unix.ENOTDIR},
	} {
		err := mounts.BindPath(filepath.Join(dir, c.source), filepath.Join(dir, c.target), mounts.BindOptions{})
		if !errors.Is(err, c.want) {
			t.Errorf("%s: got error %v, want %v", name, err, c.want)
		}
	}
	if n := count(t, dir); n != 1 {
		t.Errorf("%d mounts", n)
	}
}

func TestBindLeaksNoDescriptor(t *testing.T) {
	dir := tree(t)
	src, target := mkdir(t, dir, "src"), mkdir(t, dir, "target")
	open := func() int {
		names, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		return len(names)
	}
	before := open()
	for range 10 {
		must(t, mounts.Shared(src))
		must(t, mounts.BindPath(src, target, mounts.BindOptions{}))
		_ = mounts.BindPath(dir, target, mounts.BindOptions{})
		_ = mounts.BindPath(filepath.Join(dir, "none"), target, mounts.BindOptions{})
		_, err := mounts.OpenBeneath(dir, "none")
		wantErr(t, err, drivers.ErrNotFound)
		must(t, mounts.Unmount(t.Context(), target))
	}
	if after := open(); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func TestSharedReachesSlaves(t *testing.T) {
	dir := tree(t)
	exports, slave, src := mkdir(t, dir, "exports"), mkdir(t, dir, "slave"), mkdir(t, dir, "src")
	write(t, src, "file")
	mkdir(t, exports, "1")
	must(t, mounts.Shared(exports))
	must(t, unix.Mount(exports, slave, "", unix.MS_BIND, ""))
	must(t, unix.Mount("", slave, "", unix.MS_SLAVE, ""))
	for range 3 {
		must(t, mounts.Shared(exports))
	}
	if n := count(t, exports); n != 1 {
		t.Errorf("%d mounts at the shared directory", n)
	}

	target, seen := filepath.Join(exports, "1"), filepath.Join(slave, "1")
	must(t, mounts.BindPath(src, target, mounts.BindOptions{ReadOnly: true}))
	must(t, mounts.Shared(exports)) // does not cut the slave off
	if m, ok, err := mounts.At(seen); !ok || err != nil || !m.ReadOnly {
		t.Fatalf("at the slave: %+v %t %v", m, ok, err)
	}

	// An open file in the slave's copy keeps the mount.
	f, err := os.Open(filepath.Join(seen, "file"))
	must(t, err)
	wantErr(t, mounts.Unmount(t.Context(), target), drivers.ErrBusy)
	must(t, f.Close())
	must(t, mounts.Unmount(t.Context(), target))
	if _, ok, err := mounts.At(seen); ok || err != nil {
		t.Errorf("still at the slave: %v", err)
	}
}

// Below a parent that is shared, as / is under systemd, the directory gets
// peers of its own: else each mount below it also goes to the parent, where it
// is hidden and keeps the share busy.
func TestSharedHasItsOwnPeers(t *testing.T) {
	dir := tree(t)
	must(t, unix.Mount("", dir, "", unix.MS_SHARED, ""))
	exports, src := mkdir(t, dir, "exports"), mkdir(t, dir, "src")
	target := mkdir(t, exports, "1")
	must(t, mounts.Shared(exports))
	must(t, mounts.BindPath(src, target, mounts.BindOptions{}))
	if n := count(t, target); n != 1 {
		t.Errorf("%d mounts for one bind", n)
	}
	must(t, mounts.Unmount(t.Context(), target))
	if n := count(t, dir); n != 2 {
		t.Errorf("%d mounts are left", n)
	}
}

// Whatever an earlier version, or an operator's script, left half done.
func TestSharedFinishes(t *testing.T) {
	for name, half := range map[string]func(dir string) error{
		"private bind": func(dir string) error { return unix.Mount(dir, dir, "", unix.MS_BIND, "") },
		"unbindable": func(dir string) error {
			return errors.Join(unix.Mount(dir, dir, "", unix.MS_BIND, ""), unix.Mount("", dir, "", unix.MS_UNBINDABLE, ""))
		},
		"own file system": func(dir string) error { return unix.Mount("own", dir, "tmpfs", 0, "") },
		"nothing":         func(string) error { return nil },
	} {
		dir := mkdir(t, tree(t), "exports")
		must(t, half(dir))
		for range 2 {
			must(t, mounts.Shared(dir))
			ms, err := mounts.Below(dir)
			if err != nil || len(ms) != 1 || !ms[0].Shared {
				t.Errorf("%s: got %+v %v", name, ms, err)
			}
		}
	}
	if err := mounts.Shared(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got error %v", err)
	}
}

func TestUnmount(t *testing.T) {
	dir := tree(t)
	target := mkdir(t, dir, "target")
	for range 3 {
		tmpfs(t, "stacked", target)
	}
	must(t, mounts.Unmount(t.Context(), target))
	if n := count(t, target); n != 0 {
		t.Errorf("%d mounts are left", n)
	}
	write(t, dir, "file")
	must(t, os.Symlink(dir, filepath.Join(dir, "link")))
	for _, name := range []string{"target", "none", "file/below", "file", "link"} {
		must(t, mounts.Unmount(t.Context(), filepath.Join(dir, name)))
	}
	if n := count(t, dir); n != 1 {
		t.Error("a link to a mount was followed")
	}
}

func TestUnmountWaitsForABriefUser(t *testing.T) {
	dir := tree(t)
	target := mkdir(t, dir, "target")
	tmpfs(t, "brief", target)
	f, err := os.Open(target)
	must(t, err)
	done := make(chan error)
	go func() { done <- mounts.Unmount(t.Context(), target) }()
	must(t, f.Close())
	must(t, <-done)
}

func TestUnmountHeedsContext(t *testing.T) {
	dir := tree(t)
	target := mkdir(t, dir, "target")
	tmpfs(t, "busy", target)
	f, err := os.Open(target)
	must(t, err)
	defer func() { must(t, f.Close()) }()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	wantErr(t, mounts.Unmount(ctx, target), context.DeadlineExceeded)
	wantErr(t, mounts.Unmount(ctx, target), context.DeadlineExceeded)
	if n := count(t, target); n != 1 {
		t.Errorf("%d mounts", n)
	}
}

func TestOpenBeneath(t *testing.T) {
	dir := tree(t)
	root := mkdir(t, dir, "pool")
	mkdir(t, root, "team", "docs")
	mkdir(t, root, "..team", "...")
	mkdir(t, dir, "outside", "docs")
	write(t, root, "file")
	tmpfs(t, "other", mkdir(t, root, "team", "mounted"))
	mkdir(t, root, "team", "mounted", "below")
	must(t, unix.Mount(filepath.Join(dir, "outside"), mkdir(t, root, "bound"), "", unix.MS_BIND, ""))
	for name, to := range map[string]string{
		"last": "team", "up": "../outside", "absolute": "/etc", "self": "/proc/self/root", "loop": "loop", "dangling": "none",
	} {
		must(t, os.Symlink(to, filepath.Join(root, name)))
	}
	must(t, os.Symlink(root, filepath.Join(dir, "link-to-pool")))
	long := strings.Repeat("x", 256)

	for rel, want := range map[string]error{
		"team": nil, "team/docs": nil, "team/./docs/": nil, ".": nil, "..team/...": nil,
		"none": drivers.ErrNotFound, "team/none/x": drivers.ErrNotFound,
		"": drivers.ErrSource, "/etc": drivers.ErrSource, "a\x00b": drivers.ErrSource,
		"..": drivers.ErrSource, "../outside": drivers.ErrSource, "team/../../outside": drivers.ErrSource,
		"team/../team": drivers.ErrSource, "team/docs/..": drivers.ErrSource,
		"file": drivers.ErrSource, "file/x": drivers.ErrSource,
		"last": drivers.ErrSource, "last/docs": drivers.ErrSource, "up": drivers.ErrSource, "up/docs": drivers.ErrSource,
		"absolute": drivers.ErrSource, "self": drivers.ErrSource, "self/etc": drivers.ErrSource,
		"loop": drivers.ErrSource, "dangling": drivers.ErrSource,
		"team/mounted": drivers.ErrSource, "team/mounted/below": drivers.ErrSource, "bound": drivers.ErrSource, "bound/docs": drivers.ErrSource,
		long: drivers.ErrSource, strings.Repeat("x/", 5000): drivers.ErrSource,
	} {
		for _, root := range []string{root, filepath.Join(dir, "link-to-pool")} {
			fd, err := mounts.OpenBeneath(root, rel)
			if !errors.Is(err, want) || (want == nil) != (err == nil) {
				t.Errorf("%.40q: got error %v, want %v", rel, err, want)
			}
			if err != nil && len(err.Error()) > 300 {
				t.Errorf("%.40q: an error of %d bytes", rel, len(err.Error()))
			}
			if err == nil {
				must(t, unix.Close(fd))
			}
		}
	}
}

// Magic links lead anywhere, whatever the text that they show.
func TestOpenBeneathProc(t *testing.T) {
	tree(t)
	for _, rel := range []string{"self/root", "self/cwd", "self/root/etc", "thread-self/root", "1/root"} {
		fd, err := mounts.OpenBeneath("/proc", rel)
		if !errors.Is(err, drivers.ErrSource) {
			t.Errorf("%s: got %d, %v", rel, fd, err)
		}
	}
}

func TestOpenBeneathRootMissing(t *testing.T) {
	dir := tree(t)
	write(t, dir, "file")
	for _, name := range []string{"none", "file"} {
		_, err := mounts.OpenBeneath(filepath.Join(dir, name), "docs")
		var root *mounts.RootError
		if !errors.As(err, &root) || errors.Is(err, drivers.ErrNotFound) || errors.Is(err, drivers.ErrSource) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
