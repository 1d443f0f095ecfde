package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/causeway-project/causeway/integration/wait"
)

// program is what the test binary does where it runs under the launcher.
func program(args []string) {
	switch args[0] {
	case "look-around":
		text, err := json.Marshal(lookAround(args[1:]))
		if err != nil {
			fmt.Println(err)
		}
		fmt.Println(string(text))
	case "start":
		starterProcess(args[1], args[2])
	default:
		fmt.Println("unknown program", args)
		os.Exit(1)
	}
}

func TestStart(t *testing.T) {
	s, dir := starter(t), t.TempDir()
	p := start(t, s, sleeper(dir))
	again := start(t, s, sleeper(dir))
	if p.Identity() != again.Identity() {
		t.Errorf("second start made %+v beside %+v", again.Identity(), p.Identity())
	}
	found, err := Find(dir)
	if err != nil || found == nil || found.Identity() != p.Identity() {
		t.Errorf("Find = %+v, %v", found, err)
	}
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.Identity().PID))
	if got := string(cmdline); err != nil || got != "/bin/sleep\x001000\x00" {
		t.Errorf("command line %q, %v", got, err)
	}
	if err := p.Stop(t.Context(), 10*time.Second); err != nil {
		t.Fatal(err)
	}
	wait.Closed(t, "it ends", p.Done())
	wait.Closed(t, "it ends", found.Done())
	if found, err := Find(dir); found != nil || err != nil {
		t.Errorf("Find after the end = %+v, %v", found, err)
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", p.Identity().PID)); err == nil {
		t.Error("our child was left a zombie")
	}
	if err := p.Stop(t.Context(), 0); err != nil {
		t.Errorf("Stop of an ended process: %v", err)
	}
}

func TestStartAfter(t *testing.T) {
	s, dir := starter(t), t.TempDir()
	end(t, dir)
	spec := sleeper(dir)
	failed := errors.New("no")
	calls := 0
	p, err := s.StartAfter(t.Context(), spec, func(context.Context) error { calls++; return failed })
	if p != nil || err != failed || calls != 1 {
		t.Fatalf("%+v, %v after %d calls; want the error of what came first", p, err, calls)
	}
	if p, err := Find(dir); p != nil || err != nil {
		t.Fatalf("Find = %+v, %v", p, err)
	}
	file := filepath.Join(dir, "first")
	spec.Path, spec.Args = "/bin/sh", []string{"-c", "cat " + file + "; exec sleep 1000"}
	spec.Env = []string{"PATH=/usr/bin:/bin"}
	p, err = s.StartAfter(t.Context(), spec, func(context.Context) error { return os.WriteFile(file, []byte("was first"), 0o600) })
	if err != nil {
		t.Fatal(err)
	}
	wait.Until(t, "the program saw what came first", func() bool { return strings.Contains(Tail(dir, 100), "was first") })
	again, err := s.StartAfter(t.Context(), spec, func(context.Context) error { calls++; return nil })
	if err != nil || again.Identity() != p.Identity() || calls != 2 {
		t.Errorf("%+v, %v after %d calls; want %+v", again, err, calls, p.Identity())
	}
	// What the launcher could not do is said, though what came first worked.
	spec.Dir, spec.Path = t.TempDir(), "/nonexistent"
	if p, err := s.StartAfter(t.Context(), spec, func(context.Context) error { return nil }); err == nil || !strings.Contains(err.Error(), "exec") {
		t.Errorf("%+v, %v; want that exec failed", p, err)
	}
}

func TestStartersAtOnce(t *testing.T) {
	s, dir := starter(t), t.TempDir()
	end(t, dir)
	const n = 50
	ids := make([]Identity, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			p, err := s.Start(t.Context(), sleeper(dir))
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = p.Identity()
		})
	}
	wg.Wait()
	for i, id := range ids {
		if id != ids[0] {
			t.Errorf("start %d returned %+v, start 0 %+v", i, id, ids[0])
		}
	}
}

// The same without Find in front: of launchers, one gets the lock.
func TestLaunchersAtOnce(t *testing.T) {
	s, dir := starter(t), t.TempDir()
	end(t, dir)
	text, err := json.Marshal(sleeper(dir))
	if err != nil {
		t.Fatal(err)
	}
	var won, lost atomic.Int32
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			_, err := s.launch(t.Context(), sleeper(dir), orders{text: text})
			switch {
			case err == nil:
				won.Add(1)
			case errors.Is(err, errRunning):
				lost.Add(1)
			default:
				t.Error(err)
			}
		})
		// One who merely looks makes no launcher give up.
		wg.Go(func() {
			if _, err := held(dir); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 || lost.Load() != 49 {
		t.Errorf("%d launchers became the program and %d gave way", won.Load(), lost.Load())
	}
}

func TestStartFails(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*Spec)
		want string
	}{
		{"no program", func(s *Spec) { s.Path = "/bin/absent" }, "exec /bin/absent: no such file"},
		{"relative program", func(s *Spec) { s.Path = "sleep" }, "want absolute paths"},
		{"no directory", func(s *Spec) { s.Dir = "/absent" }, "lock: open /absent/lock: no such file"},
		{"no namespace", func(s *Spec) { s.NetNS = "/run/netns/absent" }, "network namespace: open"},
		{"not a namespace", func(s *Spec) { s.NetNS = "/etc/passwd" }, "network namespace: setns /etc/passwd: invalid"},
		{"no capability", func(s *Spec) { s.Caps = []string{"fly"} }, `capabilities: "fly" is none`},
		{"output elsewhere", func(s *Spec) { s.Output = "../x" }, "output is not the name of a file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, spec := starter(t), sleeper(t.TempDir())
			c.edit(&spec)
			p, err := s.Start(t.Context(), spec)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Start = %v, %v; want %q", p, err, c.want)
			}
			if p, err := Find(spec.Dir); p != nil || err != nil {
				t.Errorf("left behind: %v, %v", p, err)
			}
		})
	}
}

func TestNoLauncher(t *testing.T) {
	dir := t.TempDir()
	p, err := (&Starter{Launcher: filepath.Join(dir, "absent")}).Start(t.Context(), sleeper(dir))
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "absent") {
		t.Errorf("Start = %v, %v", p, err)
	}
}

func TestDoneOfKilled(t *testing.T) {
	s, dir := starter(t), t.TempDir()
	p := start(t, s, sleeper(dir))
	select {
	case <-p.Done():
		t.Fatal("done while it runs")
	default:
	}
	if err := syscall.Kill(p.Identity().PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wait.Closed(t, "it ends", p.Done())
}
