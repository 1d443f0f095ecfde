package ganesha

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/causeway-project/causeway/agent/process"
)

// Health is what a probe found; nothing but nil is a gateway that serves.
type Health struct {
	NFS error // clients are not served: ErrNotRunning where the process has ended
	Bus error // it cannot be told anything; clients are served

	// NFS3: a program beside Ganesha that NFSv3 needs has ended. Whoever has
	// mounted is served, and nobody can mount or lock; Start puts it right.
	NFS3 error
}

// ProbeOptions of Probe.
type ProbeOptions struct {
	NFSOnly bool // leave D-Bus out, which is two fifths of the cost
}

// OK says whether nothing is wrong.
func (h Health) OK() bool { return h.NFS == nil && h.Bus == nil && h.NFS3 == nil }

// Probe asks whether the process that was started or adopted still runs, with
// an NFS NULL call over TCP from inside the namespace whether it serves, and
// over D-Bus whether it can be managed. A stopped or hung process is told in a
// second, a probe costs 0.7 ms of processor time on both sides together. It does not wait for a change
// under way, during which D-Bus may answer late.
func (g *Gateway) Probe(ctx context.Context, o ProbeOptions) Health {
	p, err := g.find()
	if err == nil && p == nil {
		err = ErrNotRunning
	}
	if err != nil {
		return Health{NFS: err, Bus: err}
	}
	if err := g.null(ctx); err != nil {
		return Health{NFS: hung(err)}
	}
	if g.o.Versions.v3() {
		if err := g.nfs3.Missing(ctx); err != nil {
			return Health{NFS3: err}
		}
	}
	if o.NFSOnly {
		g.saw(p)
		return Health{}
	}
	c, err := g.client(ctx)
	if err == nil {
		_, err = c.version(ctx, g.limits.null)
	}
	if err != nil {
		return Health{Bus: err}
	}
	g.saw(p)
	return Health{}
}

func hung(err error) error {
	return fmt.Errorf("it runs and does not answer: %w: %w", err, ErrNotRunning)
}

// ErrBlocked: Ganesha does not answer, and threads of it wait for a file system.
// It is not replaced: the kernel would not let it end before the file system
// answers, and a new one would soon wait for the same. When the file system
// answers, it goes on with all its clients' state.
var ErrBlocked = errors.New("a backend does not answer")

// waiting are the threads of a process in an uninterruptible sleep (proc(5)),
// each with how often it has been switched away from. None where it has ended.
func waiting(pid int) (map[string]string, error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil {
		return nil, err
	}
	threads := map[string]string{}
	for _, task := range tasks {
		text, err := os.ReadFile(filepath.Join(task, "status"))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var state, switches string
		for line := range strings.Lines(string(text)) {
			switch key, value, _ := strings.Cut(line, ":"); key {
			case "State":
				state = strings.TrimSpace(value)
			case "voluntary_ctxt_switches":
				switches = strings.TrimSpace(value)
			}
		}
		if strings.HasPrefix(state, "D") {
			threads[task] = switches
		}
	}
	return threads, nil
}

// stillWaiting is ErrBlocked if some thread has not run since before.
func stillWaiting(pid int, before map[string]string) error {
	now, err := waiting(pid)
	if err != nil {
		return fmt.Errorf("look at gateway: %w", err)
	}
	blocked := 0
	for task, switches := range now {
		if was, there := before[task]; there && was == switches {
			blocked++
		}
	}
	if blocked == 0 {
		return nil
	}
	return fmt.Errorf("%d threads of gateway process %d wait for a file system: %w", blocked, pid, ErrBlocked)
}

// saw notes that a process has served. It is given no more time to start.
func (g *Gateway) saw(p *process.Process) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.served = p.Identity()
}

func (g *Gateway) hasServed(p *process.Process) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.served == p.Identity()
}
