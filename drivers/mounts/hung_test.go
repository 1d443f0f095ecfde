package mounts_test

import (
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/drivers"
	"github.com/causeway-project/causeway/drivers/mounts"
	"github.com/causeway-project/causeway/integration/needs"
	"github.com/causeway-project/causeway/integration/wait"
)

// hungMount mounts a file system whose server never answers: a FUSE device
// that nobody reads. answer makes every request fail at last.
func hungMount(t *testing.T, target string) (answer func()) {
	t.Helper()
	dev, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	needs.Met(t, err)
	t.Cleanup(func() { _ = dev.Close() })
	must(t, unix.Mount("hung", target, "fuse", 0,
		fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", dev.Fd())))
	return func() { must(t, dev.Close()) }
}

// What the agent asks of the kernel must be answered while a backend hangs,
// and nothing that touches the backend may hold more than one thread.
func TestHungMount(t *testing.T) {
	dir := tree(t)
	target := mkdir(t, dir, "target")
	answer := hungMount(t, target)

	// The looks run behind a guard too, so that a failure is not a hang.
	looks := mounts.Guard{Deadline: 20 * time.Second}
	must(t, looks.Do(t.Context(), "looks", func() error {
		m, ok, err := mounts.At(target)
		if err != nil || !ok || m.FSType != "fuse" || m.Gone {
			return fmt.Errorf("at: %+v %t %w", m, ok, err)
		}
		if s, err := mounts.Peek(target); err != nil || !s.Mounted || s.Gone {
			return fmt.Errorf("peek: %+v %w", s, err)
		}
		for _, root := range []string{dir, target} {
			ms, err := mounts.Below(root)
			if err != nil || ms[len(ms)-1].Target != target {
				return fmt.Errorf("below: %+v %w", ms, err)
			}
		}
		return nil
	}))

	g := mounts.Guard{Deadline: 50 * time.Millisecond}
	touch := func() error {
		var st unix.Statfs_t
		return unix.Statfs(target, &st)
	}
	wantErr(t, g.Do(t.Context(), target, touch), drivers.ErrUnreachable)
	before := runtime.NumGoroutine()
	for range 100 {
		wantErr(t, g.Do(t.Context(), target, touch), drivers.ErrUnreachable)
	}
	if after := runtime.NumGoroutine(); after > before {
		t.Errorf("%d goroutines before, %d after", before, after)
	}
	if s := g.Stuck(); len(s) != 1 || s[0] != target {
		t.Errorf("stuck: %q", s)
	}
	wantErr(t, mounts.Unmount(t.Context(), target), drivers.ErrBusy)

	answer()
	wait.Until(t, "nothing is stuck", func() bool { return len(g.Stuck()) == 0 })
	wantErr(t, g.Do(t.Context(), target, touch), unix.ENOTCONN)
	must(t, mounts.Unmount(t.Context(), target))
}
