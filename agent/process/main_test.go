package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/causeway-project/causeway/integration/needs"
	"github.com/causeway-project/causeway/integration/programs"
)

var (
	built   = programs.Built{Packages: []string{"cmd/causeway-launch"}}
	crashes = programs.Built{Packages: []string{"cmd/causeway-launch"}, Tags: "crashpoints"}
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "as-program" {
		program(os.Args[2:])
		return
	}
	code := m.Run()
	if err := errors.Join(built.Close(), crashes.Close()); err != nil {
		fmt.Fprintln(os.Stderr, "clean up:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// starter returns a Starter with the real launcher.
func starter(t testing.TB) *Starter {
	t.Helper()
	needs.Root(t)
	return &Starter{Launcher: built.Path(t, "causeway-launch")}
}

// crasher returns a Starter whose launcher dies where CAUSEWAY_CRASH_AT says.
func crasher(t testing.TB) *Starter {
	t.Helper()
	needs.Root(t)
	return &Starter{Launcher: crashes.Path(t, "causeway-launch")}
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
