package agent

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"time"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/agent/reconcile"
)

// A group is one dependency group and its worker: a share with all that hangs
// on it, or a network with its gateway. Groups go on beside each other, so that
// a backend that hangs holds up its own share alone.
type group struct {
	key     string
	wake    chan struct{} // capacity 1
	looked  chan struct{} // closed when the worker has seen the host once
	settled chan struct{} // closed when it has taken its first steps too

	// Guarded by Agent.mu.
	members  map[objectKey]bool
	look     bool                   // forget what was seen
	there    map[reconcile.Key]bool // what was last seen, for others to read
	gone     map[reconcile.Key]bool // mounts whose share was deleted at the backend
	fails    map[reconcile.Key]*failure
	watching map[reconcile.Key]<-chan struct{} // the processes whose end somebody waits for
	tried    map[reconcile.Key]int             // steps in a row that said they worked, and the host did not show it
	kept     map[objectKey]*failure            // records of which nothing is left, and that could not be removed
	ended    []ending                          // steps that were taken beside the worker, for it to note
	glanced  []*glance                         // the same of looks into guests

	// The worker's own.
	starting map[objectKey]bool                   // attachments whose instance was about to start when the pass began
	glances  map[objectKey]*glance                // looks into guests under way
	beside   map[reconcile.Key]context.CancelFunc // with a step under way beside the worker: not looked at, and left alone
	answers  instanceCache                        // of libvirt, whose events tell of changes
	records  map[objectKey]*intent.Record         // of the last pass
	is       map[reconcile.Key]reconcile.Version
	seen     map[reconcile.Key]bool
	passed   time.Time                  // when the last pass began
	unknown  map[reconcile.Key]*failure // could not be looked at, and when to look again
	cleaned  map[reconcile.Key]bool     // removed by this agent, to the last directory
}

// A failure is a step or a look that did not work, and when to try again.
type failure struct {
	err      *fault.Error
	attempts int
	next     time.Time
	removing bool // it was to be taken away
}

// looking says how much a wake-up forgets.
type looking int

const (
	lookOn    looking = iota // what is wanted changed, the host did not
	lookAgain                // the host may have changed
)

// joinLocked puts an object into its group, and starts the group's worker
// where it is the first.
func (a *Agent) joinLocked(o *object) *group {
	key := o.rec.Group(o.key.id)
	g := a.groups[key]
	if g == nil {
		g = &group{
			key: key, wake: make(chan struct{}, 1), looked: make(chan struct{}), settled: make(chan struct{}), look: true,
			members: map[objectKey]bool{}, cleaned: map[reconcile.Key]bool{}, fails: map[reconcile.Key]*failure{}, watching: map[reconcile.Key]<-chan struct{}{}, tried: map[reconcile.Key]int{},
			kept: map[objectKey]*failure{}, unknown: map[reconcile.Key]*failure{}, beside: map[reconcile.Key]context.CancelFunc{}, glances: map[objectKey]*glance{}, answers: instanceCache{}, records: map[objectKey]*intent.Record{},
		}
		a.groups[key] = g
		a.workers.Go(func() { a.work(a.run, g) })
	}
	g.members[o.key] = true
	a.wakeLocked(key, lookOn)
	return g
}

func (a *Agent) wakeLocked(key string, l looking) {
	g := a.groups[key]
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

// work is the group's one worker. It ends with ctx, or with the group's last
// object.
func (a *Agent) work(ctx context.Context, g *group) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	resync := time.Now().Add(jitter(a.o.Resync))
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.wake:
		case <-timer.C:
		}
		if now := time.Now(); now.After(resync) {
			resync = now.Add(jitter(a.o.Resync))
			a.mu.Lock()
			g.look = true
			a.mu.Unlock()
		}
		next, empty := a.settle(ctx, g)
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
func (a *Agent) settle(ctx context.Context, g *group) (next time.Time, empty bool) {
	a.noteEnded(g)
	g.answers.forgetErrors()
	var now time.Time // of the last pass: what was not due then may be by its end
	for ctx.Err() == nil {
		now = time.Now()
		members := a.members(g, now)
		w := a.world(ctx, g, members)
		once(g.looked)
		plan := reconcile.NextPlan(w, a.held(g, w, now))
		a.publish(g, members, w, plan)
		if a.finalise(g, members, w, now) || a.endMoves(ctx, g, members) {
			continue
		}
		steps := a.due(g, plan.Steps, now)
		if len(steps) == 0 && !a.noteEnded(g) {
			break
		}
		for _, s := range steps {
			if ofInstance(s) {
				a.takeBeside(ctx, g, s, members)
			} else {
				a.take(ctx, g, s, members)
			}
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	// What was due and not done waits for something else, whose change wakes the
	// group: coming back for it would be a busy loop.
	for _, f := range slices.Concat(values(g.fails), values(g.unknown), values(g.kept)) {
		if f.next.After(now) && (next.IsZero() || f.next.Before(next)) {
			next = f.next
		}
	}
	for _, t := range []time.Time{a.nextExpiryLocked(g, now), a.nextMoveLocked(g, now), a.nextCutLocked(g, now), a.nextGlanceLocked(g, now)} {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	if gone := slices.Contains(slices.Collect(maps.Values(g.gone)), true); gone {
		g.look = true // when it comes back: nobody tells of a share that is made anew
		if at := now.Add(jitter(goneAgain)); next.IsZero() || at.Before(next) {
			next = at
		}
	}
	if ctx.Err() == nil && len(g.members) == 0 {
		delete(a.groups, g.key)
		return next, true
	}
	return next, false
}

func values[K comparable](m map[K]*failure) []*failure { return slices.Collect(maps.Values(m)) }

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
	key objectKey
	rec *intent.Record
	at  time.Time // when it began: rules that have expired by then are not wanted
	cut bool      // of a forced removal: its guest has had its time
}

// members lists the group's objects, and forgets what was seen if somebody
// asked for a new look. What could not be seen is looked at again when it is due.
func (a *Agent) members(g *group, now time.Time) []member {
	a.mu.Lock()
	defer a.mu.Unlock()
	if g.look {
		g.look = false
		g.is = map[reconcile.Key]reconcile.Version{}
		g.seen = map[reconcile.Key]bool{}
		g.gone = map[reconcile.Key]bool{}
		clear(g.answers)
	}
	for k, f := range g.unknown {
		if !now.Before(f.next) {
			delete(g.seen, k)
		}
	}
	var ms []member
	for key := range g.members {
		o := a.objects[key]
		if o == nil || o.rec == nil {
			continue
		}
		cut := a.cutLocked(o)
		ms = append(ms, member{key, o.rec, now, !cut.IsZero() && !cut.After(now)})
		if at := o.rec.Attachment; at != nil && g.records[key] != o.rec {
			delete(g.answers, at.InstanceUUID) // whoever asked may know more than the last event told
			for _, k := range o.rec.Keys(key.id) {
				if cancel := g.beside[k]; cancel != nil {
					cancel() // what it does is not what is wanted now
				}
			}
		}
		g.records[key] = o.rec
	}
	a.expireLocked(g, ms, now)
	return ms
}

// held names the removals that were tried and wait for their next try. Why a
// thing could not be made is no reason to keep what is not wanted any more.
func (a *Agent) held(g *group, w reconcile.World, now time.Time) map[reconcile.Key]bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	held := map[reconcile.Key]bool{}
	for k, f := range g.fails {
		if _, wanted := w.Want[k]; !wanted && !f.removing {
			delete(g.fails, k)
			continue
		}
		if _, there := w.Is[k]; there && now.Before(f.next) {
			held[k] = true
		}
	}
	return held
}

// due leaves out the steps that failed and wait for their next try.
func (a *Agent) due(g *group, steps []reconcile.Step, now time.Time) []reconcile.Step {
	a.mu.Lock()
	defer a.mu.Unlock()
	var due []reconcile.Step
	for _, s := range steps {
		if f := g.fails[s.Key]; f == nil || !now.Before(f.next) {
			due = append(due, s)
		}
	}
	return due
}

// mostTries is how often a step may work without effect before it counts as
// failed and has to wait.
const mostTries = 3

// take does one step and notes how it went.
func (a *Agent) take(ctx context.Context, g *group, s reconcile.Step, members []member) {
	delete(g.seen, s.Key)
	begin := time.Now()
	err := a.do(ctx, g, s, members)
	a.note(ctx, g, ending{step: s, members: members, err: err, took: time.Since(begin)})
}

// takeBeside does one step beside the worker, which goes on with the share's
// other users meanwhile. What the step is about counts as unknown until the
// worker has noted how it went.
func (a *Agent) takeBeside(ctx context.Context, g *group, s reconcile.Step, members []member) {
	ctx, cancel := context.WithCancel(ctx)
	g.beside[s.Key] = cancel
	delete(g.glances, objectKey{model.KindAttachment, s.Key.Name}) // it may see neither before nor after
	a.workers.Go(func() {
		defer cancel()
		begin := time.Now()
		err := a.do(ctx, g, s, members)
		a.mu.Lock()
		defer a.mu.Unlock()
		g.ended = append(g.ended, ending{step: s, members: members, err: err, took: time.Since(begin)})
		a.wakeLocked(g.key, lookOn)
	})
}

// ofInstance says whether a step is taken beside the worker: a guest may take
// long, and a share may have hundreds.
func ofInstance(s reconcile.Step) bool {
	return s.Key.Kind == reconcile.Daemon || ofLibvirt(s.Key)
}

// An ending is how a step went.
type ending struct {
	step    reconcile.Step
	members []member // when it began
	err     error
	took    time.Duration
}

// noteEnded notes the steps that have ended beside the worker. It reports
// whether there were any.
func (a *Agent) noteEnded(g *group) bool {
	a.mu.Lock()
	ended, glanced := g.ended, g.glanced
	g.ended, g.glanced = nil, nil
	a.mu.Unlock()
	for _, seen := range glanced {
		a.noteGlance(g, seen)
	}
	for _, e := range ended {
		delete(g.beside, e.step.Key)
		delete(g.seen, e.step.Key)
		if m, ok := memberOf(e.step.Key, e.members); ok && (e.step.Key.Kind == reconcile.Device || e.step.Key.Kind == reconcile.Definition) {
			delete(g.answers, m.rec.Attachment.InstanceUUID)
		}
		a.note(a.run, g, e)
	}
	return len(ended) > 0
}

// note keeps how a step went. What it touched is looked at again whatever it
// says, but for what the step itself has read back.
func (a *Agent) note(ctx context.Context, g *group, e ending) {
	s := e.step
	g.cleaned[s.Key] = e.err == nil && s.Verb == reconcile.Remove
	a.metrics.step(s, e.err, e.took)
	a.mu.Lock()
	defer a.mu.Unlock()
	err := e.err
	if err == nil {
		a.log.Debug("step done", "step", s.Key.Kind.String(), "verb", string(s.Verb), "name", s.Key.Name, "dur", e.took)
		if g.tried[s.Key]++; g.tried[s.Key] <= mostTries {
			delete(g.fails, s.Key)
			return
		}
		err = errors.New("it says that it worked, and the host does not show it")
	}
	if ctx.Err() != nil {
		return
	}
	if m, _ := memberOf(s.Key, e.members); a.changedLocked(m) {
		return // what failed is not what is wanted now, which the next pass tries
	}
	why := keepsEnding(s.Key, g.fails[s.Key], parts.Classify(err))
	if f := g.fails[s.Key]; f == nil || f.err.Reason != why.Reason {
		a.log.Warn("step failed and will be tried again", "step", s.Key.Kind.String(), "verb", string(s.Verb), "name", s.Key.Name, "reason", string(why.Reason), "err", err)
	}
	f := g.fails[s.Key].again(why)
	f.removing = s.Verb == reconcile.Remove
	// One that took long, as a guest does that keeps its device, must not be
	// asked all the time.
	if free := time.Now().Add(e.took); f.next.Before(free) {
		f.next = free
	}
	g.fails[s.Key] = f
}

// changedLocked says whether somebody has asked otherwise since a pass began.
func (a *Agent) changedLocked(m member) bool {
	o := a.objects[m.key]
	return o != nil && o.rec != m.rec
}

// again is the failure after one more.
func (f *failure) again(e *fault.Error) *failure {
	attempts := 1
	if f != nil {
		attempts = f.attempts + 1
	}
	return &failure{err: e, attempts: attempts, next: time.Now().Add(backoff(attempts))}
}

// finalise removes the records of objects that are to go and of which nothing
// is left. It reports whether there was one.
func (a *Agent) finalise(g *group, members []member, w reconcile.World, now time.Time) bool {
	done := false
	for _, m := range members {
		if !m.rec.Removing || remains(m, members, w) {
			continue
		}
		if a.forget(g, m, now) {
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
	mount := reconcile.Key{Kind: reconcile.Mount, Name: m.mount()}
	_, there := w.Is[mount]
	_, wanted := w.Want[mount] // by another
	if !w.Unknown[mount] && (!there || wanted) {
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
	for _, k := range m.rec.Keys(m.key.id) {
		_, there := w.Is[k]
		_, wanted := w.Want[k]
		if k.Kind != reconcile.Mount && (w.Unknown[k] || there && !wanted) {
			return true
		}
	}
	return false
}

// forget removes one record from the ledger and from memory.
func (a *Agent) forget(g *group, m member, now time.Time) bool {
	a.mu.Lock()
	o := a.objects[m.key]
	f := g.kept[m.key]
	if o == nil || o.writing || o.rec != m.rec || f != nil && now.Before(f.next) {
		a.mu.Unlock()
		return false
	}
	o.writing = true
	a.mu.Unlock()

	err := a.ledger.Delete(m.key.kind, m.key.id)

	a.mu.Lock()
	defer a.mu.Unlock()
	o.writing = false
	defer o.broadcast()
	if err != nil {
		a.log.Error("record could not be removed", "kind", m.key.kind, "id", m.key.id, "err", err)
		f = f.again(keptError(err))
		g.kept[m.key] = f
		o.failure = f.err
		o.status = o.status.Because(f.err, f.attempts)
		return false
	}
	delete(g.kept, m.key)
	for _, k := range m.rec.Keys(m.key.id) {
		if k.Kind != reconcile.Mount {
			delete(g.fails, k)
			delete(g.is, k)
			delete(g.seen, k)
			delete(g.cleaned, k)
			delete(g.tried, k)
		}
	}
	delete(a.objects, m.key)
	a.exports.drop(o, m.rec)
	delete(g.members, m.key)
	delete(g.records, m.key)
	delete(g.glances, m.key)
	if m.key.kind == model.KindNetwork {
		delete(a.servers, m.key.id)
	}
	a.log.Info("object removed", m.key.kind, m.key.id)
	a.tellLocked(o, true)
	if e := m.rec.Export; e != nil {
		l := lookOn
		if !a.hasExportsLocked(e.Network) {
			l = lookAgain // its last export takes the gateway along
		}
		a.wakeLocked(intent.NetworkGroup(e.Network), l)
	}
	return true
}

// watchEnd looks at the group again when a process of it ends.
func (a *Agent) watchEnd(g *group, k reconcile.Key, done <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if done == nil || g.watching[k] == done {
		return
	}
	g.watching[k] = done
	a.workers.Go(func() {
		select {
		case <-a.run.Done():
			return
		case <-done:
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		if g.watching[k] == done { // and not its successor already
			delete(g.watching, k)
		}
		a.wakeLocked(g.key, lookAgain)
	})
}

func backoff(attempts int) time.Duration {
	d := backoffFirst << min(attempts-1, 10)
	return jitter(min(d, backoffMost))
}

// jitter spreads a time over 80 to 120 per cent of it.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}

// targetOf is where a thing of the mount table lies; empty for others.
func (a *Agent) targetOf(k reconcile.Key) string {
	switch k.Kind {
	case reconcile.Mount:
		return a.at.Mount(k.Name)
	case reconcile.View:
		o := a.objects[objectKey{model.KindExport, k.Name}]
		if o == nil || o.rec == nil {
			return ""
		}
		return filepath.Clean(a.at.View(o.rec.Export.Network, k.Name))
	}
	return ""
}

// timings of the reconciler. They are not settings.
const (
	backoffFirst  = 200 * time.Millisecond
	backoffMost   = 30 * time.Second
	eventPatience = 500 * time.Millisecond // of a failed step, when an event says that the world changed
)
