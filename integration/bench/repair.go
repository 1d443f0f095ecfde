package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
)

// repair kills the virtiofsd of a share that a guest has mounted, until the
// guest reads a file there again.
func (b *bench) repair(ctx context.Context) ([]Result, error) {
	if _, err := b.directory("repair"); err != nil {
		return nil, err
	}
	if err := b.attachMounted(ctx, "repair"); err != nil {
		return nil, err
	}
	dir, err := b.mountOf(ctx, "repair")
	if err != nil {
		return nil, err
	}
	var gaps []time.Duration
	for range b.runs {
		start := time.Now()
		killed, err := kill(dir)
		if err != nil {
			return nil, err
		}
		if killed == 0 {
			return nil, fmt.Errorf("no virtiofsd serves %s", dir)
		}
		for {
			text, err := b.world.guest.Exec(ctx, "cat", "/mnt/repair/file")
			if err == nil && text == content {
				break
			}
			if err := pause(ctx, time.Millisecond); err != nil {
				return nil, fmt.Errorf("guest reads %q: %w", text, err)
			}
		}
		gaps = append(gaps, time.Since(start))
		// The next kill must meet one that is whole again.
		if err := b.awaitReady(ctx, "repair"); err != nil {
			return nil, err
		}
	}
	b.log.Info("repair", "gaps", spread(gaps))
	_, err = b.attachments.Detach(ctx, &nodev1.DetachRequest{Id: "repair"})
	return []Result{alone("virtiofsd_killed_to_guest_reads", milliseconds(median(gaps)), "ms")}, err
}

func (b *bench) awaitReady(ctx context.Context, id string) error {
	for {
		answer, err := b.attachments.Get(ctx, &nodev1.GetAttachmentRequest{Id: id})
		if err != nil {
			return err
		}
		a := answer.GetAttachment()
		if a.GetStatus().GetPhase() == nodev1.Phase_PHASE_READY && a.GetGuest() == nodev1.GuestState_GUEST_STATE_MOUNTED {
			return nil
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return fmt.Errorf("attachment %s is %v: %w", id, a.GetStatus(), err)
		}
	}
}

// mountOf is where the agent has mounted a directory of the pool.
func (b *bench) mountOf(ctx context.Context, name string) (string, error) {
	answer, err := b.node.Get(ctx, &nodev1.GetNodeRequest{})
	if err != nil {
		return "", err
	}
	for _, m := range answer.GetMounts() {
		if m.GetSource() == name {
			return m.GetPath(), nil
		}
	}
	return "", fmt.Errorf("the agent has not mounted %s", name)
}

// serving lists the processes that were started to serve a directory: virtiofsd
// in either of its flavours, and who stands around it.
func serving(dir string) (pids []int, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		arguments, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil {
			continue // ended
		}
		for _, a := range strings.Split(string(arguments), "\x00") {
			if a == "source="+dir || a == "--shared-dir="+dir {
				pids = append(pids, pid)
			}
		}
	}
	return pids, nil
}

// kill ends every virtiofsd that serves a directory, and returns how many.
func kill(dir string) (int, error) {
	pids, err := serving(dir)
	if err != nil {
		return 0, err
	}
	killed := 0
	for _, pid := range pids {
		program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		if err != nil || filepath.Base(program) != "virtiofsd" {
			continue
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
			return killed, err
		}
		killed++
	}
	return killed, nil
}
