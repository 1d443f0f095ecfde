package unit

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/causeway-project/causeway/agent/process"
	"github.com/causeway-project/causeway/integration/wait"
)

func TestName(t *testing.T) {
	for _, c := range []struct {
		name process.Name
		want string // empty is an error
	}{
		{process.Name{Group: "gateways", Own: "gateway-blue"}, "causeway-gateway-blue.service"},
		{process.Name{Group: "gateways", Own: "gateway-a.b_c-D"}, "causeway-gateway-a.b_c-D.service"},
		{process.Name{Group: "gateways", Own: "gateway-a b\n@%/é"}, `causeway-gateway-a\x20b\xa\x40\x25-\xc3\xa9.service`},
		{process.Name{Group: "gateways", Own: `gateway-a\x2db`}, `causeway-gateway-a\x5cx2db.service`},
		{process.Name{Group: "gateways", Own: strings.Repeat("x", 300)}, ""},
		{process.Name{Group: "gateways"}, ""},
		{process.Name{Group: "a-b", Own: "x"}, ""},
		{process.Name{}, ""},
	} {
		got, err := Name(c.name)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("Name(%q) = %q, %v; want %q", c.name, got, err, c.want)
		}
	}
}

// world returns a Starter of units, in a world where systemd is process 1.
func world(t *testing.T) (*process.Starter, *Units) {
	t.Helper()
	launcher := os.Getenv(insideVariable)
	if launcher == "" {
		t.Skip("needs a systemd of its own")
	}
	u := New(Options{})
	t.Cleanup(u.Close)
	return &process.Starter{Launcher: launcher, Units: u}, u
}

// systemctl returns what it prints.
func systemctl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "systemctl", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("systemctl %q: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func show(t *testing.T, unit string, properties ...string) map[string]string {
	t.Helper()
	m := map[string]string{}
	for line := range strings.Lines(systemctl(t, "show", "-p", strings.Join(properties, ","), unit)) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		m[k] = v
	}
	return m
}

// loaded units of ours.
func loaded(t *testing.T) string {
	t.Helper()
	return systemctl(t, "list-units", "--all", "--plain", "--no-legend", "--type=service", "causeway-*")
}

// spec of a program that sleeps.
func spec(t *testing.T) process.Spec {
	return process.Spec{
		Dir: t.TempDir(), Path: "/bin/sleep", Args: []string{"1000"}, Caps: []string{"chown"},
		Name:   process.Name{Group: "tests", Own: strings.ReplaceAll(t.Name(), "/", "-")},
		Limits: process.Limits{Memory: 64 << 20, Tasks: 20, Files: 999},
	}
}

func start(t *testing.T, s *process.Starter, spec process.Spec) *process.Process {
	t.Helper()
	p, err := s.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(p.Identity().PID, syscall.SIGKILL) })
	return p
}

func TestUnit(t *testing.T) {
	for _, own := range []bool{false, true} {
		t.Run(fmt.Sprintf("OwnPIDs=%v", own), func(t *testing.T) {
			s, _ := world(t)
			spec := spec(t)
			spec.OwnPIDs = own
			if own {
				spec.Root = &process.Root{ReadOnly: []string{"/usr", "/bin", "/lib", "/lib64"}}
			}
			p := start(t, s, spec)
			unit, err := Name(spec.Name)
			if err != nil {
				t.Fatal(err)
			}
			pid := p.Identity().PID
			group := "/causeway.slice/causeway-tests.slice/" + unit
			want := map[string]string{
				"MainPID": strconv.Itoa(pid), "ActiveState": "active", "SubState": "running", "Slice": "causeway-tests.slice", "Type": "notify",
				"ControlGroup": group, "MemoryMax": "67108864", "TasksMax": "20", "TasksCurrent": "1", "LimitNOFILE": "999", "LimitNOFILESoft": "999",
				"NoNewPrivileges": "yes", "CollectMode": "inactive-or-failed", "Restart": "no", "KillMode": "control-group",
				"CapabilityBoundingSet": "cap_chown cap_setpcap cap_sys_chroot cap_sys_admin cap_mknod", "RestrictAddressFamilies": "AF_INET AF_INET6 AF_NETLINK AF_UNIX",
			}
			got := show(t, unit, "MainPID,ActiveState,SubState,Slice,Type,ControlGroup,MemoryMax,TasksMax,TasksCurrent,LimitNOFILE,LimitNOFILESoft,NoNewPrivileges,CollectMode,Restart,KillMode,CapabilityBoundingSet,RestrictAddressFamilies")
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}
			// What the program has is less than what its launcher had.
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			if err != nil {
				t.Fatal(err)
			}
			for _, line := range []string{"CapBnd:\t0000000000000001", "CapEff:\t0000000000000001", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1"} {
				if !strings.Contains(string(status), line+"\n") {
					t.Errorf("no %q in %s", line, status)
				}
			}
			if again := start(t, s, spec); again.Identity() != p.Identity() {
				t.Errorf("second start made %+v beside %+v", again.Identity(), p.Identity())
			}
			if err := p.Stop(t.Context(), 100*time.Millisecond); err != nil {
				t.Fatal(err)
			}
			wait.Equal(t, "no unit is left", "", func() string { return loaded(t) })
			if journal, err := exec.Command("journalctl", "-u", unit, "--no-pager").CombinedOutput(); err != nil || strings.Contains(string(journal), "not our child") {
				t.Errorf("journal %v: %s", err, journal)
			}
		})
	}
}

func TestIDMap(t *testing.T) {
	s, _ := world(t)
	spec, share := spec(t), t.TempDir()
	if err := os.Chown(share, 100000, 200000); err != nil {
		t.Fatal(err)
	}
	spec.Path, spec.Args, spec.Env = "/bin/sh", []string{"-c", `stat -c %u:%g "$1"; exec sleep 1000`, "sh", share}, []string{"PATH=/usr/bin:/bin"}
	spec.IDMap = &process.IDMap{Dir: share, UIDs: []process.IDRange{{Process: 0, Disk: 100000, Count: 9}}, GIDs: []process.IDRange{{Process: 7, Disk: 200000, Count: 9}}}
	p := start(t, s, spec)
	wait.Until(t, "it sees its owner", func() bool { return strings.TrimSpace(process.Tail(spec.Dir, 100)) == "0:7" })
	if err := p.Stop(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	wait.Equal(t, "no unit is left", "", func() string { return loaded(t) })
}

// At once, while systemd may not have seen the end of the last one.
func TestAgain(t *testing.T) {
	s, _ := world(t)
	spec := spec(t)
	spec.OwnPIDs, spec.Root = true, &process.Root{ReadOnly: []string{"/usr", "/bin", "/lib", "/lib64"}}
	unit, err := Name(spec.Name)
	if err != nil {
		t.Fatal(err)
	}
	for range 30 {
		p := start(t, s, spec)
		pid := strconv.Itoa(p.Identity().PID)
		wait.Until(t, "systemd knows that it runs", func() bool {
			return cmp.Equal(show(t, unit, "ActiveState", "MainPID"), map[string]string{"ActiveState": "active", "MainPID": pid})
		})
		if err := syscall.Kill(p.Identity().PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		wait.Closed(t, "it ends", p.Done())
	}
	wait.Equal(t, "no unit is left", "", func() string { return loaded(t) })
}

func TestTasks(t *testing.T) {
	s, _ := world(t)
	spec := spec(t)
	// It stays, so that its counters do.
	spec.Path, spec.Args, spec.Env = "/bin/bash", []string{"-c", "for i in {1..40}; do sleep 1000 & done; sleep 1000"}, []string{"PATH=/bin"}
	p := start(t, s, spec)
	wait.Until(t, "a task is refused", func() bool {
		h, err := s.Hits(spec.Name)
		return err == nil && h.Tasks > 0
	})
	if err := p.Stop(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	wait.Equal(t, "no unit is left", "", func() string { return loaded(t) })
}

func TestMemory(t *testing.T) {
	s, _ := world(t)
	spec := spec(t)
	spec.Path, spec.Args = "/usr/bin/tail", []string{"/dev/zero"}
	wait.Closed(t, "it ends", start(t, s, spec).Done())
	wait.Equal(t, "no unit is left", "", func() string { return loaded(t) })
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		t.Log("control groups of version 1: systemd does not tell of memory")
		return
	}
	wait.Until(t, "it is told", func() bool {
		h, err := s.Hits(spec.Name)
		return err == nil && h.Memory > 0
	})
}

// The signals of systemd, which on this host may tell of no memory.
func TestHear(t *testing.T) {
	const path = unitPath + "causeway_2dgateway_2dblue_2eservice"
	signal := func(path, result string, main uint32) *dbus.Signal {
		return &dbus.Signal{Path: dbus.ObjectPath(path), Body: []any{"org.freedesktop.systemd1.Service",
			map[string]dbus.Variant{"Result": dbus.MakeVariant(result), "MainPID": dbus.MakeVariant(main)}}}
	}
	e := &ends{kills: map[string]uint64{}}
	for _, s := range []*dbus.Signal{
		signal(path, "success", 0), signal(path, "signal", 0), signal(path, "oom-kill", 7), signal(path, "oom-kill", 0),
		signal(unitPath+"other_2eservice", "oom-kill", 0), {Path: path}, {Path: path, Body: []any{"", map[string]dbus.Variant{}}},
	} {
		e.hear(s)
	}
	if n := e.killed("causeway-gateway-blue.service"); n != 1 || len(e.kills) != 1 {
		t.Errorf("kills %v, want one", e.kills)
	}
}

func TestStartFails(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*process.Spec)
		want string
	}{
		{"no program", func(s *process.Spec) { s.Path = "/bin/absent" }, "exec /bin/absent: no such file"},
		{"no directory", func(s *process.Spec) { s.Dir = "/absent" }, "open /absent"},
		{"no namespace", func(s *process.Spec) { s.NetNS = "/run/netns/absent" }, "network namespace: stat /run/netns/absent"},
		{"no capability", func(s *process.Spec) { s.Caps = []string{"fly"} }, `"fly" is none`},
		{"no name", func(s *process.Spec) { s.Name.Own = "" }, "has no name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, _ := world(t)
			spec := spec(t)
			c.edit(&spec)
			p, err := s.Start(t.Context(), spec)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Start = %v, %v; want %q", p, err, c.want)
			}
			wait.Equal(t, "no unit is left", "", func() string { return loaded(t) })
			if left, _ := filepath.Glob(filepath.Join(spec.Dir, "call-*")); len(left) > 0 {
				t.Errorf("%v was left behind", left)
			}
		})
	}
}

// An agent that dies leaves a launcher that has begun, and its unit.
func TestHalfStarted(t *testing.T) {
	s, u := world(t)
	for _, c := range []struct {
		name    string
		command []string
	}{
		{"launcher", []string{s.Launcher}},
		{"launcher that hangs", []string{"/bin/sleep", "1000"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := spec(t)
			if c.name == "launcher" {
				c.command = append(c.command, filepath.Join(spec.Dir, "call-gone"))
			}
			if _, err := u.Run(t.Context(), spec, c.command); err != nil {
				t.Fatal(err)
			}
			p := start(t, s, spec)
			if err := p.Stop(t.Context(), time.Second); err != nil {
				t.Fatal(err)
			}
			wait.Equal(t, "no unit is left", "", func() string { return loaded(t) })
		})
	}
}

// Two agents with a network of one name are a mistake, and cost no gateway.
func TestSomebodyElses(t *testing.T) {
	s, _ := world(t)
	mine, other := spec(t), spec(t)
	p := start(t, s, mine)
	if _, err := s.Start(t.Context(), other); err == nil || !strings.Contains(err.Error(), "somebody else's") {
		t.Errorf("Start in another directory: %v", err)
	}
	if found, err := process.Find(mine.Dir); err != nil || found == nil || found.Identity() != p.Identity() {
		t.Errorf("the first is now %v, %v", found, err)
	}
}

// What started a process makes no difference to who finds and stops it.
func TestChangesHands(t *testing.T) {
	units, _ := world(t)
	forks := &process.Starter{Launcher: units.Launcher}
	for _, c := range []struct {
		name       string
		first, yet *process.Starter
	}{{"unit, then fork", units, forks}, {"fork, then unit", forks, units}} {
		t.Run(c.name, func(t *testing.T) {
			spec := spec(t)
			p := start(t, c.first, spec)
			adopted := start(t, c.yet, spec)
			if adopted.Identity() != p.Identity() {
				t.Fatalf("%+v became %+v", p.Identity(), adopted.Identity())
			}
			if err := adopted.Stop(t.Context(), time.Second); err != nil {
				t.Fatal(err)
			}
			wait.Closed(t, "it ends", p.Done())
			next := start(t, c.yet, spec)
			if err := next.Stop(t.Context(), time.Second); err != nil {
				t.Fatal(err)
			}
			wait.Equal(t, "no unit is left", "", func() string { return loaded(t) })
		})
	}
}
