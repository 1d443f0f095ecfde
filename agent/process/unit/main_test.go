package unit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/causeway-project/causeway/integration/lab"
	"github.com/causeway-project/causeway/integration/needs"
	"github.com/causeway-project/causeway/integration/programs"
)

// insideVariable names the launcher to the tests, which run in a world whose
// process 1 is systemd.
const insideVariable = "CAUSEWAY_TEST_LAUNCHER"

func TestMain(m *testing.M) {
	if os.Getenv(insideVariable) != "" {
		os.Exit(m.Run())
	}
	if err := lab.SystemdReady(); err != nil && !needs.OnCI() {
		fmt.Fprintln(os.Stderr, "most tests are skipped:", err)
		os.Exit(m.Run())
	}
	if code, inside := lab.Enter(); !inside {
		os.Exit(code)
	}
	code, err := underSystemd()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// underSystemd runs this program again in there.
func underSystemd() (code int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	dir, err := lab.TempDir()
	if err != nil {
		return 1, err
	}
	if err := programs.Build(ctx, programs.Options{Dir: dir, Packages: []string{"cmd/causeway-launch"}}); err != nil {
		return 1, err
	}
	s, err := lab.StartSystemd(ctx)
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	// The build's directory is not there, the lab's is.
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return 1, err
	}
	program := filepath.Join(dir, "tests")
	if err := os.WriteFile(program, self, 0o700); err != nil {
		return 1, err
	}
	args := slices.DeleteFunc(slices.Clone(os.Args), func(a string) bool { return strings.HasPrefix(a, "-test.testlogfile=") })
	args[0] = program
	cmd := s.Command(ctx, args...)
	cmd.Env = append(os.Environ(), insideVariable+"="+filepath.Join(dir, "causeway-launch"), "TMPDIR="+dir)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	err = cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	return 0, err
}
