package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/agent/process"
	"github.com/causeway-project/causeway/integration/needs"
	"github.com/causeway-project/causeway/integration/programs"
	"github.com/causeway-project/causeway/integration/wait"
)

var built = programs.Built{Packages: []string{"cmd/causeway-launch"}}

func TestMain(m *testing.M) {
	code := m.Run()
	if err := built.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "clean up:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func starter(t *testing.T, g process.Groups) *process.Starter {
	t.Helper()
	return &process.Starter{Launcher: built.Path(t, "causeway-launch"), Groups: g}
}

// mounted is where the kernel's hierarchies are, by controller; that of version
// 2 has them all. They are mounted where nobody has done so.
func mounted(t *testing.T) map[string]string {
	t.Helper()
	if exists(filepath.Join(DefaultRoot, "cgroup.controllers")) {
		return map[string]string{"": DefaultRoot}
	}
	mount := func(kind, controller string) (string, error) {
		dir := t.TempDir()
		if err := unix.Mount("cgroup", dir, kind, 0, controller); err != nil {
			return "", err
		}
		t.Cleanup(func() {
			if err := unix.Unmount(dir, 0); err != nil {
				t.Error(err)
			}
		})
		return dir, nil
	}
	real := map[string]string{}
	for _, c := range []string{"memory", "pids"} {
		if dir := filepath.Join(DefaultRoot, c); exists(dir) {
			real[c] = dir
			continue
		}
		dir, err := mount("cgroup", c)
		if err != nil {
			dir, err = mount("cgroup2", "")
			needs.Met(t, err)
			return map[string]string{"": dir}
		}
		real[c] = dir
	}
	return real
}

// tree is one of the real kernel's, below groups that the test has to itself.
func tree(t *testing.T) (*Tree, string) {
	t.Helper()
	needs.Root(t)
	root, own := t.TempDir(), fmt.Sprintf("causeway-test-%d", time.Now().UnixNano())
	real := mounted(t)
	if top, two := real[""]; two {
		for _, c := range []string{"memory", "pids"} {
			needs.Met(t, (controller{name: c, dir: top}).enable())
		}
		root = filepath.Join(top, own)
	}
	for c, top := range real {
		dir := filepath.Join(top, own)
		needs.Met(t, os.Mkdir(dir, 0o755))
		t.Cleanup(func() {
			for _, dir := range []string{filepath.Join(dir, parent, "tests"), filepath.Join(dir, parent), dir} {
				if err := os.Remove(dir); err != nil && !gone(err) {
					t.Error(err)
				}
			}
		})
		if c != "" {
			if err := os.Symlink(dir, filepath.Join(root, c)); err != nil {
				t.Fatal(err)
			}
		}
	}
	tr := New(root)
	if m := tr.Missing(); len(m) > 0 {
		needs.Met(t, errors.New(strings.Join(m, ", ")))
	}
	return tr, root
}

func run(t *testing.T, s *process.Starter, spec process.Spec) *process.Process {
	t.Helper()
	spec.Dir, spec.Env = t.TempDir(), []string{"PATH=/usr/bin:/bin"}
	p, err := s.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(t.Context(), 0); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
	})
	return p
}

func name(t *testing.T) process.Name {
	return process.Name{Group: "tests", Own: strings.ReplaceAll(t.Name(), "/", "-")}
}

func TestMemory(t *testing.T) {
	tr, _ := tree(t)
	s := starter(t, tr)
	spec := process.Spec{Path: "/usr/bin/tail", Args: []string{"/dev/zero"}, Name: name(t), Limits: process.Limits{Memory: 32 << 20}}
	wait.Closed(t, "it ends", run(t, s, spec).Done())
	h, err := s.Hits(spec.Name)
	if err != nil || h.Memory == 0 {
		t.Errorf("hits %+v, %v; want a kill", h, err)
	}
	// The next has a count of its own.
	spec.Path, spec.Args = "/bin/sleep", []string{"1000"}
	p := run(t, s, spec)
	if h, err := s.Hits(spec.Name); err != nil || h != (process.Hits{}) {
		t.Errorf("hits of the next process %+v, %v", h, err)
	}
	if err := p.Stop(t.Context(), time.Second); err != nil {
		t.Fatal(err)
	}
	forget(t, s, spec.Name)
}

func TestTasks(t *testing.T) {
	tr, root := tree(t)
	s := starter(t, tr)
	spec := process.Spec{
		Path: "/bin/sh", Args: []string{"-c", "while :; do sleep 1000 & done"},
		Name: name(t), Limits: process.Limits{Tasks: 12},
	}
	p := run(t, s, spec)
	wait.Closed(t, "it ends", p.Done()) // dash gives up: "Cannot fork"
	h, err := s.Hits(spec.Name)
	if err != nil || h.Tasks == 0 {
		t.Errorf("hits %+v, %v; want one refused", h, err)
	}
	dirs, err := filepath.Glob(filepath.Join(root, "*", parent, "tests", spec.Name.Own, "cgroup.procs"))
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no groups: %v", err)
	}
	left, err := os.ReadFile(dirs[0])
	if n := strings.Count(string(left), "\n"); err != nil || n == 0 || n > 12 {
		t.Errorf("%d processes, %v; want 1 to 12", n, err)
	}
	if err := p.Stop(t.Context(), 0); err != nil { // its children too
		t.Fatal(err)
	}
	forget(t, s, spec.Name)
}

// forget wants nothing of the process left, once and again.
func forget(t *testing.T, s *process.Starter, n process.Name) {
	t.Helper()
	for range 2 {
		if err := s.Forget(n); err != nil {
			t.Error(err)
		}
	}
	if h, err := s.Hits(n); err != nil || h != (process.Hits{}) {
		t.Errorf("hits of nobody %+v, %v", h, err)
	}
}

// fake makes the files that the kernel would.
func fake(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestVersion2(t *testing.T) {
	n := process.Name{Group: "gateways", Own: "gateway-blue"}
	files := map[string]string{}
	for _, dir := range []string{"", parent, parent + "/gateways"} {
		files[filepath.Join(dir, "cgroup.controllers")] = "cpu memory pids\n"
		files[filepath.Join(dir, "cgroup.subtree_control")] = ""
	}
	leaf := filepath.Join(parent, "gateways", "gateway-blue")
	for _, f := range []string{"memory.max", "pids.max", "cgroup.procs"} {
		files[filepath.Join(leaf, f)] = ""
	}
	files[filepath.Join(leaf, "memory.events")] = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n"
	files[filepath.Join(leaf, "pids.events")] = "max 7\n"
	root := fake(t, files)
	tr := New(root)
	if m := tr.Missing(); len(m) > 0 {
		t.Fatal(m)
	}
	if err := tr.Enter(process.Spec{Name: n, Limits: process.Limits{Memory: 512 << 20, Tasks: 99}}, 4711); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, f := range []string{"memory.max", "pids.max", "cgroup.procs"} {
		text, err := os.ReadFile(filepath.Join(root, leaf, f))
		if err != nil {
			t.Fatal(err)
		}
		got[f] = string(text)
	}
	if d := cmp.Diff(map[string]string{"memory.max": "536870912", "pids.max": "99", "cgroup.procs": "4711"}, got); d != "" {
		t.Error(d)
	}
	if h, err := tr.Hits(n); err != nil || h != (process.Hits{Memory: 2, Tasks: 7}) {
		t.Errorf("hits %+v, %v", h, err)
	}
	if err := tr.Remove(n); !errors.Is(err, errInUse) {
		t.Errorf("Remove of what cannot be removed: %v", err)
	}
}

func TestMissing(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string
		want  []string // beginnings
	}{
		{"nothing mounted", nil, []string{"memory: its controller is not there", "pids: its controller is not there"}},
		{"version 2 without controllers", map[string]string{"cgroup.controllers": "\n"}, []string{"memory: its controller is not there", "pids: its controller is not there"}},
		{"version 1 without memory", map[string]string{"pids/cgroup.procs": ""}, []string{"memory: its controller is not there"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr := New(fake(t, c.files))
			if !slices.EqualFunc(tr.Missing(), c.want, strings.HasPrefix) {
				t.Errorf("missing %q, want %q", tr.Missing(), c.want)
			}
		})
	}
}

func TestBadNames(t *testing.T) {
	for _, own := range []string{"", ".", "..", "a/b", "a\x00"} {
		n := process.Name{Group: "gateways", Own: own}
		tr := &Tree{}
		if tr.Enter(process.Spec{Name: n}, 1) == nil || tr.Remove(n) == nil {
			t.Errorf("%q was taken", own)
		}
	}
}
