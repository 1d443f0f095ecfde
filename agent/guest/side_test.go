package guest

import (
	"testing"
	"time"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/model"
)

// TestSide: what a guest says counts until it says otherwise; silence leaves the
// mount as it was, and nobody says any more that it is so.
func TestSide(t *testing.T) {
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	mute := &fault.Error{Reason: fault.GuestAgentAbsent, Message: "no answer"}
	refused := &fault.Error{Reason: fault.GuestRefused, Message: "no"}
	s := Side{Forced: now}
	for _, c := range []struct {
		name    string
		change  func()
		state   model.GuestState
		mounted bool
		note    bool
		news    bool
	}{
		{"mounted", func() { s.tried(nil, now) }, model.GuestMounted, true, false, true},
		{"seen", func() { s.Seen(true, nil, now) }, model.GuestMounted, true, false, false},
		{"silent", func() { s.Seen(false, mute, now) }, "", true, true, true},
		{"unmounted", func() { s.Seen(false, nil, now) }, model.GuestDeviceOnly, false, false, true},
		{"refused", func() { s.tried(refused, now) }, model.GuestDeviceOnly, false, true, true},
		{"not heard", func() { s.tried(mute, now) }, "", false, true, true},
		{"device gone", func() { s.Wedged = true; s.Forget() }, "", false, false, true},
	} {
		before := s
		c.change()
		if s.State != c.state || s.Mounted != c.mounted || (s.Note != "") != c.note || s.Differs(before) != c.news || s.Forced != now {
			t.Errorf("%s: %+v, before %+v", c.name, s, before)
		}
	}
	if !s.Wedged || !s.Looked.IsZero() {
		t.Errorf("its device is gone: %+v", s)
	}
	if s.Restarted(); s.Wedged || s.Forced != now {
		t.Errorf("it started anew: %+v", s)
	}
}
