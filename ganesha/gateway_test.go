package ganesha

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-project/causeway/agent/process"
	"github.com/causeway-project/causeway/integration/nfs41"
	"github.com/causeway-project/causeway/integration/wait"
)

func TestLife(t *testing.T) { onBoth(t, testLife) }

func testLife(t *testing.T, system string) {
	s := newSiteOn(t, system)
	ctx := t.Context()
	e := s.share(1)

	if st, err := s.g.Status(ctx); err != nil || st.Running || st.PID != 0 {
		t.Errorf("Status before the start = %+v, %v", st, err)
	}
	if s.g.Done() != nil {
		t.Error("Done before the start is not nil")
	}
	if _, err := s.g.Has(ctx, e); !errors.Is(err, ErrNotRunning) {
		t.Errorf("Has before the start: %v, want ErrNotRunning", err)
	}
	if _, err := s.g.Put(ctx, e); !errors.Is(err, ErrNotRunning) {
		t.Errorf("Put before the start: %v, want ErrNotRunning", err)
	}
	if err := s.g.Remove(ctx, 1); err != nil {
		t.Errorf("Remove before the start: %v", err)
	}

	s.start(e)
	s.has(e)
	st, err := s.g.Status(ctx)
	if err != nil || !st.Running || st.Version == "" {
		t.Fatalf("Status = %+v, %v", st, err)
	}
	if age := time.Since(st.StartedAt); age < 0 || age > time.Minute {
		t.Errorf("StartedAt is %s ago", age)
	}
	c := s.client(identity{})
	if err := c.WriteFile(ctx, "/share1/hello", []byte("world"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(e.Path, "hello")); err != nil || string(got) != "world" {
		t.Errorf("on the host: %q, %v", got, err)
	}

	// Another handle, as after a restart of the agent, keeps what runs.
	other := New(s.o)
	asked := false
	if err := other.Start(ctx, func() []Export { asked = true; return nil }); err != nil {
		t.Fatal(err)
	}
	if asked {
		t.Error("adopted, and yet rendered")
	}
	if got, err := other.Status(ctx); err != nil || got.PID != st.PID {
		t.Errorf("adopted pid %d, %v; want %d", got.PID, err, st.PID)
	}
	if has, err := other.Has(ctx, e); err != nil || !has {
		t.Errorf("Has of the adopted = %v, %v", has, err)
	}

	done := s.g.Done()
	if err := s.g.Stop(ctx, StopOptions{}); err != nil {
		t.Fatal(err)
	}
	wait.Closed(t, "Done is closed after Stop", done) // which has seen the end through a handle of its own
	if _, err := os.Stat(s.o.RunDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("RunDir after Stop: %v", err)
	}
	if _, err := os.Stat(s.o.StateDir); err != nil {
		t.Errorf("StateDir after Stop: %v", err)
	}
	if err := s.g.Stop(ctx, StopOptions{Forget: true}); err != nil {
		t.Errorf("second Stop: %v", err)
	}
	if _, err := os.Stat(s.o.StateDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("StateDir after Stop with Forget: %v", err)
	}
}

// TestKilled: an open file, its lock and a write go on over SIGKILL and Start.
func TestKilled(t *testing.T) { onBoth(t, testKilled) }

func testKilled(t *testing.T, system string) {
	s := newSiteOn(t, system)
	ctx := t.Context()
	e := s.share(1)
	s.start(e)
	c := s.client(identity{})
	f, err := c.Open(ctx, "/share1/open", nfs41.OpenOptions{Access: nfs41.ReadWrite, Create: nfs41.Unchecked, Mode: 0o644})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Lock(ctx, 0, 10); err != nil {
		t.Fatalf("lock (Ganesha needs a writable /tmp in its jail to offer locks): %v", err)
	}
	if _, err := f.WriteAt(ctx, []byte("before "), 0); err != nil {
		t.Fatal(err)
	}
	if records, err := filepath.Glob(s.o.StateDir + "/v4recov/*"); err != nil || len(records) != 1 {
		t.Errorf("recovery records: %q, %v; want one", records, err)
	}
	s.kill(s.pid())
	if st, err := s.g.Status(ctx); err != nil || st.Running || st.LastLog == "" {
		t.Errorf("Status of the killed = %+v, %v", st, err)
	}
	began := time.Now()
	s.start(e)
	t.Logf("killed to serving: %s", time.Since(began))
	if _, err := f.WriteAt(ctx, []byte("after"), 7); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(e.Path, "open")); err != nil || string(got) != "before after" {
		t.Errorf("on the host: %q, %v", got, err)
	}
	if got := c.Stats(); got.Reclaimed == 0 {
		t.Errorf("the client reclaimed nothing: %+v", got)
	}
	if err := f.Unlock(ctx); err != nil {
		t.Errorf("unlock after the restart: %v", err)
	}
}

// TestRepair: whatever a crash left, Start ends in a serving gateway.
func TestRepair(t *testing.T) { onBoth(t, testRepair) }

func testRepair(t *testing.T, system string) {
	bus := func(s *site) *process.Process {
		s.t.Helper()
		p, err := process.Find(s.g.path(busDir))
		if err != nil || p == nil {
			s.t.Fatalf("find bus: %v, %v", p, err)
		}
		return p
	}
	tests := map[string]struct {
		damage  func(*site)
		samePID bool
	}{
		"bus killed":     {damage: func(s *site) { s.kill(bus(s).Identity().PID) }},
		"ganesha killed": {damage: func(s *site) { s.kill(s.pid()) }},
		"both killed": {damage: func(s *site) {
			pid := bus(s).Identity().PID
			s.kill(s.pid())
			p := bus(s)
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				s.t.Fatal(err)
			}
			<-p.Done()
		}},
		"bus hangs": {damage: func(s *site) {
			s.kill(s.pid())
			s.stop(bus(s).Identity().PID)
		}},
		"namespace made anew": {damage: func(s *site) {
			s.ip("netns", "del", filepath.Base(s.o.NetNS))
			s.addNetNS()
		}},
		"ganesha hangs": {damage: func(s *site) {
			s.stop(s.pid())
			if st, err := s.g.Status(s.t.Context()); err != nil || st.Running || st.PID == 0 {
				s.t.Errorf("Status of a hung gateway = %+v, %v", st, err)
			}
			if _, err := s.g.Has(s.t.Context(), Export{ID: 1}); !errors.Is(err, ErrNotRunning) {
				s.t.Errorf("Has of a hung gateway: %v, want ErrNotRunning", err)
			}
		}},
		"nothing": {samePID: true, damage: func(*site) {}},
		"other settings": {damage: func(s *site) {
			s.o.Settings = "others"
			s.g = New(s.o)
			if st, err := s.g.Status(s.t.Context()); err != nil || st.Settings != "" {
				s.t.Errorf("Status = %+v, %v", st, err)
			}
		}},
		"settings of its start": {samePID: true, damage: func(s *site) {
			if err := replace(s.g.path(confDir, "settings"), "others"); err != nil {
				s.t.Fatal(err)
			}
			s.o.Settings = "others"
			s.g = New(s.o)
		}},
		"configuration lost": {damage: func(s *site) {
			if err := os.RemoveAll(s.g.path(confDir)); err != nil {
				s.t.Fatal(err)
			}
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := newSiteOn(t, system)
			e := s.share(1)
			s.start(e)
			before := s.pid()
			s.g.limits.look = 300 * time.Millisecond
			tt.damage(s)
			s.g.limits.look = 2 * time.Second
			s.start(e)
			s.has(e)
			if after := s.pid(); (after == before) != tt.samePID {
				t.Errorf("pid %d after %d; want the same: %v", after, before, tt.samePID)
			}
			if _, err := s.client(identity{}).Stat(t.Context(), "/share1"); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestStartLeavesOut: what cannot be exported does not keep the rest from being
// served.
func TestStartLeavesOut(t *testing.T) { onBoth(t, testStartLeavesOut) }

func testStartLeavesOut(t *testing.T, system string) {
	s := newSiteOn(t, system)
	good, second := s.share(1), s.share(2)
	badPath, badName, taken, twin := s.tree(3), s.tree(4), s.tree(5), second
	badPath.Path += "/missing"
	badName.Pseudo = "/a\nb"
	taken.Pseudo = good.Pseudo
	twin.Pseudo = "/twin"
	s.start(good, badPath, badName, taken, second, twin)
	ids, err := s.g.IDs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(ids)
	if diff := cmp.Diff([]uint16{1, 2}, ids); diff != "" {
		t.Errorf("IDs, -want +got:\n%s", diff)
	}
	s.has(good)
	s.has(second)
}

// TestMustNotStart: errors that are nobody's crash.
func TestMustNotStart(t *testing.T) {
	s := newSite(t)
	o := s.o
	o.NetNS = "/run/netns/none"
	if err := New(o).Start(t.Context(), func() []Export { return nil }); err == nil {
		t.Error("started in no namespace")
	}
	// A name that is missing is no reason to end a gateway that serves.
	s.start()
	before := s.pid()
	o = s.o
	o.NetNS = "/run/netns/none"
	if err := New(o).Start(t.Context(), func() []Export { return nil }); err == nil {
		t.Error("adopted in no namespace")
	}
	if after := s.pid(); after != before {
		t.Errorf("pid %d after %d", after, before)
	}
	o = s.o
	o.RunDir = "/run/" + strings.Repeat("x", 100)
	if err := New(o).Start(t.Context(), func() []Export { return nil }); err == nil || !strings.Contains(err.Error(), "socket") {
		t.Errorf("long RunDir: %v", err)
	}
}

func TestLogIsBounded(t *testing.T) { onBoth(t, testLogIsBounded) }

func testLogIsBounded(t *testing.T, system string) {
	s := newSiteOn(t, system)
	s.start()
	log, err := os.ReadFile(s.g.logFile())
	if err != nil || len(log) == 0 {
		t.Fatalf("log: %d bytes, %v", len(log), err)
	}
	big := append(make([]byte, maxLog), "\nthe end\n"...)
	if err := os.WriteFile(s.g.logFile(), big, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.g.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	log, err = os.ReadFile(s.g.logFile())
	// Ganesha may have written a line since.
	if err != nil || len(log) > keptLog+1<<10 || len(log) < keptLog || !strings.HasSuffix(string(log[:keptLog]), "\nthe end\n") {
		t.Errorf("log: %d bytes, %v; want the last %d", len(log), err, keptLog)
	}
	// Ganesha can write there, and must not lead the agent elsewhere.
	if err := os.Remove(s.g.logFile()); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", s.g.logFile()); err != nil {
		t.Fatal(err)
	}
	if got := s.g.lastLog(); strings.Contains(got, "root:") {
		t.Errorf("followed a link: %s", got)
	}
	if _, err := s.g.Status(t.Context()); err != nil {
		t.Error(err)
	}
	// Ganesha may have begun a new file since.
	if info, err := os.Lstat(s.g.logFile()); err == nil && !info.Mode().IsRegular() {
		t.Errorf("the link is there still: %v", info.Mode())
	}
}
