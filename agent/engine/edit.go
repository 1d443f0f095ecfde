package engine

import (
	"context"
	"time"

	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/reconcile"
	"github.com/causeway-project/causeway/agent/refusal"
	"github.com/causeway-project/causeway/drivers"
)

// A Change makes the next record of an object from the one that it has, nil for a
// new one; the same is no change. It may look at all others, and does no I/O.
type Change func(all Intents, old *intent.Record) (*intent.Record, error)

// Edit changes one object's record: in the ledger first, then in memory. It is
// the only way in. created says whether the object is new.
func (eng *Engine) Edit(ctx context.Context, key model.Key, secret drivers.Secret, change Change) (created bool, err error) {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	o := eng.objects[key]
	for o != nil && o.writing {
		changed := o.changed
		eng.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		eng.mu.Lock()
		if ctx.Err() != nil {
			return false, refusal.CallEnded(ctx, key, model.Status{Phase: model.Working})
		}
		o = eng.objects[key]
	}
	if err := eng.damageLocked(key); err != nil {
		return false, err
	}
	var old *intent.Record
	if o != nil {
		old = o.rec
	}
	next, err := change(Intents{eng}, old)
	if err != nil {
		return false, err
	}
	if next == old {
		if o != nil {
			eng.retryLocked(o)
		}
		return false, nil
	}
	if o == nil {
		o = newObject(key, nil)
		eng.objects[key] = o
	}
	// The record is reserved before it is written, so that what it allocates
	// is not given out twice meanwhile.
	o.writing, o.pending = true, next
	if e := next.Export; e != nil {
		eng.exports.Add(key.ID, e, o)
	}
	eng.mu.Unlock()
	err = eng.write(key, next, secret)
	eng.mu.Lock()
	o.writing, o.pending = false, nil
	defer o.broadcast()
	if err != nil {
		if old == nil {
			delete(eng.objects, key)
			if e := next.Export; e != nil {
				eng.exports.Drop(key.ID, e, o)
			}
		}
		return false, refusal.NotWritten(err)
	}
	if !next.Removing {
		o.guest.Holders = nil // nobody is held up by them
	}
	if o.rec != nil && !o.rec.RemovalForced && next.RemovalForced {
		o.guest.Forced = time.Now()
	}
	o.rec = next
	o.failure = nil
	o.status = model.Status{Generation: next.Generation, ObservedGeneration: o.status.ObservedGeneration, Phase: model.Working, Since: time.Now()}
	if next.Removing {
		o.status.Phase = model.Removing
	}
	eng.tellLocked(o, false)
	eng.joinLocked(o)
	eng.retryLocked(o)
	if e := next.Export; e != nil && old == nil {
		eng.wakeLocked(intent.NetworkGroup(e.Network), lookOn) // its first export brings the gateway
	}
	return old == nil, nil
}

// write puts the secret down before the record that needs it. A new object
// never finds the secret of a former one of its name, which a crash between the
// two may have left.
func (eng *Engine) write(key model.Key, r *intent.Record, secret drivers.Secret) error {
	var err error
	switch {
	case !secret.IsZero():
		err = eng.ledger.PutSecret(key.Kind, key.ID, secret.Reveal())
	case r.Generation == 1:
		err = eng.ledger.DeleteSecret(key.Kind, key.ID)
	}
	if err != nil {
		return err
	}
	return eng.ledger.Put(key.Kind, key.ID, r)
}

// damageLocked refuses an id whose ledger file could not be read.
func (eng *Engine) damageLocked(key model.Key) error {
	for _, d := range eng.damaged {
		if d.Kind == key.Kind && d.ID == key.ID {
			return refusal.Damaged(d)
		}
	}
	return nil
}

// retryLocked makes the object's failed steps due now, and forgets that they
// failed: whoever waits wants to hear of a new try.
func (eng *Engine) retryLocked(o *object) {
	key := o.rec.Group(o.key.ID)
	g := eng.groups[key]
	if g == nil {
		return
	}
	if o.failure != nil {
		o.failure = nil
		o.status.Phase = model.Working
		if o.rec.Removing {
			o.status.Phase = model.Removing
		}
	}
	failed := false
	if f := g.kept[o.key]; f != nil {
		f.Next = time.Time{}
		failed = true
	}
	if g.steps.Now(o.rec.Keys(o.key.ID)) {
		failed = true
	}
	if failed || o.status.Phase != model.Ready && !o.finds(func(k reconcile.Key) bool { return g.there[k] }) {
		eng.lookAtLocked(o)
		return
	}
	eng.wakeLocked(key, lookOn)
}

// soonerLocked looks at the object again, and brings its failed steps forward.
// They are not due at once and keep their number of tries, since a step that
// fails may itself cause the event that this is called for.
func (eng *Engine) soonerLocked(o *object) {
	g := eng.groups[o.rec.Group(o.key.ID)]
	if g == nil {
		return
	}
	g.steps.Sooner(time.Now().Add(eventPatience), o.rec.Keys(o.key.ID)...)
	eng.lookAtLocked(o)
}

// A Wait is what a caller waits for.
type Wait struct {
	Created bool // by this call: if it can never be it is withdrawn, so that what is refused leaves nothing behind

	// Settled says whether the object is as he wants it; nil is as well as may be.
	Settled func(*intent.Record, model.Status) bool
}

// Await waits until an object has settled.
func (eng *Engine) Await(ctx context.Context, key model.Key, w Wait) error {
	if w.Settled == nil {
		w.Settled = func(_ *intent.Record, s model.Status) bool { return s.Settled() }
	}
	for {
		eng.mu.Lock()
		o := eng.objects[key]
		if o == nil {
			eng.mu.Unlock()
			return refusal.RemovedMeanwhile(key)
		}
		changed, s, failure, removing, fresh := o.changed, o.status, o.failure, o.rec != nil && o.rec.Removing, w.Created && !o.wasReady
		done := o.rec != nil && w.Settled(o.rec, s)
		eng.mu.Unlock()
		switch {
		case removing:
			return refusal.BeingRemoved(key)
		case done:
			return nil
		case failure != nil && failure.Permanent():
			if fresh {
				eng.withdraw(ctx, key)
			}
			return failure
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return refusal.CallEnded(ctx, key, s)
		}
	}
}

// withdraw takes back an object whose creation was refused.
func (eng *Engine) withdraw(ctx context.Context, key model.Key) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	if err := eng.Remove(ctx, key, Removal{}); err != nil {
		eng.log.Error("object that was refused could not be withdrawn, delete it", key.Kind, key.ID, "err", err)
	}
}

// A Removal says how an object goes.
type Removal struct {
	Forced bool // of an attachment: without waiting for its guest
}

// Remove marks an object and waits until nothing is left of it. An unknown one
// is gone already.
func (eng *Engine) Remove(ctx context.Context, key model.Key, r Removal) error {
	_, err := eng.Edit(ctx, key, drivers.Secret{}, func(all Intents, old *intent.Record) (*intent.Record, error) {
		if old == nil || old.Removing && (old.RemovalForced || !r.Forced) {
			return old, nil
		}
		if err := all.unused(key); err != nil {
			return nil, err
		}
		next := old.Next()
		next.Removing, next.RemovalForced = true, r.Forced
		return next, nil
	})
	if err != nil {
		return err
	}
	for {
		eng.mu.Lock()
		o := eng.objects[key]
		if o == nil {
			eng.mu.Unlock()
			return nil
		}
		changed, s, failure := o.changed, o.status, o.failure
		stays := o.rec != nil && !o.rec.Removing
		eng.mu.Unlock()
		switch {
		case stays:
			return refusal.NotRemoved(key)
		case failure != nil && failure.Permanent():
			return failure
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return refusal.CallEnded(ctx, key, s)
		}
	}
}
