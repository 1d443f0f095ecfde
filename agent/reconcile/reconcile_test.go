package reconcile

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// world is what is wanted at one time: things with their versions.
type world map[Key]Version

// host is a fake kernel, libvirt and Ganesha at once. It enforces the order
// that those enforce, and fails the calls that it is told to fail.
type host struct {
	is       map[Key]Version
	outside  map[Key]bool
	failAt   int          // this call fails; 0 fails none
	dies     bool         // failing also ends the agent, which forgets what is held
	stubborn map[Key]bool // cannot be removed, as a device that a guest holds
	calls    int
	log      []string
}

func (h *host) String() string {
	var lines []string
	for k, v := range h.is {
		lines = append(lines, fmt.Sprintf("%v = %v", k, v))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func (h *host) apply(s Step, want map[Key]Want) error {
	h.calls++
	h.log = append(h.log, s.String())
	if h.calls == h.failAt || s.Verb == Remove && h.stubborn[s.Key] {
		return errors.New("simulated")
	}
	switch s.Verb {
	case Remove:
		for k := range h.is {
			if slices.Contains(needs(k), s.Key) {
				panic(fmt.Sprintf("removed %v under %v", s.Key, k))
			}
		}
		delete(h.is, s.Key)
	case Create, Update:
		_, there := h.is[s.Key]
		if there != (s.Verb == Update) {
			panic(fmt.Sprintf("%v, and it is there: %v", s, there))
		}
		for _, n := range needs(s.Key) {
			is, there := h.is[n]
			if !there && !h.outside[n] {
				panic(fmt.Sprintf("created %v before %v", s.Key, n))
			}
			if there && is.Identity != want[n].Version.Identity {
				panic(fmt.Sprintf("created %v over %v that is about to go", s.Key, n))
			}
		}
		for k := range h.is {
			if s.Verb == Create && slices.Contains(needs(k), s.Key) && !slices.Contains(outlives[k], s.Key) {
				panic(fmt.Sprintf("created %v under %v, which has lost it", s.Key, k))
			}
		}
		h.is[s.Key] = want[s.Key].Version
	}
	return nil
}

// Two users of one share, of each sort, and the network of the export.
var (
	mount  = Key{Mount, "m"}
	view   = Key{View, "e"}
	export = Key{Export, "e"}
	daemon = Key{Daemon, "a"}
	device = Key{Device, "a"}
	guest  = Key{GuestMount, "a"}
	other  = Key{Daemon, "b"}
	other2 = Key{Device, "b"}
	def    = Key{Definition, "a"}
	ns     = Key{Namespace, "n"}
	gw     = Key{Gateway, "n"}
)

func needs(k Key) []Key {
	return map[Key][]Key{
		gw: {ns}, view: {mount}, export: {view, gw},
		daemon: {mount}, device: {daemon}, guest: {device},
		other: {mount}, other2: {other},
	}[k]
}

var outlives = map[Key][]Key{export: {view}}

func (w world) want() map[Key]Want {
	m := map[Key]Want{}
	for k, v := range w {
		m[k] = Want{Version: v, Needs: needs(k), Outlives: outlives[k], After: map[Key][]Key{def: {device}}[k]}
	}
	return m
}

// settle reconciles from nothing but what is wanted and the host, as an agent
// that has just started does.
func settle(t *testing.T, h *host, w world) {
	t.Helper()
	uses := map[Key][]Key{}
	for k := range h.is {
		uses[k] = needs(k)
	}
	held := map[Key]bool{}
	for range 60 {
		want := w.want()
		plan := NextPlan(World{Want: want, Is: maps.Clone(h.is), Outside: h.outside, Uses: uses}, held)
		if len(plan.Steps) == 0 {
			return
		}
		verbs := map[bool]int{}
		for _, s := range plan.Steps {
			verbs[s.Verb == Remove]++
			if err := h.apply(s, want); err != nil {
				if h.dies {
					held = map[Key]bool{}
					break
				}
				if h.stubborn[s.Key] {
					held[s.Key] = true
				}
			}
		}
		if len(verbs) > 1 {
			t.Fatalf("a plan mixes removals and creations: %v", plan.Steps)
		}
	}
	if len(h.stubborn) == 0 || h.dies {
		t.Fatalf("no rest after 60 rounds; host:\n%v\nlog:\n%s", h, strings.Join(h.log, "\n"))
	}
}

func v(identity string) Version            { return Version{Identity: identity} }
func vs(identity, settings string) Version { return Version{identity, settings} }

// TestSettle runs sequences of worlds, expanded, times a failure at every
// step, times an agent that survives it or dies there.
func TestSettle(t *testing.T) {
	empty := world{}
	attach := world{mount: v("1"), daemon: v("1"), device: v("1"), guest: v("1")}
	two := world{mount: v("1"), daemon: v("1"), device: v("1"), other: v("1"), other2: v("1")}
	network := world{ns: v("1"), gw: v("1")}
	exported := world{mount: v("1"), ns: v("1"), gw: v("1"), view: v("1"), export: vs("1", "ro")}
	rules := world{mount: v("1"), ns: v("1"), gw: v("1"), view: v("1"), export: vs("1", "rw")}
	both := world{mount: v("1"), ns: vs("1", "x"), gw: v("1"), view: v("1"), export: vs("1", "ro"), daemon: v("1"), device: v("1"), guest: v("1")}
	moved := world{mount: v("2"), ns: vs("1", "y"), gw: v("1"), view: v("2"), export: vs("2", "ro"), daemon: v("2"), device: v("2"), guest: v("2")}
	replugged := world{mount: v("1"), ns: v("2"), gw: v("1"), view: v("1"), export: vs("1", "ro")}
	restarted := world{mount: v("1"), ns: v("1"), gw: vs("1", "other"), view: v("1"), export: vs("1", "ro")}
	persistent := world{mount: v("1"), daemon: v("1"), device: v("1"), def: v("1")}
	off := world{def: v("1")}
	starting := world{mount: v("1"), daemon: v("1"), def: v("1")}
	base := [][]world{
		{persistent, off, starting, persistent}, {off, attach, persistent}, {persistent, moved},
		{exported, replugged}, {exported, restarted, replugged}, {attach, replugged, both},
		{attach}, {exported}, {attach, exported}, {both, moved}, {both, empty, both}, {moved, both, attach},
		{exported, rules}, {network, exported, network}, {two, attach, two}, {two, both, moved, rules},
	}
	runs := 0
	for i, seq := range base {
		for name, seq := range expand(seq) {
			for failAt := range 40 {
				for _, dies := range []bool{false, true} {
					runs++
					h := &host{is: map[Key]Version{}, failAt: failAt, dies: dies}
					for n, w := range seq {
						settle(t, h, w)
						if !maps.Equal(h.is, w) {
							t.Fatalf("%d/%s/fail %d/dies %v, world %d: host is\n%v\nwant %v\nlog:\n%s",
								i, name, failAt, dies, n, h, w, strings.Join(h.log, "\n"))
						}
					}
				}
			}
		}
	}
	t.Logf("%d histories", runs)
}

// expand makes further sequences of one.
func expand(seq []world) map[string][]world {
	reversed := slices.Clone(seq)
	slices.Reverse(reversed)
	var gaps []world
	for _, w := range seq {
		gaps = append(gaps, w, world{})
	}
	return map[string][]world{"plain": seq, "reversed": reversed, "gaps": gaps, "twice": append(slices.Clone(seq), seq...)}
}

// TestLoss takes each thing away behind the agent's back, and all pairs.
func TestLoss(t *testing.T) {
	full := world{mount: v("1"), ns: v("1"), gw: v("1"), view: v("1"), export: v("1"), daemon: v("1"), device: v("1"), guest: v("1")}
	for a := range full {
		for b := range full {
			h := &host{is: maps.Clone(full)}
			delete(h.is, a)
			delete(h.is, b)
			settle(t, h, full)
			if !maps.Equal(h.is, full) {
				t.Errorf("lost %v and %v: host is\n%v\nlog:\n%s", a, b, h, strings.Join(h.log, "\n"))
			}
		}
	}
}

// TestDeadDaemon: QEMU does not reconnect, so the device must go first.
func TestDeadDaemon(t *testing.T) {
	w := world{mount: v("1"), daemon: v("1"), device: v("1")}
	h := &host{is: map[Key]Version{mount: v("1"), device: v("1")}}
	settle(t, h, w)
	want := []string{"remove device a", "create daemon a", "create device a"}
	if !slices.Equal(h.log, want) {
		t.Errorf("steps = %q, want %q", h.log, want)
	}
}

// TestDefinition: a device is in the definition when the running instance has
// taken it, and not lost there with that one's.
func TestDefinition(t *testing.T) {
	running := world{mount: v("1"), daemon: v("1"), device: v("1"), def: v("1")}
	for _, c := range []struct {
		name string
		is   map[Key]Version
		w    world
		want []string
	}{
		{"attach", map[Key]Version{}, running, []string{"create mount m", "create daemon a", "create device a", "create definition a"}},
		{"daemon dead", map[Key]Version{mount: v("1"), device: v("1"), def: v("1")}, running, []string{"remove device a", "create daemon a", "create device a"}},
		{"off", maps.Clone(running), world{def: v("1")}, []string{"remove device a", "remove daemon a", "remove mount m"}},
		{"redefined while off", map[Key]Version{}, world{def: v("1")}, []string{"create definition a"}},
		{"detach", maps.Clone(running), world{}, []string{"remove definition a", "remove device a", "remove daemon a", "remove mount m"}},
	} {
		h := &host{is: c.is}
		settle(t, h, c.w)
		if !slices.Equal(h.log, c.want) {
			t.Errorf("%s: steps = %q, want %q", c.name, h.log, c.want)
		}
	}
}

// TestLostView: it is made again under its export, unless what it is made of is
// lost as well, which may then be another.
func TestLostView(t *testing.T) {
	full := world{mount: v("1"), view: v("1"), export: v("1")}
	for _, c := range []struct {
		is   map[Key]Version
		want []string
	}{
		{map[Key]Version{mount: v("1"), export: v("1")}, []string{"create view e"}},
		{map[Key]Version{export: v("1")}, []string{"remove export e", "create mount m", "create view e", "create export e"}},
		{map[Key]Version{mount: v("0"), export: v("1")}, []string{"remove export e", "remove mount m", "create mount m", "create view e", "create export e"}},
	} {
		h := &host{is: maps.Clone(c.is), outside: map[Key]bool{gw: true}}
		settle(t, h, full)
		if !slices.Equal(h.log, c.want) {
			t.Errorf("from %v: steps = %q, want %q", c.is, h.log, c.want)
		}
	}
}

// TestRulesInPlace: clients with open files must not notice.
func TestRulesInPlace(t *testing.T) {
	h := &host{is: map[Key]Version{mount: v("1"), view: v("1"), export: vs("1", "ro")}, outside: map[Key]bool{gw: true}}
	settle(t, h, world{mount: v("1"), view: v("1"), export: vs("1", "rw")})
	if want := []string{"update export e"}; !slices.Equal(h.log, want) {
		t.Errorf("steps = %q, want %q", h.log, want)
	}
}

// TestStubbornGuest: one guest that holds its device stops nobody else, and
// keeps what it stands on.
func TestStubbornGuest(t *testing.T) {
	h := &host{
		is:       map[Key]Version{mount: v("1"), daemon: v("1"), device: v("1")},
		stubborn: map[Key]bool{device: true},
	}
	settle(t, h, world{mount: v("1"), other: v("1"), other2: v("1")})
	want := map[Key]Version{mount: v("1"), daemon: v("1"), device: v("1"), other: v("1"), other2: v("1")}
	if !maps.Equal(h.is, want) {
		t.Errorf("host is\n%v\nwant %v", h, want)
	}
	// The mount itself is to be replaced: now the others wait.
	settle(t, h, world{mount: v("2"), other: v("2"), other2: v("2")})
	if _, there := h.is[other]; there || h.is[mount] != v("1") {
		t.Errorf("host is\n%v\nwant the held device, its daemon and the old mount alone", h)
	}
}

func TestOutside(t *testing.T) {
	w := world{mount: v("1"), view: v("1"), export: v("1")}.want()
	is := map[Key]Version{mount: v("1"), view: v("1")}
	p := NextPlan(World{Want: w, Is: is}, nil)
	if len(p.Steps) != 0 || p.Blocked[export] != gw {
		t.Errorf("without a gateway: %v", p)
	}
	p = NextPlan(World{Want: w, Is: is, Outside: map[Key]bool{gw: true}}, nil)
	if len(p.Steps) != 1 || p.Steps[0] != (Step{Create, export}) {
		t.Errorf("with a gateway: %v", p)
	}
	is[export] = v("1")
	if p = NextPlan(World{Want: w, Is: is}, nil); len(p.Steps) != 0 {
		t.Errorf("gateway away under an export: %v, want to wait for it", p)
	}
}

// TestUnknown: libvirt is away. What could not be seen is not touched, nor is
// what it may stand on; the export of the same share is served all the same.
func TestUnknown(t *testing.T) {
	unknown := map[Key]bool{device: true}
	uses := map[Key][]Key{device: {daemon}, daemon: {mount}}
	is := map[Key]Version{mount: v("1"), daemon: v("1")}
	if p := NextPlan(World{Is: is, Unknown: unknown, Uses: uses}, nil); len(p.Steps) != 0 {
		t.Errorf("all unwanted: %v, want nothing until the device can be seen", p.Steps)
	}
	w := world{mount: v("1"), daemon: v("1"), device: v("1"), guest: v("1"), view: v("1")}.want()
	p := NextPlan(World{Want: w, Is: is, Unknown: unknown}, nil)
	if len(p.Steps) != 1 || p.Steps[0] != (Step{Create, view}) || p.Blocked[guest] != device {
		t.Errorf("plan = %v, want the view alone, and the guest's mount waiting for the device", p)
	}
}

// A device that has lost its daemon, and that its guest keeps or nobody can
// look at, gets no other daemon under it; others' are made.
func TestNothingIsMadeUnderWhatLostIt(t *testing.T) {
	here := Version{Identity: "here"}
	wanted := world{mount: here, daemon: here, device: here, other: here}
	for _, tt := range []struct {
		name  string
		world World
		held  map[Key]bool
	}{
		{"kept", World{Is: map[Key]Version{mount: here, device: here}}, map[Key]bool{device: true}},
		{"unknown", World{Is: map[Key]Version{mount: here}, Unknown: map[Key]bool{device: true}}, nil},
	} {
		tt.world.Want = wanted.want()
		plan := NextPlan(tt.world, tt.held)
		if want := []Step{{Create, other}}; !slices.Equal(plan.Steps, want) {
			t.Errorf("%s: steps %v, want %v", tt.name, plan.Steps, want)
		}
		if plan.Blocked[daemon] != device {
			t.Errorf("%s: the daemon waits for %v, want the device", tt.name, plan.Blocked[daemon])
		}
	}
}
