package mounts_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-project/causeway/drivers"
	"github.com/causeway-project/causeway/drivers/mounts"
)

func TestGuardAnswers(t *testing.T) {
	var g mounts.Guard // the zero value works
	want := errors.New("from touch")
	wantErr(t, g.Do(t.Context(), "a", func() error { return want }), want)
	must(t, g.Do(t.Context(), "a", func() error { return nil }))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantErr(t, g.Do(ctx, "a", func() error { t.Error("touched"); return nil }), context.Canceled)
	if s := g.Stuck(); len(s) != 0 {
		t.Errorf("stuck: %q", s)
	}
}

func TestGuardStuckAndBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := mounts.Guard{Deadline: time.Second}
		late := make(chan struct{})
		var under atomic.Int32
		touch := func() error {
			if n := under.Add(1); n > 1 {
				t.Errorf("%d calls hang for one key", n)
			}
			<-late
			under.Add(-1)
			return nil
		}

		// Several at once: the first hangs, the others wait for it no longer
		// than it may take.
		var wg sync.WaitGroup
		start := time.Now()
		for range 10 {
			wg.Go(func() {
				if err := g.Do(t.Context(), "a", touch); !errors.Is(err, drivers.ErrUnreachable) {
					t.Errorf("got error %v", err)
				}
			})
		}
		wg.Wait()
		if d := time.Since(start); d != time.Second {
			t.Errorf("gave up after %s", d)
		}

		// From now on at once, and only for this key.
		start = time.Now()
		wantErr(t, g.Do(t.Context(), "a", touch), drivers.ErrUnreachable)
		must(t, g.Do(t.Context(), "b", func() error { return nil }))
		if d := time.Since(start); d != 0 {
			t.Errorf("waited %s", d)
		}
		if d := cmp.Diff([]string{"a"}, g.Stuck()); d != "" {
			t.Errorf("stuck (-want +got):\n%s", d)
		}

		close(late)
		synctest.Wait()
		if s := g.Stuck(); len(s) != 0 {
			t.Errorf("still stuck: %q", s)
		}
		must(t, g.Do(t.Context(), "a", func() error { return nil }))
	})
}

func TestGuardContextEndsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := mounts.Guard{Deadline: time.Second}
		late := make(chan struct{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		wantErr(t, g.Do(ctx, "a", func() error { <-late; return nil }), context.DeadlineExceeded)
		if s := g.Stuck(); len(s) != 0 {
			t.Errorf("stuck before its deadline: %q", s)
		}
		// Nobody waits for the first touch any more; it still counts.
		wantErr(t, g.Do(t.Context(), "a", func() error { t.Error("touched"); return nil }), drivers.ErrUnreachable)
		if d := cmp.Diff([]string{"a"}, g.Stuck()); d != "" {
			t.Errorf("stuck (-want +got):\n%s", d)
		}
		close(late)
		synctest.Wait()
	})
}

func TestGuardOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := mounts.Guard{Deadline: time.Second}
		var wg sync.WaitGroup
		var under, ran atomic.Int32
		for range 20 {
			wg.Go(func() {
				must(t, g.Do(t.Context(), "a", func() error {
					if under.Add(1) > 1 {
						t.Error("two at once for one key")
					}
					time.Sleep(100 * time.Millisecond) // together longer than the deadline
					under.Add(-1)
					ran.Add(1)
					return nil
				}))
			})
		}
		wg.Wait()
		if ran.Load() != 20 {
			t.Errorf("%d ran", ran.Load())
		}
	})
}

func TestGuardLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := mounts.Guard{Deadline: time.Second, Limit: 3}
		late := make(chan struct{})
		var wg sync.WaitGroup
		for i := range 3 {
			wg.Go(func() {
				key := fmt.Sprint("hangs", i)
				if err := g.Do(t.Context(), key, func() error { <-late; return nil }); !errors.Is(err, drivers.ErrUnreachable) {
					t.Errorf("got error %v", err)
				}
			})
		}
		wg.Wait()
		for range 2 {
			err := g.Do(t.Context(), "sound", func() error { t.Error("touched"); return nil })
			wantErr(t, err, drivers.ErrUnreachable)
		}
		// The sound one never began, so it does not hang.
		if d := cmp.Diff([]string{"hangs0", "hangs1", "hangs2"}, g.Stuck()); d != "" {
			t.Errorf("stuck (-want +got):\n%s", d)
		}
		close(late)
		synctest.Wait()
		must(t, g.Do(t.Context(), "sound", func() error { return nil }))
	})
}
