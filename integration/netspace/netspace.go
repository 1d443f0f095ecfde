// Package netspace does things in network namespaces.
package netspace

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Do runs f in the namespace at path, or where the caller is if that is empty.
// Sockets that f makes belong to the namespace for good.
//
// The thread goes back afterwards, and ends only where it cannot: with a thread
// end all processes that it started to live no longer than their parent
// (Pdeathsig).
func Do(path string, f func() error) error {
	if path == "" {
		return f()
	}
	ended := make(chan error)
	go func() { ended <- do(path, f) }()
	return <-ended
}

func do(path string, f func() error) error {
	there, err := os.Open(path)
	if err != nil {
		return err
	}
	defer there.Close()
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter %s: %w", path, err)
	}
	err = f()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, fmt.Errorf("leave %s: %w", path, back))
	}
	runtime.UnlockOSThread()
	return err
}
