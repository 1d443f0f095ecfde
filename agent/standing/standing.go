// Package standing says where an object stands after a look at the host: the
// status that callers see, and the error that one hears who waits for it. The
// first of its things that is not as wanted decides.
//
// It looks at nothing itself: Facts are what others saw.
package standing

import (
	"fmt"
	"slices"
	"time"

	"github.com/causeway-project/causeway/agent/answers"
	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/move"
	"github.com/causeway-project/causeway/agent/reconcile"
	"github.com/causeway-project/causeway/agent/retry"
	"github.com/causeway-project/causeway/agent/word"
)

// Facts are what is known of an object, and of its group.
type Facts struct {
	ID     string         // required
	Record *intent.Record // required

	Observed int64          // the generation that the host last agreed with
	WasReady bool           // it has served, so that what fails is not the caller's request
	Kept     *retry.Failure // why its record could not be removed or changed
	Warning  *retry.Failure // why it is degraded though all is as wanted
	Cut      bool           // of a forced removal: its guest has had its time

	Starting bool           // its instance is about to start, and libvirt not to be asked
	Instance answers.Answer // of an attachment
	Now      time.Time      // required

	World   reconcile.World // required
	Plan    reconcile.Plan  // required: of that world
	Fails   map[reconcile.Key]*retry.Failure
	Unknown map[reconcile.Key]*retry.Failure
	Gone    map[reconcile.Key]bool // mounts whose share was deleted at the backend

	Gateway func(network string) *fault.Error // required: why it does not serve
}

// Of says where an object stands. The error is not nil where its status is no
// better because something failed.
func Of(f Facts) (model.Status, *fault.Error) {
	s := model.Status{Generation: f.Record.Generation, Phase: model.Ready}
	s.ObservedGeneration = min(f.Observed, f.Record.Generation-1)
	if f.Record.Removing {
		return f.removing(s)
	}
	stage := move.All
	if at := f.Record.Attachment; at != nil && !f.Starting {
		stage = at.Move.Stage(f.Instance.Place(), f.Now)
		switch {
		case stage == move.Nothing:
			return f.released(s)
		case stage == move.Ground: // which needs no instance
		case f.Instance.Missing():
			s.Phase = model.Pending
			return s.Because(f.Instance.Gone(at), 0), nil
		case f.Instance.Err == nil && !f.Instance.Instance.Running:
			s.Phase = model.Pending
			e := fault.Preconditionf(fault.InstanceOff, "instance %s is not running: the share is attached when it is started", word.Quote(at.Instance))
			return s.Because(e, 0), e
		}
	}
	if s, failure, bad := f.things(s); bad {
		return s, failure
	}
	if f.Starting {
		s.Phase = model.Pending
		e := fault.Preconditionf(fault.InstanceStarting, "instance %s is about to start: all is there that it connects to", word.Quote(f.Record.Attachment.Instance))
		return s.Because(e, 0), nil
	}
	s.ObservedGeneration = f.Record.Generation
	if stage != move.All {
		s.Phase = model.Pending
		return s.Because(f.Record.Attachment.Move.Status(), 0), nil
	}
	if f.Warning != nil {
		s.Phase = model.Degraded
		return s.Because(f.Warning.Err, f.Warning.Attempts), nil
	}
	if f.shareGone() {
		s.Phase = model.Degraded
		return s.Because(f.errShareGone(), 0), nil
	}
	return s, nil
}

// things finds the first that is not as wanted.
func (f Facts) things(s model.Status) (model.Status, *fault.Error, bool) {
	for _, k := range f.keys() {
		if _, wanted := f.World.Want[k]; !wanted {
			continue
		}
		if unseen := f.Unknown[k]; unseen != nil {
			if s.Phase = model.Pending; f.WasReady {
				s.Phase = model.Degraded
			}
			return s.Because(unseen.Err, 0), nil, true
		}
		if s, failure, bad := f.thing(k, s); bad {
			if f.shareGone() {
				s.Phase = model.Degraded
				return s.Because(f.errShareGone(), s.Attempts), f.errShareGone(), true
			}
			return s, failure, true
		}
	}
	return s, nil, false
}

func (f Facts) thing(k reconcile.Key, s model.Status) (model.Status, *fault.Error, bool) {
	if f.Plan.Settled(k, f.World) {
		return s, nil, false
	}
	if cause, blocked := f.Plan.Blocked[k]; blocked && cause != k {
		if why := f.Fails[cause]; why != nil {
			s.Phase = model.Failed
			if why.Err.Reason == fault.NeedsReset || why.Err.Reason == fault.DaemonBlocked {
				s.Phase = model.Degraded // what it has to have out is still there
			}
			return s.Because(why.Err, why.Attempts), why.Err, true
		}
		s.Phase = model.Pending
		e := &fault.Error{Reason: fault.Waiting, Message: fmt.Sprintf("waits for %v", cause)}
		if cause.Kind == reconcile.Gateway {
			e = f.Gateway(cause.Name)
		}
		return s.Because(e, 0), nil, true
	}
	if why := f.Fails[k]; why != nil {
		s.Phase = model.Failed
		_, there := f.World.Is[k]
		if there || besides(k) {
			s.Phase = model.Degraded // the share reaches its user all the same
		}
		if why.Err.Reason == fault.GatewayCrashes || why.Err.Reason == fault.GatewayStuck || why.Err.Reason == fault.GatewayBlocked {
			s.Phase = model.Degraded // the network is there, and its exports say that they wait
		}
		if besides(k) {
			s.ObservedGeneration = s.Generation
		}
		return s.Because(why.Err, why.Attempts), why.Err, true
	}
	s.Phase = model.Working
	return s, nil, true
}

// besides says whether the share reaches its user without a thing.
func besides(k reconcile.Key) bool {
	return k.Kind == reconcile.GuestMount || k.Kind == reconcile.Definition
}

// removing says how far the removal of an object has come.
func (f Facts) removing(s model.Status) (model.Status, *fault.Error) {
	s.Phase = model.Removing
	if f.Kept != nil {
		return s.Because(f.Kept.Err, f.Kept.Attempts), f.Kept.Err
	}
	if e := f.outlasted(); e != nil {
		s.Phase = model.Degraded
		return s.Because(e, 0), e
	}
	for _, k := range slices.Backward(f.keys()) {
		if unseen := f.Unknown[k]; unseen != nil {
			return s.Because(unseen.Err, 0), nil
		}
		why := f.Fails[k]
		if why == nil {
			continue
		}
		if why.Err.Reason == fault.GuestBusy || why.Err.Reason == fault.NeedsReset {
			s.Phase = model.Degraded
		}
		if f.Record.RemovalForced && (intent.OfGuest(k) || k.Kind == reconcile.Daemon && ofDevice(why.Err.Reason)) {
			return s.Because(why.Err, why.Attempts), nil // it is not waited for
		}
		return s.Because(why.Err, why.Attempts), why.Err
	}
	return s, nil
}

// ofDevice says whether a daemon could not be ended for the sake of a device that
// its guest has yet, and libvirt does not know of.
func ofDevice(r fault.Reason) bool {
	return slices.Contains([]fault.Reason{fault.GuestBusy, fault.StrayDevice, fault.NeedsReset, fault.Waiting}, r)
}

// outlasted says what is to be done where a guest keeps a device of which the
// daemon was taken away.
func (f Facts) outlasted() *fault.Error {
	daemon, device := reconcile.Daemon.Of(f.ID), reconcile.Device.Of(f.ID)
	_, runs := f.World.Is[daemon]
	if !f.Cut || runs || f.World.Unknown[daemon] || f.Fails[device] == nil && f.Unknown[device] == nil {
		return nil
	}
	if _, there := f.World.Is[device]; !there && !f.World.Unknown[device] {
		return nil
	}
	return fault.Preconditionf(fault.NeedsReset,
		"instance %s has no access to the share any more, and does not give the dead device back: reset or stop the instance, and the rest goes by itself", word.Quote(f.Record.Attachment.Instance))
}

// released says how far an attachment has come of which nothing is to be on
// this host for now.
func (f Facts) released(s model.Status) (model.Status, *fault.Error) {
	for _, k := range slices.Backward(f.keys()) {
		if _, wanted := f.World.Want[k]; wanted {
			continue // by another: a mount that they share
		}
		s.Phase = model.Working
		if unseen := f.Unknown[k]; unseen != nil {
			return s.Because(unseen.Err, 0), nil
		}
		if f.World.Unknown[k] {
			return s, nil // a step is under way
		}
		if why := f.Fails[k]; why != nil {
			s.Phase = model.Degraded
			return s.Because(why.Err, why.Attempts), why.Err
		}
		if _, there := f.World.Is[k]; there {
			return s, nil
		}
	}
	s.Phase, s.ObservedGeneration = model.Pending, f.Record.Generation
	return s.Because(f.Record.Attachment.Move.Status(), 0), nil
}

func (f Facts) keys() []reconcile.Key { return f.Record.Keys(f.ID) }

// shareGone says whether the share was deleted under its users.
func (f Facts) shareGone() bool { return f.Gone[f.keys()[0]] }

// errShareGone says what to do about it.
func (f Facts) errShareGone() *fault.Error {
	e := &fault.Error{Kind: fault.NotFound, Reason: fault.ShareGone, Message: "the share was deleted at the backend while in use, and nothing is served: delete this export, or make the share anew, which is then noticed"}
	if f.Record.Attachment != nil {
		e.Message = "the share was deleted at the backend while in use: remove this object, it serves nothing"
	}
	return e
}
