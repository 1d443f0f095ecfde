package kernel

import (
	"context"
	"errors"
	"os"
	"time"
)

// Wait is for what takes the kernel milliseconds when all is well.
const Wait = 5 * time.Second

const pollEvery = 2 * time.Millisecond

// Poll calls done until it says so or fails, ctx ends or the time is up, which
// is os.ErrDeadlineExceeded.
func Poll(ctx context.Context, wait time.Duration, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, wait, os.ErrDeadlineExceeded)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// dismantling is how long the kernel may take to take a namespace apart that
// was deleted before: it does so in the background, and until then its links
// keep what there can be one of.
const dismantling = 2 * time.Second

// Retry repeats f while it fails with busy, for as long as dismantling.
func Retry(ctx context.Context, busy error, f func() error) error {
	var last error
	err := Poll(ctx, dismantling, func() (bool, error) {
		if last = f(); errors.Is(last, busy) {
			return false, nil
		}
		return true, last
	})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return last
	}
	return err
}
