// Package retry keeps what failed, and says when it is tried again: later each
// time, and never by many at one instant.
package retry

import (
	"math/rand/v2"
	"time"

	"github.com/causeway-project/causeway/agent/fault"
)

// A Failure is a step or a look that did not work, and when to try again.
type Failure struct {
	Err      *fault.Error
	Attempts int
	Next     time.Time // zero: a caller asked for a new try
	Removing bool      // something was to be taken away
}

// Again is the failure after one more; f may be nil.
func (f *Failure) Again(e *fault.Error) *Failure {
	attempts := 1
	if f != nil {
		attempts = f.Attempts + 1
	}
	return &Failure{Err: e, Attempts: attempts, Next: time.Now().Add(Backoff(attempts))}
}

// Due says whether it is time to try again; f may be nil.
func (f *Failure) Due(now time.Time) bool { return f == nil || !now.Before(f.Next) }

// They are not settings.
const (
	first = 200 * time.Millisecond
	most  = 30 * time.Second
)

// Backoff is how long to wait after so many attempts.
func Backoff(attempts int) time.Duration {
	return Jitter(min(first<<min(attempts-1, 10), most))
}

// Jitter spreads a time over 80 to 120 per cent of it.
func Jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}
