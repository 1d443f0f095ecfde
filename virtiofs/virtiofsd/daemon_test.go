package virtiofsd

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-project/causeway/agent/process"
	"github.com/causeway-project/causeway/integration/golden"
)

func TestArguments(t *testing.T) {
	for _, p := range []Program{able(FlavourC), able(FlavourRust)} {
		t.Run(string(p.Flavour), func(t *testing.T) {
			threads := 1
			if p.Has(Threads) {
				threads = 8
			}
			var text strings.Builder
			for _, v := range []Daemon{
				{Dir: "/run/causeway/virtiofs/a", Source: "/srv/share"},
				{Dir: "/run/x", Source: `/srv/a,b\c d=e,sandbox=none`},
				{Dir: "/run/x", Source: "/srv/share", ReadOnly: true, Settings: Settings{
					Cache: "never", Xattr: true, PosixACL: true, SharedLocks: p.Has(SharedLocks), Threads: threads, Memory: 1 << 30, Files: 4096,
				}},
				{Dir: "/run/x", Source: "/srv/share", IDs: IDs{UIDs: []process.IDRange{{Process: 0, Disk: 5, Count: 6}}}},
				{Dir: "/run/x", Source: "/srv/share", IDs: IDs{Squash: p.Has(SquashIDs), UID: 3000, GID: 4000}},
			} {
				args, err := p.arguments(v)
				if err != nil {
					t.Fatal(err)
				}
				text.WriteString(strings.Join(args, "\n") + "\n\n")
			}
			golden.Check(t, "arguments-"+string(p.Flavour), text.String())
		})
	}
}

// able is a program that can do all that its flavour can.
func able(f Flavour) Program {
	p := Program{Path: "/usr/lib/virtiofsd", Flavour: f, Version: "1.2.3"}
	for _, a := range abilities {
		if f == FlavourC && a.c != "" || f == FlavourRust && a.rust != "" {
			p.Abilities = append(p.Abilities, a.ability)
		}
	}
	return p
}

func TestUnable(t *testing.T) {
	for _, tt := range []struct {
		flavour Flavour
		ask     Settings
		squash  bool
	}{
		{FlavourC, Settings{Cache: "metadata"}, false},
		{FlavourC, Settings{Cache: "none,source=/etc"}, false},
		{FlavourC, Settings{}, true},
		{FlavourRust, Settings{SharedLocks: true}, false},
		{FlavourRust, Settings{PosixACL: true}, true},
	} {
		args, err := able(tt.flavour).arguments(Daemon{Dir: "/run/x", Source: "/srv", Settings: tt.ask, IDs: IDs{Squash: tt.squash}})
		if !errors.Is(err, ErrUnable) || !strings.Contains(err.Error(), "flavour "+string(tt.flavour)) {
			t.Errorf("%s, %+v: %q, %v", tt.flavour, tt.ask, args, err)
		}
	}
}

// The C daemon's own reading of -o (libfuse, fuse_opt.c, process_real_option_group):
// options end at a comma, and a backslash takes the next character as it is.
func FuzzEscapeOption(f *testing.F) {
	f.Add("/a,b")
	f.Add(`/a\`)
	f.Add(`/a\,source=/etc`)
	f.Fuzz(func(t *testing.T, s string) {
		var read strings.Builder
		for e := escapeOption(s); e != ""; e = e[1:] {
			switch e[0] {
			case ',':
				t.Fatalf("%q ends early", s)
			case '\\':
				if e = e[1:]; e == "" {
					t.Fatalf("%q swallows what follows", s)
				}
			}
			read.WriteByte(e[0])
		}
		if read.String() != s {
			t.Errorf("%q is read as %q", s, read.String())
		}
	})
}

func TestFindBinary(t *testing.T) {
	root := t.TempDir()
	put := func(path, text string, mode os.FileMode) {
		t.Helper()
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	want := func(want string) {
		t.Helper()
		got, err := findBinary(root)
		if got != want || (err == nil) != (want != "") || err != nil && !errors.Is(err, ErrMissing) {
			t.Errorf("findBinary = %q, %v, want %q", got, err, want)
		}
	}
	want("")
	put("/usr/lib/virtiofsd", "", 0o755)
	want("/usr/lib/virtiofsd")
	put("/usr/libexec/virtiofsd", "", 0o644) // not a program
	want("/usr/lib/virtiofsd")
	put("/usr/share/qemu/vhost-user/10-broken.json", "{", 0o644)
	put("/usr/share/qemu/vhost-user/20-gpu.json", `{"type":"gpu","binary":"/usr/libexec/vhost-user-gpu"}`, 0o644)
	put("/usr/share/qemu/vhost-user/30-gone.json", `{"type":"fs","binary":"/gone"}`, 0o644)
	put("/usr/share/qemu/vhost-user/50-fs.json", `{"type":"fs","binary":"/opt/virtiofsd"}`, 0o644)
	want("/usr/lib/virtiofsd")
	put("/opt/virtiofsd", "", 0o755)
	want("/opt/virtiofsd")
}

func TestDetect(t *testing.T) {
	dir := t.TempDir()
	script := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, tt := range []struct {
		binary string
		want   Flavour
	}{
		{script("rust", "echo '      --shared-dir <SHARED_DIR>'"), FlavourRust},
		{script("c", "echo '    -o source=PATH             shared directory tree'"), FlavourC},
		{script("cat", "echo meow"), ""},
		{script("fails", "exit 3"), ""},
		{filepath.Join(dir, "absent"), ""},
	} {
		got, err := detect(t.Context(), tt.binary)
		if got.Flavour != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("detect(%s) = %+v, %v, want %q", tt.binary, got, err, tt.want)
		}
	}
	if _, err := detect(t.Context(), filepath.Join(dir, "absent")); !errors.Is(err, ErrMissing) {
		t.Errorf("detect of nothing = %v, want ErrMissing", err)
	}
}

// An upgrade may change what virtiofsd is, while the agent runs.
func TestUpgrade(t *testing.T) {
	path := filepath.Join(t.TempDir(), "virtiofsd")
	install := func(help string) {
		t.Helper()
		next := path + ".new"
		if err := os.WriteFile(next, []byte("#!/bin/sh\necho '"+help+"'\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, path); err != nil {
			t.Fatal(err)
		}
	}
	var log strings.Builder
	d := &Daemons{Binary: path, Logger: slog.New(slog.NewTextHandler(&log, nil))}
	for _, tt := range []struct {
		help string
		want Flavour
	}{{"    -o source=PATH", FlavourC}, {"    --shared-dir <SHARED_DIR> --cache", FlavourRust}} {
		install(tt.help)
		for range 2 {
			if p, err := d.Program(t.Context()); err != nil || p.Flavour != tt.want {
				t.Errorf("Program = %+v, %v, want %s", p, err, tt.want)
			}
		}
	}
	if n := strings.Count(log.String(), "virtiofsd found"); n != 2 {
		t.Errorf("told of %d times:\n%s", n, log.String())
	}
}

func TestScanSockets(t *testing.T) {
	const table = `Num       RefCount Protocol Flags    Type St Inode Path
00000000b7536e5d: 00000002 00000000 00010000 0001 01 32044 /run/listens/sock
00000000b7536e5e: 00000002 00000000 00000000 0001 01 32044 /run/bound/sock
0000000014b7b5c8: 00000003 00000000 00000000 0001 03 32045 /run/connected/sock
0000000014b7b5c9: 00000003 00000000 00000000 0001 03 32046
00000000b7536e5d: 00000002 00000000 00010000 0001 01 32047 /run/both/sock
0000000014b7b5c8: 00000003 00000000 00000000 0001 03 32048 /run/both/sock
00000000b7536e5d: 00000002 00000000 00010000 0001 01 32049 /a /run/other/sock
`
	for path, want := range map[string]State{
		"/run/listens/sock":   Listening,
		"/run/bound/sock":     Stopped,
		"/run/connected/sock": Connected,
		"/run/both/sock":      Connected,
		"/run/other/sock":     Stopped,
		"/run/none/sock":      Stopped,
	} {
		if got, err := scanSockets(strings.NewReader(table), path); err != nil || got != want {
			t.Errorf("%s is %s, %v, want %s", path, got, err, want)
		}
	}
}

func TestRemoveDirKeepsWhatLiesDeeper(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	deep := filepath.Join(dir, "share", "precious")
	if err := os.MkdirAll(filepath.Dir(deep), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, deep, "x")
	write(t, filepath.Join(dir, "sock"), "")
	if err := removeDir(dir); err == nil {
		t.Error("removed a directory in use")
	}
	if _, err := os.Stat(deep); err != nil {
		t.Error(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "share")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := removeDir(dir); err != nil {
			t.Error(err)
		}
	}
	if d := cmp.Diff([]string(nil), entries(t, filepath.Dir(dir))); d != "" {
		t.Error(d)
	}
}

func entries(t *testing.T, dir string) (names []string) {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		names = append(names, e.Name())
	}
	return names
}
