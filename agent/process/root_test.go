package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/integration/needs"
	"github.com/causeway-project/causeway/integration/wait"
)

func lookAround(files []string) report {
	r := report{Wrote: map[string]string{}}
	list := func(dir string) []string {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return []string{err.Error()}
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	r.Root, r.Dev, r.Etc, r.Tmp = list("/"), list("/dev"), list("/etc"), list("/tmp")
	for _, f := range files {
		err := os.WriteFile(f, []byte("x"), 0o600)
		r.Wrote[f] = ""
		if err != nil {
			r.Wrote[f] = err.(*os.PathError).Err.Error()
		}
	}
	b, err := os.ReadFile(os.Getenv("HIDDEN"))
	r.Hidden = fmt.Sprintf("%q %v", b, err)
	b, err = os.ReadFile("/etc/mtab")
	r.Mtab = err == nil && strings.Contains(string(b), " / tmpfs ro,")
	return r
}

func TestRoot(t *testing.T) {
	s := starter(t)
	base := t.TempDir()
	at := func(parts ...string) string { return filepath.Join(append([]string{base}, parts...)...) }
	for _, dir := range []string{"run", "ro", "ro/rw", "other", "linked"} {
		if err := os.Mkdir(at(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"ro/file", "ro/secret", "other/file", "linked/file", "single"} {
		if err := os.WriteFile(at(file), []byte("host"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("linked", at("link")); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	files := []string{
		"/new", "/etc/new", "/dev/new", "/dev/null", "/tmp/new", "/run/empty/new", "/usr/new", "/proc/sys/kernel/core_pattern",
		at("ro/file"), at("ro/new"), at("ro/rw/new"), at("other/file"), at("link/file"), at("single"),
	}
	spec := Spec{
		Dir: at("run"), Path: self, Args: append([]string{"as-program", "look-around"}, files...),
		Env:  []string{"HIDDEN=" + at("ro/secret")},
		Caps: []string{"dac_override"},
		Root: &Root{
			ReadOnly:  append([]string{self, at("ro"), at("link"), at("single"), "/etc/passwd", "/etc/absent"}, system...),
			ReadWrite: []string{at("ro/rw")},
			Hide:      []string{at("ro/secret"), at("ro/absent"), "/absent/file"},
			Tmp:       []string{"/run/empty"},
		},
	}
	// Others mount on this host too, elsewhere.
	ours := func(mounts string) string {
		var some []string
		for _, line := range strings.Split(mounts, "\n") {
			if f := strings.Fields(line); len(f) > 4 && (strings.HasPrefix(f[4], staging) || strings.HasPrefix(f[4], base)) {
				some = append(some, line)
			}
		}
		return strings.Join(some, "\n")
	}
	before := ours(mountInfo(t, os.Getpid()))
	p := start(t, s, spec)
	wait.Closed(t, "it ends", p.Done())
	var got report
	if err := json.Unmarshal([]byte(Tail(spec.Dir, 1<<16)), &got); err != nil {
		t.Fatalf("%v: %s", err, Tail(spec.Dir, 1000))
	}
	top := map[string]bool{"dev": true, "etc": true, "proc": true, "run": true, "tmp": true}
	for _, path := range append(system, base, self) {
		if _, err := os.Stat(path); err == nil {
			top[strings.Split(path, "/")[1]] = true
		}
	}
	var roots []string
	for _, name := range got.Root {
		if !top[name] {
			t.Errorf("/%s is in the root", name)
		}
		roots = append(roots, name)
	}
	if len(roots) != len(top) {
		t.Errorf("root holds %v, want %v", roots, top)
	}
	const ro, absent, denied = "read-only file system", "no such file or directory", "permission denied"
	want := report{
		Root:   got.Root,
		Dev:    []string{"fd", "full", "null", "random", "stderr", "stdin", "stdout", "urandom", "zero"},
		Etc:    []string{"ld.so.cache", "mtab", "passwd"},
		Tmp:    got.Tmp,
		Hidden: `"" <nil>`,
		Mtab:   true,
		Wrote: map[string]string{
			"/new": ro, "/etc/new": ro, "/dev/new": ro, "/dev/null": "", "/tmp/new": "", "/run/empty/new": "", "/usr/new": ro, "/proc/sys/kernel/core_pattern": ro,
			at("ro/file"): ro, at("ro/new"): ro, at("ro/rw/new"): "", at("other/file"): absent, at("link/file"): ro, at("single"): ro,
		},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if b, err := os.ReadFile(at("ro/rw/new")); err != nil || string(b) != "x" {
		t.Errorf("what it wrote is %q, %v", b, err)
	}
	if after := ours(mountInfo(t, os.Getpid())); after != before {
		t.Errorf("the host's mounts changed:\n%s", cmp.Diff(before, after))
	}
}

func TestOwnPIDs(t *testing.T) {
	s, dir := starter(t), t.TempDir()
	spec := leaver(dir)
	spec.Root, spec.OwnPIDs, spec.Caps = &Root{ReadOnly: system}, true, []string{}
	p := start(t, s, spec)
	id, err := identify(p.Identity().PID)
	if err != nil || id != p.Identity() {
		t.Errorf("identity %+v, %v; want %+v", p.Identity(), err, id)
	}
	if got := strings.Fields(status(t, id.PID)["NSpid"]); len(got) < 2 || got[len(got)-1] != "1" {
		t.Errorf("process numbers %v, want 1 inside", got)
	}
	var inner int
	wait.Until(t, "the child runs", func() bool {
		_, err := fmt.Sscanf(Tail(dir, 1000), "child %d", &inner)
		return err == nil
	})
	var seen []string
	for _, name := range names(t, id.PID, "/proc") {
		if name[0] >= '0' && name[0] <= '9' {
			seen = append(seen, name)
		}
	}
	if d := cmp.Diff([]string{"1", fmt.Sprint(inner)}, seen); d != "" {
		t.Errorf("processes that it sees: %s", d)
	}
	again, err := s.Start(t.Context(), spec)
	if err != nil || again.Identity() != id {
		t.Errorf("second start %+v, %v; want %+v", again, err, id)
	}
	// SIGTERM, which the shell does not handle, would not end a process 1.
	if err := p.Stop(t.Context(), 0); err != nil {
		t.Error(err)
	}
	if taken, err := held(dir); taken || err != nil {
		t.Errorf("its child lives on: %v, %v", taken, err)
	}
}

func TestRootRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		root Root
		want string
	}{
		{"no writable piece", Root{ReadWrite: []string{"/absent"}}, "/absent: no such file"},
		{"no slave", Root{Slave: []string{"/absent"}}, "/absent: no such file"},
		{"relative", Root{ReadOnly: []string{"usr"}}, `"usr": want an absolute path`},
		{"not clean", Root{ReadOnly: []string{"/usr/../etc"}}, "want an absolute path, clean"},
		{"everything", Root{ReadOnly: []string{"/"}}, "not the whole root"},
		{"twice", Root{ReadOnly: []string{"/usr"}, ReadWrite: []string{"/usr"}}, "/usr is asked for in two ways"},
		{"of the kernel", Root{ReadOnly: []string{"/proc/sys"}}, "the root has a /proc of its own"},
		{"hidden directory", Root{ReadOnly: []string{"/usr"}, Hide: []string{"/usr/bin"}}, "hide /usr/bin: it is a directory"},
		{"system that is not there", Root{SystemDir: "/absent", System: []string{"/usr"}}, "system directory: lstat /absent: no such file"},
		{"relative system", Root{SystemDir: "usr", System: []string{"/bin"}}, `system directory "usr": want an absolute path`},
		{"program outside", Root{ReadOnly: []string{"/etc"}}, "exec /bin/sleep: no such file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := sleeper(t.TempDir())
			spec.Root = &c.root
			p, err := starter(t).Start(t.Context(), spec)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Start = %v, %v; want %q", p, err, c.want)
			}
		})
	}
}

// sharedMount mounts a tmpfs that is shared, as the agent's exports directory.
func sharedMount(t *testing.T) string {
	t.Helper()
	needs.Root(t)
	dir := t.TempDir()
	if err := unix.Mount("shared", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Symbolic links on the way to a piece lead to it inside as well, and nothing
// is made on the host for that.
func TestLinks(t *testing.T) {
	s, base := starter(t), t.TempDir()
	at := func(parts ...string) string { return filepath.Join(append([]string{base}, parts...)...) }
	for _, dir := range []string{"run", "real", "real/sub", "real/sub/deep", "var"} {
		if err := os.Mkdir(at(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(at("real/sub/deep/file"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{"var/run": at("real"), "real/inner": "sub", "var/file": at("real/sub/deep/file")} {
		if err := os.Symlink(to, at(link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name  string
		paths []string
		reach string
	}{
		{"a link on the way", []string{at("var/run/sub")}, at("var/run/sub/deep/file")},
		{"a link, and one below it", []string{at("var/run"), at("var/run/sub")}, at("var/run/sub/deep/file")},
		{"links in a piece", []string{at("real"), at("real/inner"), at("var/run/inner/deep")}, at("real/inner/deep/file")},
		{"a file", []string{at("var/file")}, at("var/file")},
		{"the same twice", []string{at("real"), at("var/run"), at("real"), at("var/run")}, at("var/run/sub/deep/file")},
	} {
		t.Run(c.name, func(t *testing.T) {
			tree := func() string {
				out, err := exec.Command("find", base, "-not", "-path", at("run", "*"), "-printf", "%p %y %l\n").Output()
				if err != nil {
					t.Fatal(err)
				}
				return string(out)
			}
			before := tree()
			spec := sleeper(at("run"))
			spec.Path, spec.Args = "/bin/cat", []string{c.reach}
			spec.Output = strings.ReplaceAll(c.name, " ", "-")
			spec.Root = &Root{ReadOnly: append(c.paths, system...)}
			wait.Closed(t, "it ends", start(t, s, spec).Done())
			if b, err := os.ReadFile(at("run", spec.Output)); err != nil || string(b) != "x" {
				t.Errorf("%s inside: %q, %v", c.reach, b, err)
			}
			if d := cmp.Diff(before, tree()); d != "" {
				t.Errorf("the host's files changed: %s", d)
			}
		})
	}
}

// Pieces of another system have its own symbolic links, and the host's pieces
// lie beside them.
func TestSystemDir(t *testing.T) {
	s, base := starter(t), t.TempDir()
	at := func(parts ...string) string { return filepath.Join(append([]string{base}, parts...)...) }
	for _, dir := range []string{"run", "other/usr/bin", "other/usr/lib", "other/etc", "mine"} {
		if err := os.MkdirAll(at(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for file, text := range map[string]string{"other/usr/lib/zone": "theirs", "other/etc/passwd": "theirs", "mine/file": "ours"} {
		if err := os.WriteFile(at(file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// It runs nothing but busybox, which needs no library.
	busybox, err := os.ReadFile("/bin/busybox")
	needs.Met(t, err)
	if err := os.WriteFile(at("other/usr/bin/cat"), busybox, 0o755); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{"other/bin": "usr/bin", "other/etc/localtime": "/usr/lib/zone", "system": "other"} {
		if err := os.Symlink(to, at(link)); err != nil {
			t.Fatal(err)
		}
	}
	spec := sleeper(at("run"))
	spec.Path, spec.Args = "/bin/cat", []string{"/etc/passwd", "/etc/localtime", at("mine/file")}
	spec.Root = &Root{
		System: []string{"/usr", "/bin", "/etc/passwd", "/etc/localtime", "/etc/absent"}, SystemDir: at("system"),
		ReadOnly: []string{at("mine")},
	}
	wait.Closed(t, "it ends", start(t, s, spec).Done())
	if b, err := os.ReadFile(at("run", "output")); err != nil || string(b) != "theirstheirsours" {
		t.Errorf("read %q, %v", b, err)
	}
}

func TestSlave(t *testing.T) {
	s, shared := starter(t), sharedMount(t)
	source := t.TempDir()
	if err := os.WriteFile(filepath.Join(source, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	bind := func(name string) string {
		target := filepath.Join(shared, name)
		if err := os.Mkdir(target, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		return target
	}
	if err := os.WriteFile(filepath.Join(shared, "own"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	early := bind("early")
	spec := sleeper(t.TempDir())
	spec.Root = &Root{ReadOnly: system, Slave: []string{shared}}
	p := start(t, s, spec)
	late := bind("late")
	for _, target := range []string{early, late} {
		if err := os.WriteFile(inside(p.id.PID, target+"/file"), []byte("x"), 0o600); err != nil {
			t.Errorf("not seen, or not writable, inside: %v", err)
		}
		if err := os.WriteFile(inside(p.id.PID, shared+"/own"), []byte("x"), 0o600); !errors.Is(err, unix.EROFS) {
			t.Errorf("write to the directory itself: %v, want read-only file system", err)
		}
		// Without MNT_DETACH: it fails where the jail holds the mount.
		if err := unix.Unmount(target, 0); err != nil {
			t.Errorf("unmount on the host: %v", err)
		}
		if _, err := os.Stat(inside(p.id.PID, target+"/file")); err == nil {
			t.Errorf("%s is still seen inside", target)
		}
		if strings.Contains(mountInfo(t, p.id.PID), target) {
			t.Errorf("%s is still mounted inside", target)
		}
	}
	// The way back is closed: all that the jail has is a slave or private.
	if info := mountInfo(t, p.id.PID); strings.Contains(info, "shared:") || !strings.Contains(info, "master:") {
		t.Errorf("mounts inside:\n%s", info)
	}
	// Nothing else of the host's mounts is inside, where it would keep them busy.
	for _, line := range strings.Split(strings.TrimSpace(mountInfo(t, p.id.PID)), "\n") {
		f := strings.Fields(line)
		switch target := f[4]; {
		case target == "/", target == "/proc", target == "/tmp", target == shared:
		case around([]piece{{path: "/usr"}, {path: "/bin"}, {path: "/lib"}, {path: "/lib64"}, {path: "/etc/ld.so.cache"}}, target) != nil:
		default:
			t.Errorf("inside is also mounted %s", line)
		}
	}
}

func TestHolding(t *testing.T) {
	// A jailed process does not keep the host from unmounting what it mounted
	// before the start and the jail does not use.
	s, shared := starter(t), sharedMount(t)
	other := filepath.Join(t.TempDir(), "other")
	if err := os.Mkdir(other, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("other", other, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	var at syscall.Stat_t
	if err := syscall.Stat(other, &at); err != nil {
		t.Fatal(err)
	}
	spec := sleeper(t.TempDir())
	spec.Root = &Root{ReadOnly: system, Slave: []string{shared}}
	p := start(t, s, spec)
	if err := unix.Unmount(other, 0); err != nil {
		t.Error(err)
	}
	if info := mountInfo(t, p.id.PID); strings.Contains(info, fmt.Sprintf(" %d:%d ", unix.Major(at.Dev), unix.Minor(at.Dev))) {
		t.Errorf("the jail still has it:\n%s", info)
	}
}
