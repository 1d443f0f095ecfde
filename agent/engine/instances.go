package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/move"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/agent/reconcile"
	"github.com/causeway-project/causeway/agent/refusal"
	"github.com/causeway-project/causeway/agent/word"
)

// PrepareStart returns when all is there that an instance connects to which
// libvirt is about to start. libvirt waits for it, and answers nothing about the
// instance meanwhile. Sockets that are not this agent's are not its concern. One
// of an attachment that is not this instance's fails: QEMU would too, with less
// to say.
func (eng *Engine) PrepareStart(ctx context.Context, s model.Start) error {
	var ids []string
	start := parts.Start{Instance: s.Instance, UUID: s.UUID, User: s.User}
	for _, socket := range s.Sockets {
		if id, ours := eng.at.OfSocket(socket); ours {
			ids = append(ids, id)
			start.Sockets = append(start.Sockets, socket)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	ctx, cancel := eng.Within(ctx)
	defer cancel()
	for _, id := range ids {
		if err := eng.startable(id, s); err != nil {
			return err
		}
	}
	end := eng.starts.Begin(s.UUID)
	defer func() {
		end()
		eng.InstanceChanged(parts.InstanceEvent{UUID: s.UUID})
	}()
	// Only now, since an agent that has just begun may ask libvirt about this very
	// instance.
	if err := eng.awaitSync(ctx); err != nil {
		return err
	}
	eng.mu.Lock()
	for _, id := range ids {
		if o := eng.objects[model.AttachmentKey(id)]; o != nil && o.rec != nil {
			// Somebody waits for a look that begins after this.
			o.status.Phase, o.status.Reason, o.status.Message = model.Working, "", ""
			eng.retryLocked(o)
		}
	}
	eng.mu.Unlock()
	for _, id := range ids {
		if err := eng.awaitPrepared(ctx, model.AttachmentKey(id)); err != nil {
			return err
		}
	}
	if err := eng.o.Instances.Admit(ctx, start); err != nil {
		return parts.Classify(err)
	}
	return nil
}

// awaitSync returns when the host was looked at once.
func (eng *Engine) awaitSync(ctx context.Context) error {
	t := time.NewTicker(lookForSync)
	defer t.Stop()
	for {
		err := eng.Ready()
		if err == nil {
			return nil
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return err
		}
	}
}

const lookForSync = 20 * time.Millisecond

// startable refuses a device of which nothing will ever listen.
func (eng *Engine) startable(id string, s model.Start) error {
	key := model.AttachmentKey(id)
	eng.mu.Lock()
	defer eng.mu.Unlock()
	if err := eng.damageLocked(key); err != nil {
		return err
	}
	switch o := eng.objects[key]; {
	case o == nil || o.rec == nil || o.rec.Attachment.InstanceUUID != s.UUID:
		return &fault.Error{Kind: fault.NotFound, Reason: fault.UnknownID, Metadata: map[string]string{"id": id},
			Message: fmt.Sprintf("the definition of instance %s has the device of attachment %q, which is none of this instance: take it out with 'virsh edit', then start it", word.Quote(s.Instance), id)}
	case o.rec.Removing:
		return refusal.BeingRemoved(key)
	}
	return nil
}

// awaitPrepared returns when an attachment's daemon listens.
func (eng *Engine) awaitPrepared(ctx context.Context, key model.Key) error {
	without := func(e *fault.Error) error {
		return &fault.Error{Kind: e.Kind, Reason: e.Reason, Metadata: map[string]string{"id": key.ID}, Err: e,
			Message: fmt.Sprintf("cure that, then start the instance; or start it without this share, after 'causeway attachment delete %s'", key.ID)}
	}
	for {
		eng.mu.Lock()
		o := eng.objects[key]
		if o == nil || o.rec == nil || o.rec.Removing {
			eng.mu.Unlock()
			return refusal.BeingRemoved(key)
		}
		changed, s, failure := o.changed, o.status, o.failure
		eng.mu.Unlock()
		switch {
		case s.Reason == fault.InstanceStarting:
			return nil
		case failure != nil && failure.Permanent():
			return without(failure)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return without(refusal.CallEnded(ctx, key, s))
		}
	}
}

// wantedOfInstance lists those of an attachment's keys that its instance wants.
func (eng *Engine) wantedOfInstance(ctx context.Context, g *group, m member) (wanted []reconcile.Key) {
	at, keys := m.rec.Attachment, m.rec.Keys(m.key.ID)
	if eng.starts.Under(at.InstanceUUID) {
		g.starting[m.key] = true
		return keys[:2] // what QEMU connects to
	}
	ctx, cancel := eng.starts.Guard(ctx, at.InstanceUUID)
	defer cancel()
	answer := g.answers.Of(ctx, eng.o.Instances, at.InstanceUUID)
	if stage := at.Move.Stage(answer.Place(), m.at); stage != move.All {
		return atStage(keys, stage)
	}
	if answer.Missing() {
		g.answers.FindNamesake(ctx, eng.o.Instances, at)
		return nil
	}
	if answer.Err != nil {
		return keys // while libvirt is away nobody knows, and all stays
	}
	i := answer.Instance
	for _, k := range keys {
		if k.Kind == reconcile.Definition && !i.Defines(at.Alias) {
			continue
		}
		// An instance that is off has no device, and needs no daemon and no mount.
		if k.Kind == reconcile.Definition || i.Running {
			wanted = append(wanted, k)
		}
	}
	return wanted
}

// withoutQEMU notes what is known of a key without asking libvirt, and says
// whether it did: an instance that is about to start has no device.
func (eng *Engine) withoutQEMU(g *group, k reconcile.Key, w reconcile.World) bool {
	if !intent.OfLibvirt(k) {
		return false
	}
	delete(g.is, k)
	delete(g.seen, k)
	delete(g.unknown, k)
	if k.Kind == reconcile.Definition {
		w.Unknown[k] = true
	}
	return true
}

// observeDaemon tells a daemon that waits for the QEMU that is about to start
// from one that still has the connection of the last, and takes no other.
func (eng *Engine) observeDaemon(g *group, k reconcile.Key, m member) (reconcile.Version, bool, error) {
	dir := eng.at.Daemon(m.key.ID)
	done, err := eng.o.Daemons.Done(dir)
	if err == nil && done == nil {
		eng.noteDeath(m)
	}
	if err != nil || done == nil {
		return intent.Here, false, err
	}
	eng.watchEnd(g, k, done)
	if g.starting[m.key] {
		if connected, err := eng.o.Daemons.Connected(dir); err != nil || connected {
			return intent.Former, true, err
		}
	}
	return intent.Here, true, nil
}

// notePersistenceLocked notes whether an attachment's device is in the
// definition.
func (eng *Engine) notePersistenceLocked(o *object, g *group, w reconcile.World) {
	at := o.rec.Attachment
	if at == nil {
		return
	}
	answer, asked := g.answers[at.InstanceUUID]
	if !asked || answer.Err != nil {
		return // it stays what it was
	}
	was, why := o.persists, o.liveOnly
	o.persists, o.liveOnly = model.LiveOnly, answer.Instance.WhyLiveOnly(at.Alias)
	if _, there := w.Is[reconcile.Definition.Of(o.key.ID)]; there {
		o.persists, o.liveOnly = model.Persistent, ""
	}
	if was != o.persists || why != o.liveOnly {
		o.broadcast()
		eng.tellLocked(o, false)
	}
}
