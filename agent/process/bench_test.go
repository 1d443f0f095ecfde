package process

import (
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkStart compares a plain fork and exec of /bin/sleep with Start, to
// the moment when the exec is known to have succeeded.
func BenchmarkStart(b *testing.B) {
	s := starter(b)
	root := &Root{ReadOnly: system, ReadWrite: []string{b.TempDir()}, Slave: []string{b.TempDir()}}
	for _, c := range []struct {
		name string
		root *Root
		pids bool
	}{
		{"launcher", nil, false},
		{"jail", root, false},
		{"jail and pids", root, true},
	} {
		b.Run(c.name, func(b *testing.B) {
			spec := sleeper(b.TempDir())
			spec.Root, spec.OwnPIDs = c.root, c.pids
			if c.root != nil {
				spec.Caps = []string{"chown", "setuid"}
			}
			times := make([]time.Duration, 0, b.N)
			for b.Loop() {
				t0 := time.Now()
				p, err := s.Start(b.Context(), spec)
				times = append(times, time.Since(t0))
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := p.Stop(b.Context(), 0); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			report50(b, times)
		})
	}
	b.Run("exec", func(b *testing.B) {
		times := make([]time.Duration, 0, b.N)
		for b.Loop() {
			t0 := time.Now()
			p, err := os.StartProcess("/bin/sleep", []string{"sleep", "1000"}, &os.ProcAttr{})
			times = append(times, time.Since(t0))
			if err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			if err := p.Signal(unix.SIGKILL); err != nil {
				b.Fatal(err)
			}
			if _, err := p.Wait(); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
		report50(b, times)
	})
}

// report50 reports the median.
func report50(b *testing.B, times []time.Duration) {
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, "ms/median")
	b.ReportMetric(0, "ns/op")
}
