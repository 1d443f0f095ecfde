package virtiofsd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/causeway-project/causeway/agent/process"
	"github.com/causeway-project/causeway/virtiofs/keeper"
)

// A kept is the virtiofsd of a keeper that runs.
type kept struct {
	report *keeper.Report   // nil: it is being started
	runs   *process.Process // nil: it does not
}

// dead says that it ran once.
func (k kept) dead() bool { return k.report != nil && k.runs == nil }

// keptBy looks at the virtiofsd of keeper p, which is v's.
func (d *Daemons) keptBy(p *process.Process, v Daemon) (kept, error) {
	r, err := keeper.ReadReport(v.Dir)
	if err != nil || r == nil || r.Keeper != p.Identity().PID {
		return kept{}, err
	}
	k := kept{report: r}
	if r.Ended != nil {
		return k, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	// A handle costs a pidfd until its process ends, so there is one of each.
	if c := d.children[v.Dir]; c != nil && c.Identity().PID == r.PID {
		select {
		case <-c.Done():
		default:
			k.runs = c
			return k, nil
		}
	}
	delete(d.children, v.Dir)
	k.runs, err = p.Child(r.PID)
	if k.runs != nil {
		if d.children == nil {
			d.children = map[string]*process.Process{}
		}
		d.children[v.Dir] = k.runs
	}
	return k, err
}

// Done is closed when v's virtiofsd ends, or its keeper; nil where none serves,
// also where a keeper stands in for one.
func (d *Daemons) Done(v Daemon) (<-chan struct{}, error) {
	p, err := d.Find(v)
	if err != nil || p == nil {
		return nil, err
	}
	k, err := d.keptBy(p, v)
	switch {
	case err != nil || k.dead():
		return nil, err
	case k.runs == nil:
		return p.Done(), nil
	}
	return k.runs.Done(), nil // it does not outlive its keeper
}

// A Death is that of a virtiofsd whose device QEMU still had.
type Death struct {
	At       time.Time
	Cause    Cause
	Why      string // for a person
	Answered uint64 // requests of the guest that were in flight and failed at once
	Kept     bool   // its keeper answers for it, or will when the last of its processes has ended
	Over     bool   // all its processes have ended
}

// A Cause is why a virtiofsd died.
type Cause string

// The causes, beside those of package keeper.
const (
	Memory Cause = "memory" // the kernel killed it at its limit of memory
	Keeper Cause = "keeper" // its keeper ended, and it with that
)

// Death tells how v's virtiofsd died; nil where it did not, or QEMU let go of it
// first.
func (d *Daemons) Death(v Daemon) (*Death, error) {
	death, err := d.death(v)
	if err != nil {
		return nil, fmt.Errorf("look at the end of virtiofsd in %s: %w", v.Dir, err)
	}
	return death, nil
}

func (d *Daemons) death(v Daemon) (*Death, error) {
	// The keeper first: one that leaves takes its report with it before it ends.
	p, err := d.Find(v)
	if err != nil {
		return nil, err
	}
	r, err := keeper.ReadReport(v.Dir)
	if err != nil || r == nil {
		return nil, err
	}
	death := &Death{Cause: Keeper, Why: "its keeper was killed", Kept: p != nil && p.Identity().PID == r.Keeper, Over: true}
	switch {
	case r.Ended != nil:
		death.At, death.Cause, death.Why, death.Answered = r.Ended.At, Cause(r.Ended.Cause), r.Ended.String(), r.Ended.Answered
		if r.Ended.Blind != "" {
			death.Why += "; " + r.Ended.Blind
		}
	case death.Kept:
		k, err := d.keptBy(p, v)
		if err != nil || !k.dead() {
			return nil, err
		}
		death.Cause, death.Why, death.Over = Cause(keeper.Killed), "it is about to end", false
	default:
		info, err := os.Stat(filepath.Join(v.Dir, keeper.ReportFile))
		if err != nil {
			return nil, err
		}
		death.At = info.ModTime() // or some time after that: the same at each look
	}
	hits, err := d.Starter.Hits(v.name())
	if err == nil && hits.Memory > 0 {
		death.Cause, death.Why = Memory, "it was killed at its limit of memory"
	}
	return death, nil
}

// Replace kills a virtiofsd that does not answer because it is stopped, and
// returns when it has ended: its keeper answers for it then, as after any
// death. One that runs is left alone, and so is one that waits in the kernel,
// for a backend that does not answer: ErrBlocked. Its successor would wait too.
func (d *Daemons) Replace(ctx context.Context, v Daemon) error {
	if err := d.replace(ctx, v); err != nil {
		return fmt.Errorf("replace virtiofsd of %s: %w", v.Dir, err)
	}
	return nil
}

// letGo has a daemon that QEMU still uses answer all that the guest waits for
// with an error, and then waits for QEMU to let go, at most for grace. A guest
// that was asked to give the device back, and waited for an answer first, then
// does; if keeper and virtiofsd ended at once it never could.
func (d *Daemons) letGo(ctx context.Context, p *process.Process, v Daemon, grace time.Duration) error {
	if s, err := socketState(v.Socket()); err != nil || s != Connected {
		return err
	}
	if k, err := d.keptBy(p, v); err != nil || k.runs == nil {
		return err
	}
	if err := p.Signal(syscall.SIGUSR1); err != nil {
		return err
	}
	patience := time.NewTimer(grace)
	defer patience.Stop()
	select {
	case <-p.Done():
	case <-patience.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// ErrBlocked says that a virtiofsd waits in the kernel.
var ErrBlocked = errors.New("virtiofsd waits for a backend that does not answer")

func (d *Daemons) replace(ctx context.Context, v Daemon) error {
	p, err := d.Find(v)
	if err != nil || p == nil {
		return err
	}
	k, err := d.keptBy(p, v)
	if err != nil || k.runs == nil {
		return err
	}
	switch s, err := states(k.runs.Identity().PID); {
	case err != nil:
		return err
	case strings.Contains(s, "D"):
		return ErrBlocked
	case !strings.Contains(s, "T"):
		return nil
	}
	return k.end(ctx, p)
}

// end has the keeper p kill its virtiofsd, and returns when it has ended.
func (k kept) end(ctx context.Context, p *process.Process) error {
	if err := p.Signal(syscall.SIGUSR1); err != nil {
		return err
	}
	select {
	case <-k.runs.Done():
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Revoke kills a virtiofsd under its device, and returns when it has ended. Its
// keeper answers for it then, with errors, for as long as QEMU has the device.
// Where there is no keeper any more it is stopped. Not there is success.
func (d *Daemons) Revoke(ctx context.Context, v Daemon) error {
	if err := d.revoke(ctx, v); err != nil {
		return fmt.Errorf("revoke virtiofsd of %s: %w", v.Dir, err)
	}
	return nil
}

func (d *Daemons) revoke(ctx context.Context, v Daemon) error {
	p, err := d.Find(v)
	if err != nil || p == nil {
		return err
	}
	k, err := d.keptBy(p, v)
	switch {
	case err != nil:
		return err
	case k.report == nil:
		return d.stop(ctx, v, 0) // it does not serve yet
	case k.runs == nil:
		return nil
	}
	return k.end(ctx, p)
}

// Asked says whether a guest may ever have asked v's virtiofsd for anything. One
// that never did has not mounted the share, which begins with FUSE_INIT. Of a
// virtiofsd that notes no requests, as Rust's does not, nobody knows.
func (d *Daemons) Asked(v Daemon) (bool, error) {
	p, err := d.Find(v)
	if err != nil || p == nil {
		return true, err
	}
	asked, err := keeper.Asked(p.Identity().PID)
	if err != nil {
		return true, fmt.Errorf("look for requests to virtiofsd in %s: %w", v.Dir, err)
	}
	return asked, nil
}

// states of all threads of a process and of those that it started, as
// proc_pid_stat(5) has them: a letter each.
func states(pid int) (string, error) {
	var all strings.Builder
	for pids := []int{pid}; len(pids) > 0; pids = pids[1:] {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pids[0]))
		if err != nil {
			return "", err
		}
		for _, task := range tasks {
			text, err := os.ReadFile(filepath.Join(task, "stat"))
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
				continue // it has ended
			}
			if err != nil {
				return "", err
			}
			// The name stands in parentheses, and may hold some itself.
			if _, state, found := strings.Cut(string(text[strings.LastIndexByte(string(text), ')')+1:]), " "); found {
				all.WriteByte(state[0])
			}
			children, _ := os.ReadFile(filepath.Join(task, "children")) // likewise
			for _, word := range strings.Fields(string(children)) {
				if child, err := strconv.Atoi(word); err == nil {
					pids = append(pids, child)
				}
			}
		}
	}
	return all.String(), nil
}

// PID is that of v's virtiofsd, not of its keeper; 0 where none serves.
func (d *Daemons) PID(v Daemon) (int, error) {
	p, err := d.Find(v)
	if err != nil || p == nil {
		return 0, err
	}
	k, err := d.keptBy(p, v)
	if err != nil || k.runs == nil {
		return 0, err
	}
	return k.runs.Identity().PID, nil
}
