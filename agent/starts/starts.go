// Package starts keeps which instances libvirt is about to start.
//
// libvirt tells of a start by its hook, holds the instance's lock until the hook
// returns, and answers no question about the instance meanwhile: whoever asked
// would wait for the hook, which waits for him.
//
//	Begin -----> the hook waits -----> end -----> grace -----> forgotten
//	             libvirt is not asked             nothing is released
//
// Grace is for the time between the hook's return and the first news of the
// instance, so that what was made ready is not put away before QEMU takes it.
package starts

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Grace is how long after the hook has returned an instance counts as starting,
// unless there is news of it.
const Grace = 30 * time.Second

// ErrBegun ends the contexts of Guard.
var ErrBegun = errors.New("the instance is being started")

// A Table is the starts that are under way. Its zero value has none. It may be
// used by any number of goroutines.
type Table struct {
	mu     sync.Mutex
	starts map[string]*start
	guards map[*guard]string // instance
}

type start struct {
	hooks int       // that wait
	until time.Time // end of the grace, when none does
}

type guard struct{ cancel context.CancelCauseFunc }

// Begin notes that a hook waits, until end is called.
func (t *Table) Begin(instance string) (end func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.starts[instance]
	if s == nil {
		s = &start{}
		if t.starts == nil {
			t.starts = map[string]*start{}
		}
		t.starts[instance] = s
	}
	s.hooks++
	for g, of := range t.guards {
		if of == instance {
			g.cancel(ErrBegun)
		}
	}
	return sync.OnceFunc(func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		s.hooks--
		s.until = time.Now().Add(Grace)
	})
}

// News ends the grace: libvirt can be asked how the instance is.
func (t *Table) News(instance string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.starts[instance]; s != nil && s.hooks == 0 {
		delete(t.starts, instance)
	}
}

// Waits says whether a hook waits: no QEMU of the instance runs then.
func (t *Table) Waits(instance string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.starts[instance]
	return s != nil && s.hooks > 0
}

// Until says whether an instance is starting, and when that ends by itself:
// zero while the hook waits.
func (t *Table) Until(instance string) (until time.Time, starting bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.starts[instance]
	switch {
	case s == nil:
		return time.Time{}, false
	case s.hooks > 0:
		return time.Time{}, true
	case time.Now().After(s.until):
		delete(t.starts, instance)
		return time.Time{}, false
	}
	return s.until, true
}

// Under says whether an instance is starting.
func (t *Table) Under(instance string) bool {
	_, starting := t.Until(instance)
	return starting
}

// Guard ends the context when a hook begins to wait, for a question to libvirt
// that may then not be answered. cancel must be called.
func (t *Table) Guard(ctx context.Context, instance string) (_ context.Context, cancel func()) {
	ctx, stop := context.WithCancelCause(ctx)
	g := &guard{cancel: stop}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.guards == nil {
		t.guards = map[*guard]string{}
	}
	t.guards[g] = instance
	if s := t.starts[instance]; s != nil && s.hooks > 0 {
		stop(ErrBegun)
	}
	return ctx, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.guards, g)
		stop(nil)
	}
}
