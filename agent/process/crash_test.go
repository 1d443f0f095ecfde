package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/agent/crashpoint"
	"github.com/causeway-project/causeway/integration/needs"
	"github.com/causeway-project/causeway/integration/wait"
)

// A launcher that is killed leaves nothing, and the next start succeeds.
func TestLauncherKilled(t *testing.T) {
	s := crasher(t)
	for _, at := range []crashpoint.Point{crashpoint.LaunchLocked, crashpoint.LaunchIdentified, crashpoint.LaunchConfined} {
		for _, own := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, own pids %t", at, own), func(t *testing.T) {
				dir := t.TempDir()
				spec := sleeper(dir)
				spec.Root, spec.OwnPIDs = &Root{ReadOnly: system}, own
				t.Setenv("CAUSEWAY_CRASH_AT", string(at))
				p, err := s.Start(t.Context(), spec)
				if want := "the launcher was killed"; err == nil || !strings.Contains(err.Error(), want) {
					t.Fatalf("Start = %v, %v; want %q", p, err, want)
				}
				if p, err := Find(dir); p != nil || err != nil {
					t.Errorf("Find = %v, %v", p, err)
				}
				t.Setenv("CAUSEWAY_CRASH_AT", "")
				start(t, s, spec)
			})
		}
	}
}

// A launcher that is killed at any other instant either leaves nothing or has
// become the process.
func TestLauncherKilledAnywhere(t *testing.T) {
	s, dir := starter(t), t.TempDir()
	spec := sleeper(dir)
	spec.Root = &Root{ReadOnly: system}
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		c, err := fork(s.Launcher, Spec{})
		if err != nil {
			t.Fatal(err)
		}
		killed := make(chan struct{})
		time.AfterFunc(time.Duration(i)*200*time.Microsecond, func() {
			defer close(killed)
			if err := signal(c.pidfd, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
		})
		if _, err := talk(t.Context(), c.agent, orders{text: text}); err != nil {
			t.Error(err)
		}
		<-killed
		if err := ended(c.pidfd); err != nil {
			t.Error(err)
		}
		// Its zombie is still there.
		if p, err := Find(dir); p != nil || err != nil {
			t.Errorf("kill %d: Find = %v, %v", i, p, err)
		}
		c.kill()
	}
	start(t, s, spec)
}

// A launcher that waits for the agent ends with it.
func TestAgentGoneWhileLauncherWaits(t *testing.T) {
	s, dir := starter(t), t.TempDir()
	spec := sleeper(dir)
	spec.Root = &Root{ReadOnly: system}
	text, err := json.Marshal(order{Spec: spec, Waits: true})
	if err != nil {
		t.Fatal(err)
	}
	c, err := fork(s.Launcher, Spec{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.kill() // reaps it
	if _, err := c.agent.Write(text); err != nil {
		t.Fatal(err)
	}
	wait.Until(t, "the launcher is under way", func() bool {
		_, launching, err := readIdentity(dir)
		return err == nil && launching
	})
	if err := c.agent.Close(); err != nil {
		t.Fatal(err)
	}
	if err := ended(c.pidfd); err != nil {
		t.Fatal(err)
	}
	if p, err := Find(dir); p != nil || err != nil {
		t.Errorf("Find = %+v, %v", p, err)
	}
	start(t, s, spec)
}

// starterProcess is a process of its own that starts sleep in dir and waits to
// be killed: the agent.
func starterProcess(launcher, dir string) {
	s := &Starter{Launcher: launcher}
	p, err := s.Start(context.Background(), sleeper(dir))
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(p.Identity().PID)
	select {}
}

func TestAdopt(t *testing.T) {
	s, dir := starter(t), t.TempDir()
	end(t, dir)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	agent := exec.Command(self, "as-program", "start", s.Launcher, dir)
	out, err := agent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	n, err := out.Read(b)
	if err != nil {
		t.Error(err)
	}
	if err := agent.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = agent.Wait() // killed
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	if err != nil {
		t.Fatalf("the starter says %q", b[:n])
	}

	p, err := Find(dir)
	if err != nil || p == nil || p.Identity().PID != pid {
		t.Fatalf("Find = %+v, %v; want process %d", p, err, pid)
	}
	if q := start(t, s, sleeper(dir)); q.Identity() != p.Identity() {
		t.Errorf("Start made %+v beside %+v", q.Identity(), p.Identity())
	}
	// No child of ours, and its zombie may stay for as long as process 1 likes.
	done := p.Done()
	select {
	case <-done:
		t.Fatal("done while it runs")
	default:
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wait.Closed(t, "it ends", p.Done())
	if p, err := Find(dir); p != nil || err != nil {
		t.Errorf("Find after the end = %+v, %v", p, err)
	}
}

func TestZombie(t *testing.T) {
	s, dir := starter(t), t.TempDir()
	text, err := json.Marshal(sleeper(dir))
	if err != nil {
		t.Fatal(err)
	}
	c, err := fork(s.Launcher, Spec{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.kill() // reaps it
	if _, err := talk(t.Context(), c.agent, orders{text: text}); err != nil {
		t.Fatal(err)
	}
	p, err := Find(dir)
	if err != nil || p == nil {
		t.Fatalf("Find = %v, %v", p, err)
	}
	if err := syscall.Kill(c.pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := ended(c.pidfd); err != nil {
		t.Fatal(err)
	}
	if st, err := readStat(c.pid); err != nil || st.state != 'Z' {
		t.Fatalf("state %c, %v; want a zombie", st.state, err)
	}
	if p, err := Find(dir); p != nil || err != nil {
		t.Errorf("Find of a zombie = %+v, %v", p, err)
	}
	wait.Closed(t, "it ends", p.Done())
	if err := p.Stop(t.Context(), time.Hour); err != nil {
		t.Error(err)
	}
	if q := start(t, s, sleeper(dir)); q.Identity() == p.Identity() {
		t.Error("Start returned the zombie")
	}
}

func TestStaleIdentity(t *testing.T) {
	needs.Root(t)
	boot, err := bootID()
	if err != nil {
		t.Fatal(err)
	}
	own, err := identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	dead := exec.Command("/bin/true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, text string
	}{
		{"of a dead process", fmt.Sprintf(`{"boot_id":%q,"pid":%d,"start":12}`, boot, dead.Process.Pid)},
		{"of another boot", fmt.Sprintf(`{"boot_id":"00000000-0000-0000-0000-000000000000","pid":%d,"start":%d}`, own.PID, own.Start)},
		{"of a pid used again", fmt.Sprintf(`{"boot_id":%q,"pid":%d,"start":%d}`, boot, own.PID, own.Start-1)},
		{"empty", ""},
		{"cut off", `{"boot_id":"`},
		{"of no process", `{}`},
		{"of a group", fmt.Sprintf(`{"boot_id":%q,"pid":-1,"start":%d}`, boot, own.Start)},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, dir := starter(t), t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, identityFile), []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if p, err := Find(dir); p != nil || err != nil {
				t.Errorf("Find = %+v, %v", p, err)
			}
			id, _, err := readIdentity(dir)
			if err != nil {
				t.Fatal(err)
			}
			// Were it believed, this would end the test.
			if err := (&Process{id: id, dir: dir}).Stop(t.Context(), 0); err != nil {
				t.Errorf("Stop: %v", err)
			}
			start(t, s, sleeper(dir))
		})
	}
}

// Somebody who is between its lock and its identity is waited for, and named
// where it does not get on.
func TestFindWaits(t *testing.T) {
	s, dir := starter(t), t.TempDir()
	p := start(t, s, sleeper(dir))
	name := filepath.Join(dir, identityFile)
	if err := os.Rename(name, name+".away"); err != nil {
		t.Fatal(err)
	}
	found := make(chan error)
	go func() {
		q, err := Find(dir)
		if err == nil && (q == nil || q.Identity() != p.Identity()) {
			err = fmt.Errorf("found %+v", q)
		}
		found <- err
	}()
	if err := os.Rename(name+".away", name); err != nil {
		t.Fatal(err)
	}
	if err := <-found; err != nil {
		t.Error(err)
	}

	if err := os.Rename(name, name+".away"); err != nil {
		t.Fatal(err)
	}
	q, err := find(soon(t), dir)
	if want := fmt.Sprint("but [", p.Identity().PID, "] have its lock"); !errors.Is(err, ErrHeld) || !strings.Contains(err.Error(), want) {
		t.Errorf("Find = %v, %v; want ErrHeld and %q", q, err, want)
	}
	q, err = s.Start(t.Context(), sleeper(dir))
	if !errors.Is(err, ErrHeld) {
		t.Errorf("Start = %v, %v; want ErrHeld", q, err)
	}
	q, err = s.Start(soon(t), sleeper(dir))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Start = %v, %v; want the context's error", q, err)
	}
	if err := os.Rename(name+".away", name); err != nil {
		t.Fatal(err)
	}
}

// soon is a context that ends before Find would.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// A program may close every descriptor that it does not know, our lock too.
func TestLockGivenAway(t *testing.T) {
	s, dir := starter(t), t.TempDir()
	spec := sleeper(dir)
	spec.Path, spec.Args = "/bin/sh", []string{"-c", "for fd in /proc/$$/fd/*; do fd=${fd##*/}; [ $fd -le 2 ] || eval \"exec $fd>&-\"; done; exec sleep 1000"}
	spec.Env = []string{"PATH=/usr/bin:/bin"}
	p := start(t, s, spec)
	wait.Until(t, "the lock is free", func() bool {
		taken, err := held(dir)
		return err == nil && !taken
	})
	if q := start(t, s, spec); q.Identity() != p.Identity() {
		t.Errorf("Start made %+v beside %+v", q.Identity(), p.Identity())
	}
	// Not even a launcher that nobody asked Find before.
	q, err := s.launch(t.Context(), spec, orders{text: fmt.Appendf(nil, `{"Dir":%q,"Path":"/bin/sleep"}`, dir)})
	if !errors.Is(err, errRunning) {
		t.Errorf("launch = %v, %v", q, err)
	}
}

// leaver leaves a child behind that has the lock, and waits for SIGTERM.
func leaver(dir string) Spec {
	spec := sleeper(dir)
	spec.Path, spec.Args = "/bin/sh", []string{"-c", "sleep 1000 & echo child $!; wait"}
	spec.Env = []string{"PATH=/usr/bin:/bin"}
	return spec
}

func childOf(t *testing.T, dir string) Identity {
	t.Helper()
	var pid int
	wait.Until(t, "the child runs", func() bool {
		_, err := fmt.Sscanf(Tail(dir, 1000), "child %d", &pid)
		return err == nil
	})
	id, err := identify(pid)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestChildrenLeft(t *testing.T) {
	gone := func(t *testing.T, id Identity) {
		t.Helper()
		if alive, err := id.running(); alive || err != nil {
			t.Errorf("child %d runs: %v, %v", id.PID, alive, err)
		}
	}
	t.Run("stop", func(t *testing.T) {
		s, dir := starter(t), t.TempDir()
		p := start(t, s, leaver(dir))
		child := childOf(t, dir)
		if err := p.Stop(t.Context(), time.Hour); err != nil {
			t.Fatal(err)
		}
		gone(t, child)
	})
	t.Run("start", func(t *testing.T) {
		s, dir := starter(t), t.TempDir()
		p := start(t, s, leaver(dir))
		child := childOf(t, dir)
		if err := syscall.Kill(p.Identity().PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		wait.Closed(t, "it ends", p.Done())
		if q, err := find(soon(t), dir); !errors.Is(err, ErrHeld) {
			t.Errorf("Find = %v, %v; want ErrHeld", q, err)
		}
		start(t, s, sleeper(dir))
		gone(t, child)
	})
}

// Whoever starts in the directory as soon as the process has ended is none of
// the stopping one's business.
func TestStopBesideStart(t *testing.T) {
	s, dir := starter(t), t.TempDir()
	p := start(t, s, sleeper(dir))
	if err := p.Stop(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	q := start(t, s, sleeper(dir))
	if err := p.Stop(t.Context(), time.Minute); err != nil {
		t.Errorf("Stop of the former process: %v", err)
	}
	if alive, err := q.Identity().running(); !alive || err != nil {
		t.Errorf("the later process: %v, %v", alive, err)
	}
}

func TestStopEscalates(t *testing.T) {
	s, dir := starter(t), t.TempDir()
	spec := sleeper(dir)
	spec.Path, spec.Args = "/bin/sh", []string{"-c", "trap 'echo no' TERM; echo ready; while :; do sleep 0.01; done"}
	spec.Env = []string{"PATH=/usr/bin:/bin"}
	p := start(t, s, spec)
	wait.Equal(t, "it refuses to end", "ready", func() string { return Tail(dir, 100) })
	if err := p.Stop(t.Context(), 50*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	wait.Closed(t, "it ends", p.Done())
	if got := Tail(dir, 100); got != "ready\nno" {
		t.Errorf("it printed %q: no SIGTERM came before SIGKILL", got)
	}
}

func TestStopCancelled(t *testing.T) {
	s, dir := starter(t), t.TempDir()
	spec := sleeper(dir)
	spec.Path, spec.Args = "/bin/sh", []string{"-c", "trap 'echo no' TERM; echo ready; while :; do sleep 0.01; done"}
	spec.Env = []string{"PATH=/usr/bin:/bin"}
	p := start(t, s, spec)
	wait.Equal(t, "it refuses to end", "ready", func() string { return Tail(dir, 100) })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := p.Stop(ctx, time.Hour); !errors.Is(err, ctx.Err()) || ctx.Err() == nil {
		t.Errorf("Stop = %v, want the context's error", err)
	}
	if found, err := Find(dir); found == nil || err != nil {
		t.Errorf("Find = %v, %v", found, err)
	}
}

// A start that is given up while its launcher hangs leaves nothing.
func TestStartCancelled(t *testing.T) {
	s, dir := starter(t), t.TempDir()
	fifo := filepath.Join(dir, "fifo") // the launcher hangs when it opens it
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	spec := sleeper(dir)
	spec.NetNS = fifo
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	looked := make(chan struct{})
	go func() {
		defer close(looked)
		defer cancel()
		wait.Until(t, "the identity is written", func() bool {
			id, launching, err := readIdentity(dir)
			return err == nil && launching && id.PID > 0
		})
		// Alive it is, but not yet the process.
		if p, err := find(soon(t), dir); !errors.Is(err, ErrHeld) {
			t.Errorf("find while the launcher hangs = %v, %v; want ErrHeld", p, err)
		}
		// Nor is it what an ended process left behind.
		if swept, err := sweepLast(t.Context(), dir); swept || err != nil {
			t.Errorf("sweep while the launcher hangs = %v, %v", swept, err)
		}
		if id, _, err := readIdentity(dir); err != nil {
			t.Error(err)
		} else if alive, err := id.running(); !alive || err != nil {
			t.Errorf("the launcher was killed: %v, %v", alive, err)
		}
	}()
	p, err := s.Start(ctx, spec)
	<-looked
	if err == nil || !errors.Is(err, ctx.Err()) {
		t.Errorf("Start = %v, %v; want the context's error", p, err)
	}
	if p, err := Find(dir); p != nil || err != nil {
		t.Errorf("left behind: %v, %v", p, err)
	}
}

// Directories come and go while others start there: never two processes.
func TestDirectoryRemade(t *testing.T) {
	s, dir := starter(t), filepath.Join(t.TempDir(), "run")
	end(t, dir)
	for range 10 {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if _, err := s.Start(t.Context(), sleeper(dir)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		p, err := Find(dir)
		if err != nil || p == nil {
			t.Fatalf("Find = %v, %v", p, err)
		}
		if err := p.Stop(t.Context(), time.Minute); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	if p, err := Find(dir); p != nil || err != nil {
		t.Errorf("Find without a directory = %v, %v", p, err)
	}
}
