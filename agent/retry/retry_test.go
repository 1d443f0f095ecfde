package retry

import (
	"testing"
	"time"

	"github.com/causeway-project/causeway/agent/fault"
)

func TestAgain(t *testing.T) {
	var f *Failure
	if !f.Due(time.Now()) {
		t.Error("what never failed is not due")
	}
	why := &fault.Error{Reason: fault.StepFailed}
	for n, most := range []time.Duration{240 * time.Millisecond, 480 * time.Millisecond, 960 * time.Millisecond} {
		f = f.Again(why)
		now := time.Now()
		if f.Attempts != n+1 || f.Err != why || f.Removing {
			t.Errorf("failure %d: %+v", n+1, f)
		}
		if f.Due(f.Next.Add(-1)) || !f.Due(f.Next) || f.Next.After(now.Add(most)) {
			t.Errorf("failure %d is tried again at %v, now it is %v", n+1, f.Next, now)
		}
	}
}

func TestBackoffIsBounded(t *testing.T) {
	for _, attempts := range []int{1, 2, 8, 9, 50, 100_000} {
		if d := Backoff(attempts); d < first*8/10 || d > most*12/10 {
			t.Errorf("%d attempts: %v", attempts, d)
		}
	}
}
