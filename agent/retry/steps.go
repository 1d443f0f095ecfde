package retry

import (
	"time"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/reconcile"
)

// mostTries is how often a step may work without effect before it counts as
// failed and has to wait.
const mostTries = 3

// Steps keep how the steps of a group went: which failed, and when each may be
// taken again. Their owner sees to that they are used by one goroutine at a time.
type Steps struct {
	fails map[reconcile.Key]*Failure
	tried map[reconcile.Key]int // in a row that worked, and the host did not show it
}

// NewSteps are those of a group that took none.
func NewSteps() Steps {
	return Steps{fails: map[reconcile.Key]*Failure{}, tried: map[reconcile.Key]int{}}
}

// Failures are what failed, not to be changed.
func (s Steps) Failures() map[reconcile.Key]*Failure { return s.fails }

// Worked notes a step that says that it worked. It says whether to believe that:
// not one that said so several times, and the host did not show it.
func (s Steps) Worked(k reconcile.Key) bool {
	if s.tried[k]++; s.tried[k] > mostTries {
		return false
	}
	delete(s.fails, k)
	return true
}

// An Attempt is a step that failed.
type Attempt struct {
	Step reconcile.Step
	Err  *fault.Error
	Took time.Duration
}

// Failed notes one, and says whether that is news.
func (s Steps) Failed(a Attempt) (news bool) {
	k := a.Step.Key
	last := s.fails[k]
	f := last.Again(a.Err)
	f.Removing = a.Step.Verb == reconcile.Remove
	// One that took long, as a guest does that keeps its device, must not be
	// asked all the time.
	if free := time.Now().Add(a.Took); f.Next.Before(free) {
		f.Next = free
	}
	s.fails[k] = f
	return last == nil || last.Err.Reason != a.Err.Reason
}

// PutOff has the next step at a thing wait for what is not its own failure.
func (s Steps) PutOff(k reconcile.Key, f *Failure) { s.fails[k] = f }

// Held names the removals that were tried and wait for their next try. Why a thing
// could not be made is forgotten where it is not wanted any more: that is no reason
// to keep it.
func (s Steps) Held(w reconcile.World, now time.Time) map[reconcile.Key]bool {
	held := map[reconcile.Key]bool{}
	for k, f := range s.fails {
		if _, wanted := w.Want[k]; !wanted && !f.Removing {
			delete(s.fails, k)
			continue
		}
		if _, there := w.Is[k]; there && !f.Due(now) {
			held[k] = true
		}
	}
	return held
}

// Due leaves out the steps that wait for their next try.
func (s Steps) Due(steps []reconcile.Step, now time.Time) []reconcile.Step {
	var due []reconcile.Step
	for _, step := range steps {
		if s.fails[step.Key].Due(now) {
			due = append(due, step)
		}
	}
	return due
}

// Settle forgets the failures at things that are as they should be, put right by
// somebody else or not wanted any more, and those of which a caller asked for a
// new try.
func (s Steps) Settle(w reconcile.World, plan reconcile.Plan) {
	for k, f := range s.fails {
		if plan.Settled(k, w) || f.Next.IsZero() {
			delete(s.fails, k)
		}
	}
	for k := range s.tried {
		if plan.Settled(k, w) {
			delete(s.tried, k)
		}
	}
}

// Now makes what failed at some things due, and says whether there is such.
func (s Steps) Now(keys []reconcile.Key) (failed bool) {
	for _, k := range keys {
		if f := s.fails[k]; f != nil {
			f.Next = time.Time{}
			failed = true
		}
	}
	return failed
}

// Sooner brings forward what failed at some things.
func (s Steps) Sooner(at time.Time, keys ...reconcile.Key) {
	for _, k := range keys {
		if f := s.fails[k]; f != nil && f.Next.After(at) {
			f.Next = at
		}
	}
}

// Forget a thing.
func (s Steps) Forget(k reconcile.Key) {
	delete(s.fails, k)
	delete(s.tried, k)
}
