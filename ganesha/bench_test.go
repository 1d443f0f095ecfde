package ganesha

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/integration/wait"
)

// BenchmarkStart is a cold start of bus and Ganesha with one export, until it
// serves; BenchmarkRestart is the same after SIGKILL of Ganesha alone.
// BenchmarkBare is what neither can beat: both programs started by hand with
// the same configuration, without a jail.
func BenchmarkStart(b *testing.B) {
	s := newSite(b)
	e := s.share(1)
	for b.Loop() {
		s.start(e)
		b.StopTimer()
		if err := s.g.Stop(b.Context(), StopOptions{}); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func BenchmarkRestart(b *testing.B) {
	for _, exports := range []int{1, 100, 1000} {
		b.Run(fmt.Sprint(exports), func(b *testing.B) {
			s := newSite(b)
			pool := b.TempDir()
			s.mountFS(pool)
			var es []Export
			for i := range exports {
				dir := filepath.Join(pool, fmt.Sprint(i))
				e := s.tree(uint16(i + 1))
				if err := os.Mkdir(dir, 0o777); err != nil {
					b.Fatal(err)
				}
				if err := (binds{}).Bind(dir, e.Path); err != nil {
					b.Fatal(err)
				}
				b.Cleanup(func() { _ = unix.Unmount(e.Path, unix.MNT_DETACH) })
				es = append(es, e)
			}
			s.start(es...)
			var spent time.Duration
			for b.Loop() {
				b.StopTimer()
				s.kill(s.pid())
				b.StartTimer()
				s.start(es...)
				b.StopTimer()
				spent += processorTime(b, s.pid())
				b.StartTimer()
			}
			// Beside other load this says more than the time that passed.
			b.ReportMetric(float64(spent)/float64(b.N), "ganesha-cpu-ns/op")
		})
	}
}

func BenchmarkBare(b *testing.B) {
	s := newSite(b)
	e := s.share(1)
	for b.Loop() {
		b.StopTimer()
		var config string
		err := s.g.directories()
		if err == nil {
			config, err = s.g.config(b.Context(), []Export{e})
		}
		if err == nil {
			err = replace(s.g.path(confDir, "ganesha.conf"), config)
		}
		if err == nil {
			err = replace(s.g.path(confDir, "bus.conf"), renderBus(s.g.socket()))
		}
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		run := func(path string, args, env []string) *exec.Cmd {
			cmd := exec.Command("nsenter", append([]string{"--net=" + s.o.NetNS, path}, args...)...)
			cmd.Env = env
			if err := cmd.Start(); err != nil {
				b.Fatal(err)
			}
			return cmd
		}
		bus := run(s.g.busSpec().Path, s.g.busSpec().Args, nil)
		wait.Until(b, "the bus answers", func() bool { _, err := s.g.client(b.Context()); return err == nil })
		nfsd := run(s.g.ganeshaSpec(1).Path, s.g.ganeshaSpec(1).Args, s.g.ganeshaSpec(1).Env)
		wait.Until(b, "Ganesha answers", func() bool { return s.g.null(b.Context()) == nil })
		b.StopTimer()
		for _, cmd := range []*exec.Cmd{nfsd, bus} {
			if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
				b.Fatal(err)
			}
			_ = cmd.Wait() // killed
		}
		if err := s.g.Stop(b.Context(), StopOptions{}); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkPut adds and withdraws one export beside a few others.
func BenchmarkPut(b *testing.B) {
	s := newSite(b)
	s.start(s.share(1), s.share(2))
	e := s.share(3)
	for b.Loop() {
		if _, err := s.g.Put(b.Context(), e); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := s.g.Remove(b.Context(), e.ID); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// processorTime of a process since it began. The clock's number is made of the
// pid as in clock_getcpuclockid(3).
func processorTime(b *testing.B, pid int) time.Duration {
	var spent unix.Timespec
	if err := unix.ClockGettime(int32(^pid)<<3|2, &spent); err != nil {
		b.Fatal(err)
	}
	return time.Duration(spent.Nano())
}

// BenchmarkLook asks for one export, as each resync does for all.
func BenchmarkLook(b *testing.B) {
	s := newSite(b)
	e := s.share(1)
	s.start(e)
	before := processorTime(b, os.Getpid())
	for b.Loop() {
		if has, err := s.g.Has(b.Context(), e); err != nil || !has {
			b.Fatal(has, err)
		}
	}
	b.ReportMetric(float64(processorTime(b, os.Getpid())-before)/float64(b.N), "agent-cpu-ns/op")
}
