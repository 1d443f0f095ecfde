package mounts_test

import (
	"context"
	"testing"

	"github.com/causeway-project/causeway/drivers/mounts"
)

func TestWatch(t *testing.T) {
	dir := tree(t)
	target := mkdir(t, dir, "target")
	ctx, cancel := context.WithCancel(t.Context())
	changes, done := make(chan struct{}), make(chan error)
	go func() {
		done <- mounts.Watch(ctx, func() {
			select {
			case changes <- struct{}{}:
			case <-ctx.Done():
			}
		})
	}()
	<-changes // the first, without a change
	for range 5 {
		tmpfs(t, "watched", target)
		<-changes
		must(t, mounts.Unmount(t.Context(), target))
		<-changes
	}
	cancel()
	wantErr(t, <-done, context.Canceled)
}

// One change between two looks is told, also while changed runs.
func TestWatchLosesNothing(t *testing.T) {
	dir := tree(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	calls := 0
	err := mounts.Watch(ctx, func() {
		calls++
		switch calls {
		case 1, 2:
			tmpfs(t, "inside", mkdir(t, dir, "target"))
		default:
			cancel()
		}
	})
	wantErr(t, err, context.Canceled)
	if calls != 3 {
		t.Errorf("%d calls", calls)
	}
}

func TestWatchStopsAtOnce(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 {
		wantErr(t, mounts.Watch(ctx, func() {}), context.Canceled)
	}
}
