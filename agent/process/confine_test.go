package process

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/integration/needs"
)

// status is /proc/PID/status as a map.
func status(t testing.TB, pid int) map[string]string {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m := map[string]string{}
	for s := bufio.NewScanner(f); s.Scan(); {
		if k, v, ok := strings.Cut(s.Text(), ":"); ok {
			m[k] = strings.TrimSpace(v)
		}
	}
	return m
}

// pick returns the values of keys.
func pick(m map[string]string, keys ...string) map[string]string {
	some := map[string]string{}
	for _, k := range keys {
		some[k] = m[k]
	}
	return some
}

// names lists a directory as the process sees it.
func names(t testing.TB, pid int, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(inside(pid, dir))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// inside is the path of a file as the process sees it.
func inside(pid int, path string) string { return fmt.Sprintf("/proc/%d/root%s", pid, path) }

func mountInfo(t testing.TB, pid int) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// system is what a dynamically linked program needs.
var system = []string{"/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache"}

func TestPrivileges(t *testing.T) {
	own := status(t, os.Getpid())
	for _, c := range []struct {
		name string
		caps []string
		want string
	}{
		{"all", nil, own["CapEff"]},
		{"none", []string{}, "0000000000000000"},
		{"ganesha", []string{"chown", "dac_override", "dac_read_search", "fowner", "fsetid", "setgid", "setuid"}, "00000000000000df"},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := sleeper(t.TempDir())
			spec.Caps = c.caps
			p := start(t, starter(t), spec)
			got := pick(status(t, p.id.PID), "Uid", "CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb", "NoNewPrivs", "SigBlk", "SigIgn", "Umask")
			got["SigIgn"] = withoutInternal(t, got["SigIgn"])
			want := map[string]string{
				"Uid": "0\t0\t0\t0", "CapPrm": c.want, "CapEff": c.want, "CapBnd": c.want,
				"CapInh": "0000000000000000", "CapAmb": "0000000000000000", "NoNewPrivs": "1",
				"SigBlk": "0000000000000000", "SigIgn": "0000000000000000", "Umask": "0022",
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

// withoutInternal leaves out signals 32 and 33, which the C library keeps to
// itself: whoever runs the tests may have handed them down ignored.
func withoutInternal(t *testing.T, mask string) string {
	t.Helper()
	n, err := strconv.ParseUint(mask, 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%016x", n&^(3<<31))
}

func TestInherits(t *testing.T) {
	dir := t.TempDir()
	// What the agent left open by mistake, without close-on-exec.
	fd, err := unix.Open("/etc/passwd", unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	spec := sleeper(dir)
	spec.Env = []string{"A=1", "B=two words"}
	p := start(t, starter(t), spec)

	got := map[string]string{}
	for _, name := range names(t, p.id.PID, fmt.Sprintf("/proc/%d/fd", p.id.PID)) {
		to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", p.id.PID, name))
		if err != nil {
			t.Fatal(err)
		}
		if name > "2" {
			name = "beyond"
		}
		if _, twice := got[name]; twice {
			t.Errorf("also open: %s", to)
		}
		got[name] = to
	}
	output := filepath.Join(dir, "output")
	want := map[string]string{"0": "/dev/null", "1": output, "2": output, "beyond": filepath.Join(dir, "lock")}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.id.PID))
	if want := "A=1\x00B=two words\x00"; err != nil || string(env) != want {
		t.Errorf("environment %q, %v; want %q", env, err, want)
	}
	cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", p.id.PID))
	if err != nil || cwd != "/" {
		t.Errorf("working directory %q, %v", cwd, err)
	}
	s, err := readStat(p.id.PID)
	if err != nil || s.session != p.id.PID {
		t.Errorf("session %d, %v; want its own, %d", s.session, err, p.id.PID)
	}
}

func TestOpenFiles(t *testing.T) {
	needs.Root(t)
	var own unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &own); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name      string
		ask       uint64
		least, at uint64 // the limit lies between
	}{
		{"fewer", 100, 100, 100},
		{"more than any host allows", 1 << 40, own.Max, 1 << 40},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := sleeper(t.TempDir())
			spec.Limits.Files = c.ask
			p := start(t, starter(t), spec)
			var got unix.Rlimit
			if err := unix.Prlimit(p.id.PID, unix.RLIMIT_NOFILE, nil, &got); err != nil {
				t.Fatal(err)
			}
			if got.Cur != got.Max || got.Cur < c.least || got.Cur > c.at {
				t.Errorf("limit %+v, want %d to %d", got, c.least, c.at)
			}
		})
	}
}

// newNetNS pins a new network namespace to a file.
func newNetNS(t *testing.T) string {
	t.Helper()
	needs.Root(t)
	file := filepath.Join(t.TempDir(), "netns")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends here
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), file, "", unix.MS_BIND, "")
		}
		made <- err
	}()
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(file, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return file
}

func TestNetNS(t *testing.T) {
	file := newNetNS(t)
	for _, root := range []*Root{nil, {ReadOnly: system}} {
		spec := sleeper(t.TempDir())
		spec.NetNS, spec.Root, spec.Caps = file, root, []string{}
		p := start(t, starter(t), spec)
		want, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", p.id.PID))
		if err != nil || !os.SameFile(got, want) {
			t.Errorf("root %+v: network namespace %v, %v; want %v", root, got, err, want)
		}
	}
}

// report is what the program of TestRoot finds out about its root.
type report struct {
	Root, Dev, Etc, Tmp []string
	Wrote               map[string]string // by file, "" for success
	Hidden              string
	Mtab                bool
}
