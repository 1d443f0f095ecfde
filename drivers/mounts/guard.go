package mounts

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/causeway-project/causeway/drivers"
)

// What a Guard does when its fields are zero.
const (
	defaultDeadline = 5 * time.Second
	defaultLimit    = 256
)

// A Guard runs calls that may hang below a backend mount. A system call that
// hangs on a dead NFS or Ceph server heeds no context: its thread is lost
// until the server answers. A Guard loses at most one thread per mount. Set
// the fields before the first use; the zero value has defaults.
//
//	          Do            answer in time
//	(free) -------> running --------------> (free)
//	  ^                |
//	  |                | deadline
//	  +---- late ----- stuck: every Do fails at once
//	        answer
type Guard struct {
	Deadline time.Duration // for one answer; 0 is 5 s
	Limit    int           // calls under way, the stuck ones included; 0 is 256

	mu    sync.Mutex
	calls map[string]*call
	slots chan struct{}
}

// A call is the one touch of a key that is under way.
type call struct {
	done  chan struct{} // closed when touch has returned and its key is free
	since time.Time     // when touch began; zero while it waits for a slot
	err   error         // of touch, to be read after done
}

// Do runs touch for the mount that key names, and gives up waiting after the
// deadline: the mount is then stuck, and further calls for it fail at once
// with drivers.ErrUnreachable until the late answer comes. Calls for one key
// run one after the other; waiting for the earlier one counts as waiting for
// the mount. When ctx ends first, its error is returned and touch goes on
// alone; so touch must not write to what the caller reads after an error.
func (g *Guard) Do(ctx context.Context, key string, touch func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for {
		c, mine := g.enter(key)
		if mine {
			return g.run(ctx, key, c, touch)
		}
		if err := g.await(ctx, key, c); err != nil {
			return err
		}
	}
}

// enter makes the call of key this caller's, or returns the one under way.
func (g *Guard) enter(key string) (c *call, mine bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.calls == nil {
		g.calls = make(map[string]*call)
		g.slots = make(chan struct{}, g.limit())
	}
	if c, ok := g.calls[key]; ok {
		return c, false
	}
	c = &call{done: make(chan struct{})}
	g.calls[key] = c
	return c, true
}

func (g *Guard) run(ctx context.Context, key string, c *call, touch func() error) error {
	t := time.NewTimer(g.deadline())
	defer t.Stop()
	select {
	case g.slots <- struct{}{}:
	case <-t.C:
		g.leave(key, c)
		return fmt.Errorf("touch mount %q: %d calls below mounts hang: %w", key, g.limit(), drivers.ErrUnreachable)
	case <-ctx.Done():
		g.leave(key, c)
		return ctx.Err()
	}
	g.mu.Lock()
	c.since = time.Now()
	g.mu.Unlock()
	// Nobody can wait for this goroutine: that is what a Guard is for.
	go func() {
		c.err = touch()
		<-g.slots
		g.leave(key, c)
	}()
	if err := g.await(ctx, key, c); err != nil {
		return err
	}
	return c.err
}

func (g *Guard) leave(key string, c *call) {
	g.mu.Lock()
	delete(g.calls, key)
	g.mu.Unlock()
	close(c.done)
}

// await waits until c is done, its deadline passes or ctx ends.
func (g *Guard) await(ctx context.Context, key string, c *call) error {
	g.mu.Lock()
	since := c.since
	g.mu.Unlock()
	left := g.deadline() // nobody knows when a call without a slot will begin
	if !since.IsZero() {
		left -= time.Since(since)
	}
	// A call that is stuck and one that has just come back look alike to
	// select: done goes first.
	if left > 0 {
		t := time.NewTimer(left)
		defer t.Stop()
		select {
		case <-c.done:
			return nil
		case <-t.C:
		case <-ctx.Done():
		}
	}
	select {
	case <-c.done:
		return nil
	default:
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return fmt.Errorf("touch mount %q: no answer for %s, its backend hangs: %w", key, g.deadline(), drivers.ErrUnreachable)
}

// Stuck lists, sorted, the keys that have not answered within the deadline.
func (g *Guard) Stuck() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var keys []string
	for key, c := range g.calls {
		if !c.since.IsZero() && time.Since(c.since) >= g.deadline() {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

func (g *Guard) deadline() time.Duration {
	if g.Deadline == 0 {
		return defaultDeadline
	}
	return g.Deadline
}

func (g *Guard) limit() int {
	if g.Limit == 0 {
		return defaultLimit
	}
	return g.Limit
}
