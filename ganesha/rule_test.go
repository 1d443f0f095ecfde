package ganesha

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"

	"github.com/causeway-project/causeway/integration/nfs41"
)

// TestManyRules: hundreds of rules of one export are each in force, and change
// under open files with the next operation.
func TestManyRules(t *testing.T) { onBoth(t, testManyRules) }

func testManyRules(t *testing.T, system string) {
	const many = 500
	s := newSiteOn(t, system)
	ctx := t.Context()
	e := s.share(1)
	client := func(i int) string { return fmt.Sprintf("127.1.%d.%d", i/250, i%250+1) }
	var rules []Rule
	for i := range many {
		rules = append(rules, rule(client(i)+"/32", ReadWrite, SquashNone))
	}
	for i := range many / 5 {
		rules = append(rules, rule(fmt.Sprintf("fd77:0:0:%x::/64", i), ReadOnly, SquashRoot))
	}
	e.Rules = append(slices.Clone(rules), rule("127.0.0.0/8", ReadOnly, SquashNone))
	s.start()
	s.put(e)
	open := func(from string) (*nfs41.Client, *nfs41.File) {
		c := s.client(identity{from: from})
		f, err := c.Open(ctx, "/share1/"+from, nfs41.OpenOptions{Access: nfs41.ReadWrite, Create: nfs41.Unchecked, Mode: 0o644})
		if err != nil {
			t.Fatalf("%s: %v", from, err)
		}
		return c, f
	}
	write := func(f *nfs41.File) error { _, err := f.WriteAt(ctx, []byte("x"), 0); return err }
	_, first := open(client(0))
	_, last := open(client(many - 1))
	if err := errors.Join(write(first), write(last)); err != nil {
		t.Error(err)
	}
	if err := s.client(identity{from: "127.9.9.9"}).WriteFile(ctx, "/share1/no", nil, 0o644); !errors.Is(err, nfs41.ROFS) {
		t.Errorf("by the last rule: %v, want ROFS", err)
	}

	// One of them tightened.
	e.Rules[many-1].Level = ReadOnly
	s.put(e)
	if err := write(last); !errors.Is(err, nfs41.ROFS) {
		t.Errorf("write after ro: %v, want ROFS", err)
	}
	if err := write(first); err != nil {
		t.Errorf("write of another client: %v", err)
	}
	// One of them taken away, with what is behind it.
	e.Rules = rules[1:]
	s.put(e)
	if err := write(first); !errors.Is(err, nfs41.ACCESS) {
		t.Errorf("write without a rule: %v, want ACCESS", err)
	}
	// They outlive the process.
	s.kill(s.pid())
	s.start(e)
	s.has(e)
}

// TestSec: who uses another security flavour than the rule's is told so.
func TestSec(t *testing.T) { onBoth(t, testSec) }

func testSec(t *testing.T, system string) {
	s := newSiteOn(t, system)
	s.start()
	ctx := t.Context()
	e := s.share(1)
	var sets []Rule
	for sec := SecSys; sec < SecKrb5p<<1; sec++ {
		r := rule("127.0.0.0/8", ReadWrite, SquashNone)
		r.Sec = sec
		sets = append(sets, r)
	}
	for i, r := range sets {
		e.Rules = []Rule{r}
		s.put(e)
		for j, other := range sets {
			other := Export{ID: e.ID, Path: e.Path, Pseudo: e.Pseudo, FSID: e.FSID, Rules: []Rule{other}}
			if has, err := s.g.Has(ctx, other); err != nil || has != (i == j) {
				t.Errorf("Has of flavours %#x is %v, %v, while %#x is served", j+1, has, err, i+1)
			}
		}
		_, err := s.client(identity{}).ReadDir(ctx, "/share1")
		if sys := r.Sec&SecSys != 0; sys != (err == nil) || !sys && !errors.Is(err, nfs41.WRONGSEC) {
			t.Errorf("flavours %#x: %v", r.Sec, err)
		}
	}
}

// TestStandIn: a rule that cannot be written does not keep the others out, and
// its clients are not met by a wider one.
func TestStandIn(t *testing.T) { onBoth(t, testStandIn) }

func testStandIn(t *testing.T, system string) {
	s := newSiteOn(t, system)
	ctx := t.Context()
	e := s.share(1)
	bad := rule("127.0.0.7/32", ReadOnly, SquashNone)
	bad.Squash = "strange"
	mapped := rule("::ffff:127.0.0.8/128", ReadOnly, SquashNone)
	narrow := rule("fd77::/120", ReadOnly, SquashNone)
	e.Rules = []Rule{bad, mapped, narrow, {}, rule("127.0.0.0/8", ReadWrite, SquashNone)}
	check := func(when string) {
		t.Helper()
		sight, err := s.g.Look(ctx, e)
		if err != nil || sight.Match != Same || indices(sight.Refused) != "[0 1 2 3]" {
			t.Errorf("%s: Look = %+v, %v", when, sight, err)
		}
		for _, from := range []string{"127.0.0.7", "127.0.0.8"} {
			c := s.client(identity{from: from})
			if _, err := c.Stat(ctx, "/share1"); !errors.Is(err, nfs41.NOENT) {
				t.Errorf("%s: from %s: %v, want NOENT", when, from, err)
			}
		}
		if err := s.client(identity{}).WriteFile(ctx, "/share1/f", []byte("x"), 0o644); err != nil {
			t.Errorf("%s: by the good rule: %v", when, err)
		}
	}
	s.start(e)
	check("from its start")
	if err := s.g.Remove(ctx, e.ID); err != nil {
		t.Fatal(err)
	}
	refused, err := s.g.Put(ctx, e)
	if err != nil || indices(refused) != "[0 1 2 3]" {
		t.Errorf("Put: %v, %v", refused, err)
	}
	check("put")
}

func indices(refused []Refusal) string {
	var is []int
	for _, r := range refused {
		is = append(is, r.Rule)
	}
	return fmt.Sprint(is)
}

// TestRecover: rules that somebody else changed over D-Bus are set anew, under
// an open file that never notices.
func TestRecover(t *testing.T) { onBoth(t, testRecover) }

func testRecover(t *testing.T, system string) {
	s := newSiteOn(t, system)
	ctx := t.Context()
	e := s.share(1)
	s.start(e)
	f, err := s.client(identity{}).Open(ctx, "/share1/f", nfs41.OpenOptions{Access: nfs41.ReadWrite, Create: nfs41.Unchecked, Mode: 0o644})
	if err != nil {
		t.Fatal(err)
	}
	recovered := func(what string) {
		t.Helper()
		if refused, err := s.g.Recover(ctx, e); err != nil || len(refused) > 0 {
			t.Fatalf("%s: %v, %v", what, refused, err)
		}
		s.has(e)
		if _, err := f.WriteAt(ctx, []byte("x"), 0); err != nil {
			t.Errorf("%s: write: %v", what, err)
		}
	}
	recovered("nothing was changed")
	c, err := s.g.client(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for name, rules := range map[string][]Rule{
		"all taken away": nil,
		"one added":      {rule("10.9.0.0/16", ReadWrite, SquashNone), e.Rules[0]},
		"one tightened":  {rule("127.0.0.0/8", ReadOnly, SquashNone)},
	} {
		other := e
		other.Rules = rules
		block, err := s.g.o.Versions.renderExport(other)
		if err != nil {
			t.Fatal(err)
		}
		if err := replace(s.g.exportFile(e.ID), block); err != nil {
			t.Fatal(err)
		}
		if err := c.update(ctx, s.g.limits.change, s.g.exportFile(e.ID), e.ID); err != nil {
			t.Fatal(err)
		}
		s.has(other)
		recovered(name)
	}
	if err := c.remove(ctx, s.g.limits.change, e.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := s.g.Recover(ctx, e); err != nil {
		t.Errorf("the export withdrawn: %v", err)
	}
	s.has(e)
}

// TestSift: of the rules that Ganesha refuses each is found, the others are
// put, and nobody whom a rule lets in already is shut out meanwhile.
func TestSift(t *testing.T) {
	const many = 200
	for name, bad := range map[string][]int{"one": {77}, "first and last": {0, many - 1}, "neighbours": {10, 11, 12}} {
		t.Run(name, func(t *testing.T) {
			f, s := newFake(t)
			e := s.tree(1)
			e.Rules = nil
			for i := range many {
				e.Rules = append(e.Rules, rule(fmt.Sprintf("10.0.%d.0/24", i), ReadWrite, SquashRoot))
			}
			old := e
			old.Rules = e.Rules[20:60]
			if err := tellFake(f, s, old); err != nil {
				t.Fatal(err)
			}
			refuses := map[netip.Prefix]bool{}
			for _, i := range bad {
				refuses[e.Rules[i].Client] = true
			}
			f.refuses = func(x Export) bool {
				for _, r := range old.Rules {
					if !slices.Contains(x.Rules, r) {
						t.Errorf("%v was in force and is not in %d rules", r.Client, len(x.Rules))
					}
				}
				return slices.ContainsFunc(x.Rules, func(r Rule) bool { return r.Level != barred && refuses[r.Client] })
			}
			c, err := s.g.client(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			now, err := c.show(t.Context(), s.g.limits.look, e.ID)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.g.tellRules(t.Context(), c, e, now); err != nil {
				t.Error(err)
			}
			sight, err := s.g.Look(t.Context(), e)
			if err != nil || sight.Match != Same || indices(sight.Refused) != fmt.Sprint(bad) {
				t.Errorf("Look = %v, %s, %v; want %v", sight.Match, indices(sight.Refused), err, bad)
			}
			if len(f.calls) > 2*mostTrials {
				t.Errorf("%d calls", len(f.calls))
			}
		})
	}
}

// TestSiftGivesUp: where it is not the rules, the export is refused, and no
// rule is blamed.
func TestSiftGivesUp(t *testing.T) {
	f, s := newFake(t)
	e := s.tree(1)
	f.wanted = e
	f.answer = func(string, uint16) (string, *dbus.Error) { return "", dbus.NewError(invalidFile, []any{"no room"}) }
	c, err := s.g.client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.g.tellRules(t.Context(), c, e, nil); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "no room") {
		t.Errorf("err = %v", err)
	}
	if len(s.g.vetoes) > 0 {
		t.Errorf("vetoes: %v", s.g.vetoes)
	}
}
