package ganesha

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/causeway-project/causeway/agent/process"
	"github.com/causeway-project/causeway/integration/nfs41"
	"github.com/causeway-project/causeway/integration/wait"
)

// graceSite is a gateway with a lease and a grace period, one of the tests that
// mostly wait, all at the same time.
func graceSite(t *testing.T, system string, lease, grace time.Duration) *site {
	s := newSiteOn(t, system)
	s.o.Lease, s.o.Grace = lease, grace
	s.g = New(s.o)
	t.Parallel()
	return s
}

// held opens a file, makes it where it is not, and locks it.
func (s *site) held(c *nfs41.Client, path string) *nfs41.File {
	s.t.Helper()
	f, err := c.Open(s.t.Context(), path, nfs41.OpenOptions{Access: nfs41.ReadWrite, Create: nfs41.Unchecked, Mode: 0o644})
	if err == nil {
		err = f.Lock(s.t.Context(), 0, 10)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return f
}

// inGrace says whether a client's open is refused, for grace alone.
func (s *site) inGrace(c *nfs41.Client, path string) bool {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 300*time.Millisecond)
	defer cancel()
	f, err := c.Open(ctx, path, nfs41.OpenOptions{Access: nfs41.Read})
	if errors.Is(err, nfs41.GRACE) {
		return true
	}
	if ctx.Err() != nil {
		return s.inGrace(c, path) // nobody answered in that time
	}
	if err == nil {
		err = f.Close(s.t.Context())
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return false
}

// graceLooks is how often Ganesha looked whether grace is over, and it was not.
func (s *site) graceLooks() int {
	s.t.Helper()
	log, err := os.ReadFile(s.g.logFile())
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.Count(string(log), stillGrace)
}

// wakes says whether the library's thread is there.
func (s *site) wakes() bool {
	s.t.Helper()
	names, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/comm", s.pid()))
	if err != nil || len(names) == 0 {
		s.t.Fatalf("threads: %q, %v", names, err)
	}
	for _, name := range names {
		if comm, err := os.ReadFile(name); err == nil && string(comm) == "grace\n" {
			return true
		}
	}
	return false
}

// TestGraceEnds: grace lasts until the last client on record has reclaimed, and
// then no longer.
func TestGraceEnds(t *testing.T) {
	onBoth(t, func(t *testing.T, system string) {
		// Left to itself Ganesha looks every 10 s.
		s := graceSite(t, system, 60*time.Second, 60*time.Second)
		ctx := t.Context()
		share := s.share(1)
		s.start(share)
		early, late := s.client(identity{}), s.client(identity{})
		e, l := s.held(early, "/share1/early"), s.held(late, "/share1/late")
		resume, err := late.Pause(ctx) // or it would come back by itself
		if err != nil {
			t.Fatal(err)
		}
		defer resume()
		s.kill(s.pid())
		began := time.Now()
		s.start(share)
		if _, err := e.WriteAt(ctx, []byte("early"), 0); err != nil {
			t.Fatal(err)
		}
		newcomer := s.client(identity{})
		before := s.graceLooks()
		for s.graceLooks() < before+5 {
			for _, path := range []string{"/share1/early", "/share1/late"} {
				if !s.inGrace(newcomer, path) {
					t.Fatalf("%s is opened while a client on record has not reclaimed", path)
				}
			}
			if time.Since(began) > 50*time.Second {
				t.Fatalf("Ganesha looked %d times in %s whether grace is over", s.graceLooks(), time.Since(began))
			}
		}
		resume()
		if _, err := l.WriteAt(ctx, []byte("late"), 0); err != nil {
			t.Fatal(err)
		}
		for name, c := range map[string]*nfs41.Client{"early": early, "late": late} {
			if got := c.Stats(); got.Reclaimed != 1 || got.Lost != 0 {
				t.Errorf("%s: %+v, want its file reclaimed", name, got)
			}
		}
		for s.inGrace(newcomer, "/share1/late") {
			if time.Since(began) > 55*time.Second {
				t.Fatal("grace goes on, though all clients have reclaimed")
			}
		}
		took := time.Since(began)
		t.Logf("%d looks in %s", s.graceLooks(), took)
		// By itself Ganesha looks as it starts, and from then on every 10 s.
		if own := 3 + int(took/(10*time.Second)); s.graceLooks() <= own {
			t.Errorf("Ganesha looked %d times, which it does by itself", s.graceLooks())
		}
		for _, path := range []string{"/share1/early", "/share1/late"} {
			f, err := newcomer.Open(ctx, path, nfs41.OpenOptions{Access: nfs41.ReadWrite})
			if err != nil {
				t.Fatal(err)
			}
			if err := f.Lock(ctx, 0, 10); !errors.Is(err, nfs41.DENIED) {
				t.Errorf("lock of %s: %v, want it denied", path, err)
			}
		}
	})
}

// TestGraceLasts: a client on record that does not come back is waited for as
// long as grace lasts.
func TestGraceLasts(t *testing.T) {
	onBoth(t, func(t *testing.T, system string) {
		s := graceSite(t, system, 2*time.Second, 2*time.Second)
		share := s.share(1)
		s.start(share)
		gone, other := s.client(identity{}), s.client(identity{})
		s.held(gone, "/share1/file")
		gone.Abandon()
		s.kill(s.pid())
		began := time.Now()
		s.start(share)
		for s.inGrace(other, "/share1/file") {
			if time.Since(began) > 30*time.Second {
				t.Fatal("grace does not end")
			}
		}
		if took := time.Since(began); took < s.o.Grace {
			t.Errorf("grace of %s ended after %s", s.o.Grace, took)
		}
		wait.Until(t, "the library stops waking Ganesha", func() bool { return !s.wakes() })
	})
}

// TestGraceStopped: a Ganesha that is told to end while the library wakes it ends
// as it does otherwise, and wakes nobody that has ended.
func TestGraceStopped(t *testing.T) {
	onBoth(t, func(t *testing.T, system string) {
		s := graceSite(t, system, 30*time.Second, 30*time.Second)
		// It wakes a thousand times a second, so that it would be seen.
		s.o.Library = changedLibrary(t, "grace.c", "t.tv_nsec = ms % 1000 * 1000000;", "t.tv_nsec = 1000000; ms = 1;")
		s.g = New(s.o)
		share := s.share(1)
		s.start(share)
		gone := s.client(identity{})
		s.held(gone, "/share1/gone")
		gone.Abandon()
		s.kill(s.pid())
		s.start(share)
		wait.Until(t, "the library wakes Ganesha", s.wakes)
		done := s.g.Done()
		if err := syscall.Kill(s.pid(), syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		wait.Closed(t, "Ganesha ends", done)
		log, err := os.ReadFile(s.g.logFile())
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(log), "Attempt to wake") || !strings.Contains(string(log), "Reaper thread shut down") {
			t.Errorf("Ganesha ended with\n%s", log[max(0, len(log)-4000):])
		}
	})
}

// TestGraceLeftAlone: a Ganesha that is made of other functions is served with
// protected handles, and keeps its own pace.
func TestGraceLeftAlone(t *testing.T) {
	const says = "grace ends at Ganesha's own pace"
	for name, tt := range map[string]struct{ before, after, want string }{
		"not there": {`"reaper_wake"`, `"reaper_woken"`, "reaper_woken: is not in Ganesha: " + says},
		"past":      {".here = fridgethr_init", ".here = pace", "fridgethr_init: is not called here: " + says},
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, system string) {
				s := newSiteOn(t, system)
				s.o.Library = changedLibrary(t, "grace.c", tt.before, tt.after)
				s.g = New(s.o)
				s.start(s.share(1))
				if err := s.client(identity{}).WriteFile(t.Context(), "/share1/file", []byte("data"), 0o644); err != nil {
					t.Fatal(err)
				}
				printed := process.Tail(s.g.path(nfsdDir), 1<<10)
				if strings.Contains(printed, says) != (tt.want != "") || !strings.Contains(printed, tt.want) {
					t.Errorf("printed: %s\nwant %q", printed, tt.want)
				}
			})
		})
	}
}

// TestPaused: a client that is silent for a second less than a lease has its lock
// still, and nobody else gets it meanwhile.
func TestPaused(t *testing.T) {
	onBoth(t, func(t *testing.T, system string) {
		for range 5 {
			silent, lease := pausedOnce(t, system)
			if silent < lease {
				return
			}
			t.Logf("this machine was too slow, which is tried again: silent for %s", silent)
		}
		t.Error("this machine was too slow each time")
	})
}

// pausedOnce returns how long the client was silent. From a lease on, what it met
// then says nothing, and is no failure.
func pausedOnce(t *testing.T, system string) (silent, lease time.Duration) {
	t.Helper()
	s := graceSite(t, system, 10*time.Second, 15*time.Second)
	ctx := t.Context()
	s.start(s.share(1))
	paused, other := s.client(identity{}), s.client(identity{})
	f := s.held(paused, "/share1/file")
	g, err := other.Open(ctx, "/share1/file", nfs41.OpenOptions{Access: nfs41.ReadWrite})
	if err != nil {
		t.Fatal(err)
	}
	// Ganesha measures leases in whole seconds, of a clock that lags by some
	// milliseconds: one that is renewed at a second's end is shorter by that.
	<-time.After(time.Until(time.Now().Truncate(time.Second).Add(time.Second + 50*time.Millisecond)))
	last := time.Now()
	if _, err := f.WriteAt(ctx, []byte("before"), 0); err != nil {
		t.Fatal(err)
	}
	resume, err := paused.Pause(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer resume()
	slow := func() bool {
		silent = time.Since(last)
		return silent >= s.o.Lease
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for time.Since(last) < s.o.Lease-time.Second {
		<-tick.C
		if err := g.Lock(ctx, 0, 10); !errors.Is(err, nfs41.DENIED) {
			if slow() {
				return silent, s.o.Lease
			}
			t.Fatalf("lock of a paused client: %v, want it denied", err)
		}
	}
	resume()
	_, err = f.WriteAt(ctx, []byte("after"), 6)
	if slow() {
		return silent, s.o.Lease
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Lock(ctx, 0, 10); !errors.Is(err, nfs41.DENIED) {
		t.Errorf("lock after the pause: %v, want it denied", err)
	}
	if got := paused.Stats(); got.Lost != 0 || got.Sessions != 1 {
		t.Errorf("%+v, want the state kept", got)
	}
	if text, err := os.ReadFile(filepath.Join(s.o.Exports, "1/file")); err != nil || string(text) != "beforeafter" {
		t.Errorf("on the host: %q, %v", text, err)
	}
	return silent, s.o.Lease
}

func TestLastLines(t *testing.T) {
	wait := "date : epoch : nfs4_recovery.c :: " + stillGrace + "(1) clid count(2)\n"
	for _, tt := range []struct {
		name, log, want string
		cut             bool
	}{
		{"empty", "", "", false},
		{"whole", "one\ntwo\n", "one\ntwo", false},
		{"cut", "ne\ntwo\n", "two", true},
		{"grace", "one\n" + strings.Repeat(wait, 90) + "two\n", "one\ntwo", false},
		{"long", strings.Repeat("x", tailBytes) + "\n" + strings.Repeat("y", tailBytes-1) + "\n", strings.Repeat("y", tailBytes-1), false},
		{"nothing else", wait, "", false},
	} {
		if got := lastLines(tt.log, tt.cut); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
