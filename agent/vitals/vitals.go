// Package vitals keeps what is known of a gateway beside its steps: whether it
// serves, how often it ended, and which limits it reached.
//
// A Gateway looks at nothing itself, and takes the time as a word: who notes
// something is told what that means for those who wait for the gateway. A Prober
// asks.
package vitals

import (
	"fmt"
	"time"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/retry"
	"github.com/causeway-project/causeway/ganesha"
)

// steadyAfter is how long a gateway has to run before its end counts as the
// first again.
const steadyAfter = 30 * time.Second

// Serving says what a gateway does, for the exports that need it.
type Serving int

// What a gateway does.
const (
	Unseen Serving = iota // not looked at yet, or on its way up: it may serve anything
	Down                  // no process: it serves nothing
	Up                    // adopted, and takes exports
)

// A Gateway is that of one network. The zero one was not looked at yet.
type Gateway struct {
	Told model.Gateway // what callers are told of it

	serving  Serving
	stuck    bool         // it runs and does not answer
	ends     int          // quick ones, in a row
	unsteady *fault.Error // it has ended too often of late, or reached a limit
	limited  limited
}

// limited is how often a gateway has reached its limits.
type limited struct {
	seen           bool // the counts are known
	kills, refused uint64
	at             time.Time // of the last, as far as we saw it
}

// Serving says what it does.
func (g *Gateway) Serving() Serving { return g.serving }

// Stuck says whether it runs and does not answer.
func (g *Gateway) Stuck() bool { return g.stuck }

// Warning is why it is degraded though it serves just now, or nil.
func (g *Gateway) Warning() *retry.Failure {
	if g.unsteady == nil {
		return nil
	}
	return &retry.Failure{Err: g.unsteady, Attempts: g.ends}
}

// Starts notes that it is about to be started or adopted.
func (g *Gateway) Starts() { g.serving = Unseen }

// Stops notes that it is about to be stopped.
func (g *Gateway) Stops() {
	g.serving = Unseen
	g.Told.Running, g.Told.PID = false, 0
}

// Serves notes that it takes exports. It says whether it was replaced, rather
// than found dead.
func (g *Gateway) Serves(st ganesha.Status) (replaced bool) {
	if replaced = g.Told.Running && g.Told.PID != st.PID; replaced {
		g.Told.Restarts++
	}
	g.serving, g.stuck = Up, false
	g.Told.Running, g.Told.PID, g.Told.StartedAt, g.Told.Version = true, st.PID, st.StartedAt, st.Version
	return replaced
}

// An End is what it means that there is no process.
type End struct {
	News  bool           // it was not known
	Died  bool           // the process ended by itself
	PID   int            // of that
	Pause *retry.Failure // before the next start; nil is none
}

// Ended notes that it does not run; why is the end of its log. One that ended by
// itself is started again at once the first time; one that keeps ending waits
// longer each time.
func (g *Gateway) Ended(why string, now time.Time) (e End) {
	if g.serving == Down {
		return End{}
	}
	g.serving = Down
	if !g.Told.Running {
		return End{News: true}
	}
	e = End{News: true, Died: true, PID: g.Told.PID}
	g.Told.Restarts++
	e.Pause = g.count(nil, crashes(fmt.Errorf("its log ends: %s", why)), now)
	g.Told.Running, g.Told.PID = false, 0
	return e
}

// count counts an end, and returns the pause before the next start. The first are
// not paused for, and once is said of them, if it is not nil; from the third on
// it is keeps.
func (g *Gateway) count(once, keeps *fault.Error, now time.Time) *retry.Failure {
	if now.Sub(g.Told.StartedAt) > steadyAfter {
		g.ends = 0
	}
	g.ends++
	f := &retry.Failure{Err: once, Attempts: g.ends, Next: now}
	if g.ends > 2 {
		if g.unsteady != nil && now.Sub(g.limited.at) < steadyAfter {
			keeps = g.unsteady // says why it ends
		}
		f.Err, f.Next = keeps, f.Next.Add(retry.Backoff(g.ends-2))
		g.unsteady = keeps
	}
	if f.Err == nil {
		return nil
	}
	return f
}

// A Limit is one that was reached.
type Limit struct {
	Name  string
	Times uint64
}

// Limits notes which limits it has reached since the last look. It is degraded
// until it has gone on for a while without.
func (g *Gateway) Limits(st ganesha.Status, now time.Time) (reached []Limit) {
	last := g.limited
	g.limited.seen, g.limited.kills, g.limited.refused = true, st.Kills, st.Refused
	if !last.seen && st.Running {
		return nil // of an earlier agent's time
	}
	for _, l := range []struct {
		name      string
		last, now uint64
		e         *fault.Error
	}{
		{"tasks", last.refused, st.Refused, &fault.Error{Kind: fault.Exhausted, Reason: fault.GatewayTasks,
			Message: "the gateway reached its limit of threads, and some clients were not served at once: raise gateway.limits.tasks"}},
		{"memory", last.kills, st.Kills, &fault.Error{Kind: fault.Exhausted, Reason: fault.GatewayMemory,
			Message: "the gateway was killed at its limit of memory and is started again: raise gateway.limits.memory"}},
	} {
		if l.now < l.last {
			l.last = 0 // the count began anew
		}
		if l.now == l.last {
			continue
		}
		reached = append(reached, Limit{l.name, l.now - l.last})
		g.limited.at, g.unsteady = now, l.e
	}
	return reached
}

// A Finding is what a probe means.
type Finding struct {
	Calm    bool // it has gone on for a while without what it was degraded for
	Answers bool // it was stuck, and is not any more

	Parts error          // why what NFSv3 needs beside it has ended
	Stuck error          // why it is to be replaced, unless a backend hangs
	Pause *retry.Failure // of the last two: before the next start
}

// Probed notes what a probe of its process found.
func (g *Gateway) Probed(h ganesha.Health, now time.Time) Finding {
	switch {
	case g.stuck && h.OK():
		return Finding{Answers: true}
	case g.serving != Up:
		return Finding{}
	case h.OK():
		if g.unsteady != nil && now.Sub(g.Told.StartedAt) > steadyAfter && now.Sub(g.limited.at) > steadyAfter {
			g.unsteady, g.ends = nil, 0
			return Finding{Calm: true}
		}
		return Finding{}
	case g.stuck:
		return Finding{} // it is being replaced, or waited for
	}
	g.stuck = true // its start puts that right
	if h.NFS == nil && h.Bus == nil {
		e := &fault.Error{Kind: fault.Unavailable, Reason: fault.NFS3PartsDown, Message: "rpcbind or rpc.statd of the gateway has ended: it is being started again", Err: h.NFS3}
		return Finding{Parts: h.NFS3, Pause: g.count(e, e, now)}
	}
	why := h.NFS
	if why == nil {
		why = h.Bus
	}
	e := &fault.Error{Kind: fault.Unavailable, Reason: fault.GatewayStuck, Message: "the gateway runs and does not answer: it is being replaced", Err: why}
	return Finding{Stuck: why, Pause: g.count(e, e, now)}
}

// StartFailed is e, unless it is one failure to start of many, of which before
// was the last.
func StartFailed(before *retry.Failure, e *fault.Error) *fault.Error {
	if before == nil || before.Attempts < 2 || e.Reason != fault.GatewayDown && e.Reason != fault.StepTimeout {
		return e
	}
	return crashes(e)
}

func crashes(err error) *fault.Error {
	return &fault.Error{Kind: fault.Unavailable, Reason: fault.GatewayCrashes, Message: "the gateway keeps ending: it is started again, with growing pauses", Err: err}
}
