package move

import (
	"errors"
	"testing"
	"time"

	"github.com/causeway-project/causeway/agent/fault"
)

func TestMove(t *testing.T) {
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	early, late := now.Add(-time.Second), now.Add(time.Second) // against the expiry
	type want struct {
		stage Stage
		end   End
	}
	for _, c := range []struct {
		name string
		side Side
		now  time.Time
		want map[Place]want
	}{
		{"awaited", Destination, early, map[Place]want{
			Unknown: {Ground, Goes}, Absent: {Ground, Goes}, Off: {Ground, Goes}, Gone: {Ground, Goes}, Passing: {Ground, Goes}, Here: {Ground, Arrived}}},
		{"awaited too long", Destination, late, map[Place]want{
			Unknown: {Ground, Goes}, Absent: {Ground, Withdrawn}, Off: {Ground, Withdrawn}, Gone: {Ground, Withdrawn}, Passing: {Ground, Goes}, Here: {Ground, Arrived}}},
		{"released", Source, early, map[Place]want{
			Unknown: {Nothing, Goes}, Absent: {Nothing, Goes}, Off: {Nothing, Goes}, Gone: {Nothing, Goes}, Passing: {Nothing, Goes}, Here: {Nothing, Goes}}},
		{"released too long", Source, now, map[Place]want{
			Unknown: {Nothing, Goes}, Absent: {Nothing, Left}, Off: {Nothing, Returned}, Gone: {Nothing, Left}, Passing: {Nothing, Goes}, Here: {All, Returned}}},
	} {
		m := &Move{Side: c.side, ExpiresAt: now}
		for place, w := range c.want {
			if got := (want{m.Stage(place, c.now), m.End(place, c.now)}); got != w {
				t.Errorf("%s, instance at place %d: %+v, want %+v", c.name, place, got, w)
			}
		}
	}
	var none *Move
	if none.Stage(Here, now) != All || none.End(Here, now) != Goes || none.Is(Source) {
		t.Error("what does not move is not all there")
	}
}

func TestChecks(t *testing.T) {
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	for _, at := range []time.Time{{}, now, now.Add(-time.Hour), now.Add(25 * time.Hour)} {
		if e := (*fault.Error)(nil); !errors.As(CheckExpiry(at, now), &e) || e.Reason != fault.BadExpiry {
			t.Errorf("expiry %v: %v", at, e)
		}
	}
	if err := CheckExpiry(now.Add(time.Hour), now); err != nil {
		t.Error(err)
	}
	for _, s := range []string{"", "vm1", "8C5B4FF3-6D52-4D4C-9BB1-000000000001", "8c5b4ff36d524d4c9bb1000000000001", "8c5b4ff3-6d52-4d4c-9bb1-000000000001\n"} {
		if e := (*fault.Error)(nil); !errors.As(CheckInstance(s), &e) || e.Reason != fault.BadInstance {
			t.Errorf("instance %q: %v", s, e)
		}
	}
	if err := CheckInstance("8c5b4ff3-6d52-4d4c-9bb1-000000000001"); err != nil {
		t.Error(err)
	}
}
