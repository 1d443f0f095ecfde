package virtiofs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Options of a Host.
type Options struct {
	URI     string       // libvirt's; "qemu:///system" by default
	Logger  *slog.Logger // discards by default
	Changed func(Event)  // called from libvirt's event loop and from Run; must not block or call the Host
	Strays  func(n int)  // called when so many strays were taken out of an instance; must not block or call the Host
}

// How many calls may wait for libvirtd at once. A libvirtd that hangs costs
// that many goroutines and threads, and no more.
const (
	maxCalls = 32
	// Guest agents hang more often than libvirtd does, and libvirtd serves five
	// calls of a client at once (max_client_requests): leave it two.
	maxAgentCalls = 3
	// patience for one of these places. With all of them taken for so long,
	// libvirtd hangs.
	patience = 5 * time.Second
)

// Waits between tries to connect.
const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 5 * time.Second
)

const (
	// closing is how long Run waits for the calls on a connection that it gives up.
	closing = 2 * time.Second
	// pulse is how often Run looks whether the connection is alive.
	pulse = 2 * time.Second
)

// A Host is this machine's libvirt. Its methods may be called at once by any
// number of goroutines. They fail with ErrUnavailable while there is no
// connection, and when ctx ends before libvirtd has answered they return its
// error: the call then goes on by itself, and calling again finds what it did.
type Host struct {
	o     Options
	dial  func(notify func(Event), lost func()) (*link, error)
	admit func(i Instance, socket string) error
	calls chan struct{}
	asks  chan struct{} // of guest agents

	parsed parsed

	mu      sync.Mutex
	link    *link // nil while there is no connection
	why     error // why there is none
	gates   map[string]*gate
	silent  map[string]silence // guest agents, by instance
	watches map[*watch]struct{}
}

// New connects nothing; Run does.
func New(o Options) *Host {
	if o.URI == "" {
		o.URI = "qemu:///system"
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Changed == nil {
		o.Changed = func(Event) {}
	}
	if o.Strays == nil {
		o.Strays = func(int) {}
	}
	h := &Host{
		o:       o,
		dial:    func(notify func(Event), lost func()) (*link, error) { return dial(o.URI, notify, lost) },
		calls:   make(chan struct{}, maxCalls),
		asks:    make(chan struct{}, maxAgentCalls),
		why:     errors.New("not yet connected"),
		gates:   map[string]*gate{},
		silent:  map[string]silence{},
		watches: map[*watch]struct{}{},
	}
	h.admit = h.admitQEMU
	return h
}

// Run keeps the connection, with back-off, and reports events until ctx ends.
// After each connect it reports Event{}. It returns nil.
func (h *Host) Run(ctx context.Context) error {
	wait := minBackoff
	for ctx.Err() == nil {
		l, err := h.connect(ctx)
		if err != nil {
			h.away(ctx, err)
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
			wait = min(2*wait, maxBackoff)
			continue
		}
		wait = minBackoff
		h.mu.Lock()
		h.link = l
		h.mu.Unlock()
		h.o.Logger.InfoContext(ctx, "libvirt connected", "uri", h.o.URI)
		h.notify(Event{})
		h.stay(ctx, l)
		h.away(ctx, errors.New("connection lost"))
		h.finish(l)
	}
	return nil
}

// stay returns when ctx or the connection ends.
//
// libvirt says the latter by its close callback, but not always: when the
// keep-alive timeout strikes with several calls in flight, libvirt 9.0 fails
// the first, and the others, which inherit the socket from it, wait on until
// libvirtd goes on or dies (virNetClientIOEventLoopPassTheBuck).
func (h *Host) stay(ctx context.Context, l *link) {
	t := time.NewTicker(pulse)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.lost:
			return
		case <-t.C:
			if !l.alive() {
				return
			}
		}
	}
}

// Connected returns nil, or why there is no connection: ErrUnavailable.
func (h *Host) Connected() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.link == nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, h.why)
	}
	return nil
}

// connect dials. A libvirtd that takes the connection and says nothing blocks
// the dial for ever: ctx leaves it behind, to be closed if it ever ends.
func (h *Host) connect(ctx context.Context) (*link, error) {
	lost := make(chan struct{})
	lose := sync.OnceFunc(func() { close(lost) })
	type result struct {
		l   *link
		err error
	}
	got := make(chan result)
	go func() {
		l, err := h.dial(h.notify, lose)
		if l != nil {
			l.lost, l.lose = lost, lose
		}
		select {
		case got <- result{l, err}:
		case <-ctx.Done():
			if l != nil {
				l.close()
			}
		}
	}()
	select {
	case r := <-got:
		return r.l, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// away records that there is no connection, and wakes who waits for events.
func (h *Host) away(ctx context.Context, why error) {
	h.mu.Lock()
	known := h.link == nil && h.why != nil && h.why.Error() == why.Error()
	h.link, h.why = nil, why
	h.mu.Unlock()
	if !known && ctx.Err() == nil {
		h.o.Logger.WarnContext(ctx, "libvirt not connected", "uri", h.o.URI, "err", why)
	}
	h.wake("")
}

// finish closes a connection when its last call has returned, and waits for
// that, but not for a libvirtd that hangs.
func (h *Host) finish(l *link) {
	done := l.retire()
	t := time.NewTimer(closing)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	}
}

// A link is a connection in use. It is closed by whoever leaves last.
type link struct {
	hypervisor
	alive func() bool // without asking libvirtd
	close func()

	lost <-chan struct{} // closed by lose
	lose func()

	mu      sync.Mutex
	users   int
	retired bool
	closed  chan struct{}
}

// enter counts a call in; false when the link is retired.
func (l *link) enter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.retired {
		return false
	}
	l.users++
	return true
}

// leave counts a call out.
func (l *link) leave() {
	l.mu.Lock()
	l.users--
	last := l.retired && l.users == 0
	l.mu.Unlock()
	if last {
		l.close()
		close(l.closed)
	}
}

// retire lets no further call in; the channel is closed when the connection is.
func (l *link) retire() <-chan struct{} {
	l.mu.Lock()
	l.retired = true
	l.closed = make(chan struct{})
	l.users++
	l.mu.Unlock()
	// Closing talks to libvirtd too.
	go l.leave()
	return l.closed
}

// call runs f in a goroutine of its own, because a call to libvirtd does not
// know ctx. When ctx ends first, f's result is dropped.
func call[T any](ctx context.Context, h *Host, lane chan struct{}, f func(hypervisor) (T, error)) (T, error) {
	return callThen(ctx, h, lane, f, func() {})
}

// callThen calls after when f has returned, however late, or is never to run.
func callThen[T any](ctx context.Context, h *Host, lane chan struct{}, f func(hypervisor) (T, error), after func()) (T, error) {
	var none T
	if err := take(ctx, lane); err != nil {
		after()
		return none, err
	}
	l, err := h.current()
	if err != nil {
		<-lane
		after()
		return none, err
	}
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	go func() {
		v, err := f(l.hypervisor)
		if err != nil && !l.alive() {
			l.lose()
			err = fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		l.leave()
		<-lane
		after()
		done <- result{v, explain(err)}
	}()
	select {
	case r := <-done:
		return r.v, r.err
	case <-ctx.Done():
		if lane == h.asks { // which guest agents answer, or not
			return none, fmt.Errorf("libvirt has not answered: %w", context.Cause(ctx))
		}
		return none, fmt.Errorf("%w: it has not answered: %w", ErrUnavailable, context.Cause(ctx))
	}
}

// take waits a little for a place in a lane.
func take(ctx context.Context, lane chan struct{}) error {
	select {
	case lane <- struct{}{}:
		return nil
	default:
	}
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case lane <- struct{}{}:
		return nil
	case <-t.C:
		return fmt.Errorf("%w: %d calls wait for it already", ErrUnavailable, cap(lane))
	case <-ctx.Done():
		return fmt.Errorf("%w: %d calls wait for it already: %w", ErrUnavailable, cap(lane), context.Cause(ctx))
	}
}

// current returns the link, entered.
func (h *Host) current() (*link, error) {
	h.mu.Lock()
	l, why := h.link, h.why
	h.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, why)
	}
	if !l.enter() {
		return nil, fmt.Errorf("%w: connection lost", ErrUnavailable)
	}
	return l, nil
}

// notify passes an event on, and wakes who waits for one.
func (h *Host) notify(e Event) {
	h.forgetSilence(e.Instance)
	h.wake(e.Instance)
	h.o.Changed(e)
}

// A watch is woken by the events of one instance.
type watch struct {
	instance string
	woken    chan struct{}
}

// watch begins one; stop must be called.
func (h *Host) watch(instance string) (woken <-chan struct{}, stop func()) {
	w := &watch{instance: instance, woken: make(chan struct{}, 1)}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watches[w] = struct{}{}
	return w.woken, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.watches, w)
	}
}

// wake wakes the watches of an instance, or all.
func (h *Host) wake(instance string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.watches {
		if instance != "" && w.instance != instance {
			continue
		}
		select {
		case w.woken <- struct{}{}:
		default: // it has a wake-up that it has not seen yet
		}
	}
}

// A gate lets one through at a time.
type gate struct {
	token chan struct{}
	users int // who hold it or wait for it
}

// lock serialises what must not interleave within one instance.
func (h *Host) lock(ctx context.Context, instance string) (unlock func(), err error) {
	h.mu.Lock()
	g := h.gates[instance]
	if g == nil {
		g = &gate{token: make(chan struct{}, 1)}
		h.gates[instance] = g
	}
	g.users++
	h.mu.Unlock()
	leave := func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if g.users--; g.users == 0 {
			delete(h.gates, instance)
		}
	}
	select {
	case g.token <- struct{}{}:
		return func() { <-g.token; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, fmt.Errorf("wait for another change of the instance: %w", context.Cause(ctx))
	}
}
