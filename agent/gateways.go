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

// gatewayStarts notes that a gateway is about to be started or adopted.
func (a *Agent) gatewayStarts(network string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if o := a.objects[model.NetworkKey(network)]; o != nil {
		o.gateway.Starts()
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
	if o.gateway.Serves(st) {
		a.metrics.GatewayEnded()
	}
	a.log.Info("gateway serves", "network", network, "pid", st.PID)
	a.gatewayChangedLocked(o)
}

// gatewayDown notes that a network's gateway does not run.
func (a *Agent) gatewayDown(network, why string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	o := a.objects[model.NetworkKey(network)]
	if o == nil {
		return
	}
	end := o.gateway.Ended(why, time.Now())
	if end.Died {
		a.log.Warn("gateway ended and will be started again", "network", network, "pid", end.PID, "log", why)
		a.metrics.GatewayEnded()
		a.pauseGatewayLocked(network, end.Pause)
	}
	if end.News {
		a.gatewayChangedLocked(o)
	}
}

// pauseGatewayLocked puts off a gateway's next start.
func (a *Agent) pauseGatewayLocked(network string, f *retry.Failure) {
	if g := a.groups[intent.NetworkGroup(network)]; g != nil && f != nil {
		g.fails[reconcile.Gateway.Of(network)] = f
	}
}

// gatewayLimited notes whether a gateway has reached a limit since the last
// look.
func (a *Agent) gatewayLimited(network string, st ganesha.Status) {
	a.mu.Lock()
	defer a.mu.Unlock()
	o := a.objects[model.NetworkKey(network)]
	if o == nil {
		return
	}
	for _, l := range o.gateway.Limits(st, time.Now()) {
		a.metrics.GatewayLimited(l.Name, l.Times)
		a.log.Warn("gateway reached a limit", "network", network, "limit", l.Name, "pid", o.gateway.Told.PID)
		a.wakeLocked(intent.NetworkGroup(network), lookOn)
	}
}

// gatewayStops notes that the agent is about to stop a gateway.
func (a *Agent) gatewayStops(network string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if o := a.objects[model.NetworkKey(network)]; o != nil {
		o.gateway.Stops()
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
