// Package wait is how tests wait for what they can only ask for, and for what
// is to end.
package wait

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Long bounds a wait for what takes milliseconds when all is well: a machine
// that tests in parallel may stand still for many seconds, and only a test that
// fails waits so long.
const Long = time.Minute

// Until asks done until it says so, and fails the test after Long.
func Until(t testing.TB, what string, done func() bool) {
	t.Helper()
	if err := Within(Long, done); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// Equal asks get until it returns want, and fails the test with the difference
// after Long.
func Equal[T comparable](t testing.TB, what string, want T, get func() T) {
	t.Helper()
	var got T
	if err := Within(Long, func() bool { got = get(); return got == want }); err != nil {
		t.Fatalf("%s: %v (-want +got):\n%s", what, err, cmp.Diff(want, got))
	}
}

// Closed returns when done is closed or tells something, and fails the test
// after Long.
func Closed(t testing.TB, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(Long):
		t.Fatalf("%s: not within %s", what, Long)
	}
}

// Within asks done until it says so, or for as long as limit, which is an error.
func Within(limit time.Duration, done func() bool) error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), limit, fmt.Errorf("not within %s", limit))
	defer cancel()
	return ask(ctx, 5*time.Millisecond, func() (bool, error) { return done(), nil })
}

// For asks done until it says so, or ctx ends; the error of that holds the last
// one of done. It asks seldom in the end, for what costs a process or a call.
func For(ctx context.Context, done func() (bool, error)) error {
	return ask(ctx, 50*time.Millisecond, done)
}

// ask pauses for a millisecond first, and twice as long each time, up to most.
func ask(ctx context.Context, most time.Duration, done func() (bool, error)) error {
	for pause := time.Millisecond; ; pause = min(2*pause, most) {
		ok, err := done()
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-time.After(pause):
		}
	}
}
