package vitals

import (
	"context"
	"time"

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

// A Prober asks one process of a gateway whether it serves.
type Prober struct {
	Ask   func(context.Context, ganesha.ProbeOptions) ganesha.Health // required
	Every time.Duration                                              // required
	Note  func(ganesha.Health)                                       // required: gets each answer

	asked, mute int
}

// Run asks until ctx ends or done is closed, with the process.
func (p *Prober) Run(ctx context.Context, done <-chan struct{}) {
	for timer := time.NewTimer(retry.Jitter(p.Every)); ; timer.Reset(retry.Jitter(p.Every)) {
		select {
		case <-ctx.Done():
			return
		case <-done:
			return
		case <-timer.C:
		}
		p.Note(p.once(ctx))
	}
}

// once asks once. A D-Bus that was silent too seldom yet counts as well.
func (p *Prober) once(ctx context.Context) ganesha.Health {
	ctx, cancel := context.WithTimeout(ctx, probeDeadline)
	defer cancel()
	p.asked++
	o := ganesha.ProbeOptions{NFSOnly: p.asked%busEvery != 0}
	h := p.Ask(ctx, o)
	switch {
	case h.Bus != nil:
		p.mute++
	case !o.NFSOnly:
		p.mute = 0
	}
	if h.NFS == nil && p.mute <= mostMute {
		h.Bus = nil
	}
	return h
}
