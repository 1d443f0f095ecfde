package agent

import (
	"fmt"
	"time"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/reconcile"
	"github.com/causeway-project/causeway/agent/retry"
	"github.com/causeway-project/causeway/ganesha"
)

// steadyAfter is how long a gateway has to run before its end counts as the
// first again.
const steadyAfter = 30 * time.Second

// serving says what is known of a gateway, for the exports that need it.
type serving int

const (
	unseen serving = iota // not looked at yet, or on its way up: it may serve anything
	down                  // no process: it serves nothing
	up                    // adopted, and takes exports
)

// gatewayStarts notes that a gateway is about to be started or adopted.
func (a *Agent) gatewayStarts(network string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if o := a.objects[model.NetworkKey(network)]; o != nil {
		o.serving = unseen
	}
}

// gatewayServes notes that a network's gateway takes exports, and lets those
// that wait for it go on.
func (a *Agent) gatewayServes(network string, st ganesha.Status) {
	a.mu.Lock()
	defer a.mu.Unlock()
	o := a.objects[model.NetworkKey(network)]
	if o == nil {
		return
	}
	if o.gateway.Running && o.gateway.PID != st.PID {
		a.metrics.restarts.Inc() // replaced, rather than found dead
		o.gateway.Restarts++
	}
	o.serving, o.stuck = up, false
	o.gateway.Running, o.gateway.PID, o.gateway.StartedAt, o.gateway.Version = true, st.PID, st.StartedAt, st.Version
	a.log.Info("gateway serves", "network", network, "pid", st.PID)
	a.gatewayChangedLocked(o)
}

// gatewayDown notes that a network's gateway does not run. One that ended by
// itself is started again at once the first time; one that keeps ending waits
// longer each time.
func (a *Agent) gatewayDown(network, why string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	o := a.objects[model.NetworkKey(network)]
	if o == nil || o.serving == down {
		return
	}
	o.serving = down
	if !o.gateway.Running {
		a.gatewayChangedLocked(o)
		return
	}
	a.log.Warn("gateway ended and will be started again", "network", network, "pid", o.gateway.PID, "log", why)
	a.metrics.restarts.Inc()
	o.gateway.Restarts++
	a.gatewayEndedLocked(o, nil, crashes(fmt.Errorf("its log ends: %s", why)))
	o.gateway.Running, o.gateway.PID = false, 0
	a.gatewayChangedLocked(o)
}

// limited remembers how often a gateway has reached its limits.
type limited struct {
	seen           bool // the counts are known
	kills, refused uint64
	at             time.Time // of the last, as far as we saw it
}

// gatewayLimited notes whether a gateway has reached a limit since the last
// look, and keeps it degraded until it has gone on for a while without.
func (a *Agent) gatewayLimited(network string, st ganesha.Status) {
	a.mu.Lock()
	defer a.mu.Unlock()
	o := a.objects[model.NetworkKey(network)]
	if o == nil {
		return
	}
	last := o.limited
	o.limited.seen, o.limited.kills, o.limited.refused = true, st.Kills, st.Refused
	if !last.seen && st.Running {
		return // of an earlier agent's time
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
		a.metrics.limits.WithLabelValues(l.name).Add(float64(l.now - l.last))
		a.log.Warn("gateway reached a limit", "network", network, "limit", l.name, "pid", o.gateway.PID)
		o.limited.at, o.unsteady = time.Now(), l.e
		a.wakeLocked(intent.NetworkGroup(network), lookOn)
	}
}

// gatewayEndedLocked counts an end and sets the pause before the next start.
// The first are not paused for, and once is said to the watchers, or nothing
// where that is nil; from the third on it is keeps.
func (a *Agent) gatewayEndedLocked(o *object, once, keeps *fault.Error) {
	if time.Since(o.gateway.StartedAt) > steadyAfter {
		o.quickEnds = 0
	}
	o.quickEnds++
	f := &retry.Failure{Err: once, Attempts: o.quickEnds, Next: time.Now()}
	if o.quickEnds > 2 {
		if o.unsteady != nil && time.Since(o.limited.at) < steadyAfter {
			keeps = o.unsteady // says why it ends
		}
		f.Err, f.Next = keeps, f.Next.Add(retry.Backoff(o.quickEnds-2))
		o.unsteady = keeps
	}
	if g := a.groups[intent.NetworkGroup(o.key.ID)]; g != nil && f.Err != nil {
		g.fails[reconcile.Gateway.Of(o.key.ID)] = f
	}
}

// gatewayStops notes that the agent is about to stop a gateway.
func (a *Agent) gatewayStops(network string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if o := a.objects[model.NetworkKey(network)]; o != nil {
		o.serving = unseen
		o.gateway.Running, o.gateway.PID = false, 0
		a.gatewayChangedLocked(o)
	}
}

func (a *Agent) gatewayChangedLocked(o *object) {
	o.broadcast()
	a.tellLocked(o, false)
	for id, e := range a.exports.Of(o.key.ID) {
		if e.rec != nil {
			a.wakeLocked(e.rec.Group(id), lookAgain)
		}
	}
}

// gatewayErrorLocked says why an export waits for its network's gateway.
func (a *Agent) gatewayErrorLocked(network string) *fault.Error {
	e := &fault.Error{Kind: fault.Unavailable, Reason: fault.GatewayDown, Message: fmt.Sprintf("waits for the gateway of network %s", network)}
	if o := a.objects[model.NetworkKey(network)]; o != nil && o.failure != nil {
		// Not its cause, which ends with lines of Ganesha's log: a thousand exports
		// would repeat them.
		e.Message += ": " + o.failure.Message
	}
	return e
}
