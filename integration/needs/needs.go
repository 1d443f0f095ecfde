// Package needs ends tests that this machine cannot run. They are skipped, but on
// CI they fail: it has all that 'make deps' brings.
package needs

import (
	"errors"
	"os"
	"os/exec"
	"testing"
)

// OnCI says whether what is missing is an error.
func OnCI() bool { return os.Getenv("CI") == "true" }

// Met ends the test where err says what is missing.
func Met(t testing.TB, err error) {
	t.Helper()
	switch {
	case err == nil:
	case OnCI():
		t.Fatalf("%v: make deps", err)
	default:
		t.Skipf("%v: make deps", err)
	}
}

// Root ends the test of another user.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Met(t, errors.New("needs root"))
	}
}

// Programs ends the test where one of them is not in PATH.
func Programs(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		_, err := exec.LookPath(name)
		Met(t, err)
	}
}
