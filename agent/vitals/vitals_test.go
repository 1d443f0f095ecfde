package vitals

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/retry"
	"github.com/causeway-project/causeway/ganesha"
)

// gateway is one that has run for a while.
func gateway(now time.Time) *Gateway {
	g := &Gateway{}
	g.Starts()
	g.Serves(ganesha.Status{Running: true, PID: 1, StartedAt: now.Add(-time.Hour)})
	g.Limits(ganesha.Status{Running: true}, now)
	return g
}

func (g *Gateway) restarted(pid int, now time.Time) {
	g.Starts()
	g.Serves(ganesha.Status{Running: true, PID: pid, StartedAt: now})
}

var healthy = ganesha.Health{}

// TestKeepsEnding: the first two ends are not paused for; what keeps ending is,
// and is shown, until it has gone on for a while.
func TestKeepsEnding(t *testing.T) {
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	g := gateway(now)
	for n := 1; n <= 4; n++ {
		e := g.Ended("it fell over", now)
		if !e.News || !e.Died || e.PID != n || g.Serving() != Down || g.Told.Running || g.Told.Restarts != int64(n) {
			t.Fatalf("end %d: %+v, %+v", n, e, g)
		}
		if g.Ended("again", now) != (End{}) {
			t.Fatal("one end is told twice")
		}
		if paused := e.Pause != nil; paused != (n > 2) || paused && (e.Pause.Err.Reason != fault.GatewayCrashes || !e.Pause.Next.After(now)) {
			t.Fatalf("end %d: pause %+v", n, e.Pause)
		}
		g.restarted(n+1, now)
	}
	if f := g.Warning(); f == nil || f.Err.Reason != fault.GatewayCrashes || f.Attempts != 4 {
		t.Fatalf("the warning is %+v", f)
	}
	if f := g.Probed(healthy, now.Add(steadyAfter)); f != (Finding{}) {
		t.Errorf("it is calm too early: %+v", f)
	}
	later := now.Add(2 * steadyAfter)
	if f := g.Probed(healthy, later); !f.Calm || g.Warning() != nil {
		t.Errorf("it does not calm down: %+v, %+v", f, g)
	}
	if e := g.Ended("again", later); !e.Died || e.Pause != nil {
		t.Errorf("the next end is not the first: %+v", e)
	}
}

// TestStopped: nobody is told that it died.
func TestStopped(t *testing.T) {
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	g := gateway(now)
	g.Stops()
	if e := g.Ended("", now); !e.News || e.Died || e.Pause != nil || g.Told.Restarts != 0 {
		t.Errorf("%+v", e)
	}
}

// TestHangs: it is told once, and again when it answers before it was replaced.
func TestHangs(t *testing.T) {
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	g, mute := gateway(now), ganesha.Health{NFS: errors.New("no answer")}
	if f := g.Probed(mute, now); f.Stuck == nil || f.Pause == nil || f.Pause.Err.Reason != fault.GatewayStuck || f.Pause.Next.After(now) || !g.Stuck() {
		t.Errorf("it hangs: %+v", f)
	}
	if f := g.Probed(mute, now); f != (Finding{}) {
		t.Errorf("told twice: %+v", f)
	}
	if f := g.Probed(healthy, now); !f.Answers {
		t.Errorf("it answers: %+v", f)
	}
	if replaced := g.Serves(ganesha.Status{Running: true, PID: 2, StartedAt: now}); !replaced || g.Stuck() || g.Told.Restarts != 1 {
		t.Errorf("it is replaced: %+v", g)
	}
	g.Stops()
	if f := g.Probed(mute, now); f != (Finding{}) {
		t.Errorf("of one that is being stopped: %+v", f)
	}
}

// TestPartsEnd: Ganesha is left alone.
func TestPartsEnd(t *testing.T) {
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	g := gateway(now)
	if f := g.Probed(ganesha.Health{NFS3: errors.New("rpcbind ended")}, now); f.Parts == nil || f.Stuck != nil || f.Pause == nil || f.Pause.Err.Reason != fault.NFS3PartsDown {
		t.Errorf("%+v", f)
	}
}

// TestLimits: a limit that was reached says why the gateway ends, for a while.
func TestLimits(t *testing.T) {
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	g := gateway(now)
	if l := g.Limits(ganesha.Status{Running: true, Refused: 3}, now); !slices.Equal(l, []Limit{{"tasks", 3}}) || g.Warning().Err.Reason != fault.GatewayTasks {
		t.Errorf("threads: %v, %+v", l, g.Warning())
	}
	if l := g.Limits(ganesha.Status{Running: true, Refused: 3}, now); l != nil {
		t.Errorf("told twice: %v", l)
	}
	later := now.Add(2 * steadyAfter)
	if f := g.Probed(healthy, later); !f.Calm {
		t.Errorf("it does not calm down: %+v", f)
	}
	for n := uint64(1); n <= 3; n++ {
		if l := g.Limits(ganesha.Status{Kills: n, Refused: 1}, later); len(l) == 0 || l[len(l)-1] != (Limit{"memory", 1}) {
			t.Fatalf("kill %d: %v", n, l)
		}
		if e := g.Ended("killed", later); n == 3 && e.Pause.Err.Reason != fault.GatewayMemory {
			t.Errorf("it keeps ending: %+v", e.Pause)
		}
		g.restarted(int(n)+1, later)
	}
	var next Gateway // another agent's
	if l := next.Limits(ganesha.Status{Running: true, Kills: 3}, later); l != nil {
		t.Errorf("what runs is blamed for what was before it: %v", l)
	}
}

// TestStartFailed: failing starts are a crash loop too.
func TestStartFailed(t *testing.T) {
	before := &retry.Failure{Attempts: 2}
	for _, tt := range []struct {
		before *retry.Failure
		e      *fault.Error
		want   fault.Reason
	}{
		{nil, &fault.Error{Reason: fault.GatewayDown}, fault.GatewayDown},
		{&retry.Failure{Attempts: 1}, &fault.Error{Reason: fault.GatewayDown}, fault.GatewayDown},
		{before, &fault.Error{Reason: fault.GatewayDown, Err: errors.New("its log ends: x")}, fault.GatewayCrashes},
		{before, &fault.Error{Reason: fault.StepTimeout}, fault.GatewayCrashes},
		{before, &fault.Error{Reason: fault.GatewayCrashes}, fault.GatewayCrashes},
		{before, &fault.Error{Reason: fault.StepFailed}, fault.StepFailed},
	} {
		got := StartFailed(tt.before, tt.e)
		if got.Reason != tt.want || tt.e.Err != nil && !strings.Contains(got.Error(), tt.e.Err.Error()) {
			t.Errorf("%v after %+v is %v, want %s", tt.e, tt.before, got, tt.want)
		}
	}
}
