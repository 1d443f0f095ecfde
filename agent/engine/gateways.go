package engine

import (
	"fmt"
	"time"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/gateway"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/reconcile"
	"github.com/causeway-project/causeway/agent/retry"
	"github.com/causeway-project/causeway/ganesha"
)

// gatewayNotes are the objects, as the gateways' steps see them.
type gatewayNotes struct{ *Engine }

// Starts implements gateway.Notes.
func (n gatewayNotes) Starts(network string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if o := n.objects[model.NetworkKey(network)]; o != nil {
		o.gateway.Starts()
	}
}

// Serves implements gateway.Notes: exports that wait for the gateway go on.
func (n gatewayNotes) Serves(network string, st ganesha.Status) {
	n.mu.Lock()
	defer n.mu.Unlock()
	o := n.objects[model.NetworkKey(network)]
	if o == nil {
		return
	}
	if o.gateway.Serves(st) {
		n.metrics.GatewayEnded()
	}
	n.log.Info("gateway serves", "network", network, "pid", st.PID)
	n.gatewayChangedLocked(o)
}

// Stops implements gateway.Notes.
func (n gatewayNotes) Stops(network string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if o := n.objects[model.NetworkKey(network)]; o != nil {
		o.gateway.Stops()
		n.gatewayChangedLocked(o)
	}
}

// Exports implements gateway.Notes.
func (n gatewayNotes) Exports(network string) gateway.Exports {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := gateway.Exports{
		Wanted: map[string]*intent.Export{}, Working: map[string]<-chan struct{}{}, Numbers: map[uint16]bool{},
		Used: n.hasExportsLocked(network), Unsure: len(n.damagedOf(model.KindExport)) > 0,
	}
	for id, o := range n.exports.Of(network) {
		all.Numbers[o.intent().Export.ExportID] = true
		if o.rec == nil || o.rec.Removing {
			continue
		}
		all.Wanted[id] = o.rec.Export
		if o.status.Phase == model.Working {
			all.Working[id] = o.changed
		}
	}
	return all
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
