package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/causeway-project/causeway/integration/wait"
)

// A Writer is a program in a guest that appends lines, "line 1", "line 2" and
// so on, to one file that stays open, each followed by fsync.
type Writer struct {
	guest  *Guest
	path   string
	status string
	pid    int
}

// Progress of a Writer.
type Progress struct {
	Lines   int           // written and synced
	Longest time.Duration // the slowest since the start or the last Mark, the one under way included
	Stalled time.Duration // how long the one under way takes already
	Failure string        // of a write; the writer has ended then
}

// StartWriter starts one that writes a line each interval, or as fast as it
// can, and returns when the first line is on the server.
func (g *Guest) StartWriter(ctx context.Context, path string, interval time.Duration) (*Writer, error) {
	g.exec.Lock()
	g.writers++
	w := &Writer{guest: g, path: path, status: fmt.Sprintf("/tmp/writer.%d", g.writers)}
	g.exec.Unlock()
	var err error
	if w.pid, err = g.spawn(ctx, []string{"cw-writer", path, w.status, interval.String()}); err != nil {
		return nil, err
	}
	if err := w.WaitLines(ctx, 1); err != nil {
		return nil, err
	}
	return w, nil
}

// Progress so far, at most 20 ms old.
func (w *Writer) Progress(ctx context.Context) (Progress, error) {
	text, err := w.guest.Exec(ctx, "cat", w.status)
	if err != nil {
		return Progress{}, err
	}
	fields := strings.SplitN(strings.TrimSpace(text), " ", 4)
	if len(fields) < 3 {
		return Progress{}, fmt.Errorf("writer's status %q is not whole", text)
	}
	var n [3]int
	for i := range n {
		if n[i], err = strconv.Atoi(fields[i]); err != nil {
			return Progress{}, fmt.Errorf("writer's status: %w", err)
		}
	}
	p := Progress{Lines: n[0], Longest: time.Duration(n[1]) * time.Microsecond, Stalled: time.Duration(n[2]) * time.Microsecond}
	if len(fields) == 4 {
		p.Failure = fields[3]
	}
	return p, nil
}

// On is the same writer after its guest was migrated.
func (w *Writer) On(g *Guest) *Writer {
	moved := *w
	moved.guest = g
	return &moved
}

// Mark begins to count the longest stall anew.
func (w *Writer) Mark(ctx context.Context) error {
	_, err := w.guest.Exec(ctx, "kill", "-USR1", strconv.Itoa(w.pid))
	return err
}

// WaitLines returns when so many lines are written and synced.
func (w *Writer) WaitLines(ctx context.Context, lines int) error {
	var last Progress
	err := wait.For(ctx, func() (bool, error) {
		p, err := w.Progress(ctx)
		if err != nil {
			return false, err
		}
		last = p
		return p.Lines >= lines || p.Failure != "", nil
	})
	switch {
	case last.Failure != "":
		return fmt.Errorf("write %s in guest %s: %s", w.path, w.guest.Name, last.Failure)
	case err != nil:
		return fmt.Errorf("write %s in guest %s: %d lines after all, want %d: %w", w.path, w.guest.Name, last.Lines, lines, err)
	}
	return nil
}

// WaitMore returns when so many more lines than now are written.
func (w *Writer) WaitMore(ctx context.Context, lines int) error {
	p, err := w.Progress(ctx)
	if err != nil {
		return err
	}
	return w.WaitLines(ctx, p.Lines+lines)
}

// Stop lets the writer finish its line and close the file.
func (w *Writer) Stop(ctx context.Context) (Progress, error) {
	pid := strconv.Itoa(w.pid)
	_, err := w.guest.Exec(ctx, "kill", pid)
	if exit := (*ExitError)(nil); err != nil && !errors.As(err, &exit) {
		return Progress{}, err // gone already is as good
	}
	if err := wait.For(ctx, func() (bool, error) {
		// The agent reaps it when it is asked for its end.
		var s struct {
			Exited bool `json:"exited"`
		}
		err := w.guest.ask(ctx, "guest-exec-status", map[string]any{"pid": w.pid}, &s)
		return err == nil && s.Exited, err
	}); err != nil {
		return Progress{}, fmt.Errorf("stop the writer of %s: %w", w.path, err)
	}
	p, err := w.Progress(ctx)
	if err == nil && p.Failure != "" {
		err = errors.New(p.Failure)
	}
	return p, err
}

// CheckLines reads what a Writer wrote, and fails unless it is the lines 1 to
// n, each once, whole and in order.
func CheckLines(r io.Reader, n int) error {
	s := bufio.NewScanner(r)
	got := 0
	for s.Scan() {
		got++
		if want := fmt.Sprintf("line %d", got); s.Text() != want {
			return fmt.Errorf("line %d reads %q, want %q", got, s.Text(), want)
		}
	}
	if err := s.Err(); err != nil {
		return err
	}
	if got != n {
		return fmt.Errorf("%d lines, want %d", got, n)
	}
	return nil
}
