package ganesha

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/integration/nfs41"
)

// TestReadBack: every level and squash is read back as it was put, and as
// nothing else.
func TestReadBack(t *testing.T) { onBoth(t, testReadBack) }

func testReadBack(t *testing.T, system string) {
	s := newSiteOn(t, system)
	s.start()
	var rules []Rule
	for _, level := range []Level{ReadOnly, ReadWrite} {
		for _, squash := range []Squash{SquashNone, SquashRoot, SquashRootID, SquashAll} {
			rules = append(rules, rule("10.0.0.0/8", level, squash))
		}
	}
	for _, client := range []string{"10.0.0.1/32", "0.0.0.0/0", "::/0", "fd77::/64", "fd77::1/128", "1:2:3:4:5:6::/96", "2001:db8::/99", "192.0.2.128/25", "::1/128"} {
		rules = append(rules, rule(client, ReadOnly, SquashRoot))
	}
	rules = append(rules,
		Rule{Client: netip.MustParsePrefix("10.0.0.0/8"), Level: ReadOnly, Squash: SquashAll, AnonUID: 0, AnonGID: 0},
		Rule{Client: netip.MustParsePrefix("10.0.0.0/8"), Level: ReadOnly, Squash: SquashAll, AnonUID: 1<<32 - 2, AnonGID: 1 << 31})
	base := s.share(1)
	for i, r := range rules {
		e := base
		e.Rules = []Rule{r}
		s.put(e)
		for j, other := range rules {
			e.Rules = []Rule{other}
			has, err := s.g.Has(t.Context(), e)
			if err != nil {
				t.Fatal(err)
			}
			if want := i == j; has != want {
				t.Errorf("Has of %+v is %v while %+v is served", other, has, r)
			}
		}
	}
	all := base
	all.Rules = rules
	s.put(all)
	for name, change := range map[string]func(*Export){
		"order":          func(e *Export) { e.Rules[0], e.Rules[1] = e.Rules[1], e.Rules[0] },
		"one rule less":  func(e *Export) { e.Rules = e.Rules[:len(e.Rules)-1] },
		"one rule more":  func(e *Export) { e.Rules = append(e.Rules, e.Rules[0]) },
		"no rule":        func(e *Export) { e.Rules = nil },
		"pseudo path":    func(e *Export) { e.Pseudo = "/other" },
		"path":           func(e *Export) { e.Path += "x" },
		"file system id": func(e *Export) { e.FSID++ },
		"id":             func(e *Export) { e.ID++ },
	} {
		e := all
		e.Rules = append([]Rule(nil), rules...)
		change(&e)
		if has, err := s.g.Has(t.Context(), e); err != nil || has {
			t.Errorf("%s changed: Has = %v, %v", name, has, err)
		}
	}
	none := base
	none.Rules = nil
	s.put(none)
}

// TestRulesBind: what the read-back says is what a client meets.
func TestRulesBind(t *testing.T) { onBoth(t, testRulesBind) }

func testRulesBind(t *testing.T, system string) {
	s := newSiteOn(t, system)
	s.start()
	ctx := t.Context()
	e := s.share(1)
	e.Rules = []Rule{
		rule("127.0.0.2/32", ReadWrite, SquashNone),
		rule("127.0.0.3/32", ReadWrite, SquashRoot),
		rule("127.0.0.4/32", ReadWrite, SquashAll),
		rule("127.0.0.5/32", ReadWrite, SquashRootID),
		rule("127.0.0.0/29", ReadOnly, SquashNone),
		rule("127.0.0.6/32", ReadWrite, SquashNone), // comes too late
	}
	s.put(e)
	owners := []struct {
		who  identity
		want string
	}{
		{identity{"127.0.0.2", 0, 0}, "0:0"},
		{identity{"127.0.0.2", 1000, 1000}, "1000:1000"},
		{identity{"127.0.0.3", 0, 0}, "65534:65533"},
		{identity{"127.0.0.3", 1000, 1000}, "1000:1000"},
		{identity{"127.0.0.4", 1000, 1000}, "65534:65533"},
		{identity{"127.0.0.5", 0, 0}, "65534:65533"},
	}
	for i, tt := range owners {
		name := fmt.Sprint("file", i)
		if err := s.client(tt.who).WriteFile(ctx, "/share1/"+name, []byte("x"), 0o644); err != nil {
			t.Errorf("%v: %v", tt.who, err)
			continue
		}
		info, err := os.Stat(filepath.Join(e.Path, name))
		if err != nil {
			t.Fatal(err)
		}
		st := info.Sys().(*syscall.Stat_t)
		if got := fmt.Sprintf("%d:%d", st.Uid, st.Gid); got != tt.want {
			t.Errorf("%v made a file of %s, want %s", tt.who, got, tt.want)
		}
	}
	for _, from := range []string{"127.0.0.1", "127.0.0.6"} {
		c := s.client(identity{from: from})
		if got, err := c.ReadFile(ctx, "/share1/file0"); err != nil || string(got) != "x" {
			t.Errorf("read from %s: %q, %v", from, got, err)
		}
		if err := c.WriteFile(ctx, "/share1/no", []byte("x"), 0o644); !errors.Is(err, nfs41.ROFS) {
			t.Errorf("write from %s: %v, want ROFS", from, err)
		}
	}
	for _, who := range []identity{{"127.0.0.3", NoID, 1000}, {"127.0.0.3", 1000, NoID}} {
		if c, err := nfs41.Dial(ctx, s.options(who)); err == nil {
			c.Abandon()
			t.Errorf("%v comes in: it would act as root", who)
		}
	}
	c := s.client(identity{from: "127.0.0.99"})
	if _, err := c.Stat(ctx, "/share1"); !errors.Is(err, nfs41.NOENT) {
		t.Errorf("from 127.0.0.99: %v, want NOENT", err)
	}
	if got, err := c.ReadDir(ctx, "/"); err != nil || len(got) != 0 {
		t.Errorf("127.0.0.99 lists %v, %v; want nothing", got, err)
	}
}

// TestPutChanges: rules change under an open file; a changed name moves.
func TestPutChanges(t *testing.T) { onBoth(t, testPutChanges) }

func testPutChanges(t *testing.T, system string) {
	s := newSiteOn(t, system)
	ctx := t.Context()
	e := s.share(1)
	s.start(e)
	c := s.client(identity{})
	f, err := c.Open(ctx, "/share1/open", nfs41.OpenOptions{Access: nfs41.ReadWrite, Create: nfs41.Unchecked, Mode: 0o644})
	if err != nil {
		t.Fatal(err)
	}
	write := func() error { _, err := f.WriteAt(ctx, []byte("x"), 0); return err }
	if err := write(); err != nil {
		t.Fatal(err)
	}
	e.Rules = []Rule{rule("127.0.0.0/8", ReadOnly, SquashNone)}
	s.put(e)
	if err := write(); !errors.Is(err, nfs41.ROFS) {
		t.Errorf("write after ro: %v, want ROFS", err)
	}
	e.Rules = nil
	s.put(e)
	if err := write(); !errors.Is(err, nfs41.ACCESS) {
		t.Errorf("write after no rule: %v, want ACCESS", err)
	}
	e.Rules = []Rule{rule("127.0.0.0/8", ReadWrite, SquashNone)}
	s.put(e)
	if err := write(); err != nil {
		t.Errorf("write after rw: %v", err)
	}

	e.Pseudo = "/deep/er/name"
	s.put(e)
	c = s.client(identity{})
	if _, err := c.Stat(ctx, "/deep/er/name/open"); err != nil {
		t.Errorf("under the new name: %v", err)
	}
	if _, err := c.Stat(ctx, "/share1"); !errors.Is(err, nfs41.NOENT) {
		t.Errorf("under the old name: %v, want NOENT", err)
	}
	moved := s.share(2)
	moved.ID, moved.FSID = 1, e.FSID+1
	s.put(moved)
	if err := os.WriteFile(filepath.Join(moved.Path, "other"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.client(identity{}).Stat(ctx, moved.Pseudo+"/other"); err != nil {
		t.Errorf("at the new path: %v", err)
	}
	// Another file system on the same path.
	s.mountFS(moved.Path)
	if err := os.WriteFile(filepath.Join(moved.Path, "over"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s.put(moved)
	if _, err := s.client(identity{}).Stat(ctx, moved.Pseudo+"/over"); err != nil {
		t.Errorf("mounted over: %v", err)
	}
	if dirs, err := filepath.Glob(s.o.Exports + "/" + anchorPrefix + "*"); err != nil || len(dirs) != 1 {
		t.Errorf("anchors: %q, %v; want one", dirs, err)
	}
	if err := s.g.Remove(ctx, 1); err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(moved.Path, 0); err != nil {
		t.Errorf("unmount what was mounted over: %v", err)
	}
	s.put(moved)
	// The old tree must be free now.
	if err := unix.Unmount(e.Path, 0); err != nil {
		t.Errorf("unmount what is no longer exported: %v", err)
	}

	if err := s.g.Remove(ctx, 1); err != nil {
		t.Fatal(err)
	}
	if err := s.g.Remove(ctx, 1); err != nil {
		t.Errorf("second Remove: %v", err)
	}
	if ids, err := s.g.IDs(ctx); err != nil || len(ids) != 0 {
		t.Errorf("IDs = %v, %v; want none", ids, err)
	}
	if err := unix.Unmount(moved.Path, 0); err != nil {
		t.Errorf("unmount after Remove: %v", err)
	}
	if files, err := os.ReadDir(s.g.path(confDir, "exports")); err != nil || len(files) != 0 {
		t.Errorf("files of exports: %v, %v; want none", files, err)
	}
}

// TestPutRefused: nothing of a refused export stays, and others are served on.
func TestPutRefused(t *testing.T) { onBoth(t, testPutRefused) }

func testPutRefused(t *testing.T, system string) {
	s := newSiteOn(t, system)
	good := s.share(1)
	s.start(good)
	missing, file, outside, taken, nested, late := s.tree(2), s.tree(3), s.tree(4), s.tree(5), s.tree(6), s.tree(7)
	missing.Path += "/none"
	file.Path += "/file"
	if err := os.WriteFile(file.Path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	outside.Path = "/etc"
	taken.Pseudo = good.Pseudo
	nested.Pseudo = good.Pseudo + "/none/such"
	// A mount that the gateway cannot see: its parent has left the shared group.
	if err := unix.Mount("", s.o.Exports, "", unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	s.mountFS(late.Path)
	tests := []struct {
		name string
		e    Export
		want error
	}{
		{"path missing", missing, ErrPath},
		{"path is a file", file, ErrPath},
		{"path outside", outside, ErrPath},
		{"mount not seen", late, ErrPath},
		{"pseudo taken", taken, ErrRefused},
		{"pseudo below another export", nested, ErrRefused},
		{"bad name", Export{ID: 8, Path: good.Path, Pseudo: "/a\n", FSID: 1}, ErrRefused},
	}
	for _, tt := range tests {
		if _, err := s.g.Put(t.Context(), tt.e); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
		ids, err := s.g.IDs(t.Context())
		if err != nil || len(ids) != 1 {
			t.Errorf("%s: IDs = %v, %v; want 1 alone", tt.name, ids, err)
		}
	}
	s.has(good)
	if _, err := s.client(identity{}).Stat(t.Context(), "/share1"); err != nil {
		t.Error(err)
	}
}

// TestFileWithoutAdd: a crash after the file was written, and before Ganesha
// was told, is finished by the next Put; and so is one after it was told.
func TestFileWithoutAdd(t *testing.T) { onBoth(t, testFileWithoutAdd) }

func testFileWithoutAdd(t *testing.T, system string) {
	s := newSiteOn(t, system)
	s.start()
	e := s.share(1)
	block, err := Versions(nil).renderExport(e)
	if err != nil {
		t.Fatal(err)
	}
	if err := replace(s.g.exportFile(1), block); err != nil {
		t.Fatal(err)
	}
	s.put(e)
	changed := e
	changed.Rules = nil
	block, err = Versions(nil).renderExport(changed)
	if err != nil {
		t.Fatal(err)
	}
	if err := replace(s.g.exportFile(1), block); err != nil {
		t.Fatal(err)
	}
	s.has(e)
	again := New(s.o)
	if _, err := again.Put(t.Context(), changed); err != nil {
		t.Fatal(err)
	}
	s.has(changed)
}

// TestOneFileSystem: Ganesha holds each file system by one mount of it. The
// anchor keeps that from tying the exported trees of one pool together.
func TestOneFileSystem(t *testing.T) { onBoth(t, testOneFileSystem) }

func testOneFileSystem(t *testing.T, system string) {
	s := newSiteOn(t, system)
	ctx := t.Context()
	pool := "/run/" + filepath.Base(s.o.NetNS) + "/pool"
	if err := os.MkdirAll(pool, 0o755); err != nil {
		t.Fatal(err)
	}
	s.mountFS(pool)
	bind := func(id uint16) Export {
		e := s.tree(id)
		source := filepath.Join(pool, fmt.Sprint(id))
		if err := os.MkdirAll(source, 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(source, 0o777); err != nil {
			t.Fatal(err)
		}
		s.mount(source, e.Path, "", unix.MS_BIND)
		return e
	}
	free := func(e Export) {
		t.Helper()
		if err := s.g.Remove(ctx, e.ID); err != nil {
			t.Fatal(err)
		}
		if err := unix.Unmount(e.Path, 0); err != nil {
			t.Errorf("unmount of the withdrawn export %d: %v", e.ID, err)
		}
	}
	anchors := func(want int) {
		t.Helper()
		dirs, err := filepath.Glob(s.o.Exports + "/" + anchorPrefix + "*")
		if err != nil || len(dirs) != want {
			t.Errorf("anchors: %q, %v; want %d", dirs, err, want)
		}
	}
	write := func(e Export) {
		t.Helper()
		c := s.client(identity{})
		if err := c.WriteFile(ctx, e.Pseudo+"/new", []byte("x"), 0o644); err != nil {
			t.Errorf("write to %s: %v", e.Pseudo, err)
		}
		if got, err := c.ReadDir(ctx, "/"); err != nil || len(got) != len(must(s.g.IDs(ctx))) {
			t.Errorf("the root lists %v, %v", got, err)
		}
	}
	first, second, third := bind(1), bind(2), bind(3)

	// Loaded at the start.
	s.start(first, second)
	anchors(1)
	free(first)
	write(second)

	// Put while it runs, by a handle that knows nothing yet.
	s.g = New(s.o)
	s.put(third)
	free(second)
	write(third)
	anchors(1)
	s.g = New(s.o)
	free(third)
	anchors(0)
	if err := unix.Unmount(pool, 0); err != nil {
		t.Errorf("unmount the pool: %v", err)
	}

	// A crash in the middle of Remove: the next agent finds nothing to remove.
	s.mountFS(pool)
	sixth := bind(6)
	s.put(sixth)
	anchors(1)
	if err := must(s.g.client(ctx)).remove(ctx, time.Second, sixth.ID); err != nil {
		t.Fatal(err)
	}
	s.g = New(s.o)
	s.start()
	anchors(0)
	free(sixth)
	if err := unix.Unmount(pool, 0); err != nil {
		t.Errorf("unmount the pool: %v", err)
	}

	// A crash after the anchor's directory was made.
	s.mountFS(pool)
	fourth, fifth := bind(4), bind(5)
	at, err := directory(fourth.Path)
	if err != nil {
		t.Fatal(err)
	}
	s.g = New(s.o)
	if err := os.Mkdir(s.g.anchorDir(at.device, 0xff10), 0o700); err != nil {
		t.Fatal(err)
	}
	s.put(fourth)
	s.put(fifth)
	free(fourth)
	write(fifth)

	// A restart with another set.
	s.kill(s.pid())
	s.start(fifth)
	anchors(1)
	write(fifth)
	s.kill(s.pid())
	s.start()
	anchors(0)
	if err := unix.Unmount(fifth.Path, 0); err != nil {
		t.Errorf("unmount what is not served: %v", err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestManyExports(t *testing.T) { onBoth(t, testManyExports) }

func testManyExports(t *testing.T, system string) {
	s := newSiteOn(t, system)
	s.start()
	const n = 300
	var first, last time.Duration
	exports := make([]Export, n)
	for i := range exports {
		exports[i] = s.tree(uint16(i + 1))
		began := time.Now()
		s.put(exports[i])
		switch {
		case i < 10:
			first += time.Since(began) / 10
		case i >= n-10:
			last += time.Since(began) / 10
		}
	}
	t.Logf("Put and Has, mean: the first ten %s, the last ten %s", first, last)
	began := time.Now()
	for _, e := range exports {
		s.has(e)
	}
	t.Logf("Has, mean of %d: %s", n, time.Since(began)/n)
	if ids, err := s.g.IDs(t.Context()); err != nil || len(ids) != n {
		t.Errorf("%d ids, %v; want %d", len(ids), err, n)
	}
	s.kill(s.pid())
	began = time.Now()
	s.start(exports...)
	t.Logf("killed to serving %d exports: %s", n, time.Since(began))
	for _, e := range exports {
		s.has(e)
	}
}

// TestAtOnce: changes from several goroutines, beside looks and a restart.
func TestAtOnce(t *testing.T) { onBoth(t, testAtOnce) }

func testAtOnce(t *testing.T, system string) {
	s := newSiteOn(t, system)
	s.start()
	const n = 20
	errs := make(chan error, 2*n)
	for i := range uint16(n) {
		e := s.tree(i + 1)
		go func() { _, err := s.g.Put(t.Context(), e); errs <- err }()
		go func() { _, err := s.g.Status(t.Context()); errs <- err }()
	}
	for range 2 * n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if ids, err := s.g.IDs(t.Context()); err != nil || len(ids) != n {
		t.Errorf("%d ids, %v; want %d", len(ids), err, n)
	}
}
