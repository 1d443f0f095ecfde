// Package drivertest is the contract of drivers as a test suite, and a fake
// driver that fails on order.
package drivertest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// inNamespace marks the process that Main has started, and its children.
const inNamespace = "CAUSEWAY_TEST_MOUNT_NAMESPACE"

// Main runs the tests in a private mount namespace, so that no mount of theirs
// is seen outside or outlives them. Use it in TestMain:
//
//	func TestMain(m *testing.M) { os.Exit(drivertest.Main(m)) }
//
// Without root it runs them as they are; see NeedRoot.
func Main(m *testing.M) int {
	if os.Geteuid() != 0 || os.Getenv(inNamespace) != "" {
		return m.Run()
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	// syscall makes the whole tree private after such an unshare.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "run tests in a mount namespace:", err)
		return 1
	}
	return 0
}

// NeedRoot ends a test that cannot run without root: it fails on CI, where
// root is at hand, and skips elsewhere. It also fails where Main was not used.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root")
		}
		t.Skip("needs root: it mounts")
	}
	if os.Getenv(inNamespace) == "" {
		t.Fatal("needs a mount namespace of its own: call drivertest.Main in TestMain")
	}
}
