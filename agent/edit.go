package agent

import (
	"context"
	"time"

	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/refusal"
	"github.com/causeway-project/causeway/drivers"
)

// edit changes one object's record: in the ledger first, then in memory. It is
// the only way in. change is called with the lock held and no I/O to do; it
// gets the record as it is (nil for a new one) and returns the next, or the
// same for no change. created says whether the object is new.
func (a *Agent) edit(ctx context.Context, key model.Key, secret drivers.Secret, change func(old *intent.Record) (*intent.Record, error)) (created bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	o := a.objects[key]
	for o != nil && o.writing {
		changed := o.changed
		a.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		a.mu.Lock()
		if ctx.Err() != nil {
			return false, refusal.CallEnded(ctx, key, model.Status{Phase: model.Working})
		}
		o = a.objects[key]
	}
	if err := a.damageLocked(key); err != nil {
		return false, err
	}
	var old *intent.Record
	if o != nil {
		old = o.rec
	}
	next, err := change(old)
	if err != nil {
		return false, err
	}
	if next == old {
		if o != nil {
			a.retryLocked(o)
		}
		return false, nil
	}
	if o == nil {
		o = newObject(key, nil)
		a.objects[key] = o
	}
	// The record is reserved before it is written, so that what it allocates
	// is not given out twice meanwhile.
	o.writing, o.pending = true, next
	if e := next.Export; e != nil {
		a.exports.Add(key.ID, e, o)
	}
	a.mu.Unlock()
	err = a.write(key, next, secret)
	a.mu.Lock()
	o.writing, o.pending = false, nil
	defer o.broadcast()
	if err != nil {
		if old == nil {
			delete(a.objects, key)
			if e := next.Export; e != nil {
				a.exports.Drop(key.ID, e, o)
			}
		}
		return false, refusal.NotWritten(err)
	}
	if !next.Removing {
		o.guest.holders = nil // nobody is held up by them
	}
	if o.rec != nil && !o.rec.RemovalForced && next.RemovalForced {
		o.guest.forced = time.Now()
	}
	o.rec = next
	o.failure = nil
	o.status = model.Status{Generation: next.Generation, ObservedGeneration: o.status.ObservedGeneration, Phase: model.Working, Since: time.Now()}
	if next.Removing {
		o.status.Phase = model.Removing
	}
	a.tellLocked(o, false)
	a.joinLocked(o)
	a.retryLocked(o)
	if e := next.Export; e != nil && old == nil {
		a.wakeLocked(intent.NetworkGroup(e.Network), lookOn) // its first export brings the gateway
	}
	return old == nil, nil
}

// write puts the secret down before the record that needs it. A new object
// never finds the secret of a former one of its name, which a crash between the
// two may have left.
func (a *Agent) write(key model.Key, r *intent.Record, secret drivers.Secret) error {
	var err error
	switch {
	case !secret.IsZero():
		err = a.ledger.PutSecret(key.Kind, key.ID, secret.Reveal())
	case r.Generation == 1:
		err = a.ledger.DeleteSecret(key.Kind, key.ID)
	}
	if err != nil {
		return err
	}
	return a.ledger.Put(key.Kind, key.ID, r)
}

// damageLocked refuses an id whose ledger file could not be read.
func (a *Agent) damageLocked(key model.Key) error {
	for _, d := range a.damaged {
		if d.Kind == key.Kind && d.ID == key.ID {
			return refusal.Damaged(d)
		}
	}
	return nil
}

// retryLocked makes the object's failed steps due now, and forgets that they
// failed: whoever waits wants to hear of a new try.
func (a *Agent) retryLocked(o *object) {
	key := o.rec.Group(o.key.ID)
	g := a.groups[key]
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
	for _, k := range o.rec.Keys(o.key.ID) {
		if f := g.fails[k]; f != nil {
			f.Next = time.Time{}
			failed = true
		}
	}
	if failed || o.status.Phase != model.Ready {
		a.lookAtLocked(o)
		return
	}
	a.wakeLocked(key, lookOn)
}

// soonerLocked looks at the object again, and brings its failed steps forward.
// They are not due at once and keep their number of tries, since a step that
// fails may itself cause the event that this is called for.
func (a *Agent) soonerLocked(o *object) {
	g := a.groups[o.rec.Group(o.key.ID)]
	if g == nil {
		return
	}
	soon := time.Now().Add(eventPatience)
	for _, k := range o.rec.Keys(o.key.ID) {
		if f := g.fails[k]; f != nil && f.Next.After(soon) {
			f.Next = soon
		}
	}
	a.lookAtLocked(o)
}

// await waits until a put object has settled. An object that this call created
// and that can never be is withdrawn: what is refused leaves nothing behind.
func (a *Agent) await(ctx context.Context, key model.Key, created bool) error {
	return a.awaitObject(ctx, key, created, (*object).settled)
}

// awaitObject is await with another idea of when an object has settled.
func (a *Agent) awaitObject(ctx context.Context, key model.Key, created bool, settled func(*object) bool) error {
	for {
		a.mu.Lock()
		o := a.objects[key]
		if o == nil {
			a.mu.Unlock()
			return refusal.RemovedMeanwhile(key)
		}
		changed, s, failure, removing, fresh := o.changed, o.status, o.failure, o.rec != nil && o.rec.Removing, created && !o.wasReady
		done := settled(o)
		a.mu.Unlock()
		switch {
		case removing:
			return refusal.BeingRemoved(key)
		case done:
			return nil
		case failure != nil && failure.Permanent():
			if fresh {
				a.withdraw(ctx, key)
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
func (a *Agent) withdraw(ctx context.Context, key model.Key) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	if err := a.remove(ctx, key, removal{allowed: func(*intent.Record) error { return a.unusedLocked(key) }}); err != nil {
		a.log.Error("object that was refused could not be withdrawn, delete it", key.Kind, key.ID, "err", err)
	}
}

// A removal says how an object goes.
type removal struct {
	allowed func(*intent.Record) error // whether it may; nil is yes
	forced  bool                       // of an attachment, without waiting for its guest
}

// remove marks an object and waits until nothing is left of it. An unknown one
// is gone already.
func (a *Agent) remove(ctx context.Context, key model.Key, r removal) error {
	_, err := a.edit(ctx, key, drivers.Secret{}, func(old *intent.Record) (*intent.Record, error) {
		if old == nil || old.Removing && (old.RemovalForced || !r.forced) {
			return old, nil
		}
		if r.allowed != nil {
			if err := r.allowed(old); err != nil {
				return nil, err
			}
		}
		next := old.Next()
		next.Removing, next.RemovalForced = true, r.forced
		return next, nil
	})
	if err != nil {
		return err
	}
	for {
		a.mu.Lock()
		o := a.objects[key]
		if o == nil {
			a.mu.Unlock()
			return nil
		}
		changed, s, failure := o.changed, o.status, o.failure
		stays := o.rec != nil && !o.rec.Removing
		a.mu.Unlock()
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
