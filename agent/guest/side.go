package guest

import (
	"slices"
	"time"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/parts"
)

// A Side is what is known of a share inside its guest.
type Side struct {
	State   model.GuestState // empty is unknown
	Mounted bool             // by the last word that there is
	Note    string           // what keeps the agent from knowing or changing it
	Holders []model.Holder
	Looked  time.Time // when the guest last said so
	Forced  time.Time // when a removal with force began, as far as this agent knows
	Wedged  bool      // the device of a dead virtiofsd does not come out: the guest's hot-plug stands still
}

// Forget what the guest has, as when its device is gone.
func (s *Side) Forget() { *s = Side{Forced: s.Forced, Wedged: s.Wedged} }

// Restarted forgets what the guest has, and what it waited for.
func (s *Side) Restarted() { *s = Side{Forced: s.Forced} }

// Seen notes whether the guest says that it has the share mounted. Where it has no
// answer, all stays as it was last, but nobody says any more that it is so.
func (s *Side) Seen(mounted bool, err error, now time.Time) {
	s.Looked = now
	switch {
	case err != nil:
		s.State, s.Note = "", parts.Classify(err).Error()
	case mounted:
		s.State, s.Mounted, s.Note = model.GuestMounted, true, ""
	default:
		s.State, s.Mounted, s.Note = model.GuestDeviceOnly, false, ""
	}
}

// tried notes how a mount in the guest went.
func (s *Side) tried(err error, now time.Time) {
	s.Looked, s.Mounted, s.State, s.Note = now, err == nil, model.GuestMounted, ""
	if err == nil {
		return
	}
	e := parts.Classify(err)
	s.State, s.Note = model.GuestDeviceOnly, e.Error()
	if unanswered(e) {
		s.State = ""
	}
}

// unanswered says whether a guest said nothing of itself.
func unanswered(e *fault.Error) bool {
	return slices.Contains([]fault.Reason{fault.GuestAgentAbsent, fault.LibvirtUnavailable, fault.StepTimeout}, e.Reason)
}

// Differs says whether callers are told otherwise of two.
func (s Side) Differs(o Side) bool {
	return s.State != o.State || s.Note != o.Note || !slices.Equal(s.Holders, o.Holders)
}
