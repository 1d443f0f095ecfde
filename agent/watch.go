package agent

import (
	"context"
	"slices"
	"strings"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/model"
)

// A watcher reads events from a channel of bounded length; one that reads too
// slowly is ended rather than slowing the agent down.
type watcher struct {
	events  chan model.Event
	overrun chan struct{}
}

const watchBuffer = 1024

// Watch sends every object as it is, then one Synced event, then each change,
// until ctx ends or send fails. A watcher that reads too slowly gets
// WatchOverrun and starts anew.
func (a *Agent) Watch(ctx context.Context, send func(model.Event) error) error {
	w := &watcher{events: make(chan model.Event, watchBuffer), overrun: make(chan struct{})}
	a.mu.Lock()
	a.watchers[w] = true
	var now []model.Event
	for _, o := range a.objects {
		if o.rec != nil {
			now = append(now, a.eventLocked(o, false))
		}
	}
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.watchers, w)
	}()
	slices.SortFunc(now, func(x, y model.Event) int { return strings.Compare(x.Name(), y.Name()) })
	for _, e := range append(now, model.Event{Synced: true}) {
		if err := send(e); err != nil {
			return err
		}
	}
	for {
		select {
		case e := <-w.events:
			if err := send(e); err != nil {
				return err
			}
		case <-w.overrun:
			return &fault.Error{Kind: fault.Busy, Reason: fault.WatchOverrun, Message: "the watcher read too slowly and missed changes: watch again"}
		case <-ctx.Done():
			return nil
		}
	}
}

// tellLocked hands a change to every watcher.
func (a *Agent) tellLocked(o *object, deleted bool) {
	if len(a.watchers) == 0 || o.rec == nil {
		return
	}
	e := a.eventLocked(o, deleted)
	for w := range a.watchers {
		select {
		case w.events <- e:
		default:
			close(w.overrun)
			delete(a.watchers, w)
		}
	}
}

func (a *Agent) eventLocked(o *object, deleted bool) model.Event {
	e := model.Event{Deleted: deleted}
	switch {
	case o.rec.Attachment != nil:
		at := a.attachmentLocked(o)
		e.Attachment = &at
	case o.rec.Network != nil:
		n := a.networkLocked(o)
		e.Network = &n
	default:
		x := a.exportLocked(o)
		e.Export = &x
	}
	return e
}
