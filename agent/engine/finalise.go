package engine

import (
	"slices"
	"time"

	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/reconcile"
	"github.com/causeway-project/causeway/agent/refusal"
)

// finalise removes the records of objects that are to go and of which nothing
// is left. It reports whether there was one.
func (eng *Engine) finalise(g *group, members []member, w reconcile.World, now time.Time) bool {
	done := false
	for _, m := range members {
		if !m.rec.Removing || remains(m, members, w) {
			continue
		}
		if eng.forget(g, m, now) {
			done = true
		}
	}
	return done
}

// remains says whether something of a member is on the host, or may be.
func remains(m member, members []member, w reconcile.World) bool {
	if stands(m, w) {
		return true
	}
	mount := reconcile.Mount.Of(m.mount())
	if !w.Remains(mount) { // or another wants it
		return false
	}
	// Another that is also to go, and is held up, takes the mount along.
	return !slices.ContainsFunc(members, func(o member) bool {
		return o.key != m.key && o.mount() == m.mount() && stands(o, w)
	})
}

// mount names a member's, empty for a network.
func (m member) mount() string {
	if m.rec.Network != nil {
		return ""
	}
	return m.rec.MountName()
}

// stands says whether something of a member but its mount is on the host, or
// may be.
func stands(m member, w reconcile.World) bool {
	for _, k := range m.rec.Keys(m.key.ID) {
		if k.Kind != reconcile.Mount && w.Remains(k) {
			return true
		}
	}
	return false
}

// forget removes one record from the ledger and from memory.
func (eng *Engine) forget(g *group, m member, now time.Time) bool {
	eng.mu.Lock()
	o := eng.objects[m.key]
	f := g.kept[m.key]
	if o == nil || o.writing || o.rec != m.rec || f != nil && now.Before(f.Next) {
		eng.mu.Unlock()
		return false
	}
	o.writing = true
	eng.mu.Unlock()

	err := eng.ledger.Delete(m.key.Kind, m.key.ID)

	eng.mu.Lock()
	defer eng.mu.Unlock()
	o.writing = false
	defer o.broadcast()
	if err != nil {
		eng.log.Error("record could not be removed", "kind", m.key.Kind, "id", m.key.ID, "err", err)
		f = f.Again(refusal.Kept(err))
		g.kept[m.key] = f
		o.failure = f.Err
		o.status = o.status.Because(f.Err, f.Attempts)
		return false
	}
	delete(g.kept, m.key)
	for _, k := range m.rec.Keys(m.key.ID) {
		if k.Kind != reconcile.Mount {
			g.steps.Forget(k)
			delete(g.is, k)
			delete(g.seen, k)
			delete(g.cleaned, k)
		}
	}
	delete(eng.objects, m.key)
	delete(g.members, m.key)
	delete(g.records, m.key)
	delete(g.glances, m.key)
	if m.key.Kind == model.KindNetwork {
		eng.gateways.Forget(m.key.ID)
	}
	eng.noteWritersLocked(g)
	eng.log.Info("object removed", m.key.Kind, m.key.ID)
	eng.tellLocked(o, true)
	if e := m.rec.Export; e != nil {
		eng.exports.Drop(m.key.ID, e, o)
		l := lookOn
		if !eng.hasExportsLocked(e.Network) {
			l = lookAgain // its last export takes the gateway along
		}
		eng.wakeLocked(intent.NetworkGroup(e.Network), l)
	}
	return true
}
