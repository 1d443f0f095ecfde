package engine

import (
	"context"
	"time"

	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/agent/retry"
	"github.com/causeway-project/causeway/ganesha"
)

// A gateway whose process ends is noticed at once. One that hangs is not, so
// each is asked every few seconds whether it serves. One unanswered question
// is a suspicion: Start asks once more before it replaces the process, which
// takes two answers of a second each. One that waits for a backend is left alone.

// D-Bus is asked with each fourth question only, to save time. A gateway that
// serves its clients may leave it unanswered twice in a row: a change to an
// export on a slow backend may hold up the thread that answers, and does not
// harm the others.
const (
	busEvery = 4
	mostMute = 2
)

// probeDeadline bounds one question, of which the parts have limits of their own.
const probeDeadline = 5 * time.Second

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
		asked, mute := 0, 0
		for timer := time.NewTimer(retry.Jitter(eng.o.Probe)); ; timer.Reset(retry.Jitter(eng.o.Probe)) {
			select {
			case <-eng.run.Done():
				return
			case <-done:
				return
			case <-timer.C:
			}
			ctx, cancel := context.WithTimeout(eng.run, probeDeadline)
			asked++
			o := ganesha.ProbeOptions{NFSOnly: asked%busEvery != 0}
			h := s.Probe(ctx, o)
			cancel()
			switch {
			case h.Bus != nil:
				mute++
			case !o.NFSOnly:
				mute = 0
			}
			if h.NFS == nil && mute <= mostMute {
				h.Bus = nil
			}
			eng.gatewayProbed(network, done, h)
		}
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
