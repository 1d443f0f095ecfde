package retry

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/reconcile"
)

var (
	device, daemon = reconcile.Device.Of("x"), reconcile.Daemon.Of("x")
	removal        = reconcile.Step{Verb: reconcile.Remove, Key: device}
	creation       = reconcile.Step{Verb: reconcile.Create, Key: device}
	busy           = &fault.Error{Reason: fault.GuestBusy}
)

func world(want, is []reconcile.Key) reconcile.World {
	w := reconcile.World{Want: map[reconcile.Key]reconcile.Want{}, Is: map[reconcile.Key]reconcile.Version{}}
	for _, k := range want {
		w.Want[k] = reconcile.Want{}
	}
	for _, k := range is {
		w.Is[k] = reconcile.Version{}
	}
	return w
}

// TestHeld: a removal that failed waits; why a thing could not be made does not
// keep what is not wanted any more.
func TestHeld(t *testing.T) {
	one := []reconcile.Key{device}
	for _, c := range []struct {
		name string
		step reconcile.Step
		w    reconcile.World
		held bool
		left bool
	}{
		{"a removal of what is there", removal, world(nil, one), true, true},
		{"a removal of what is gone", removal, world(nil, nil), false, true},
		{"a repair of what is wanted", creation, world(one, one), true, true},
		{"a creation of what is wanted", creation, world(one, nil), false, true},
		{"a creation of what is not wanted any more", creation, world(nil, one), false, false},
	} {
		s := NewSteps()
		if !s.Failed(Attempt{Step: c.step, Err: busy}) {
			t.Errorf("%s: it is no news", c.name)
		}
		if held := s.Held(c.w, time.Now())[device]; held != c.held {
			t.Errorf("%s: held is %v", c.name, held)
		}
		if left := s.Failures()[device] != nil; left != c.left {
			t.Errorf("%s: its failure is there: %v", c.name, left)
		}
		if held := s.Held(c.w, time.Now().Add(time.Hour))[device]; held {
			t.Errorf("%s: held for ever", c.name)
		}
	}
}

func TestFailed(t *testing.T) {
	s := NewSteps()
	s.Failed(Attempt{Step: removal, Err: busy})
	if s.Failed(Attempt{Step: removal, Err: busy}) {
		t.Error("the same reason is news")
	}
	if !s.Failed(Attempt{Step: removal, Err: &fault.Error{Reason: fault.StepTimeout}, Took: time.Hour}) {
		t.Error("another reason is no news")
	}
	f, now := s.Failures()[device], time.Now()
	if f.Attempts != 3 || !f.Removing || f.Due(now.Add(50*time.Minute)) {
		t.Errorf("one that took an hour: %+v", f)
	}
	steps := []reconcile.Step{removal, {Verb: reconcile.Create, Key: daemon}}
	if due := s.Due(steps, now); !slices.Equal(due, steps[1:]) {
		t.Errorf("due are %v", due)
	}
	s.Sooner(now, device, daemon)
	if due := s.Due(steps, now); !slices.Equal(due, steps) {
		t.Errorf("due are %v, and it was brought forward", due)
	}
	if f.Attempts != 3 {
		t.Errorf("it counts anew: %+v", f)
	}
}

// TestSettle: what is as it should be, and what a caller asked to be tried again,
// has not failed.
func TestSettle(t *testing.T) {
	s := NewSteps()
	for _, k := range []reconcile.Key{device, daemon} {
		s.Failed(Attempt{Step: reconcile.Step{Verb: reconcile.Create, Key: k}, Err: busy})
	}
	w := world([]reconcile.Key{device, daemon}, []reconcile.Key{daemon})
	s.Settle(w, reconcile.NextPlan(w, nil))
	if left := slices.Collect(maps.Keys(s.Failures())); !slices.Equal(left, []reconcile.Key{device}) {
		t.Errorf("left are %v", left)
	}
	if s.Now([]reconcile.Key{daemon}) || !s.Now([]reconcile.Key{daemon, device}) {
		t.Error("what failed is not found")
	}
	s.Settle(w, reconcile.NextPlan(w, nil))
	if len(s.Failures()) != 0 {
		t.Errorf("left are %v", s.Failures())
	}
}

// TestWithoutEffect: a step that works again and again is not believed, until the
// host shows it.
func TestWithoutEffect(t *testing.T) {
	s := NewSteps()
	for n := range mostTries + 2 {
		if believed := s.Worked(device); believed != (n < mostTries) {
			t.Errorf("try %d is believed: %v", n+1, believed)
		}
	}
	w := world([]reconcile.Key{device}, []reconcile.Key{device})
	s.Settle(w, reconcile.NextPlan(w, nil))
	if !s.Worked(device) {
		t.Error("it is not believed though the host showed it")
	}
}
