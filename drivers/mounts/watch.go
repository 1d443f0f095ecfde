package mounts

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Watch calls changed once when it has begun to watch, so that nothing falls
// between a first look and the watching, and then whenever the mount table has
// changed, until ctx ends: its error is then ctx's. Changes during a call of
// changed, and for nine times as long after it, up to 200 ms, are one more call:
// where there are thousands of mounts, and changed looks at each, it takes a
// tenth of one processor while they are made. It holds one thread.
func Watch(ctx context.Context, changed func()) error {
	// Not os.Open: that adds the file to the runtime's epoll set, and whoever
	// polls first takes the change, for it is told once per open file.
	f, err := unix.Open(table, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("watch mounts: open %s: %w", table, err)
	}
	defer func() { _ = unix.Close(f) }()
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watch mounts: eventfd: %w", err)
	}
	defer func() { _ = unix.Close(wake) }()

	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		_, _ = unix.Write(wake, binary.NativeEndian.AppendUint64(nil, 1))
	})
	// wake must not be closed, and its number reused, under the write.
	defer func() {
		if !stop() {
			<-woken
		}
	}()

	changed()
	// The file reports what changed since it was opened or last polled
	// (proc_pid_mounts(5)). It is always readable: POLLIN would spin.
	fds := []unix.PollFd{
		{Fd: int32(f), Events: unix.POLLPRI},
		{Fd: int32(wake), Events: unix.POLLIN},
	}
	for {
		_, err := unix.Poll(fds, -1)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("watch mounts: poll: %w", err)
		}
		if err == nil && fds[0].Revents != 0 {
			begin := time.Now()
			changed()
			if err := wait(ctx, min(9*time.Since(begin), 200*time.Millisecond)); err != nil {
				return err
			}
		}
	}
}
