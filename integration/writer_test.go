package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/causeway-project/causeway/integration/lab"
	"github.com/causeway-project/causeway/integration/nfs41"
)

// A scribe writes lines into one open file by NFS, one every few
// milliseconds, with the first byte of the file locked. Each is on the disk
// before the next begins.
type scribe struct {
	t      *testing.T
	path   string
	client *nfs41.Client
	file   *nfs41.File
	stop   context.CancelFunc
	ended  sync.WaitGroup

	mu      sync.Mutex
	lines   int
	longest time.Duration
	err     error
}

const scribePause = 3 * time.Millisecond

// scribble starts one, which goes with the test.
func scribble(ctx context.Context, t *testing.T, c *nfs41.Client, path string) *scribe {
	t.Helper()
	f, err := c.Open(ctx, path, nfs41.OpenOptions{Access: nfs41.ReadWrite, Create: nfs41.Exclusive, Mode: 0o644})
	if err == nil {
		err = f.Lock(ctx, 0, 1)
	}
	if err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(ctx)
	s := &scribe{t: t, path: path, client: c, file: f, stop: stop}
	s.ended.Go(func() { s.run(ctx, running) })
	t.Cleanup(func() {
		stop()
		s.ended.Wait()
	})
	return s
}

func (s *scribe) run(ctx, running context.Context) {
	tick := time.NewTicker(scribePause)
	defer tick.Stop()
	var offset uint64
	for line := 1; ; line++ {
		text := fmt.Appendf(nil, "line %d\n", line)
		begin := time.Now()
		_, err := s.file.WriteAt(ctx, text, offset)
		took := time.Since(begin)
		offset += uint64(len(text))
		s.mu.Lock()
		s.longest = max(s.longest, took)
		if s.err = err; err == nil {
			s.lines++
		}
		s.mu.Unlock()
		if err != nil {
			return
		}
		select {
		case <-running.Done():
			return
		case <-tick.C:
		}
	}
}

// more waits for so many further lines.
func (s *scribe) more(ctx context.Context, lines int) {
	s.t.Helper()
	s.mu.Lock()
	want := s.lines + lines
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	until(ctx, s.t, "the writer does not go on", func() (bool, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.lines >= want || s.err != nil, nil
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		s.t.Fatalf("write: %v", s.err)
	}
}

// finish ends the writer, and fails the test unless every line is in the file
// on the host, once and in order. It returns how many there are and how long
// the slowest took.
func (s *scribe) finish(ctx context.Context, onHost string) (lines int, longest time.Duration) {
	s.t.Helper()
	s.stop()
	s.ended.Wait()
	if s.err != nil {
		s.t.Errorf("write: %v", s.err)
	}
	if stats := s.client.Stats(); stats.Lost > 0 {
		s.t.Errorf("state of %d files was lost", stats.Lost)
	}
	if err := errors.Join(s.file.Unlock(ctx), s.file.Close(ctx)); err != nil {
		s.t.Errorf("give the file back: %v", err)
	}
	checkFile(s.t, onHost, s.lines)
	return s.lines, s.longest
}

// locked fails the test unless the scribe still holds its lock.
func (s *scribe) locked(ctx context.Context, other *nfs41.Client) {
	s.t.Helper()
	f, err := other.Open(ctx, s.path, nfs41.OpenOptions{Access: nfs41.ReadWrite})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := f.Lock(ctx, 0, 1); !errors.Is(err, nfs41.DENIED) {
		s.t.Errorf("lock of another client: %v, want %v", err, nfs41.DENIED)
	}
	if err := f.Close(ctx); err != nil {
		s.t.Error(err)
	}
}

// checkFile of a writer, on the host.
func checkFile(t *testing.T, path string, lines int) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(lab.CheckLines(f, lines), f.Close()); err != nil {
		t.Error(err)
	}
}
