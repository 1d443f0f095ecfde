package engine

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
func (eng *Engine) Watch(ctx context.Context, send func(model.Event) error) error {
	w := &watcher{events: make(chan model.Event, watchBuffer), overrun: make(chan struct{})}
	eng.mu.Lock()
	eng.watchers[w] = true
	var now []model.Event
	for _, o := range eng.objects {
		if o.rec != nil {
			now = append(now, eng.eventLocked(o, false))
		}
	}
	eng.mu.Unlock()
	defer func() {
		eng.mu.Lock()
		defer eng.mu.Unlock()
		delete(eng.watchers, w)
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
func (eng *Engine) tellLocked(o *object, deleted bool) {
	if len(eng.watchers) == 0 || o.rec == nil {
		return
	}
	e := eng.eventLocked(o, deleted)
	for w := range eng.watchers {
		select {
		case w.events <- e:
		default:
			close(w.overrun)
			delete(eng.watchers, w)
		}
	}
}

func (eng *Engine) eventLocked(o *object, deleted bool) model.Event {
	e := model.Event{Deleted: deleted}
	switch {
	case o.rec.Attachment != nil:
		at := eng.attachmentLocked(o)
		e.Attachment = &at
	case o.rec.Network != nil:
		n := eng.networkLocked(o)
		e.Network = &n
	default:
		x := eng.exportLocked(o)
		e.Export = &x
	}
	return e
}
