package engine

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/agent/reconcile"
	"github.com/causeway-project/causeway/agent/vitals"
	"github.com/causeway-project/causeway/ganesha"
)

// mostDrift bounds what is said of a network that differs in many ways.
const mostDrift = 16

// noteDrift tells once of a network that was as wanted and no longer is. What
// was never there has not drifted, nor what somebody has just asked to be
// otherwise.
func (eng *Engine) noteDrift(m member, what []string) {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	o := eng.objects[m.key]
	if o == nil || o.rec != m.rec {
		return
	}
	seen := o.status.ObservedGeneration
	switch {
	case len(what) == 0:
		o.drifting = false
		return
	case o.drifting, !o.wasReady, m.rec.Removing, seen != 0 && seen != m.rec.Generation:
		return
	}
	o.drifting = true
	o.drift = model.Drift{Count: o.drift.Count + 1, At: time.Now(), What: what[:min(len(what), mostDrift)]}
	eng.log.Warn("network drifted and will be repaired", "network", m.key.ID, "drift", what)
	eng.metrics.NetworkDrifted()
	eng.tellLocked(o, false)
}

// world is what the planner looks at: what the members want, and what is
// there. It looks only at what has not been seen since the last step at it.
func (eng *Engine) world(ctx context.Context, g *group, members []member) reconcile.World {
	w := reconcile.World{
		Want: map[reconcile.Key]reconcile.Want{}, Unknown: map[reconcile.Key]bool{},
		Outside: map[reconcile.Key]bool{}, Uses: map[reconcile.Key][]reconcile.Key{},
	}
	g.starting = map[model.Key]bool{}
	for _, m := range members {
		wanted := eng.wanted(ctx, g, m)
		for _, k := range m.rec.Keys(m.key.ID) {
			needs := m.rec.Needs(k, m.key.ID)
			w.Uses[k] = m.uses(k, needs)
			if slices.Contains(wanted, k) {
				w.Want[k] = reconcile.Want{Version: m.rec.Version(k, m.at), Needs: needs, Outlives: intent.Outlives(k), After: intent.After(k)}
			}
		}
		if e := m.rec.Export; e != nil && eng.servingOf(e.Network) == vitals.Up {
			w.Outside[reconcile.Gateway.Of(e.Network)] = true
		}
	}
	for _, m := range members {
		for _, k := range m.rec.Keys(m.key.ID) {
			if g.beside[k] != nil || g.starting[m.key] && eng.withoutQEMU(g, k, w) || m.leftAlone(g, k) {
				continue
			}
			if !g.seen[k] {
				eng.look(ctx, g, k, m)
			}
			if _, wanted := w.Want[k]; !wanted && eng.littered(g, k, m) {
				g.is[k] = intent.Here
				delete(g.seen, k) // a pretence, not to be relied on
			}
		}
	}
	g.callOff(members)
	w.Is = g.is
	for _, k := range slices.AppendSeq(slices.Collect(maps.Keys(g.unknown)), maps.Keys(g.beside)) {
		w.Unknown[k] = true
	}
	eng.mu.Lock()
	defer eng.mu.Unlock()
	g.there = make(map[reconcile.Key]bool, len(g.is))
	for k := range g.is {
		g.there[k] = true
		if _, wanted := w.Want[k]; k.Kind == reconcile.Mount && !wanted && eng.pinnedLocked() {
			// A record that could not be read may own it: it stays.
			w.Want[k] = reconcile.Want{Version: intent.Here}
		}
	}
	return w
}

// littered says whether a key that is not there, though it may have been seen
// long before anybody asked for its removal, may have left a directory: one that
// ended by itself has, and an agent that was killed in the middle of the removal
// may have. It is removed once more then, which is cheap.
func (eng *Engine) littered(g *group, k reconcile.Key, m member) bool {
	switch _, there := g.is[k]; {
	case there, g.unknown[k] != nil, !m.rec.Litters(k), k.Kind == reconcile.Daemon && m.revoked(g):
		return false
	}
	return !g.cleaned[k] || eng.leftDir(k)
}

// leftDir says whether the directory that a gateway sees is there: a view
// brings it too, with or without a gateway; or the run directory of a daemon,
// of which only the process was ended.
func (eng *Engine) leftDir(k reconcile.Key) bool {
	switch k.Kind {
	case reconcile.Gateway:
		sight, err := eng.o.Mounts.Peek(eng.at.Exports(k.Name))
		return err == nil && sight.Mounted
	case reconcile.Daemon:
		_, err := os.Stat(eng.at.Daemon(k.Name))
		return err == nil
	}
	return false
}

// pinnedLocked says whether a damaged record may own a mount.
func (eng *Engine) pinnedLocked() bool {
	for _, d := range eng.damaged {
		if d.Kind != model.KindNetwork {
			return true
		}
	}
	return false
}

// wanted lists those of a member's keys that should be there now.
func (eng *Engine) wanted(ctx context.Context, g *group, m member) []reconcile.Key {
	if m.rec.Removing {
		return nil
	}
	keys := m.rec.Keys(m.key.ID)
	switch {
	case m.rec.Network != nil && !eng.hasExports(m.key.ID):
		return keys[:1]
	case m.rec.Attachment != nil:
		return eng.wantedOfInstance(ctx, g, m)
	}
	return keys
}

// hasExports says whether a network's gateway has anything to serve. A record
// that could not be read may be an export of it.
func (eng *Engine) hasExports(network string) bool {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	return eng.hasExportsLocked(network)
}

func (eng *Engine) hasExportsLocked(network string) bool {
	if len(eng.damagedOf(model.KindExport)) > 0 {
		return true
	}
	for _, o := range eng.exports.Of(network) {
		if o.rec != nil {
			return true
		}
	}
	return false
}

func (eng *Engine) damagedOf(kind string) []string {
	var ids []string
	for _, d := range eng.damaged {
		if d.Kind == kind {
			ids = append(ids, d.ID)
		}
	}
	return ids
}

// servingOf says what is known of a network's gateway.
func (eng *Engine) servingOf(network string) vitals.Serving {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	key := model.NetworkKey(network)
	switch o := eng.objects[key]; {
	case o != nil:
		return o.gateway.Serving()
	case eng.damageLocked(key) != nil:
		return vitals.Unseen
	}
	return vitals.Down // a network's record goes after its gateway
}

// look observes one key and notes what it saw: there, not there, or unknown.
func (eng *Engine) look(ctx context.Context, g *group, k reconcile.Key, m member) {
	limit := lookDeadline
	if m.rec.RemovalForced && intent.OfLibvirt(k) {
		limit = forcedLook
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	v, there, err := eng.observe(ctx, g, k, m)
	delete(g.is, k)
	switch {
	case err != nil:
		if g.unknown[k] == nil {
			eng.log.Warn("thing could not be looked at, and is left alone", "step", k.Kind.String(), "name", k.Name, "err", err)
		}
		g.unknown[k] = g.unknown[k].Again(parts.Classify(err))
	default:
		delete(g.unknown, k)
		if there {
			g.is[k] = v
		}
	}
	g.seen[k] = true
}

func (eng *Engine) observe(ctx context.Context, g *group, k reconcile.Key, m member) (reconcile.Version, bool, error) {
	switch k.Kind {
	case reconcile.Mount:
		sight, err := eng.o.Mounts.Peek(eng.at.Mount(k.Name))
		back := sight.Gone && eng.shareIsBack(ctx, g, m)
		eng.mu.Lock()
		g.gone[k] = sight.Gone && !back
		eng.mu.Unlock()
		if back {
			return intent.Deleted, true, nil
		}
		return intent.Here, sight.Mounted, err
	case reconcile.View:
		sight, err := eng.o.Mounts.Peek(eng.at.View(m.rec.Export.Network, m.key.ID))
		return intent.Here, sight.Mounted, err
	case reconcile.Namespace:
		if m.rec.Network.Former != nil {
			return intent.Former, true, nil // or what is left of it
		}
		st, err := eng.o.Namespaces.Observe(ctx, m.rec.Network.ForHost(m.key.ID))
		if err == nil {
			eng.noteDrift(m, st.Drift)
		}
		if st.Exists && len(st.Drift) > 0 {
			return intent.Drifted, true, err
		}
		return intent.Here, st.Exists, err
	case reconcile.Gateway:
		return eng.observeGateway(ctx, g, k, m)
	case reconcile.Export:
		return eng.observeExport(ctx, m)
	case reconcile.Daemon:
		return eng.observeDaemon(g, k, m)
	case reconcile.Device, reconcile.Definition:
		return eng.observeDevice(ctx, g, k, m)
	case reconcile.GuestMount:
		return intent.Here, eng.guestMounted(g, m), nil
	}
	return reconcile.Version{}, false, fmt.Errorf("observe %v: unknown kind", k)
}

// shareIsBack says whether a share that was deleted at the backend under its
// mount has come again, so that the mount is to be replaced. One that an
// instance has is left alone: its guest would lose a device that it uses.
func (eng *Engine) shareIsBack(ctx context.Context, g *group, m member) bool {
	eng.mu.Lock()
	for key := range g.members {
		if o := eng.objects[key]; o != nil && o.rec != nil && o.rec.Attachment != nil {
			eng.mu.Unlock()
			return false
		}
	}
	eng.mu.Unlock()
	d, ok := eng.o.Drivers.Get(m.rec.Connection().Kind)
	if !ok || d.Prober == nil {
		return false
	}
	conn, err := eng.connectionOf(m)
	return err == nil && d.Prober.Probe(ctx, conn) == nil
}

// observeGateway calls a gateway that an earlier agent started "drifted", so
// that it is adopted before exports are put into it.
func (eng *Engine) observeGateway(ctx context.Context, g *group, k reconcile.Key, m member) (reconcile.Version, bool, error) {
	if eng.isStuck(m.key.ID) {
		return intent.Drifted, true, nil // its start replaces it
	}
	s := eng.gateways.Of(m.key.ID, m.rec.Network)
	st, err := s.Status(ctx)
	if err != nil {
		return intent.Here, false, err
	}
	eng.gatewayLimited(m.key.ID, st)
	if !st.Running {
		eng.gatewayDown(m.key.ID, st.LastLog)
		return intent.Here, false, nil
	}
	if eng.servingOf(m.key.ID) != vitals.Up {
		return intent.Drifted, true, nil
	}
	eng.watchEnd(g, k, s.Done())
	return intent.WithSettings(st.Settings), true, nil
}

func (eng *Engine) observeExport(ctx context.Context, m member) (reconcile.Version, bool, error) {
	switch eng.servingOf(m.rec.Export.Network) {
	case vitals.Down:
		eng.rulesSeen(m, ganesha.Sight{})
		return intent.Here, false, nil
	case vitals.Unseen:
		eng.mu.Lock()
		defer eng.mu.Unlock()
		return intent.Here, false, eng.gatewayErrorLocked(m.rec.Export.Network)
	}
	s := eng.gateways.Last(m.rec.Export.Network)
	sight, err := s.Look(ctx, eng.gateways.Export(m.key.ID, m.rec.Export, m.at))
	if err != nil && !isNotRunning(err) {
		return intent.Here, false, err
	}
	eng.rulesSeen(m, sight)
	if err == nil && sight.Match == ganesha.Same && !eng.toRecover(m.key) {
		return m.rec.Version(reconcile.Export.Of(m.key.ID), m.at), true, nil
	}
	return intent.Drifted, sight.Match != ganesha.Absent, nil
}

func (eng *Engine) observeDevice(ctx context.Context, g *group, k reconcile.Key, m member) (reconcile.Version, bool, error) {
	answer := g.answers.Of(ctx, eng.o.Instances, m.rec.Attachment.InstanceUUID)
	switch {
	case answer.Missing():
		return intent.Here, false, nil
	case answer.Err != nil:
		return intent.Here, false, answer.Err
	}
	devices := answer.Instance.Devices
	if k.Kind == reconcile.Definition {
		devices = answer.Instance.Defined
	}
	for _, d := range devices {
		if d.Alias != m.rec.Attachment.Alias {
			continue
		}
		if d.Socket != eng.at.Socket(m.key.ID) {
			return reconcile.Version{Identity: "socket " + d.Socket}, true, nil
		}
		return intent.WithTag(d.Tag), true, nil
	}
	return intent.Here, false, nil
}
