package virtiofsd

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/causeway-project/causeway/agent/process"
	"github.com/causeway-project/causeway/integration/wait"
	"github.com/causeway-project/causeway/virtiofs/keeper"
)

// groups say that the limit of memory was reached that often.
type groups uint64

func (groups) Enter(process.Spec, int) error { return nil }
func (groups) Remove(process.Name) error     { return nil }
func (g groups) Hits(process.Name) (process.Hits, error) {
	return process.Hits{Memory: uint64(g)}, nil
}

func TestDeath(t *testing.T) {
	tests := []struct {
		name   string
		groups groups
		kill   func(t *testing.T, keeper, child int)
		want   Death
	}{
		{"killed", 0, func(t *testing.T, _, child int) { signal(t, child, syscall.SIGKILL) },
			Death{Cause: Cause(keeper.Killed), Why: "killed by signal 9", Kept: true, Over: true}},
		{"out of memory", 1, func(t *testing.T, _, child int) { signal(t, child, syscall.SIGKILL) },
			Death{Cause: Memory, Why: "it was killed at its limit of memory", Kept: true, Over: true}},
		{"keeper killed", 0, func(t *testing.T, keeper, _ int) { signal(t, keeper, syscall.SIGKILL) },
			Death{Cause: Keeper, Why: "its keeper was killed", Over: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, v := daemons(t, t.TempDir())
			d.Starter.Groups = tt.groups
			ctx := limited(t, time.Minute)
			if err := d.Start(ctx, v); err != nil {
				t.Fatal(err)
			}
			if death, err := d.Death(v); death != nil || err != nil {
				t.Errorf("Death of one that lives = %+v, %v", death, err)
			}
			c := connect(t, d, v)
			done, err := d.Done(v)
			if err != nil {
				t.Fatal(err)
			}
			r, err := keeper.ReadReport(v.Dir)
			if err != nil {
				t.Fatal(err)
			}
			tt.kill(t, r.Keeper, r.PID)
			<-done
			var got *Death
			if err := wait.Within(wait.Long, func() bool { got, err = d.Death(v); return err == nil && got != nil && got.Over }); err != nil {
				t.Fatalf("Death = %+v, %v", got, err)
			}
			got.At = time.Time{}
			if *got != tt.want {
				t.Errorf("Death = %+v, want %+v", *got, tt.want)
			}
			if done, err := d.Done(v); done != nil || err != nil {
				t.Errorf("Done of a dead one = %v, %v, want nil", done, err)
			}
			// When QEMU has let go, another one may come, and all is forgotten.
			c.Close()
			if err := d.Start(ctx, v); err != nil {
				t.Fatal(err)
			}
			if death, err := d.Death(v); death != nil || err != nil {
				t.Errorf("Death after the next start = %+v, %v", death, err)
			}
		})
	}
}

// TestStartBesideOneThatLeaves: a keeper that QEMU has let go of takes its report
// away before it ends, and no longer looks like one whose virtiofsd is dead.
func TestStartBesideOneThatLeaves(t *testing.T) {
	d, v := daemons(t, t.TempDir())
	ctx := limited(t, time.Minute)
	if err := d.Start(ctx, v); err != nil {
		t.Fatal(err)
	}
	c := connect(t, d, v)
	r, err := keeper.ReadReport(v.Dir)
	if err != nil {
		t.Fatal(err)
	}
	signal(t, r.PID, syscall.SIGKILL)
	wait.Until(t, "the keeper stands in", func() bool { death, err := d.Death(v); return err == nil && death != nil && death.Over })
	signal(t, r.Keeper, syscall.SIGSTOP)
	c.Close()
	if err := os.Remove(filepath.Join(v.Dir, keeper.ReportFile)); err != nil {
		t.Fatal(err)
	}
	started := make(chan error)
	go func() { started <- d.Start(ctx, v) }()
	signal(t, r.Keeper, syscall.SIGCONT)
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	if got, err := d.State(v); err != nil || got != Listening {
		t.Errorf("State = %q, %v, want %q", got, err, Listening)
	}
}

// connect is QEMU's part: v takes no other connection.
func connect(t *testing.T, d *Daemons, v Daemon) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", v.Socket())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	wantState(t, d, v, Connected)
	return c
}

func signal(t *testing.T, pid int, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, s); err != nil {
		t.Error(err)
	}
}

func TestLeavingIsNoDeath(t *testing.T) {
	d, v := daemons(t, t.TempDir())
	if err := d.Start(limited(t, time.Minute), v); err != nil {
		t.Fatal(err)
	}
	c := connect(t, d, v)
	c.Close()
	wantState(t, d, v, Stopped)
	if death, err := d.Death(v); death != nil || err != nil {
		t.Errorf("Death = %+v, %v, want none", death, err)
	}
}

func TestReplace(t *testing.T) {
	d, v := daemons(t, t.TempDir())
	ctx := limited(t, time.Minute)
	if err := d.Replace(ctx, v); err != nil {
		t.Errorf("Replace where nothing runs: %v", err)
	}
	if err := d.Start(ctx, v); err != nil {
		t.Fatal(err)
	}
	connect(t, d, v)
	if err := d.Replace(ctx, v); err != nil {
		t.Fatal(err)
	}
	wantState(t, d, v, Connected) // it runs
	r, err := keeper.ReadReport(v.Dir)
	if err != nil {
		t.Fatal(err)
	}
	signal(t, r.PID, syscall.SIGSTOP)
	wait.Until(t, "it is stopped", func() bool { s, err := states(r.PID); return err == nil && strings.Contains(s, "T") })
	if err := d.Replace(ctx, v); err != nil {
		t.Fatal(err)
	}
	wantState(t, d, v, Dead)
	wait.Until(t, "it is said to be replaced", func() bool {
		death, err := d.Death(v)
		return err == nil && death != nil && death.Cause == Cause(keeper.Replaced)
	})
}

// The kernel, out of memory, is to kill virtiofsd before its keeper.
func TestOutOfMemoryScores(t *testing.T) {
	d, v := daemons(t, t.TempDir())
	if err := d.Start(limited(t, time.Minute), v); err != nil {
		t.Fatal(err)
	}
	r, err := keeper.ReadReport(v.Dir)
	if err != nil {
		t.Fatal(err)
	}
	score := func(pid int) int {
		text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "oom_score_adj"))
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if k, c := score(r.Keeper), score(r.PID); c != k+10 {
		t.Errorf("scores: keeper %d, virtiofsd %d", k, c)
	}
}
