package process

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/causeway-project/causeway/integration/wait"
)

// descriptors counts those of this process that lead to a pidfd.
func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.Contains(to, "pidfd") {
			n++
		}
	}
	return n
}

func TestClose(t *testing.T) {
	s, dir := starter(t), t.TempDir()
	ours := start(t, s, sleeper(dir))
	before := descriptors(t)
	for range 20 {
		p, err := Find(dir)
		if err != nil || p == nil {
			t.Fatalf("Find = %v, %v", p, err)
		}
		p.Close() // that nobody watches
		done := p.Done()
		p.Close()
		p.Close()
		select {
		case <-done:
			t.Fatal("closed by Close")
		default:
		}
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors became %d", before, after)
	}
	// The child stays watched, or its zombie would stay.
	ours.Close()
	if err := syscall.Kill(ours.Identity().PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wait.Closed(t, "it ends", ours.Done())
	if _, err := readStat(ours.Identity().PID); err == nil {
		t.Error("our child was left a zombie")
	}
	wait.Until(t, "the descriptor is closed", func() bool { return descriptors(t) == before-1 })
}

// A reaper that went by the pid could take away another child's status.
func TestReapsOnlyItsOwn(t *testing.T) {
	s := starter(t)
	a, b := start(t, s, sleeper(t.TempDir())), start(t, s, sleeper(t.TempDir()))
	if err := a.Stop(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if alive, err := b.Identity().running(); !alive || err != nil {
		t.Errorf("the other: %v, %v", alive, err)
	}
}
