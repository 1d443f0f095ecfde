package unit

import (
	"os"
	"slices"
	"testing"
	"time"

	"github.com/causeway-project/causeway/agent/process"
)

// BenchmarkStart compares a start as a unit with one by fork, each from the
// end of the process before it.
func BenchmarkStart(b *testing.B) {
	launcher := os.Getenv(insideVariable)
	if launcher == "" {
		b.Skip("needs a systemd of its own")
	}
	u := New(Options{})
	defer u.Close()
	for _, c := range []struct {
		name string
		s    *process.Starter
		own  bool
	}{
		{"fork", &process.Starter{Launcher: launcher}, false},
		{"unit", &process.Starter{Launcher: launcher, Units: u}, false},
		{"unit with own pids", &process.Starter{Launcher: launcher, Units: u}, true},
	} {
		b.Run(c.name, func(b *testing.B) {
			spec := process.Spec{
				Dir: b.TempDir(), Path: "/bin/sleep", Args: []string{"1000"}, Caps: []string{}, OwnPIDs: c.own,
				Name: process.Name{Group: "tests", Own: "bench"},
			}
			var times []time.Duration
			for b.Loop() {
				t0 := time.Now()
				p, err := c.s.Start(b.Context(), spec)
				if err != nil {
					b.Fatal(err)
				}
				times = append(times, time.Since(t0))
				b.StopTimer()
				if err := p.Stop(b.Context(), 0); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			slices.Sort(times)
			b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, "ms/median")
			b.ReportMetric(0, "ns/op")
		})
	}
}
