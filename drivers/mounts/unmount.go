package mounts

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/drivers"
)

// Waiting for a mount that is in use: long enough for somebody who just looks
// in, such as df, short enough to stand in a step.
const (
	busyWait = 200 * time.Millisecond
	busyStep = 10 * time.Millisecond
)

// Unmount takes away every mount at target, topmost first; none there is
// success, and so is a target that is not there. A mount in use, by an open
// file in any namespace that its copies reached or by a mount below it, is
// drivers.ErrBusy after about 200 ms. It never detaches lazily: a lazy detach
// hides writers that are still at work.
//
// ctx ends the waiting. It cannot end umount(2) itself, which hangs while a
// dead network backend is asked to write back: use a Guard there.
func Unmount(ctx context.Context, target string) error {
	giveUp := time.Now().Add(busyWait)
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("unmount %s: %w", target, err)
		}
		err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil, errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
			return nil
		case errors.Is(err, unix.EINVAL):
			return notMounted(target)
		case !errors.Is(err, unix.EBUSY):
			return fmt.Errorf("unmount %s: %w", target, err)
		}
		if !time.Now().Before(giveUp) {
			return fmt.Errorf("unmount %s: a file is open or something is mounted below it: %w", target, drivers.ErrBusy)
		}
		if err := wait(ctx, busyStep); err != nil {
			return fmt.Errorf("unmount %s: %w: %w", target, drivers.ErrBusy, err)
		}
	}
}

// notMounted tells the two meanings of EINVAL apart: nothing is mounted there,
// or a mount that a more privileged namespace has locked.
func notMounted(target string) error {
	st, err := look(unix.AT_FDCWD, target)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", target, err)
	}
	if isRoot(st) {
		return fmt.Errorf("unmount %s: the mount is locked in this mount namespace: %w", target, unix.EINVAL)
	}
	return nil
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
