package agent

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
func (a *Agent) PrepareStart(ctx context.Context, s model.Start) error {
	var ids []string
	start := parts.Start{Instance: s.Instance, UUID: s.UUID, User: s.User}
	for _, socket := range s.Sockets {
		if id, ours := a.at.OfSocket(socket); ours {
			ids = append(ids, id)
			start.Sockets = append(start.Sockets, socket)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	ctx, cancel := a.within(ctx)
	defer cancel()
	for _, id := range ids {
		if err := a.startable(id, s); err != nil {
			return err
		}
	}
	end := a.starts.Begin(s.UUID)
	defer func() {
		end()
		a.InstanceChanged(parts.InstanceEvent{UUID: s.UUID})
	}()
	// Only now, since an agent that has just begun may ask libvirt about this very
	// instance.
	if err := a.awaitSync(ctx); err != nil {
		return err
	}
	a.mu.Lock()
	for _, id := range ids {
		if o := a.objects[model.AttachmentKey(id)]; o != nil && o.rec != nil {
			// Somebody waits for a look that begins after this.
			o.status.Phase, o.status.Reason, o.status.Message = model.Working, "", ""
			a.retryLocked(o)
		}
	}
	a.mu.Unlock()
	for _, id := range ids {
		if err := a.awaitPrepared(ctx, model.AttachmentKey(id)); err != nil {
			return err
		}
	}
	if err := a.o.Instances.Admit(ctx, start); err != nil {
		return parts.Classify(err)
	}
	return nil
}

// awaitSync returns when the host was looked at once.
func (a *Agent) awaitSync(ctx context.Context) error {
	t := time.NewTicker(lookForSync)
	defer t.Stop()
	for {
		err := a.ready()
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
func (a *Agent) startable(id string, s model.Start) error {
	key := model.AttachmentKey(id)
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.damageLocked(key); err != nil {
		return err
	}
	switch o := a.objects[key]; {
	case o == nil || o.rec == nil || o.rec.Attachment.InstanceUUID != s.UUID:
		return &fault.Error{Kind: fault.NotFound, Reason: fault.UnknownID, Metadata: map[string]string{"id": id},
			Message: fmt.Sprintf("the definition of instance %s has the device of attachment %q, which is none of this instance: take it out with 'virsh edit', then start it", word.Quote(s.Instance), id)}
	case o.rec.Removing:
		return refusal.BeingRemoved(key)
	}
	return nil
}

// awaitPrepared returns when an attachment's daemon listens.
func (a *Agent) awaitPrepared(ctx context.Context, key model.Key) error {
	without := func(e *fault.Error) error {
		return &fault.Error{Kind: e.Kind, Reason: e.Reason, Metadata: map[string]string{"id": key.ID}, Err: e,
			Message: fmt.Sprintf("cure that, then start the instance; or start it without this share, after 'causeway attachment delete %s'", key.ID)}
	}
	for {
		a.mu.Lock()
		o := a.objects[key]
		if o == nil || o.rec == nil || o.rec.Removing {
			a.mu.Unlock()
			return refusal.BeingRemoved(key)
		}
		changed, s, failure := o.changed, o.status, o.failure
		a.mu.Unlock()
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
func (a *Agent) wantedOfInstance(ctx context.Context, g *group, m member) (wanted []reconcile.Key) {
	at, keys := m.rec.Attachment, m.rec.Keys(m.key.ID)
	if a.starts.Under(at.InstanceUUID) {
		g.starting[m.key] = true
		return keys[:2] // what QEMU connects to
	}
	ctx, cancel := a.starts.Guard(ctx, at.InstanceUUID)
	defer cancel()
	answer := g.answers.Of(ctx, a.o.Instances, at.InstanceUUID)
	if stage := at.Move.Stage(answer.Place(), m.at); stage != move.All {
		return atStage(keys, stage)
	}
	if answer.Missing() {
		g.answers.FindNamesake(ctx, a.o.Instances, at)
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
func (a *Agent) withoutQEMU(g *group, k reconcile.Key, w reconcile.World) bool {
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
func (a *Agent) observeDaemon(g *group, k reconcile.Key, m member) (reconcile.Version, bool, error) {
	dir := a.at.Daemon(m.key.ID)
	done, err := a.o.Daemons.Done(dir)
	if err == nil && done == nil {
		a.noteDeath(m)
	}
	if err != nil || done == nil {
		return intent.Here, false, err
	}
	a.watchEnd(g, k, done)
	if g.starting[m.key] {
		if connected, err := a.o.Daemons.Connected(dir); err != nil || connected {
			return intent.Former, true, err
		}
	}
	return intent.Here, true, nil
}

// notePersistenceLocked notes whether an attachment's device is in the
// definition.
func (a *Agent) notePersistenceLocked(o *object, g *group, w reconcile.World) {
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
		a.tellLocked(o, false)
	}
}
