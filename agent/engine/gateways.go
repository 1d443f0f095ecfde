package engine

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
func (eng *Engine) gatewayStarts(network string) {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	if o := eng.objects[model.NetworkKey(network)]; o != nil {
		o.gateway.Starts()
	}
}

// gatewayServes notes that a network's gateway takes exports, and lets those
// that wait for it go on.
func (eng *Engine) gatewayServes(network string, st ganesha.Status) {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	o := eng.objects[model.NetworkKey(network)]
	if o == nil {
		return
	}
	if o.gateway.Serves(st) {
		eng.metrics.GatewayEnded()
	}
	eng.log.Info("gateway serves", "network", network, "pid", st.PID)
	eng.gatewayChangedLocked(o)
}

// gatewayDown notes that a network's gateway does not run.
func (eng *Engine) gatewayDown(network, why string) {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	o := eng.objects[model.NetworkKey(network)]
	if o == nil {
		return
	}
	end := o.gateway.Ended(why, time.Now())
	if end.Died {
		eng.log.Warn("gateway ended and will be started again", "network", network, "pid", end.PID, "log", why)
		eng.metrics.GatewayEnded()
		eng.pauseGatewayLocked(network, end.Pause)
	}
	if end.News {
		eng.gatewayChangedLocked(o)
	}
}

// pauseGatewayLocked puts off a gateway's next start.
func (eng *Engine) pauseGatewayLocked(network string, f *retry.Failure) {
	if g := eng.groups[intent.NetworkGroup(network)]; g != nil && f != nil {
		g.steps.PutOff(reconcile.Gateway.Of(network), f)
	}
}

// gatewayLimited notes whether a gateway has reached a limit since the last
// look.
func (eng *Engine) gatewayLimited(network string, st ganesha.Status) {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	o := eng.objects[model.NetworkKey(network)]
	if o == nil {
		return
	}
	for _, l := range o.gateway.Limits(st, time.Now()) {
		eng.metrics.GatewayLimited(l.Name, l.Times)
		eng.log.Warn("gateway reached a limit", "network", network, "limit", l.Name, "pid", o.gateway.Told.PID)
		eng.wakeLocked(intent.NetworkGroup(network), lookOn)
	}
}

// gatewayStops notes that the agent is about to stop a gateway.
func (eng *Engine) gatewayStops(network string) {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	if o := eng.objects[model.NetworkKey(network)]; o != nil {
		o.gateway.Stops()
		eng.gatewayChangedLocked(o)
	}
}

func (eng *Engine) gatewayChangedLocked(o *object) {
	o.broadcast()
	eng.tellLocked(o, false)
	for id, e := range eng.exports.Of(o.key.ID) {
		if e.rec != nil {
			eng.wakeLocked(e.rec.Group(id), lookAgain)
		}
	}
}

// gatewayErrorLocked says why an export waits for its network's gateway.
func (eng *Engine) gatewayErrorLocked(network string) *fault.Error {
	e := &fault.Error{Kind: fault.Unavailable, Reason: fault.GatewayDown, Message: fmt.Sprintf("waits for the gateway of network %s", network)}
	if o := eng.objects[model.NetworkKey(network)]; o != nil && o.failure != nil {
		// Not its cause, which ends with lines of Ganesha's log: a thousand exports
		// would repeat them.
		e.Message += ": " + o.failure.Message
	}
	return e
}
