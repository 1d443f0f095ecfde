package engine

import (
	"time"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/guest"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/rulebook"
	"github.com/causeway-project/causeway/agent/statistics"
	"github.com/causeway-project/causeway/agent/strain"
	"github.com/causeway-project/causeway/agent/vitals"
)

// An object is a record and what is known of it.
type object struct {
	key      model.Key
	rec      *intent.Record // nil while the first write is under way
	pending  *intent.Record // what the write under way will make it
	writing  bool           // the ledger is being changed: others wait
	failure  *fault.Error   // why status is not better, where a step failed
	status   model.Status
	drift    model.Drift
	drifting bool // found other than wanted, and not yet found well again
	wasReady bool // it has been ready in this agent's life, so a failure is not the caller's request
	guest    guest.Side
	persists model.Persistence // of the attachment
	liveOnly string            // why it is no better
	unlocked []string          // other writers that its guest's locks do not meet, as last told
	died     time.Time         // when its virtiofsd last died under its device
	down     bool              // and has not been replaced yet
	strain   strain.Watch      // of the attachment's virtiofsd
	gateway  vitals.Gateway
	figures  *statistics.Figures // of the gateway; nil until somebody asks
	probed   <-chan struct{}     // closed with the process that somebody probes
	rules    rulebook.Book       // of the export, in its gateway
	recover  bool                // they are all to be set anew, whatever is seen
	changed  chan struct{}       // closed and replaced at each change
}

func newObject(key model.Key, r *intent.Record) *object {
	o := &object{key: key, rec: r, changed: make(chan struct{}), persists: model.PersistenceUnknown}
	if r != nil {
		if r.RemovalForced {
			o.guest.Forced = time.Now() // the time that the guest had before is not known
		}
		o.status = model.Status{Generation: r.Generation, Phase: model.Working, Since: time.Now()}
	}
	return o
}

// broadcast wakes everybody who waits for the object.
func (o *object) broadcast() {
	close(o.changed)
	o.changed = make(chan struct{})
}

// intent is what the object is or is about to be.
func (o *object) intent() *intent.Record {
	if o.pending != nil {
		return o.pending
	}
	return o.rec
}
