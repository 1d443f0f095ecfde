package engine

import (
	"time"

	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/agent/vitals"
	"github.com/causeway-project/causeway/ganesha"
)

// watchHealth probes a gateway until done is closed, once for each process.
func (eng *Engine) watchHealth(network string, s parts.Server, done <-chan struct{}) {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	o := eng.objects[model.NetworkKey(network)]
	if o == nil || done == nil || o.probed == done {
		return
	}
	o.probed = done
	eng.workers.Go(func() {
		p := vitals.Prober{Ask: s.Probe, Every: eng.o.Probe, Note: func(h ganesha.Health) { eng.gatewayProbed(network, done, h) }}
		p.Run(eng.run, done)
	})
}

// gatewayProbed notes what a probe found of the process that ends with done.
func (eng *Engine) gatewayProbed(network string, done <-chan struct{}, h ganesha.Health) {
	select {
	case <-done:
		return // it ended, which somebody else notes
	default:
	}
	eng.mu.Lock()
	defer eng.mu.Unlock()
	o := eng.objects[model.NetworkKey(network)]
	if o == nil || o.probed != done || eng.run.Err() != nil {
		return
	}
	f := o.gateway.Probed(h, time.Now())
	eng.pauseGatewayLocked(network, f.Pause)
	switch {
	case f.Calm:
		eng.wakeLocked(intent.NetworkGroup(network), lookOn)
	case f.Answers: // its backend does again
		eng.wakeLocked(intent.NetworkGroup(network), lookAgain)
	case f.Parts != nil: // Start puts it right, and leaves Ganesha alone
		eng.log.Warn("what NFSv3 needs beside the gateway has ended and will be started again", "network", network, "err", f.Parts)
		eng.wakeLocked(intent.NetworkGroup(network), lookAgain)
	case f.Stuck != nil:
		eng.metrics.GatewayStuck()
		eng.log.Warn("gateway does not answer and will be replaced unless a backend hangs", "network", network, "pid", o.gateway.Told.PID, "err", f.Stuck)
		eng.wakeLocked(intent.NetworkGroup(network), lookAgain)
	}
}

func (eng *Engine) isStuck(network string) bool {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	o := eng.objects[model.NetworkKey(network)]
	return o != nil && o.gateway.Stuck()
}
