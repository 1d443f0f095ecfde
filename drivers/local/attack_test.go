package local_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/drivers"
	"github.com/causeway-project/causeway/drivers/drivertest"
	"github.com/causeway-project/causeway/drivers/local"
	"github.com/causeway-project/causeway/drivers/mounts"
)

func TestNewRefuses(t *testing.T) {
	for name, pools := range map[string]map[string]string{
		"no name":  {"": "/srv"},
		"relative": {"default": "srv"},
		"empty":    {"default": ""},
		"nul":      {"default": "/srv\x00"},
	} {
		if _, err := local.New(local.Options{Pools: pools}); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := local.New(local.Options{}); err != nil {
		t.Errorf("no pools: %v", err)
	}
}

func TestValidate(t *testing.T) {
	d := newDriver(t, map[string]string{"default": "/nowhere/at/all", "fast": "/nowhere/else"})
	for _, source := range []string{
		"docs", "team/docs", "with space", "ünïcödé/文書/документы", "..team/...", `quote"s;{}\`, "a'b$(c)`d`", "~", "-rf",
		strings.Repeat("x", 255),
	} {
		if err := d.Validate(conn(source)); err != nil {
			t.Errorf("%.40q: %v", source, err)
		}
	}
	with := func(change func(*drivers.Connection)) drivers.Connection {
		c := conn("docs")
		change(&c)
		return c
	}
	for name, c := range map[string]struct {
		conn drivers.Connection
		says string // what the error names
	}{
		"empty":          {conn(""), "is empty"},
		"absolute":       {conn("/etc/passwd"), "is absolute"},
		"root":           {conn("/"), "is absolute"},
		"dotdot":         {conn(".."), `holds ".."`},
		"dotdot first":   {conn("../etc"), `holds ".."`},
		"dotdot middle":  {conn("a/../../etc"), `holds ".."`},
		"dotdot last":    {conn("a/.."), `holds ".."`},
		"dotdot within":  {conn("a/../b"), `holds ".."`},
		"dot":            {conn("."), `"." part`},
		"dot within":     {conn("a/./b"), `"." part`},
		"double slash":   {conn("a//b"), "empty"},
		"trailing slash": {conn("a/"), "empty"},
		"nul":            {conn("a\x00b"), "U+0000"},
		"newline":        {conn("a\nb"), "U+000A"},
		"escape":         {conn("a\x1b[2Jb"), "U+001B"},
		"C1 control":     {conn("a\u0085b"), "U+0085"},
		"bidi override":  {conn("a\u202eb"), "U+202E"},
		"line separator": {conn("a\u2028b"), "U+2028"},
		"not UTF-8":      {conn("a\xffb"), "UTF-8"},
		"10,000":         {conn(strings.Repeat("x", 10_000)), "10000 bytes long"},
		"10,000 wide":    {conn(strings.Repeat("é", 5_000)), "10000 bytes long"},
		"long part":      {conn("a/" + strings.Repeat("x", 256)), "part of 256 bytes"},
		"kind":           {with(func(c *drivers.Connection) { c.Kind = "nfs" }), `kind is "nfs"`},
		"secret":         {with(func(c *drivers.Connection) { c.Secret = drivers.NewSecret([]byte("s3cr3t")) }), "takes none"},
		"option":         {with(func(c *drivers.Connection) { c.Options = map[string]string{"uid": "0"} }), `option "uid" is unknown`},
		"long option":    {with(func(c *drivers.Connection) { c.Options = map[string]string{strings.Repeat("o", 10_000): ""} }), "is unknown"},
		"pool":           {with(func(c *drivers.Connection) { c.Options = map[string]string{"pool": "slow"} }), `this host has ["default" "fast"]`},
		"long pool":      {with(func(c *drivers.Connection) { c.Options = map[string]string{"pool": strings.Repeat("p", 10_000)} }), "is not configured"},
	} {
		err := d.Validate(c.conn)
		if !errors.Is(err, drivers.ErrSource) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got error %v, want one that says %q", name, err, c.says)
			continue
		}
		if text := err.Error(); len(text) > 300 || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' }) || strings.Contains(text, "s3cr3t") {
			t.Errorf("%s: %d bytes: %.300q", name, len(text), text)
		}
	}
}

// An error quotes what a caller wrote, and cuts no character in two.
func FuzzValidate(f *testing.F) {
	for _, s := range []string{"docs", "a/../b", "a\nb", strings.Repeat("é", 5_000), "\xff"} {
		f.Add(s)
	}
	d, err := local.New(local.Options{Pools: map[string]string{"default": "/nowhere"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, s string) {
		err := d.Validate(conn(s))
		if err == nil {
			if !filepath.IsLocal(s) || filepath.Clean(s) != s || strings.ContainsAny(s, "\x00\n") || len(s) > 4095 {
				t.Errorf("%q is taken", s)
			}
			return
		}
		if !errors.Is(err, drivers.ErrSource) {
			t.Errorf("got error %v", err)
		}
		if text := err.Error(); len(text) > 600 || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0xfffd }) {
			t.Errorf("%d bytes: %q", len(text), text)
		}
	})
}

// site is a pool with a share, a target, and a place outside that must never
// show.
type site struct {
	driver                *local.Driver
	pool, outside, target string
}

func newSite(t *testing.T) site {
	t.Helper()
	drivertest.NeedRoot(t)
	dir := t.TempDir()
	s := site{pool: mkdir(t, dir, "pool"), outside: mkdir(t, dir, "outside"), target: mkdir(t, dir, "mounts", "target")}
	mkdir(t, s.outside, "docs")
	for _, marker := range []string{"OUTSIDE", "docs/OUTSIDE"} {
		if err := os.WriteFile(filepath.Join(s.outside, marker), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.driver = newDriver(t, map[string]string{"default": s.pool})
	t.Cleanup(func() { s.unmount(t) })
	return s
}

func (s site) mount(t *testing.T, source string) error {
	t.Helper()
	return s.driver.Mount(t.Context(), drivers.MountRequest{Connection: conn(source), Target: s.target})
}

func (s site) unmount(t *testing.T) {
	t.Helper()
	if err := mounts.Unmount(context.WithoutCancel(t.Context()), s.target); err != nil {
		t.Error(err)
	}
}

func TestAttacks(t *testing.T) {
	s := newSite(t)
	mkdir(t, s.pool, "docs")
	mkdir(t, s.pool, "bound")
	if err := unix.Mount(s.outside, filepath.Join(s.pool, "bound"), "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(filepath.Join(s.pool, "bound"), 0) }()
	for name, to := range map[string]string{
		"last": "../outside", "absolute": s.outside, "slash": "/", "inside": "docs",
		"root": "/proc/self/root", "cwd": "/proc/self/cwd", "fd": "/proc/self/fd",
	} {
		if err := os.Symlink(to, filepath.Join(s.pool, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(s.pool, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, source := range []string{
		"a/../../etc", "../outside", "docs/../../outside", s.outside, "docs\x00/../..",
		"last", "last/docs", "absolute", "absolute/docs", "slash", "slash/etc", "inside",
		"root", "root/etc", "cwd", "fd/0", "bound", "bound/docs", "file", "file/x",
	} {
		if err := s.mount(t, source); !errors.Is(err, drivers.ErrSource) {
			t.Errorf("mount %q: got error %v, want %v", source, err, drivers.ErrSource)
		}
		if err := s.driver.Probe(t.Context(), conn(source)); !errors.Is(err, drivers.ErrSource) {
			t.Errorf("probe %q: got error %v, want %v", source, err, drivers.ErrSource)
		}
		if got, err := mounts.Peek(s.target); err != nil || got.Mounted {
			t.Fatalf("%q is mounted: %v", source, err)
		}
	}
}

// A tenant who may write in the pool exchanges a directory for a link to the
// outside while the agent mounts.
func TestRenameRace(t *testing.T) {
	const tries = 2000
	for name, c := range map[string]struct{ source, swapped string }{
		"last component":   {"team/docs", "team/docs"},
		"middle component": {"team/docs", "team"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			mkdir(t, s.pool, "team", "docs")
			if err := os.WriteFile(filepath.Join(s.pool, "team", "docs", "inside"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			swapped, link := filepath.Join(s.pool, c.swapped), filepath.Join(s.pool, "link")
			to := s.outside
			if c.swapped == c.source {
				to = filepath.Join(s.outside, "docs")
			}
			if err := os.Symlink(to, link); err != nil {
				t.Fatal(err)
			}
			var stop atomic.Bool
			done := make(chan error)
			go func() {
				for !stop.Load() {
					if err := unix.Renameat2(unix.AT_FDCWD, swapped, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE); err != nil {
						done <- err
						return
					}
				}
				done <- nil
			}()
			mounted, refused := 0, 0
			for range tries {
				if err := s.mount(t, c.source); err != nil {
					if !errors.Is(err, drivers.ErrSource) && !errors.Is(err, drivers.ErrUnreachable) {
						t.Errorf("got error %v", err)
					}
					refused++
				} else {
					mounted++
					if _, err := os.Lstat(filepath.Join(s.target, "inside")); err != nil {
						t.Errorf("something else is mounted: %v", err)
					}
				}
				if _, err := os.Lstat(filepath.Join(s.target, "OUTSIDE")); err == nil {
					t.Error("the outside shows")
				}
				s.unmount(t)
				if t.Failed() {
					break
				}
			}
			stop.Store(true)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			t.Logf("%d mounted, %d refused", mounted, refused)
			if !t.Failed() && (mounted == 0 || refused == 0) {
				t.Errorf("the race did not take place: %d mounted, %d refused", mounted, refused)
			}
		})
	}
}

func TestPool(t *testing.T) {
	s := newSite(t)
	dir := filepath.Dir(s.pool)
	mkdir(t, s.pool, "docs")
	if err := os.Symlink("pool", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]error{
		"link": nil, "none": drivers.ErrUnreachable, "file": drivers.ErrUnreachable, "file/x": drivers.ErrUnreachable,
	} {
		s.driver = newDriver(t, map[string]string{"default": filepath.Join(dir, name)})
		if err := s.mount(t, "docs"); !errors.Is(err, want) {
			t.Errorf("%s: mount: got error %v, want %v", name, err, want)
		}
		if err := s.driver.Probe(t.Context(), conn("docs")); !errors.Is(err, want) {
			t.Errorf("%s: probe: got error %v, want %v", name, err, want)
		}
		s.unmount(t)
	}
	if _, err := os.Stat(s.target); err != nil {
		t.Errorf("unmount took the directory: %v", err)
	}
}

// Mounts is the kernel's list: of a hundred at once none is missing or wrong.
func TestManyAtOnce(t *testing.T) {
	s := newSite(t)
	root := filepath.Dir(s.target)
	const n = 50
	done := make(chan error, n)
	for i := range n {
		source := fmt.Sprintf("share%d", i)
		mkdir(t, s.pool, source)
		target := mkdir(t, root, source)
		t.Cleanup(func() {
			if err := s.driver.Unmount(context.WithoutCancel(t.Context()), target); err != nil {
				t.Error(err)
			}
		})
		go func() {
			done <- s.driver.Mount(t.Context(), drivers.MountRequest{Connection: conn(source), Target: target, ReadOnly: i%2 == 0})
		}()
	}
	for range n {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	list, err := s.driver.Mounts(t.Context(), root)
	if err != nil || len(list) != n {
		t.Fatalf("%d mounts, %v", len(list), err)
	}
	for _, m := range list {
		var i int
		if _, err := fmt.Sscanf(filepath.Base(m.Target), "share%d", &i); err != nil || m.ReadOnly != (i%2 == 0) || m.Gone {
			t.Errorf("%+v %v", m, err)
		}
	}
}
