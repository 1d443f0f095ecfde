// Command cw-writer runs in the guest of the tests. It appends numbered lines
// to one open file, which it has locked, each followed by fsync, and keeps count of how long the
// slowest took.
//
//	cw-writer FILE STATUS INTERVAL
//
// STATUS, in the guest's memory, is one line that is always whole: lines
// written, longest stall since the last SIGUSR1 and the stall under way in
// microseconds, and what failed. A write that failed ends the program; so does
// SIGTERM, after the line under way.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: cw-writer FILE STATUS INTERVAL")
		os.Exit(2)
	}
	interval, err := time.ParseDuration(os.Args[3])
	if err != nil {
		fmt.Fprintln(os.Stderr, "cw-writer:", err)
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], interval); err != nil {
		fmt.Fprintln(os.Stderr, "cw-writer:", err)
		os.Exit(1)
	}
}

// A status is shared by the writer and by who watches it.
type status struct {
	path string

	mu      sync.Mutex
	lines   int
	longest time.Duration
	since   time.Time // when the write under way began; zero when there is none
	failure string
}

func (s *status) save() {
	s.mu.Lock()
	defer s.mu.Unlock()
	under := time.Duration(0)
	if !s.since.IsZero() {
		under = time.Since(s.since)
	}
	text := fmt.Sprintf("%d %d %d %s\n", s.lines, max(s.longest, under).Microseconds(), under.Microseconds(), strings.ReplaceAll(s.failure, "\n", " "))
	if os.WriteFile(s.path+".new", []byte(text), 0o600) == nil {
		_ = os.Rename(s.path+".new", s.path)
	}
}

func (s *status) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since = time.Now()
}

func (s *status) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.longest = max(s.longest, time.Since(s.since))
	s.since = time.Time{}
	if err != nil {
		s.failure = err.Error()
		return
	}
	s.lines++
}

func (s *status) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.longest = 0
}

func run(path, statusPath string, interval time.Duration) error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	mark := make(chan os.Signal, 1)
	signal.Notify(mark, syscall.SIGUSR1)
	s := &status{path: statusPath}
	s.save()

	result := make(chan error, 1)
	quit := make(chan struct{})
	go func() { result <- write(s, path, interval, quit) }()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.save()
		case <-mark:
			s.forget()
			s.save()
		case <-stop:
			close(quit)
			stop = nil
		case err := <-result:
			s.save()
			return err
		}
	}
}

func write(s *status, path string, interval time.Duration, quit <-chan struct{}) (err error) {
	s.begin()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		s.end(err)
		return err
	}
	defer func() {
		if e := f.Close(); err == nil {
			err = e
		}
	}()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		err = os.NewSyscallError("flock", err)
		s.end(err)
		return err
	}
	next := time.NewTicker(interval)
	defer next.Stop()
	for n := 1; ; n++ {
		s.begin()
		_, err := fmt.Fprintf(f, "line %d\n", n)
		if err == nil {
			err = f.Sync()
		}
		s.end(err)
		if err != nil {
			return err
		}
		select {
		case <-next.C:
		case <-quit:
			return nil
		}
	}
}
