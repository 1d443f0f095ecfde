package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// settling is how long Find waits for a launcher between its lock and its
// exec, a matter of a few milliseconds.
const settling = 2 * time.Second

// Find returns the process of a run directory, or nil where none runs or the
// directory is not there. A zombie does not run. A launcher that an agent left
// behind becomes the process or ends in a moment, and Find waits for that.
// ErrHeld where the directory is still locked after two seconds, and by no
// process that can be returned.
func Find(dir string) (*Process, error) {
	return settled(context.Background(), dir)
}

// settled is find with Find's patience, or less where ctx ends first.
func settled(ctx context.Context, dir string) (*Process, error) {
	patient, cancel := context.WithTimeout(ctx, settling)
	defer cancel()
	p, err := find(patient, dir)
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return p, err
}

func find(ctx context.Context, dir string) (*Process, error) {
	for {
		id, launching, err := readIdentity(dir)
		if err != nil {
			return nil, fmt.Errorf("find process: %w", err)
		}
		alive, err := id.running()
		if err != nil {
			return nil, fmt.Errorf("find process: %w", err)
		}
		if alive && !launching {
			return &Process{id: id, dir: dir}, nil
		}
		// Only now: where the lock is free, a process that began after the
		// identity was read has ended again.
		taken, err := held(dir)
		if err != nil {
			return nil, fmt.Errorf("find process: %w", err)
		}
		if !taken {
			return nil, nil
		}
		err = pause(ctx)
		if err == nil {
			continue
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			return nil, fmt.Errorf("find process in %s: %w", dir, err)
		}
		by, _ := holders(dir) // says more where it can
		pids := make([]int, len(by))
		for i, h := range by {
			pids[i] = h.PID
		}
		return nil, fmt.Errorf("find process in %s: none runs, but %v have its lock: %w", dir, pids, ErrHeld)
	}
}

// Child returns the running child of p with that pid, nil where there is none:
// p may have reaped it, and the pid be another's by now.
func (p *Process) Child(pid int) (*Process, error) {
	boot, err := bootID()
	if err != nil {
		return nil, fmt.Errorf("find child %d of %d: %w", pid, p.id.PID, err)
	}
	s, err := readStat(pid)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find child %d of %d: %w", pid, p.id.PID, err)
	}
	if s.parent != p.id.PID || s.state == 'Z' || s.state == 'X' {
		return nil, nil
	}
	return &Process{id: Identity{BootID: boot, PID: pid, Start: s.start}, dir: p.dir}, nil
}
