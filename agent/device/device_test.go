package device

import (
	"errors"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-project/causeway/agent/fault"
)

func wantReason(t *testing.T, what any, err error, want fault.Reason) {
	t.Helper()
	var e *fault.Error
	switch {
	case want == "" && err != nil:
		t.Errorf("%+v: %v", what, err)
	case want != "" && (!errors.As(err, &e) || e.Reason != want):
		t.Errorf("%+v: %v, want %s", what, err, want)
	}
}

func TestSettingsValidate(t *testing.T) {
	for _, tt := range []struct {
		s    Settings
		want fault.Reason
	}{
		{Settings{}, ""},
		{Builtin(), ""},
		{Settings{Cache: CacheMetadata, PosixACL: On, Locks: LocksShared, QueueSize: 8, Threads: 256, Memory: 64 << 20, OpenFiles: 4096}, ""},
		{Settings{Cache: "none"}, fault.BadSettings},
		{Settings{Locks: "remote"}, fault.BadSettings},
		{Settings{Xattr: "yes"}, fault.BadSettings},
		{Settings{PosixACL: "x"}, fault.BadSettings},
		{Settings{PosixACL: On, Xattr: Off}, fault.BadSettings},
		{Settings{QueueSize: -2}, fault.BadSettings},
		{Settings{QueueSize: 12}, fault.BadSettings},
		{Settings{QueueSize: 4}, fault.BadSettings},
		{Settings{QueueSize: 2048}, fault.BadSettings},
		{Settings{Threads: -1}, fault.BadSettings},
		{Settings{Threads: 257}, fault.BadSettings},
		{Settings{Memory: 1 << 20}, fault.BadSettings},
		{Settings{OpenFiles: 100}, fault.BadSettings},
	} {
		wantReason(t, tt.s, tt.s.Validate(), tt.want)
	}
}

func TestSettingsOr(t *testing.T) {
	host := Settings{Cache: CacheNever, Xattr: On, PosixACL: On, Locks: LocksShared, QueueSize: 256, Threads: 4, OpenFiles: 1 << 20}
	for _, tt := range []struct{ s, o, want Settings }{
		{Settings{}, host, host},
		{host, Builtin(), host},
		// One that is off takes what stands on it with it, one that is on brings
		// what it stands on.
		{Settings{Xattr: Off}, Settings{PosixACL: On}, Settings{Xattr: Off, PosixACL: Off}},
		{Settings{PosixACL: On}, Settings{Xattr: Off}, Settings{Xattr: On, PosixACL: On}},
		{Settings{}, Settings{Xattr: Off, PosixACL: On}, Settings{Xattr: On, PosixACL: On}},
	} {
		got := tt.s.Or(tt.o)
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("%+v or %+v:\n%s", tt.s, tt.o, d)
		}
		if again := got.Or(tt.o); again != got {
			t.Errorf("%+v is not filled: %+v", got, again)
		}
	}
}

func TestSettingsDiffers(t *testing.T) {
	is := Settings{Cache: CacheNever, Xattr: On, Locks: LocksShared, QueueSize: 256, Threads: 4}.Or(Builtin())
	for _, tt := range []struct {
		want Settings
		what string
	}{
		{Settings{}, ""},
		{is, ""},
		{Settings{Cache: CacheNever, Threads: 4}, ""},
		{Settings{Cache: CacheAuto}, "cache"},
		{Settings{Xattr: Off}, "xattr setting"},
		{Settings{PosixACL: On}, "posix_acl setting"},
		{Settings{Locks: LocksLocal}, "place for locks"},
		{Settings{QueueSize: 1024}, "queue size"},
		{Settings{Threads: 1}, "number of threads"},
		{Settings{Memory: 1 << 30}, "memory limit"},
		{Settings{OpenFiles: 1 << 20}, "limit of open files"},
	} {
		if got := is.Differs(tt.want); got != tt.what {
			t.Errorf("%+v differs in %q, want %q", tt.want, got, tt.what)
		}
	}
}

func TestIDsValidate(t *testing.T) {
	ok := []Range{{0, 100000, 65536}}
	two := func(a, b Range) IDs { return IDs{Policy: Map, UIDs: []Range{a, b}, GIDs: ok} }
	for _, tt := range []struct {
		p    IDs
		want fault.Reason
	}{
		{IDs{}, ""},
		{IDs{Policy: Squash, UID: 1000, GID: 100}, ""},
		{IDs{Policy: Squash, UID: 0, GID: 100}, fault.BadIDs},
		{IDs{Policy: Squash, UID: 100, GID: 0}, fault.BadIDs},
		{IDs{Policy: Squash, UID: math.MaxUint32, GID: 1}, fault.BadIDs},
		{IDs{Policy: "swap"}, fault.BadIDs},
		{IDs{Policy: Map, UIDs: ok, GIDs: ok}, ""},
		{IDs{Policy: Map, UIDs: ok}, fault.BadIDs},
		{IDs{Policy: Map, UIDs: make([]Range, 341), GIDs: ok}, fault.BadIDs},
		{two(Range{0, 1, 10}, Range{10, 11, 10}), ""},
		{two(Range{0, 0, 10}, Range{20, 20, 1}), fault.BadIDs}, // the host's root
		{two(Range{0, 5, 0}, Range{20, 20, 1}), fault.BadIDs},
		{two(Range{0, 1, 10}, Range{9, 100, 10}), fault.BadIDs},
		{two(Range{0, 1, 10}, Range{20, 10, 10}), fault.BadIDs},
		{two(Range{0, 1, math.MaxUint32}, Range{1, 2, 3}), fault.BadIDs},
		{two(Range{math.MaxUint32, 1, 1}, Range{1, 2, 3}), fault.BadIDs}, // -1 is no id
	} {
		wantReason(t, tt.p, tt.p.Validate(), tt.want)
	}
}

func TestNeeds(t *testing.T) {
	all := Settings{Cache: CacheMetadata, Xattr: On, PosixACL: On, Locks: LocksShared, Threads: 2}
	if d := cmp.Diff([]Ability{"cache_metadata", CanXattr, CanPosixACL, CanSharedLocks, CanThreads, CanMap}, Needs(all, IDs{Policy: Map})); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]Ability{"cache_auto"}, Needs(Settings{}, IDs{})); d != "" {
		t.Error(d)
	}
	p := Program{Flavour: "c", Version: "7.2", Abilities: []string{"cache_auto"}}
	if err := p.Check(Needs(Settings{}, IDs{})); err != nil {
		t.Error(err)
	}
	wantReason(t, p, p.Check(Needs(all, IDs{})), fault.DaemonUnable)
}

func TestAdmit(t *testing.T) {
	local, accepting := Writer{Name: "attachment/local"}, Writer{Name: "attachment/forced", Accepts: true}
	shared, export := Writer{Name: "attachment/shared", OnHost: true}, Writer{Name: "export/e", OnHost: true}
	for _, tt := range []struct {
		w        Writer
		others   []Writer
		admitted bool
		unlocked []string
	}{
		{local, nil, true, nil},
		{shared, []Writer{export}, true, nil},
		{export, []Writer{shared, export}, true, nil},
		{local, []Writer{export}, false, []string{"export/e"}},
		{shared, []Writer{local}, false, []string{"attachment/local"}},
		{export, []Writer{local, shared}, false, []string{"attachment/local"}},
		{local, []Writer{accepting}, false, []string{"attachment/forced"}}, // its own guest was not asked
		{export, []Writer{accepting}, true, []string{"attachment/forced"}},
		{shared, []Writer{accepting, export}, true, []string{"attachment/forced"}},
		{accepting, []Writer{local, export}, true, []string{"attachment/local", "export/e"}},
	} {
		err := tt.w.Admit(tt.others)
		if tt.admitted {
			wantReason(t, tt, err, "")
		} else {
			wantReason(t, tt, err, fault.LocksNotShared)
		}
		if d := cmp.Diff(tt.unlocked, tt.w.Unlocked(tt.others)); d != "" {
			t.Errorf("%+v: %s", tt, d)
		}
	}
}

func TestScopeOf(t *testing.T) {
	for _, tt := range []struct {
		locks  Locks
		across bool
		want   Scope
	}{{"", true, ScopeGuest}, {LocksLocal, true, ScopeGuest}, {LocksShared, false, ScopeHost}, {LocksShared, true, ScopeShare}} {
		if got := ScopeOf(tt.locks, tt.across); got != tt.want {
			t.Errorf("locks %q, across hosts %t: %s, want %s", tt.locks, tt.across, got, tt.want)
		}
	}
}
