package ganesha

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/causeway-project/causeway/agent/process"
)

// TestProbe: each way to be ill is told from the others, and Start cures it.
func TestProbe(t *testing.T) { onBoth(t, testProbe) }

func testProbe(t *testing.T, system string) {
	bus := func(s *site) int {
		s.t.Helper()
		p, err := process.Find(s.g.path(busDir))
		if err != nil || p == nil {
			s.t.Fatalf("find bus: %v, %v", p, err)
		}
		return p.Identity().PID
	}
	tests := map[string]struct {
		damage   func(*site)
		nfs, bus bool // in order
	}{
		"nothing":         {damage: func(*site) {}, nfs: true, bus: true},
		"ganesha stopped": {damage: func(s *site) { s.stop(s.pid()) }, bus: true}, // not asked
		"bus stopped":     {damage: func(s *site) { s.stop(bus(s)) }, nfs: true},
		"ganesha killed":  {damage: func(s *site) { s.kill(s.pid()) }},
		"bus killed":      {damage: func(s *site) { s.kill(bus(s)) }},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := newSiteOn(t, system)
			e := s.share(1)
			s.start(e)
			before := s.pid()
			tt.damage(s)
			began := time.Now()
			h := s.g.Probe(t.Context(), ProbeOptions{})
			t.Logf("%+v after %s", h, time.Since(began))
			if (h.NFS == nil) != tt.nfs || (h.Bus == nil) != tt.bus {
				t.Errorf("Probe = %+v, want NFS in order: %v, bus: %v", h, tt.nfs, tt.bus)
			}
			if h := s.g.Probe(t.Context(), ProbeOptions{NFSOnly: true}); h.OK() != tt.nfs || h.Bus != nil && tt.nfs {
				t.Errorf("Probe of NFS alone = %+v, want it in order: %v", h, tt.nfs)
			}
			if h.NFS != nil && !errors.Is(h.NFS, ErrNotRunning) {
				t.Errorf("NFS: %v, want ErrNotRunning", h.NFS)
			}
			// It has just started, and yet a hung one is not given the 20 s
			// that a start may take.
			ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
			defer cancel()
			if err := s.g.Start(ctx, func() []Export { return []Export{e} }); err != nil {
				t.Fatal(err)
			}
			t.Logf("replaced after %s", time.Since(began))
			if h := s.g.Probe(t.Context(), ProbeOptions{}); !h.OK() {
				t.Errorf("Probe after Start = %+v", h)
			}
			if after := s.pid(); (after == before) != (tt.nfs && tt.bus) {
				t.Errorf("pid %d after %d", after, before)
			}
			s.has(e)
		})
	}
}

// BenchmarkProbe is what watching one gateway costs; the agent does it every
// two seconds.
func BenchmarkProbe(b *testing.B) {
	s := newSite(b)
	s.start(s.share(1))
	usage := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := usage()
	n := 0
	for b.Loop() {
		if h := s.g.Probe(b.Context(), ProbeOptions{}); !h.OK() {
			b.Fatalf("%+v", h)
		}
		n++
	}
	b.ReportMetric(float64((usage()-before).Microseconds())/float64(n), "own-cpu-us/op")
}
