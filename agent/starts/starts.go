// Package starts keeps which instances libvirt is about to start.
//
// libvirt tells of a start by its hook, holds the instance's lock until the hook
// returns, and answers no question about the instance meanwhile: whoever asked
// would wait for the hook, which waits for him. From then on it says that the
// instance runs (qemuProcessInit gives it its id before it calls the hook), so
// that what was made ready for QEMU is not put away before QEMU takes it.
package starts

import (
	"context"
	"errors"
	"sync"
)

// ErrBegun ends the contexts of Guard.
var ErrBegun = errors.New("the instance is being started")

// A Table is the starts of which a hook waits. Its zero value has none. It may be
// used by any number of goroutines.
type Table struct {
	mu     sync.Mutex
	hooks  map[string]int // that wait, by instance
	guards map[*guard]bool
}

type guard struct {
	instance string
	cancel   context.CancelCauseFunc
}

// Begin notes that a hook waits, until end is called.
func (t *Table) Begin(instance string) (end func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.hooks == nil {
		t.hooks = map[string]int{}
	}
	t.hooks[instance]++
	for g := range t.guards {
		if g.instance == instance {
			g.cancel(ErrBegun)
		}
	}
	return sync.OnceFunc(func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.hooks[instance]--; t.hooks[instance] == 0 {
			delete(t.hooks, instance)
		}
	})
}

// Under says whether an instance is about to start: it has no QEMU.
func (t *Table) Under(instance string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.hooks[instance] > 0
}

// Guard ends the context when a hook begins to wait, for a question to libvirt
// that may then not be answered. cancel must be called.
func (t *Table) Guard(ctx context.Context, instance string) (_ context.Context, cancel func()) {
	ctx, stop := context.WithCancelCause(ctx)
	g := &guard{instance, stop}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.guards == nil {
		t.guards = map[*guard]bool{}
	}
	t.guards[g] = true
	if t.hooks[instance] > 0 {
		stop(ErrBegun)
	}
	return ctx, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.guards, g)
		stop(nil)
	}
}
