package ganesha

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/agent/process"
)

// A Status is what is known of a gateway's processes.
type Status struct {
	Running   bool // Ganesha and its bus run, and Ganesha answers over D-Bus
	PID       int  // of Ganesha, also where it does not answer; 0 where it does not run
	StartedAt time.Time
	Version   string // "4.3", where it runs
	Settings  string // Options.Settings of its start, where it runs
	LastLog   string // the end of Ganesha's log where it does not run

	// How often Ganesha reached its limits, counted anew from some starts on.
	Kills   uint64 // it was killed for memory
	Refused uint64 // it got no thread
}

// Status looks. A Ganesha that does not answer within two seconds is not
// running, and Start replaces it. The one thing that Status changes is the
// length of Ganesha's log, which grows for ever otherwise and lies in memory.
func (g *Gateway) Status(ctx context.Context) (Status, error) {
	if err := g.boundLog(); err != nil {
		return Status{}, fmt.Errorf("gateway log: %w", err)
	}
	p, err := g.find()
	if err != nil {
		return Status{}, err
	}
	hits, err := g.o.Starter.Hits(g.name("gateway"))
	if err != nil {
		return Status{}, err
	}
	if p == nil {
		return Status{LastLog: g.lastLog(), Kills: hits.Memory, Refused: hits.Tasks}, nil
	}
	age, err := since(p.Identity().Start)
	if err != nil {
		return Status{}, err
	}
	s := Status{PID: p.Identity().PID, StartedAt: time.Now().Add(-age), Kills: hits.Memory, Refused: hits.Tasks}
	c, err := g.client(ctx)
	if err == nil {
		s.Version, err = c.version(ctx, g.limits.look)
	}
	if err == nil {
		s.Settings, err = g.settings()
	}
	switch {
	case err == nil:
		s.Running = true
	case ctx.Err() != nil:
		return Status{}, ctx.Err()
	case errors.Is(err, ErrNotRunning):
		s.LastLog = g.lastLog()
	default:
		return Status{}, fmt.Errorf("gateway status: %w", err)
	}
	return s, nil
}

// settings that Ganesha was started with. An agent that knew of none wrote none.
func (g *Gateway) settings() (string, error) {
	b, err := os.ReadFile(g.path(confDir, "settings"))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	return string(b), err
}

// Done is closed when the gateway that runs now has ended; nil where none runs.
func (g *Gateway) Done() <-chan struct{} {
	p, err := g.find()
	if err != nil || p == nil {
		return nil
	}
	return p.Done()
}

// find returns the gateway's Ganesha, or nil where none runs.
func (g *Gateway) find() (*process.Process, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.nfsd != nil {
		select {
		case <-g.nfsd.Done():
			g.nfsd = nil
		default:
			return g.nfsd, nil
		}
	}
	p, err := process.Find(g.path(nfsdDir))
	if err != nil {
		return nil, fmt.Errorf("find gateway: %w", err)
	}
	g.nfsd = p
	return p, nil
}

func (g *Gateway) remember(p *process.Process) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.nfsd = p
}

// client returns the connection to the gateway's bus, made anew where the
// last one has ended. Nobody there is ErrNotRunning.
func (g *Gateway) client(ctx context.Context) (*client, error) {
	g.mu.Lock()
	have := g.conn
	g.mu.Unlock()
	if have.alive() {
		return have, nil
	}
	c, err := dial(ctx, g.socket(), g.limits.look)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("bus of gateway: %w: %w", err, ErrNotRunning)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.conn.alive() { // somebody else was quicker
		c.close()
		return g.conn, nil
	}
	g.conn = c
	return c, nil
}

// hangUp closes the connection to the bus.
func (g *Gateway) hangUp() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.conn != nil {
		g.conn.close()
		g.conn = nil
	}
}

const (
	maxLog    = 4 << 20  // bytes of Ganesha's log before it is cut
	keptLog   = 64 << 10 // and what is left of it
	tailBytes = 2 << 10  // for a person
	readBytes = 16 << 10 // to find those in
)

// stillGrace is in each line that says only that grace goes on, several a second.
const stillGrace = "check grace:reclaim complete"

func (g *Gateway) logFile() string { return g.path(varDir, "log") }

// boundLog cuts Ganesha's log, of which clients can write lines. Ganesha opens
// it anew for each message (src/log/log_functions.c), so it may be cut, or
// taken away where it is no file, at any time.
func (g *Gateway) boundLog() error {
	f, size, err := g.openLog(os.O_RDWR)
	if errors.Is(err, errNoFile) {
		return os.RemoveAll(g.logFile())
	}
	if err != nil || f == nil {
		return err
	}
	defer func() { _ = f.Close() }() // WriteAt has told of errors
	if size <= maxLog {
		return nil
	}
	tail := make([]byte, keptLog)
	n, err := f.ReadAt(tail, size-keptLog)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = f.WriteAt(tail[:n], 0)
	return err
}

// lastLog is the end of Ganesha's log, or of what it printed before it had one.
func (g *Gateway) lastLog() string {
	f, size, err := g.openLog(os.O_RDONLY)
	if err != nil || f == nil || size == 0 {
		return process.Tail(g.path(nfsdDir), tailBytes)
	}
	defer func() { _ = f.Close() }() // read-only
	tail := make([]byte, min(size, readBytes))
	n, err := f.ReadAt(tail, size-int64(len(tail)))
	if err != nil && !errors.Is(err, io.EOF) {
		return ""
	}
	return lastLines(string(tail[:n]), size > readBytes)
}

// lastLines is the end of a log as a person wants it. Where cut, the log begins
// amid a line.
func lastLines(log string, cut bool) string {
	if cut {
		_, log, _ = strings.Cut(log, "\n")
	}
	var lines []string
	for line := range strings.Lines(log) {
		if !strings.Contains(line, stillGrace) {
			lines = append(lines, line)
		}
	}
	room, first := tailBytes, len(lines)
	for ; first > 0 && len(lines[first-1]) <= room; first-- {
		room -= len(lines[first-1])
	}
	return strings.TrimSpace(strings.Join(lines[first:], ""))
}

// errNoFile: something else lies where Ganesha's log should.
var errNoFile = errors.New("not a regular file")

// openLog opens the log; nil where there is none. Ganesha can write in that
// directory, so what it may have put there is not followed and not waited for.
func (g *Gateway) openLog(mode int) (*os.File, int64, error) {
	at, err := os.Lstat(g.logFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	if !at.Mode().IsRegular() {
		return nil, 0, errNoFile
	}
	f, err := os.OpenFile(g.logFile(), mode|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !os.SameFile(at, info) {
		err = errNoFile
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}
