package mounts_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/drivers"
	"github.com/causeway-project/causeway/drivers/drivertest"
	"github.com/causeway-project/causeway/drivers/mounts"
	"github.com/causeway-project/causeway/integration/needs"
)

// Holding finds the mount of a directory, whether it is one or lies on one.
func TestHolding(t *testing.T) {
	dir := tree(t)
	target := mkdir(t, dir, "target")
	tmpfs(t, "held", target)
	below := mkdir(t, target, "a", "b")
	for _, path := range []string{target, below} {
		m, err := mounts.Holding(path)
		if err != nil || m.Target != target || m.Source != "held" || m.FSType != "tmpfs" {
			t.Errorf("%s: got %+v, %v", path, m, err)
		}
	}
	if _, err := mounts.Holding(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got error %v", err)
	}
}

func TestMain(m *testing.M) { os.Exit(drivertest.Main(m)) }

// tree makes an own tmpfs for one test, which goes away with all below it.
func tree(t testing.TB) string {
	t.Helper()
	drivertest.NeedRoot(t)
	dir := t.TempDir()
	must(t, unix.Mount("tree", dir, "tmpfs", 0, ""))
	t.Cleanup(func() {
		// The namespace is the test's own: a lazy detach hides nothing.
		must(t, unix.Unmount(dir, unix.MNT_DETACH))
	})
	return dir
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
}

func mkdir(t testing.TB, parts ...string) string {
	t.Helper()
	dir := filepath.Join(parts...)
	must(t, os.MkdirAll(dir, 0o755))
	return dir
}

func write(t testing.TB, parts ...string) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(parts...), nil, 0o600))
}

func tmpfs(t testing.TB, source, dir string) {
	t.Helper()
	must(t, unix.Mount(source, dir, "tmpfs", 0, "size=64k"))
}

// count is the number of mounts at and below dir.
func count(t testing.TB, dir string) int {
	t.Helper()
	ms, err := mounts.Below(dir)
	must(t, err)
	return len(ms)
}

func TestBelowListsParentsFirst(t *testing.T) {
	dir := tree(t)
	// Names as hostile as a name can be: the table escapes them.
	odd := mkdir(t, dir, "a b\tc\nd\\e\\040#", "x")
	tmpfs(t, "one", odd)
	inner := mkdir(t, odd, "inner")
	tmpfs(t, "two", inner)
	tmpfs(t, "three", odd) // hides one and two
	mkdir(t, dir, "a b\tc\nd\\e\\040#y")

	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(dir, link))
	for _, root := range []string{dir, dir + "/", link} {
		ms, err := mounts.Below(filepath.Join(root, filepath.Base(filepath.Dir(odd))))
		must(t, err)
		var got []string
		for _, m := range ms {
			rel, err := filepath.Rel(filepath.Clean(root), m.Target)
			must(t, err)
			got = append(got, m.Source+" "+filepath.Base(rel))
			if m.FSType != "tmpfs" || m.Root != "/" || m.ReadOnly || m.Gone {
				t.Errorf("%+v", m)
			}
		}
		if d := cmp.Diff([]string{"one x", "two inner", "three x"}, got); d != "" {
			t.Errorf("below %s (-want +got):\n%s", root, d)
		}
	}
	top, ok, err := mounts.At(odd)
	if err != nil || !ok || top.Source != "three" || top.Target != odd {
		t.Errorf("at: %+v %t %v", top, ok, err)
	}
}

// A tree that was made first and moved below a younger mount stands before it
// in the table.
func TestBelowSortsAMovedTree(t *testing.T) {
	dir := tree(t)
	old, young := mkdir(t, dir, "old"), mkdir(t, dir, "young")
	tmpfs(t, "old", old)
	tmpfs(t, "young", young)
	to := mkdir(t, young, "to")
	must(t, unix.MoveMount(unix.AT_FDCWD, old, unix.AT_FDCWD, to, 0))
	ms, err := mounts.Below(young)
	must(t, err)
	if len(ms) != 2 || ms[0].Target != young || ms[1].Target != to || ms[1].Parent != ms[0].ID {
		t.Errorf("got %+v", ms)
	}
}

func TestAtFindsNothing(t *testing.T) {
	dir := tree(t)
	write(t, dir, "file")
	must(t, os.Symlink("/proc", filepath.Join(dir, "link")))
	mkdir(t, dir, "plain")
	for _, name := range []string{"none", "file/below", "file", "link", "plain"} {
		if m, ok, err := mounts.At(filepath.Join(dir, name)); ok || err != nil {
			t.Errorf("%s: got %+v %v", name, m, err)
		}
		if got, err := mounts.Peek(filepath.Join(dir, name)); got != (mounts.Sight{}) || err != nil {
			t.Errorf("peek at %s: got %+v %v", name, got, err)
		}
	}
	if ms, err := mounts.Below(filepath.Join(dir, "none", "none")); len(ms) != 0 || err != nil {
		t.Errorf("below nothing: %+v %v", ms, err)
	}
}

func TestAtSeesReadOnlyInBothPlaces(t *testing.T) {
	dir := tree(t)
	fs, src, bind := mkdir(t, dir, "fs"), mkdir(t, dir, "src"), mkdir(t, dir, "bind")
	must(t, unix.Mount("ro", fs, "tmpfs", unix.MS_RDONLY, ""))
	must(t, mounts.BindPath(src, bind, mounts.BindOptions{ReadOnly: true}))
	for _, target := range []string{fs, bind} {
		if m, ok, err := mounts.At(target); !m.ReadOnly || !ok || err != nil {
			t.Errorf("%s: got %+v %t %v", target, m, ok, err)
		}
	}
}

// What the four file systems of a pool say of a directory that was deleted
// under its mount, and of one that took its name.
func TestGone(t *testing.T) {
	for _, fstype := range []string{"tmpfs", "ext4", "btrfs"} {
		t.Run(fstype, func(t *testing.T) {
			dir := tree(t)
			pool, target := mkdir(t, dir, "pool"), mkdir(t, dir, "target")
			format(t, fstype, dir, pool)
			share := mkdir(t, pool, "share")
			must(t, mounts.BindPath(share, target, mounts.BindOptions{}))
			if m, ok, err := mounts.At(target); !ok || err != nil || m.Gone {
				t.Fatalf("a living share: %+v %t %v", m, ok, err)
			}
			if got, err := mounts.Peek(target); got != (mounts.Sight{Mounted: true}) || err != nil {
				t.Errorf("peek at a living share: %+v %v", got, err)
			}
			must(t, os.Remove(share))
			wantGone(t, target)
			wantErr(t, mounts.BindPath(share, target, mounts.BindOptions{}), drivers.ErrNotFound)
			// A new directory under the old name is not the mounted one, even
			// where the file system is quick to use a number again.
			for range 64 {
				mkdir(t, share)
				wantErr(t, mounts.BindPath(share, target, mounts.BindOptions{}), mounts.ErrOccupied)
				must(t, os.Remove(share))
			}
			must(t, mounts.Unmount(t.Context(), target))
		})
	}
}

func TestGoneSubvolume(t *testing.T) {
	dir := tree(t)
	pool := mkdir(t, dir, "pool")
	format(t, "btrfs", dir, pool)
	for _, inside := range []string{".", "deep/dir"} {
		t.Run(inside, func(t *testing.T) {
			target := mkdir(t, dir, "target")
			run(t, "btrfs", "-q", "subvolume", "create", filepath.Join(pool, "share"))
			share := mkdir(t, pool, "share", inside)
			must(t, mounts.BindPath(share, target, mounts.BindOptions{}))
			fd, err := mounts.OpenBeneath(pool, filepath.Join("share", inside))
			must(t, err)
			defer func() { must(t, unix.Close(fd)) }()
			run(t, "btrfs", "-q", "subvolume", "delete", filepath.Join(pool, "share"))
			wantGone(t, target)
			// The descriptor is the same dead directory as the mount.
			wantErr(t, mounts.Bind(fd, target, mounts.BindOptions{}), drivers.ErrNotFound)
			must(t, mounts.Unmount(t.Context(), target))
		})
	}
}

func wantGone(t *testing.T, target string) {
	t.Helper()
	m, ok, err := mounts.At(target)
	if !ok || err != nil || !m.Gone {
		t.Errorf("at: %+v %t %v", m, ok, err)
	}
	ms, err := mounts.Below(target)
	if err != nil || len(ms) != 1 || !ms[0].Gone {
		t.Errorf("below: %+v %v", ms, err)
	}
	if got, err := mounts.Peek(target); got != (mounts.Sight{Mounted: true, Gone: true}) || err != nil {
		t.Errorf("peek: %+v %v", got, err)
	}
}

// format mounts a new file system at pool.
func format(t testing.TB, fstype, dir, pool string) {
	t.Helper()
	if fstype == "tmpfs" {
		tmpfs(t, "pool", pool)
		return
	}
	needs.Programs(t, "mkfs."+fstype)
	image := filepath.Join(dir, "image")
	write(t, image)
	must(t, os.Truncate(image, 256<<20))
	run(t, "mkfs."+fstype, "-q", image)
	run(t, "mount", "-o", "loop", image, pool)
	t.Cleanup(func() { must(t, unix.Unmount(pool, unix.MNT_DETACH)) })
}

func run(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}

// many makes n bind mounts below dir and returns the last target.
func many(b *testing.B, dir string, n int) string {
	b.Helper()
	src := mkdir(b, dir, "src")
	var target string
	for i := range n {
		target = mkdir(b, dir, "mounts", strconv.Itoa(i))
		must(b, mounts.BindPath(src, target, mounts.BindOptions{}))
	}
	return target
}

func BenchmarkLooks(b *testing.B) {
	for _, n := range []int{10, 2000} {
		dir := tree(b)
		last, free := many(b, dir, n), mkdir(b, dir, "free")
		src := filepath.Join(dir, "src")
		for name, look := range map[string]func() error{
			"AtNothing": func() error { _, _, err := mounts.At(free); return err },
			"Peek":      func() error { _, err := mounts.Peek(last); return err },
			"AtMount":   func() error { _, _, err := mounts.At(last); return err },
			"BindThere": func() error { return mounts.BindPath(src, last, mounts.BindOptions{}) },
			"BindUnmount": func() error {
				return errors.Join(mounts.BindPath(src, free, mounts.BindOptions{}), mounts.Unmount(b.Context(), free))
			},
			"Below": func() error { _, err := mounts.Below(dir); return err },
		} {
			b.Run(fmt.Sprintf("%s/mounts=%d", name, n), func(b *testing.B) {
				for b.Loop() {
					must(b, look())
				}
			})
		}
	}
}
