package process

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// binaries are built at most once, by the tests that need them.
var binaries struct {
	dir            string
	plain, crashes sync.Once
	err            [2]error
}

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "as-program" {
		program(os.Args[2:])
		return
	}
	dir, err := os.MkdirTemp("", "process-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binaries.dir = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func build(name, tags string) error {
	cmd := exec.Command("go", "build", "-tags", tags, "-ldflags", "-s -w",
		"-o", filepath.Join(binaries.dir, name), "github.com/causeway-project/causeway/cmd/causeway-launch")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w: %s", err, out)
	}
	return nil
}

// starter returns a Starter with the real launcher.
func starter(t testing.TB) *Starter {
	t.Helper()
	needRoot(t)
	binaries.plain.Do(func() { binaries.err[0] = build("launch", "") })
	if binaries.err[0] != nil {
		t.Fatal(binaries.err[0])
	}
	return &Starter{Launcher: filepath.Join(binaries.dir, "launch")}
}

// crasher returns a Starter whose launcher dies where CAUSEWAY_CRASH_AT says.
func crasher(t testing.TB) *Starter {
	t.Helper()
	needRoot(t)
	binaries.crashes.Do(func() { binaries.err[1] = build("crash", "crashpoints") })
	if binaries.err[1] != nil {
		t.Fatal(binaries.err[1])
	}
	return &Starter{Launcher: filepath.Join(binaries.dir, "crash")}
}

func needRoot(t testing.TB) {
	t.Helper()
	switch {
	case os.Geteuid() == 0:
	case os.Getenv("CI") == "true":
		t.Fatal("needs root")
	default:
		t.Skip("needs root")
	}
}

// sleeper is a program that does nothing for longer than any test.
func sleeper(dir string) Spec {
	return Spec{Dir: dir, Path: "/bin/sleep", Args: []string{"1000"}}
}

// start starts spec and ends it with the test.
func start(t testing.TB, s *Starter, spec Spec) *Process {
	t.Helper()
	end(t, spec.Dir)
	p, err := s.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// end stops whatever runs in dir when the test is over.
func end(t testing.TB, dir string) {
	t.Cleanup(func() {
		p, err := Find(dir)
		if err != nil {
			t.Error(err)
		}
		if p == nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := p.Stop(ctx, 0); err != nil {
			t.Error(err)
		}
	})
}

// await polls until ok, or fails the test.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("not in 10 s: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// ends waits for the end of p.
func ends(t testing.TB, p *Process) {
	t.Helper()
	select {
	case <-p.Done():
	case <-time.After(10 * time.Second):
		t.Fatalf("process %d did not end in 10 s", p.id.PID)
	}
}
