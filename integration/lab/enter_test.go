package lab_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/causeway-project/causeway/integration/lab"
	"github.com/causeway-project/causeway/integration/wait"
)

// A nested program is this one again, in namespaces of its own within ours.
func nested(t *testing.T, test string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+test+"$", "-test.v")
	cmd.Env = append(os.Environ(), "CAUSEWAY_LAB_STAGE=", "LAB_NESTED=yes")
	cmd.Stderr = t.Output()
	return cmd
}

// TestNestedMakesThings is what nested programs run. It makes a link, a mount,
// a loop device and an orphan, says where, and waits for the end.
func TestNestedMakesThings(t *testing.T) {
	if os.Getenv("LAB_NESTED") == "" {
		return // only the body of TestNothingIsLeft
	}
	if pid := os.Getpid(); pid > 1000 {
		t.Errorf("pid %d: is this a new namespace?", pid)
	}
	if _, err := lab.NewBridge(t.Context(), "br-nested"); err != nil {
		t.Fatal(err)
	}
	pool, err := lab.NewPool(t.Context(), 128)
	if err != nil {
		t.Fatal(err)
	}
	marker := fmt.Sprintf("%d", 1000000+os.Getppid()*1000+os.Getpid())
	if err := exec.Command("sh", "-c", "sleep "+marker+" & sleep "+marker+" &").Run(); err != nil {
		t.Fatal(err)
	}
	fmt.Printf("nested: %s %s\n", pool.Dir, marker)
	select {}
}

func TestNothingIsLeft(t *testing.T) {
	tests := []struct {
		name   string
		signal syscall.Signal
		code   int
	}{
		{"ended", syscall.SIGTERM, 128 + int(syscall.SIGTERM)},
		{"killed", syscall.SIGKILL, -1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cmd := nested(t, "TestNestedMakesThings")
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var pool, marker string
			for s := bufio.NewScanner(out); pool == "" && s.Scan(); {
				_, _ = fmt.Sscanf(s.Text(), "nested: %s %s", &pool, &marker)
			}
			if pool == "" {
				t.Fatalf("nothing was made: %v", cmd.Wait())
			}
			disk := filepath.Join(filepath.Dir(pool), "disk")
			// The orphans may still be on their way to be sleep.
			if err := wait.For(limited(t), func() (bool, error) {
				l, s := loops(t, disk), sleepers(t, marker)
				return l == 1 && s == 2, fmt.Errorf("%d loop devices, %d orphans, want 1 and 2", l, s)
			}); err != nil {
				t.Error(err)
			}
			if err := cmd.Process.Signal(tt.signal); err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, out)
			_ = cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			ctx := limited(t)
			if err := wait.For(ctx, func() (bool, error) {
				l, s := loops(t, disk), sleepers(t, marker)
				return l == 0 && s == 0, fmt.Errorf("%d loop devices, %d orphans are left", l, s)
			}); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat("/sys/class/net/br-nested"); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("its bridge is in our network: %v", err)
			}
			if _, err := os.Stat(disk); tt.code > 0 && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("its directory is left: %v", err)
			}
		})
	}
}

// loops counts loop devices on a file.
func loops(t *testing.T, disk string) int {
	t.Helper()
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range files {
		data, _ := os.ReadFile(f) // it may just go
		// In a chroot the kernel's path of a file in another namespace is longer.
		if strings.HasSuffix(strings.TrimSuffix(strings.TrimSpace(string(data)), " (deleted)"), disk) {
			n++
		}
	}
	return n
}

// sleepers counts processes of a namespace below ours.
func sleepers(t *testing.T, marker string) int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range files {
		data, _ := os.ReadFile(f)
		if string(data) == "sleep\x00"+marker+"\x00" {
			n++
		}
	}
	return n
}

func TestExitCode(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-no-such-flag")
	cmd.Env = append(os.Environ(), "CAUSEWAY_LAB_STAGE=")
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 2 {
		t.Errorf("Run = %v, want exit status 2", err)
	}
}

func TestWait(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	why, last := errors.New("why"), errors.New("last")
	n := 0
	err := wait.For(ctx, func() (bool, error) {
		if n++; n == 3 {
			cancel(why)
		}
		return false, last
	})
	if !errors.Is(err, why) || !errors.Is(err, last) {
		t.Errorf("Wait = %v, want why and last", err)
	}
}
