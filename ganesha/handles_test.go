package ganesha

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/integration/needs"
	"github.com/causeway-project/causeway/integration/nfs41"
)

const secret = "nobody's business"

// A pool is a file system with two shares, a and b, that a gateway exports,
// each with a file, and one, other, that it does not.
type pool struct {
	s     *site
	dir   string
	a, b  Export
	whole Export // a file system of its own, of the same kind
}

// poolOn makes a pool on a file system of that kind. On btrfs each share is a
// subvolume.
func poolOn(t *testing.T, system, kind string) *pool {
	s := newSiteOn(t, system)
	p := &pool{s: s, dir: filepath.Dir(s.o.Exports) + "/pool"}
	if err := os.Mkdir(p.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	mountImage(t, kind, p.dir)
	p.whole = s.tree(3)
	mountImage(t, kind, p.whole.Path)
	for _, name := range []string{"a", "b", "other"} {
		dir := filepath.Join(p.dir, name)
		if kind == "btrfs" {
			command(t, "btrfs", "subvolume", "create", dir)
		} else if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		text := name
		if name == "other" {
			text = secret
		}
		if err := os.WriteFile(p.file(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p.a, p.b = p.export("a", 1), p.export("b", 2)
	return p
}

// mountImage mounts a new file system of that kind.
func mountImage(t *testing.T, kind, dir string) {
	t.Helper()
	image := fmt.Sprintf("/run/%s-%d.img", kind, sites.Add(1))
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 128<<20); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Unmount(dir, unix.MNT_DETACH)
		_ = os.Remove(image)
	})
	command(t, "mkfs."+kind, "-q", image)
	command(t, "mount", "-o", "loop", image, dir)
}

func command(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", args, err, out)
	}
}

func (p *pool) file(share string) string { return filepath.Join(p.dir, share, "file") }

// export is a view of a share, and its export.
func (p *pool) export(share string, id uint16) Export {
	p.s.t.Helper()
	e := p.s.tree(id)
	if err := (binds{}).Bind(filepath.Join(p.dir, share), e.Path); err != nil {
		p.s.t.Fatal(err)
	}
	p.s.t.Cleanup(func() { _ = unix.Unmount(e.Path, unix.MNT_DETACH) })
	return e
}

// kernelHandle is what a file handle has of the kernel: all of it that names a
// file, in clear.
func (p *pool) kernelHandle(share string) unix.FileHandle {
	p.s.t.Helper()
	h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, p.file(share), 0)
	if err != nil {
		p.s.t.Fatal(err)
	}
	return h
}

// unprotected makes a library that says it is at work and does nothing.
func unprotected(t *testing.T) string {
	t.Helper()
	return fakeLibrary(t, `
#include <fcntl.h>
#include <stdlib.h>
__attribute__((constructor)) static void start(void) { open(getenv("CAUSEWAY_HANDLES_READY"), O_CREAT, 0600); }
`)
}

func fakeLibrary(t *testing.T, source string) string {
	t.Helper()
	needs.Root(t)
	needs.Programs(t, "gcc")
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/fake.c", []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, Library)
	command(t, "gcc", "-shared", "-fPIC", "-o", file, dir+"/fake.c")
	return file
}

// changedLibrary builds the library with other words in one of its files.
func changedLibrary(t *testing.T, file, before, after string) string {
	t.Helper()
	needs.Root(t)
	needs.Programs(t, "gcc")
	source, out := t.TempDir(), t.TempDir()
	if err := os.CopyFS(source, os.DirFS("preload")); err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(source, file)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), before) {
		t.Fatalf("%s: no %q", file, before)
	}
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(text), before, after)), 0o600); err != nil {
		t.Fatal(err)
	}
	command(t, "sh", filepath.Join(source, "build"), out)
	return filepath.Join(out, Library)
}

// TestForgedHandles attacks with what a client can make of the handles that it
// was given. Each attack is shown to succeed without the library.
func TestForgedHandles(t *testing.T) {
	for _, kind := range []string{"ext4", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			onBoth(t, func(t *testing.T, system string) {
				needs.Root(t)
				needs.Programs(t, "mkfs."+kind)
				for _, by := range []protection{"nothing", tags, seals} {
					t.Run("protected by "+string(by), func(t *testing.T) {
						p := poolOn(t, system, kind)
						switch by {
						case tags:
							p.s.g.files.Exports = ""
						case seals:
						default:
							p.s.o.Library = unprotected(t)
							p.s.g = New(p.s.o)
						}
						p.b.Rules[0].Level = ReadOnly
						p.s.start(p.a, p.b, p.whole)
						p.attack(t, kind, by)
					})
				}
			})
		})
	}
}

// A protection is what keeps clients from making up handles.
type protection string

const (
	tags  protection = "tags" // all that a gateway with NFSv3 has
	seals protection = "seals and tags"
)

// A wire handle is version, flags, export, length, and as many bytes.
const wireHead = 5

func (p *pool) attack(t *testing.T, kind string, by protection) {
	ctx := t.Context()
	c := p.s.client(identity{})
	a, b := p.wire(c, "/share1/file"), p.wire(c, "/share2/file")
	inA, inB, inOther := p.kernelHandle("a"), p.kernelHandle("b"), p.kernelHandle("other")
	if !bytes.Contains(a, inA.Bytes()) || !bytes.Contains(b, inB.Bytes()) {
		t.Fatalf("handles %x and %x do not show %x and %x", a, b, inA.Bytes(), inB.Bytes())
	}
	forged := bytes.Replace(a, inA.Bytes(), inOther.Bytes(), 1)
	bare := forged[:bytes.Index(forged, inOther.Bytes())+inOther.Size()]
	of := func(h []byte, export uint16) []byte {
		h = bytes.Clone(h)
		binary.BigEndian.PutUint16(h[2:], export)
		return h
	}
	sized := func(h []byte) []byte {
		h = bytes.Clone(h)
		h[4] = byte(len(h) - wireHead)
		return h
	}
	read := func(h []byte) error {
		data, err := c.ReadHandle(ctx, h, 100)
		if err == nil && !strings.Contains(string(data), secret) {
			return fmt.Errorf("read %q", data)
		}
		return err
	}
	write := func(h []byte) error { return c.WriteHandle(ctx, h, []byte("overwritten")) }
	type attack struct {
		try     func([]byte) error
		with    []byte
		refused bool
	}
	protected := by == tags || by == seals
	attacks := map[string]attack{
		"file of no export":                      {read, forged, protected},
		"file of no export, without codes":       {read, sized(bare), protected},
		"file of no export, with part of them":   {read, sized(forged[:max(len(bare), len(forged)-8)]), protected},
		"file of no export, with codes of zeros": {read, sized(append(bytes.Clone(bare), make([]byte, len(forged)-len(bare))...)), protected},
	}
	// On btrfs each share is a file system to Ganesha, and bound to its export.
	var st [2]unix.Stat_t
	if err := errors.Join(unix.Stat(p.a.Path, &st[0]), unix.Stat(p.b.Path, &st[1])); err != nil {
		t.Fatal(err)
	}
	if st[0].Dev == st[1].Dev {
		attacks["write by another export's rule"] = attack{write, of(b, 1), by == seals}
	}
	if kind == "ext4" {
		// Their roots have the same number and generation. On the wire the
		// kernel's handle begins behind flags, 8 bytes of the file system, and a
		// type.
		const place = wireHead + 1 + 8
		root := p.wire(c, "/share3")
		attacks["root of the pool, by another file system's"] = attack{func(h []byte) error {
			_, err := c.StatHandle(ctx, h)
			return err
		}, append(bytes.Clone(a[:place]), root[place:]...), protected}
	}
	if err := write(b); !errors.Is(err, nfs41.ROFS) {
		t.Errorf("write by a rule that lets read: %v", err)
	}
	for name, attack := range attacks {
		err := attack.try(attack.with)
		if !attack.refused && err != nil {
			t.Errorf("%s: %v; it is known to succeed", name, err)
		}
		if attack.refused && !refused(err) {
			t.Errorf("%s: %v, want it refused", name, err)
		}
	}
	if _, err := c.StatHandle(ctx, of(a, 0xffff)); err == nil {
		t.Error("the handle of an anchor lets in")
	}
	if by != seals {
		return
	}
	if got, err := os.ReadFile(p.file("b")); err != nil || string(got) != "b" {
		t.Errorf("file of b: %q, %v", got, err)
	}
	// Small inode numbers: those of the roots, with the generation that fits all.
	for inode := range uint32(64) {
		guess := bytes.Clone(inOther.Bytes())
		clear(guess)
		binary.NativeEndian.PutUint32(guess, inode)
		if _, err := c.StatHandle(ctx, bytes.Replace(a, inA.Bytes(), guess, 1)); !refused(err) {
			t.Errorf("inode %d: %v, want it refused", inode, err)
		}
	}
	// Some flags lead Ganesha another way; none leads to the file.
	for i := range 8 {
		h := bytes.Clone(forged)
		h[1] ^= 1 << i
		if _, err := c.StatHandle(ctx, h); !refused(err) {
			t.Errorf("flag %d: %v, want it refused", i, err)
		}
	}
	// A handle with one bit turned names nothing. The flags, which FSAL VFS
	// does not look at, may be any.
	for i := range 8 * len(a) {
		h := bytes.Clone(a)
		h[i/8] ^= 1 << (i % 8)
		if _, err := c.StatHandle(ctx, h); i/8 != 1 && !refused(err) {
			t.Errorf("bit %d of byte %d: %v, want it refused", i%8, i/8, err)
		}
	}
	for n := range len(a) {
		if _, err := c.StatHandle(ctx, sized(append(bytes.Clone(a[:min(n, len(a))]), 0, 0, 0, 0, 0))); !refused(err) {
			t.Errorf("%d bytes of a handle: %v, want them refused", n, err)
		}
	}
	if _, err := c.StatHandle(ctx, a); err != nil {
		t.Errorf("the true handle, after all that: %v", err)
	}
}

// wire is the handle of a file that has not been asked for before, and is not
// in Ganesha's cache by another one.
func (p *pool) wire(c *nfs41.Client, path string) []byte {
	p.s.t.Helper()
	h, err := c.Handle(p.s.t.Context(), path)
	if err != nil {
		p.s.t.Fatal(err)
	}
	return h
}

// refused is true for the answers to a handle that names nothing.
func refused(err error) bool {
	return errors.Is(err, nfs41.STALE) || errors.Is(err, nfs41.BADHANDLE)
}

// TestHandlesLast: handles are good over all that a gateway goes through, and
// dead where another export takes the place of theirs, or another gateway.
func TestHandlesLast(t *testing.T) { onBoth(t, testHandlesLast) }

func testHandlesLast(t *testing.T, system string) {
	p := poolOn(t, system, "ext4")
	s, ctx := p.s, t.Context()
	s.start(p.a)
	var h []byte
	good := func(when string, want bool) {
		t.Helper()
		data, err := s.client(identity{}).ReadHandle(ctx, h, 100)
		if want && (err != nil || string(data) != "a") {
			t.Errorf("%s: %q, %v", when, data, err)
		}
		if !want && !refused(err) {
			t.Errorf("%s: %q, %v, want it refused", when, data, err)
		}
	}
	h = p.wire(s.client(identity{}), "/share1/file")
	good("at first", true)
	s.kill(s.pid())
	s.start(p.a)
	good("after a crash", true)
	s.g = New(s.o)
	s.start(p.a)
	good("adopted", true)
	if err := s.g.Stop(ctx, StopOptions{}); err != nil {
		t.Fatal(err)
	}
	s.start(p.a)
	good("after the host started anew", true)
	if err := s.g.Remove(ctx, p.a.ID); err != nil {
		t.Fatal(err)
	}
	good("withdrawn", false)
	s.put(p.a)
	good("exported again", true)
	testParents(t, p)

	// The id goes to another export of the same tree.
	successor := p.a
	successor.FSID++
	if err := s.g.Remove(ctx, p.a.ID); err != nil {
		t.Fatal(err)
	}
	s.put(successor)
	good("at the id's next export", false)
	s.kill(s.pid())
	s.start(successor)
	good("at the id's next export, started anew", false)
	s.put(p.a)
	good("back", true)

	// A second gateway exports the same, under the same numbers.
	other := newSiteOn(t, system)
	twin := other.tree(p.a.ID)
	if err := (binds{}).Bind(filepath.Join(p.dir, "a"), twin.Path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(twin.Path, unix.MNT_DETACH) })
	twin.FSID, twin.Pseudo = p.a.FSID, p.a.Pseudo
	other.start(twin)
	if data, err := other.client(identity{}).ReadHandle(ctx, h, 100); !refused(err) {
		t.Errorf("at another gateway: %q, %v, want it refused", data, err)
	}

	// Nobody can look into the anchors, whatever their names.
	c := s.client(identity{})
	anchors, err := filepath.Glob(s.o.Exports + "/.fs-*")
	if err != nil || len(anchors) != 1 {
		t.Fatalf("anchors: %q, %v", anchors, err)
	}
	name := filepath.Base(anchors[0])
	for _, path := range []string{"/" + name, "/" + name[:strings.LastIndex(name, "-")]} {
		if _, err := c.Stat(ctx, path); !errors.Is(err, nfs41.NOENT) {
			t.Errorf("%s: %v, want NOENT", path, err)
		}
	}
	if entries, err := c.ReadDir(ctx, "/"); err != nil || len(entries) != 1 {
		t.Errorf("the root has %+v, %v; want the one share", entries, err)
	}

	if err := s.g.Stop(ctx, StopOptions{Forget: true}); err != nil {
		t.Fatal(err)
	}
	s.start(p.a)
	good("at a new gateway of that name", false)
}

// testParents goes up a tree of which nothing is in Ganesha's cache. There are
// refused requests between, which leave nothing behind on Ganesha's threads.
func testParents(t *testing.T, p *pool) {
	ctx := t.Context()
	if err := os.MkdirAll(p.dir+"/a/one/two", 0o755); err != nil {
		t.Fatal(err)
	}
	c := p.s.client(identity{})
	two := p.wire(c, "/share1/one/two")
	p.s.kill(p.s.pid())
	p.s.start(p.a)
	forbidden := bytes.Clone(two)
	binary.BigEndian.PutUint16(forbidden[2:], 0xffff)
	for range 20 {
		if _, err := c.StatHandle(ctx, forbidden); err == nil {
			t.Error("the handle of an anchor lets in")
		}
	}
	one, err := c.Parent(ctx, two)
	if err != nil {
		t.Fatal(err)
	}
	root, err := c.Parent(ctx, one)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one, p.wire(c, "/share1/one")) || !bytes.Equal(root, p.wire(c, "/share1")) {
		t.Errorf("parents %x and %x are others by name", one, root)
	}
}

// TestStartNeedsLibrary: a gateway that would believe every handle does not
// start, and one that runs is replaced.
func TestStartNeedsLibrary(t *testing.T) {
	tests := map[string]struct {
		library func(t *testing.T) string
		want    string
	}{
		"missing": {func(t *testing.T) string { return t.TempDir() + "/" + Library }, "no such file"},
		"broken": {func(t *testing.T) string {
			file := t.TempDir() + "/" + Library
			if err := os.WriteFile(file, []byte("no library"), 0o600); err != nil {
				t.Fatal(err)
			}
			return file
		}, ErrUnprotected.Error()},
		"idle": {func(t *testing.T) string { return fakeLibrary(t, "int nothing;") }, ErrUnprotected.Error()},
		// As with a release of Ganesha that is made of other functions.
		"not called": {func(t *testing.T) string {
			return changedLibrary(t, "handles.c", "get_gsh_export", "got_gsh_export")
		}, "got_gsh_export: is called by nobody"},
		"called past": {func(t *testing.T) string {
			return changedLibrary(t, "preload.c", "flags & ~RTLD_DEEPBIND", "flags")
		}, "is called past this library"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			e := s.share(1)
			o := s.o
			o.Library = tt.library(t)
			err := New(o).Start(context.WithoutCancel(t.Context()), func() []Export { return []Export{e} })
			if !errors.Is(err, ErrUnprotected) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Start: %v, want %q", err, tt.want)
			}
			if p, err := s.g.find(); err != nil || p != nil {
				t.Errorf("after that: %v, %v; want nothing to run", p, err)
			}
		})
	}
}
