package ganesha

import (
	"os/exec"
	"syscall"
	"testing"
	"time"
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
	s := newSite(b)
	e := s.share(1)
	s.start(e)
	for b.Loop() {
		b.StopTimer()
		s.kill(s.pid())
		b.StartTimer()
		s.start(e)
	}
}

func BenchmarkBare(b *testing.B) {
	s := newSite(b)
	e := s.share(1)
	for b.Loop() {
		b.StopTimer()
		config, err := s.g.config(b.Context(), []Export{e})
		if err == nil {
			err = s.g.directories()
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
		until := func(ready func() error) {
			for deadline := time.Now().Add(10 * time.Second); ; {
				err := ready()
				if err == nil {
					return
				}
				if time.Now().After(deadline) {
					b.Fatal(err)
				}
				time.Sleep(time.Millisecond)
			}
		}
		bus := run(s.g.busSpec().Path, s.g.busSpec().Args, nil)
		until(func() error { _, err := s.g.client(b.Context()); return err })
		nfsd := run(s.g.ganeshaSpec(1).Path, s.g.ganeshaSpec(1).Args, s.g.ganeshaSpec(1).Env)
		until(func() error { return null(b.Context(), s.o.NetNS, time.Second) })
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
		if err := s.g.Put(b.Context(), e); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := s.g.Remove(b.Context(), e.ID); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
