package drivertest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/causeway-project/causeway/drivers"
)

// A Verb names one method of a Fake.
type Verb string

// The verbs of a Fake that can fail.
const (
	Validate Verb = "validate"
	Mount    Verb = "mount"
	Unmount  Verb = "unmount"
	Mounts   Verb = "mounts"
	Probe    Verb = "probe"
)

// errOccupied is a Fake's error for a target where something else is mounted.
var errOccupied = errors.New("something else is mounted there")

// A FakeMount is one mount of a Fake.
type FakeMount struct {
	Source   string
	ReadOnly bool
	Gone     bool // the share was deleted under the mount
	Users    int  // open files: Unmount is drivers.ErrBusy
}

// A Fake is a drivers.Mounter and drivers.Prober that is a small model of a
// host: it keeps a table of mounts and enforces the contract's rules, but
// touches nothing. Every share is there until Delete. It is safe for use by
// several goroutines, and prints as its table.
type Fake struct {
	kind string

	mu      sync.Mutex
	mounts  map[string]FakeMount // by target
	deleted map[string]bool      // by source
	hangs   map[string]*hang     // by source
	orders  []*order
	calls   map[Verb]int
}

// An order is a failure that was asked for and has not happened yet.
type order struct {
	verb  Verb
	left  int // calls until it happens, that one included
	after bool
	err   error
}

// A hang blocks calls until done is closed. What calls left behind when their
// context ended is in late.
type hang struct {
	done chan struct{}
	late []func()
}

var (
	_ drivers.Mounter = (*Fake)(nil)
	_ drivers.Prober  = (*Fake)(nil)
)

// NewFake makes a driver of the kind, with no mounts.
func NewFake(kind string) *Fake {
	return &Fake{
		kind:    kind,
		mounts:  make(map[string]FakeMount),
		deleted: make(map[string]bool),
		hangs:   make(map[string]*hang),
		calls:   make(map[Verb]int),
	}
}

// FailNext makes the next call of verb fail with err, without any effect.
func (f *Fake) FailNext(verb Verb, err error) { f.FailNth(verb, 1, err) }

// FailNth makes the n-th call of verb from now on fail with err, without any
// effect. The first is 1.
func (f *Fake) FailNth(verb Verb, n int, err error) {
	f.arm(order{verb: verb, left: n, err: err})
}

// FailAfter makes the next call of verb do its work and then fail with err, as
// when an answer gets lost.
func (f *Fake) FailAfter(verb Verb, err error) {
	f.arm(order{verb: verb, left: 1, after: true, err: err})
}

func (f *Fake) arm(o order) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.orders = append(f.orders, &o)
}

// Armed lists the failures that have not happened. A test asserts at its end
// that there are none.
func (f *Fake) Armed() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var armed []string
	for _, o := range f.orders {
		armed = append(armed, fmt.Sprintf("%s in %d: %v", o.verb, o.left, o.err))
	}
	return armed
}

// Hang makes every Mount, Unmount and Probe of source wait until release, or
// until its context ends. In that case the work is done late, at release, as a
// backend does that was only slow. release may be called again.
func (f *Fake) Hang(source string) (release func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	h := &hang{done: make(chan struct{})}
	f.hangs[source] = h
	return sync.OnceFunc(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.hangs[source] == h {
			delete(f.hangs, source)
		}
		for _, work := range h.late {
			work()
		}
		close(h.done)
	})
}

// Use opens a file below the mount at target, until release. It reports
// whether something is mounted there.
func (f *Fake) Use(target string) (release func(), ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.useLocked(target, 1) {
		return func() {}, false
	}
	return sync.OnceFunc(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.useLocked(target, -1)
	}), true
}

func (f *Fake) useLocked(target string, n int) bool {
	m, ok := f.mounts[target]
	if ok {
		m.Users += n
		f.mounts[target] = m
	}
	return ok
}

// Delete deletes a share at the backend, under its mounts.
func (f *Fake) Delete(source string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.deleted[source] = true
	for target, m := range f.mounts {
		if m.Source == source {
			m.Gone = true
			f.mounts[target] = m
		}
	}
}

// Create makes a deleted share anew. Mounts of the old one stay gone.
func (f *Fake) Create(source string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.deleted, source)
}

// Mounted is a copy of the table of mounts, by target.
func (f *Fake) Mounted() map[string]FakeMount {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.mounts)
}

// Calls counts the calls of verb, those that failed included.
func (f *Fake) Calls(verb Verb) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[verb]
}

// String is the table of mounts, a line each, by target.
func (f *Fake) String() string {
	table := f.Mounted()
	var b strings.Builder
	for _, target := range slices.Sorted(maps.Keys(table)) {
		m := table[target]
		fmt.Fprintf(&b, "%s on %s", f.kind+":"+m.Source, target)
		if m.ReadOnly {
			b.WriteString(" ro")
		}
		if m.Gone {
			b.WriteString(" gone")
		}
		if m.Users > 0 {
			fmt.Fprintf(&b, " users=%d", m.Users)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// do counts a call and runs work as the orders and hangs want it. work runs
// under mu.
func (f *Fake) do(ctx context.Context, verb Verb, source func() string, work func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[verb]++
	o := f.dueLocked(verb)
	if o != nil && !o.after {
		return fmt.Errorf("fake %s: %w", verb, o.err)
	}
	for h := f.hangs[source()]; h != nil; h = f.hangs[source()] {
		f.mu.Unlock()
		select {
		case <-h.done:
		case <-ctx.Done():
		}
		f.mu.Lock()
		if ctx.Err() == nil {
			continue
		}
		if f.hangs[source()] == h {
			h.late = append(h.late, func() { _ = work() })
		}
		break
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := work(); err != nil {
		return err
	}
	if o != nil {
		return fmt.Errorf("fake %s: %w", verb, o.err)
	}
	return nil
}

// dueLocked counts a call against every order for verb and takes out the one
// that is due.
func (f *Fake) dueLocked(verb Verb) *order {
	var due *order
	f.orders = slices.DeleteFunc(f.orders, func(o *order) bool {
		if o.verb != verb || (o.left == 1 && due != nil) {
			return false
		}
		if o.left--; o.left > 0 {
			return false
		}
		due = o
		return true
	})
	return due
}

// nowhere is the source of verbs that no backend can delay.
func nowhere() string { return "" }

// Kind is what NewFake was given.
func (f *Fake) Kind() string { return f.kind }

// Properties are those of a local directory.
func (*Fake) Properties() drivers.Properties { return drivers.Properties{StableHandles: true} }

// Validate refuses another kind, an empty source, one with "..", and every
// option.
func (f *Fake) Validate(c drivers.Connection) error {
	return f.do(context.Background(), Validate, nowhere, func() error { return f.check(c) })
}

func (f *Fake) check(c drivers.Connection) error {
	if c.Kind != f.kind {
		return fmt.Errorf("kind %q is not %q: %w", c.Kind, f.kind, drivers.ErrSource)
	}
	if c.Source == "" || slices.Contains(strings.Split(c.Source, "/"), "..") {
		return fmt.Errorf("source %q: %w", c.Source, drivers.ErrSource)
	}
	if len(c.Options) > 0 {
		return fmt.Errorf("options are unknown: %w", drivers.ErrSource)
	}
	return nil
}

func (f *Fake) findLocked(c drivers.Connection) error {
	if err := f.check(c); err != nil {
		return err
	}
	if f.deleted[c.Source] {
		return fmt.Errorf("source %q: %w", c.Source, drivers.ErrNotFound)
	}
	return nil
}

// Probe implements drivers.Prober.
func (f *Fake) Probe(ctx context.Context, c drivers.Connection) error {
	return f.do(ctx, Probe, func() string { return c.Source }, func() error { return f.findLocked(c) })
}

// Mount implements drivers.Mounter.
func (f *Fake) Mount(ctx context.Context, r drivers.MountRequest) error {
	return f.do(ctx, Mount, func() string { return r.Connection.Source }, func() error {
		if err := f.findLocked(r.Connection); err != nil {
			return err
		}
		if !filepath.IsAbs(r.Target) {
			return fmt.Errorf("target %q is not absolute", r.Target)
		}
		m, there := f.mounts[r.Target]
		if there && (m.Gone || m.Source != r.Connection.Source || m.ReadOnly != r.ReadOnly) {
			return fmt.Errorf("target %q: %w", r.Target, errOccupied)
		}
		if !there {
			f.mounts[r.Target] = FakeMount{Source: r.Connection.Source, ReadOnly: r.ReadOnly}
		}
		return nil
	})
}

// Unmount implements drivers.Mounter. It does not wait for users to go.
func (f *Fake) Unmount(ctx context.Context, target string) error {
	return f.do(ctx, Unmount, func() string { return f.mounts[target].Source }, func() error {
		if f.mounts[target].Users > 0 {
			return fmt.Errorf("target %q: %w", target, drivers.ErrBusy)
		}
		delete(f.mounts, target)
		return nil
	})
}

// Mounts implements drivers.Mounter. It never hangs.
func (f *Fake) Mounts(ctx context.Context, root string) ([]drivers.Mounted, error) {
	var list []drivers.Mounted
	err := f.do(ctx, Mounts, nowhere, func() error {
		for _, target := range slices.Sorted(maps.Keys(f.mounts)) {
			if filepath.Dir(target) != filepath.Clean(root) {
				continue
			}
			m := f.mounts[target]
			list = append(list, drivers.Mounted{Target: target, ReadOnly: m.ReadOnly, Gone: m.Gone})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}
