package virtiofs

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-project/causeway/integration/wait"
)

// plugFake starts a fake with fakeDevice("a") in its guest.
func plugFake(t *testing.T) (*fakeVirt, *Host, GuestMount) {
	t.Helper()
	f, h, _ := startFake(t)
	if err := h.Attach(limited(t, wait.Long), fakeDevice("a")); err != nil {
		t.Fatal(err)
	}
	return f, h, GuestMount{Instance: guestUUID, Tag: "tag-a", Path: "/mnt/a b"}
}

func (f *fakeVirt) mounts() []guestEntry {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.domains[guestUUID].guest.mounts)
}

var allowUnexported = cmp.AllowUnexported(guestEntry{})

func TestGuestMountOnModel(t *testing.T) {
	for _, path := range []string{"/mnt/a", "/mnt/a b"} { // one shell does the first
		t.Run(path, func(t *testing.T) { guestMountOnModel(t, path) })
	}
}

func guestMountOnModel(t *testing.T, path string) {
	ours := guestEntry{"tag-a", path, "virtiofs"}
	tests := []struct {
		name   string
		change func(*fakeGuest)
		want   error
		mounts []guestEntry
	}{
		{"fresh", func(*fakeGuest) {}, nil, []guestEntry{ours}},
		{"guest is slow to see it", func(g *fakeGuest) { g.unseen = 3 }, nil, []guestEntry{ours}},
		{"mounted", func(g *fakeGuest) { g.mounts = []guestEntry{ours} }, nil, []guestEntry{ours}},
		{"mounted and dead", func(g *fakeGuest) {
			g.mounts, g.dead, g.busy = []guestEntry{ours}, map[string]bool{ours.path: true}, map[string]bool{ours.path: true}
		}, nil, []guestEntry{ours}},
		{"behind a link", func(g *fakeGuest) {
			g.links = map[string]string{ours.path: "/real"}
			g.mounts = []guestEntry{{"tag-a", "/real", "virtiofs"}}
		}, nil, []guestEntry{{"tag-a", "/real", "virtiofs"}}},
		{"something else there", func(g *fakeGuest) { g.mounts = []guestEntry{{"tmp\nfs", ours.path, "tmpfs"}} }, ErrGuestRefused, []guestEntry{{"tmp\nfs", ours.path, "tmpfs"}}},
		{"the tag elsewhere", func(g *fakeGuest) { g.mounts = []guestEntry{{"tag-a", "/other", "virtiofs"}} }, nil, []guestEntry{{"tag-a", "/other", "virtiofs"}, ours}},
		{"silent agent", func(g *fakeGuest) { g.silent = true }, ErrGuestAgent, nil},
		{"nonsense", func(g *fakeGuest) { g.raw = "}{" }, ErrGuestRefused, nil},
		{"other types", func(g *fakeGuest) { g.raw = `{"return":{"pid":"seven"}}` }, ErrGuestRefused, nil},
		{"nothing", func(g *fakeGuest) { g.raw = `{}` }, ErrGuestRefused, nil},
		{"no base64", func(g *fakeGuest) { g.raw = `{"return":{"pid":1,"exited":true,"out-data":"***"}}` }, ErrGuestRefused, nil},
		{"files forbidden", func(g *fakeGuest) { g.forbids = []string{"guest-file-open"} }, nil, []guestEntry{ours}},
		{"programs forbidden", func(g *fakeGuest) { g.forbids = []string{"guest-exec"} }, ErrGuestForbids, nil},
		{"programs forbidden, mounted by itself", func(g *fakeGuest) {
			g.forbids, g.mounts = []string{"guest-exec"}, []guestEntry{ours}
		}, nil, []guestEntry{ours}},
		{"all forbidden", func(g *fakeGuest) { g.forbids = []string{"guest-exec", "guest-file-open"} }, ErrGuestForbids, nil},
		{"a program hangs", func(g *fakeGuest) { g.hangs = map[string]bool{"mount": true, "sh": true} }, context.DeadlineExceeded, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, h, m := plugFake(t)
			m.Path = path
			f.change(func(d *fakeDomain) { tt.change(&d.guest) })
			limit := wait.Long
			if tt.want == context.DeadlineExceeded {
				limit = 50 * time.Millisecond
			}
			if err := h.GuestMount(limited(t, limit), m); !errors.Is(err, tt.want) {
				t.Errorf("GuestMount = %v, want %v", err, tt.want)
			}
			if got := f.mounts(); !slices.Equal(got, tt.mounts) {
				t.Errorf("mounts are %q, want %q", got, tt.mounts)
			}
		})
	}
}

func TestGuestMountRefusesArguments(t *testing.T) {
	_, h, _ := plugFake(t)
	for _, m := range []GuestMount{
		{guestUUID, "a b", "/mnt", false, false},
		{guestUUID, "a", "mnt", false, false},
		{guestUUID, "a", "/", false, false},
		{guestUUID, "a", "/mnt/../etc", false, false},
		{guestUUID, "a", "/mnt/", false, false},
		{guestUUID, "a", "/mnt\x00", false, false},
		{guestUUID, "a", "/mnt\n", false, false},
		{guestUUID, "a", "/\xff", false, false},
		{guestUUID, "a", "/" + strings.Repeat("x", 5000), false, false},
	} {
		if err := h.GuestMount(t.Context(), m); err == nil {
			t.Errorf("GuestMount(%+v) succeeded", m)
		}
		if err := h.GuestUnmount(t.Context(), m); err == nil {
			t.Errorf("GuestUnmount(%+v) succeeded", m)
		}
	}
}

func TestGuestUnmountOnModel(t *testing.T) {
	ours := guestEntry{"tag-a", "/mnt/a b", "virtiofs"}
	other := guestEntry{"other", "/mnt/a b", "virtiofs"}
	tests := []struct {
		name   string
		change func(*fakeDomain)
		want   error
		left   int
	}{
		{"mounted", func(d *fakeDomain) { d.guest.mounts = []guestEntry{ours} }, nil, 0},
		{"twice", func(d *fakeDomain) { d.guest.mounts = []guestEntry{ours, ours} }, nil, 0},
		{"not mounted", func(*fakeDomain) {}, nil, 0},
		{"another's", func(d *fakeDomain) { d.guest.mounts = []guestEntry{other} }, nil, 1},
		{"busy", func(d *fakeDomain) {
			d.guest.mounts, d.guest.busy = []guestEntry{ours}, map[string]bool{ours.path: true}
		}, ErrGuestBusy, 1},
		{"busy, and may run nothing", func(d *fakeDomain) {
			d.guest.mounts, d.guest.forbids = []guestEntry{ours}, []string{"guest-exec"}
		}, ErrGuestBusy, 1},
		{"off", func(d *fakeDomain) { d.running = false }, nil, 0},
		{"no agent", func(d *fakeDomain) { d.agent = false }, ErrGuestAgent, 0},
		{"silent agent", func(d *fakeDomain) { d.guest.silent = true }, ErrGuestAgent, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, h, m := plugFake(t)
			f.change(tt.change)
			err := h.GuestUnmount(limited(t, wait.Long), m)
			if !errors.Is(err, tt.want) {
				t.Errorf("GuestUnmount = %v, want %v", err, tt.want)
			}
			if err != nil && strings.ContainsRune(err.Error(), 0x1b) {
				t.Errorf("the guest's control characters come through: %q", err)
			}
			if n := len(f.mounts()); n != tt.left {
				t.Errorf("%d mounts are left, want %d", n, tt.left)
			}
		})
	}
}

// TestSlowUnmount: a guest that is at it has not refused.
func TestSlowUnmount(t *testing.T) {
	f, h, m := plugFake(t)
	f.change(func(d *fakeDomain) {
		d.guest.mounts, d.guest.hangs = []guestEntry{{"tag-a", "/mnt/a b", "virtiofs"}}, map[string]bool{"umount": true}
	})
	err := h.GuestUnmount(limited(t, 100*time.Millisecond), m)
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrGuestRefused) || !strings.Contains(err.Error(), "umount has not ended in the guest") {
		t.Errorf("GuestUnmount = %v", err)
	}
}

func TestGuestUnmountEverywhere(t *testing.T) {
	f, h, m := plugFake(t)
	f.change(func(d *fakeDomain) {
		d.guest.mounts = []guestEntry{{"tag-a", "/a", "virtiofs"}, {"tag-b", "/b", "virtiofs"}, {"tag-a", "/c d", "virtiofs"}, {"tag-a", "/e", "tmpfs"}}
		d.guest.busy = map[string]bool{"/a": true}
		d.guest.links = map[string]string{"/proc/7/cwd": "/a/x", "/proc/7/fd/3": "/a", "/proc/8/cwd": "/ab", "/proc/12/exe": "/a/run"}
		d.guest.commands = map[int]string{7: "ba\x1bsh"}
	})
	m.Path = ""
	err := h.GuestUnmount(limited(t, wait.Long), m)
	var held *HeldError
	want := []Holder{{7, `ba\x1bsh`}, {12, "?"}}
	if !errors.Is(err, ErrGuestBusy) || !errors.As(err, &held) || !slices.Equal(held.Holders, want) {
		t.Errorf("GuestUnmount = %v, want ErrGuestBusy and holders %v", err, want)
	}
	m.Lazy = true
	if err := h.GuestUnmount(limited(t, wait.Long), m); err != nil {
		t.Error(err)
	}
	left := []guestEntry{{"tag-b", "/b", "virtiofs"}, {"tag-a", "/e", "tmpfs"}}
	if got := f.mounts(); !slices.Equal(got, left) {
		t.Errorf("left are %q, want %q", got, left)
	}
}

// TestHungAgentsHoldUpNobody: as many as there are places, and more, and each
// asked several times.
func TestHungAgentsHoldUpNobody(t *testing.T) {
	f, h, m := plugFake(t)
	const hung = 2 * maxAgentCalls
	uuid := func(i int) string { return fmt.Sprintf("22222222-2222-3333-4444-%012d", i) }
	f.mu.Lock()
	for i := range hung {
		f.domains[uuid(i)] = &fakeDomain{name: fmt.Sprint("hung", i), running: true, agent: true, guest: fakeGuest{silent: true}}
	}
	f.mu.Unlock()
	for i := range 3 * hung {
		g := m
		g.Instance = uuid(i % hung)
		if _, err := h.GuestMounted(limited(t, wait.Long), g); !errors.Is(err, ErrGuestAgent) {
			t.Errorf("GuestMounted = %v, want ErrGuestAgent", err)
		}
	}
	for i := range hung {
		f.mu.Lock()
		asked := f.domains[uuid(i)].guest.asked
		f.mu.Unlock()
		if asked != 1 {
			t.Errorf("a hung agent was asked %d times in a row, want once", asked)
		}
	}
	if err := h.GuestMount(limited(t, wait.Long), m); err != nil {
		t.Error(err)
	}
	// An event says that there is news.
	h.notify(Event{Instance: uuid(0)})
	f.mu.Lock()
	f.domains[uuid(0)].guest.silent = false
	f.mu.Unlock()
	g := m
	g.Instance = uuid(0)
	if _, err := h.GuestMounted(limited(t, wait.Long), g); err != nil {
		t.Error(err)
	}
}

// Whatever a guest answers, it is an error or a result, never a panic, and
// never unbounded.
func FuzzGuestAnswers(f *testing.F) {
	f.Add([]byte(`{"return":{"pid":1}}`))
	f.Add([]byte(`{"return":{"exited":true,"exitcode":1,"err-data":"` + base64.StdEncoding.EncodeToString([]byte("no\n")) + `"}}`))
	f.Add([]byte(`{"return":[]}`))
	f.Add([]byte(`null`))
	model := &fakeVirt{fail: map[string]error{}, domains: map[string]*fakeDomain{guestUUID: {running: true}}}
	h := New(Options{})
	l, err := model.dial(nil, nil)
	if err != nil {
		f.Fatal(err)
	}
	l.lose = func() {}
	h.link = l
	f.Fuzz(func(t *testing.T, answer []byte) {
		model.change(func(d *fakeDomain) { d.guest.raw = string(answer) + " " })
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		s := &session{h: h, uuid: guestUUID}
		out, err := s.exec(ctx, "x")
		if len(out) > maxOutput {
			t.Errorf("%d bytes of output", len(out))
		}
		if table, err := s.table(ctx); err == nil {
			for _, pid := range parseHolders(table, "/") {
				if pid <= 0 {
					t.Errorf("process %d", pid)
				}
			}
			for _, name := range parseCommands(table) {
				if len(name) > 10*maxCommand || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r > '~' }) {
					t.Errorf("command %q", name)
				}
			}
		}
		if err != nil && len(err.Error()) > 10*maxWords {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
	})
}

func TestTopMount(t *testing.T) {
	table := `proc /proc proc rw 0 0
a /mnt virtiofs rw 0 0
b\040c /mnt\040x\134y virtiofs rw 0 0
short
d /mnt tmpfs rw 0 0
`
	tests := []struct {
		path string
		want *guestEntry
	}{
		{"/mnt", &guestEntry{"d", "/mnt", "tmpfs"}},
		{`/mnt x\y`, &guestEntry{"b c", `/mnt x\y`, "virtiofs"}},
		{"/none", nil},
	}
	for _, tt := range tests {
		if d := cmp.Diff(tt.want, topMount(table, tt.path), allowUnexported); d != "" {
			t.Errorf("%s: %s", tt.path, d)
		}
	}
}
