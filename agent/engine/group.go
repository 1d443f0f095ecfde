package engine

import (
	"context"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/causeway-project/causeway/agent/answers"
	"github.com/causeway-project/causeway/agent/device"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/reconcile"
	"github.com/causeway-project/causeway/agent/retry"
)

// A group is one dependency group and its worker: a share with all that hangs
// on it, or a network with its gateway. Groups go on beside each other, so that
// a backend that hangs holds up its own share alone.
type group struct {
	key     string
	wake    chan struct{} // capacity 1
	looked  chan struct{} // closed when the worker has seen the host once
	settled chan struct{} // closed when it has taken its first steps too

	// Guarded by Engine.mu.
	members  map[model.Key]bool
	look     bool                              // forget what was seen
	again    map[model.Key]bool                // of these members alone
	there    map[reconcile.Key]bool            // what was last seen, for others to read
	gone     map[reconcile.Key]bool            // mounts whose share was deleted at the backend
	steps    retry.Steps                       // how they went
	watching map[reconcile.Key]<-chan struct{} // the processes whose end somebody waits for
	kept     map[model.Key]*retry.Failure      // records of which nothing is left, and that could not be removed
	ended    []ending                          // steps that were taken beside the worker, for it to note
	glanced  []*glance                         // the same of looks into guests

	// The worker's own.
	starting map[model.Key]bool                        // attachments whose instance was about to start when the pass began
	glances  map[model.Key]*glance                     // looks into guests under way
	beside   map[reconcile.Key]context.CancelCauseFunc // with a step under way beside the worker: not looked at, and left alone
	answers  answers.Cache                             // of libvirt, whose events tell of changes
	records  map[model.Key]*intent.Record              // of the last pass
	writers  []device.Writer                           // of the last pass
	is       map[reconcile.Key]reconcile.Version
	seen     map[reconcile.Key]bool
	passed   time.Time                        // when the last pass began
	unknown  map[reconcile.Key]*retry.Failure // could not be looked at, and when to look again
	cleaned  map[reconcile.Key]bool           // removed by this agent, to the last directory
}

// looking says how much a wake-up forgets.
type looking int

const (
	lookOn    looking = iota // what is wanted changed, the host did not
	lookAgain                // the host may have changed
)

// joinLocked puts an object into its group, and starts the group's worker
// where it is the first.
func (eng *Engine) joinLocked(o *object) *group {
	key := o.rec.Group(o.key.ID)
	g := eng.groups[key]
	if g == nil {
		g = &group{
			key: key, wake: make(chan struct{}, 1), looked: make(chan struct{}), settled: make(chan struct{}), look: true,
			members: map[model.Key]bool{}, again: map[model.Key]bool{}, cleaned: map[reconcile.Key]bool{}, steps: retry.NewSteps(), watching: map[reconcile.Key]<-chan struct{}{},
			kept: map[model.Key]*retry.Failure{}, unknown: map[reconcile.Key]*retry.Failure{}, beside: map[reconcile.Key]context.CancelCauseFunc{}, glances: map[model.Key]*glance{}, answers: answers.Cache{}, records: map[model.Key]*intent.Record{},
		}
		eng.groups[key] = g
		eng.workers.Go(func() { eng.work(eng.run, g) })
	}
	g.members[o.key] = true
	eng.wakeLocked(key, lookOn)
	return g
}

func (eng *Engine) wakeLocked(key string, l looking) {
	g := eng.groups[key]
	if g == nil {
		return
	}
	if l == lookAgain {
		g.look = true
	}
	select {
	case g.wake <- struct{}{}:
	default: // a wake-up is already on its way
	}
}

// lookAtLocked looks at one object anew, and not at the others of its group: a
// share may have hundreds, and each instance tells of itself alone.
func (eng *Engine) lookAtLocked(o *object) {
	key := o.rec.Group(o.key.ID)
	if g := eng.groups[key]; g != nil {
		g.again[o.key] = true
		eng.wakeLocked(key, lookOn)
	}
}

// finds says whether a removal finds out by itself what there is, so that
// nobody need look before: its first step asks libvirt for the device, which
// was there when it was last seen. Where it was not, whoever asks may know more.
func (o *object) finds(there func(reconcile.Key) bool) bool {
	at := o.rec.Attachment
	return at != nil && o.rec.Removing && at.MountAt == "" && there(reconcile.Device.Of(o.key.ID))
}

// forgetLocked what was seen of one object. While a device goes in or out it
// is put off: the step's end is looked at in any case.
func (eng *Engine) forgetLocked(g *group, key model.Key) {
	o := eng.objects[key]
	if o == nil || o.rec == nil {
		delete(g.again, key)
		return
	}
	if g.beside[reconcile.Device.Of(key.ID)] != nil {
		return
	}
	delete(g.again, key)
	for _, k := range o.rec.Keys(key.ID) {
		delete(g.is, k)
		delete(g.seen, k)
		delete(g.gone, k)
	}
	if at := o.rec.Attachment; at != nil {
		delete(g.answers, at.InstanceUUID)
	}
}

// work is the group's one worker. It ends with ctx, or with the group's last
// object.
func (eng *Engine) work(ctx context.Context, g *group) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	resync := time.Now().Add(retry.Jitter(eng.o.Resync))
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.wake:
		case <-timer.C:
		}
		if now := time.Now(); now.After(resync) {
			resync = now.Add(retry.Jitter(eng.o.Resync))
			eng.mu.Lock()
			g.look = true
			eng.mu.Unlock()
		}
		next, empty := eng.settle(ctx, g)
		once(g.settled)
		if empty {
			return
		}
		if next.IsZero() || next.After(resync) {
			next = resync
		}
		// A rule expires by the wall clock, which may have been set back.
		timer.Reset(min(time.Until(next), time.Until(resync)))
	}
}

// settle takes steps until there are none that can be taken now. It returns
// when to come back, if earlier than the next resync, and whether the group is
// empty and its worker at its end.
func (eng *Engine) settle(ctx context.Context, g *group) (next time.Time, empty bool) {
	eng.noteEnded(g)
	g.answers.ForgetErrors()
	var now time.Time // of the last pass: what was not due then may be by its end
	for ctx.Err() == nil {
		now = time.Now()
		members := eng.members(g, now)
		w := eng.world(ctx, g, members)
		once(g.looked)
		plan := reconcile.NextPlan(w, eng.held(g, w, now))
		eng.publish(g, members, w, plan)
		if eng.finalise(g, members, w, now) || eng.endMoves(ctx, g, members) {
			continue
		}
		steps := eng.due(g, plan.Steps, now)
		if len(steps) == 0 && !eng.noteEnded(g) {
			break
		}
		for _, s := range steps {
			if ofInstance(s) {
				eng.takeBeside(ctx, g, s, members)
			} else {
				eng.take(ctx, g, s, members)
			}
		}
	}
	eng.mu.Lock()
	defer eng.mu.Unlock()
	// What was due and not done waits for something else, whose change wakes the
	// group: coming back for it would be a busy loop.
	for _, f := range slices.Concat(values(g.steps.Failures()), values(g.unknown), values(g.kept)) {
		if f.Next.After(now) && (next.IsZero() || f.Next.Before(next)) {
			next = f.Next
		}
	}
	for _, t := range []time.Time{eng.nextExpiryLocked(g, now), eng.nextMoveLocked(g, now), eng.nextCutLocked(g, now), eng.nextGlanceLocked(g, now)} {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	if gone := slices.Contains(slices.Collect(maps.Values(g.gone)), true); gone {
		g.look = true // when it comes back: nobody tells of a share that is made anew
		if at := now.Add(retry.Jitter(goneAgain)); next.IsZero() || at.Before(next) {
			next = at
		}
	}
	if ctx.Err() == nil && len(g.members) == 0 {
		delete(eng.groups, g.key)
		return next, true
	}
	return next, false
}

func values[K comparable](m map[K]*retry.Failure) []*retry.Failure {
	return slices.Collect(maps.Values(m))
}

// once closes a channel of the calling worker's that may be closed already.
func once(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}

// goneAgain is when a share that was deleted at the backend is looked for again.
const goneAgain = 10 * time.Second

// A member is one object of a group, as it was when a pass began.
type member struct {
	key model.Key
	rec *intent.Record
	at  time.Time // when it began: rules that have expired by then are not wanted
	cut bool      // of a forced removal: its guest has had its time
}

// members lists the group's objects, and forgets what was seen if somebody
// asked for a new look. What could not be seen is looked at again when it is due.
func (eng *Engine) members(g *group, now time.Time) []member {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	if g.look {
		g.look = false
		g.is = map[reconcile.Key]reconcile.Version{}
		g.seen = map[reconcile.Key]bool{}
		g.gone = map[reconcile.Key]bool{}
		clear(g.answers)
		clear(g.again)
	}
	for key := range g.again {
		eng.forgetLocked(g, key)
	}
	for k, f := range g.unknown {
		if !now.Before(f.Next) {
			delete(g.seen, k)
		}
	}
	var ms []member
	for key := range g.members {
		o := eng.objects[key]
		if o == nil || o.rec == nil {
			continue
		}
		cut := eng.cutLocked(o)
		ms = append(ms, member{key, o.rec, now, !cut.IsZero() && !cut.After(now)})
		if at := o.rec.Attachment; at != nil && g.records[key] != o.rec {
			if !o.finds(func(k reconcile.Key) bool { _, there := g.is[k]; return there }) {
				delete(g.answers, at.InstanceUUID) // whoever asked may know more than the last event told
			}
			for _, k := range o.rec.Keys(key.ID) {
				if callOff := g.beside[k]; callOff != nil {
					callOff(errCalledOff) // what it does is not what is wanted now
				}
			}
		}
		g.records[key] = o.rec
	}
	eng.expireLocked(g, ms, now)
	return ms
}

// held names the removals that wait for their next try.
func (eng *Engine) held(g *group, w reconcile.World, now time.Time) map[reconcile.Key]bool {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	return g.steps.Held(w, now)
}

// due leaves out the steps that failed and wait for their next try.
func (eng *Engine) due(g *group, steps []reconcile.Step, now time.Time) []reconcile.Step {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	return g.steps.Due(steps, now)
}

// watchEnd looks again at what a process serves when it ends.
func (eng *Engine) watchEnd(g *group, k reconcile.Key, done <-chan struct{}) {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	if done == nil || g.watching[k] == done {
		return
	}
	g.watching[k] = done
	eng.workers.Go(func() {
		select {
		case <-eng.run.Done():
			return
		case <-done:
		}
		eng.mu.Lock()
		defer eng.mu.Unlock()
		if g.watching[k] == done { // and not its successor already
			delete(g.watching, k)
		}
		for key := range g.members {
			if o := eng.objects[key]; o != nil && o.rec != nil && slices.Contains(o.rec.Keys(key.ID), k) {
				eng.lookAtLocked(o)
			}
		}
	})
}

// targetOf is where a thing of the mount table lies; empty for others.
func (eng *Engine) targetOf(k reconcile.Key) string {
	switch k.Kind {
	case reconcile.Mount:
		return eng.at.Mount(k.Name)
	case reconcile.View:
		o := eng.objects[model.ExportKey(k.Name)]
		if o == nil || o.rec == nil {
			return ""
		}
		return filepath.Clean(eng.at.View(o.rec.Export.Network, k.Name))
	}
	return ""
}

// eventPatience is that of a failed step, when an event says that the world
// changed. It is not a setting.
const eventPatience = 500 * time.Millisecond
