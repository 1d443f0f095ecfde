package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The environment variable that tells a program how far inside it is.
const (
	stageVariable = "CAUSEWAY_LAB_STAGE"
	stageInit     = "init"
	stageInside   = "inside"
)

// dirVariable names the lab's directory to the programs inside.
const dirVariable = "CAUSEWAY_LAB_DIR"

// Main is for TestMain: it runs the tests inside, and returns the exit code.
//
//	func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }
//
// Where the machine lacks what the tests need, they are skipped, and on CI
// (environment CI=true) they fail.
func Main(m *testing.M) int {
	if os.Getenv(stageVariable) != stageInit {
		if err := Ready(); err != nil {
			if os.Getenv("CI") == "true" {
				fmt.Fprintln(os.Stderr, "lab:", err)
				return 1
			}
			fmt.Fprintln(os.Stderr, "lab: all tests skipped:", err)
			return 0
		}
	}
	if code, inside := Enter(); !inside {
		return code
	}
	return m.Run()
}

// Enter runs the whole program again inside, with the same arguments, and
// returns its exit code once it has ended there. In that second run it returns
// inside=true at once. It must be called before anything else is done.
func Enter() (code int, inside bool) {
	stage := os.Getenv(stageVariable)
	if stage == stageInside {
		return 0, true
	}
	self, err := os.Executable()
	if err != nil {
		return report(1, err), false
	}
	argv := append([]string{self}, os.Args[1:]...)
	if stage == stageInit {
		return report(initialise(argv)), false
	}
	return report(outside(argv)), false
}

// Run runs another program inside, and returns its exit code. The caller's
// program is run again, as process 1 there, and must come here again with the
// same argv. For a caller who is inside already, it only runs the program.
func Run(argv []string) int {
	switch os.Getenv(stageVariable) {
	case stageInit:
		return report(initialise(argv))
	case stageInside:
		path, err := exec.LookPath(argv[0])
		if err == nil {
			err = syscall.Exec(path, argv, os.Environ())
		}
		return report(1, err)
	}
	self, err := os.Executable()
	if err != nil {
		return report(1, err)
	}
	return report(outside(append([]string{self}, argv...)))
}

func report(code int, err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		return max(code, 1)
	}
	return code
}

// outside starts argv as process 1 of new namespaces, and returns when it, and
// with it every process and mount in there, has gone.
func outside(argv []string) (code int, err error) {
	if os.Geteuid() != 0 {
		return 1, errors.New("needs root, for namespaces, mounts and links")
	}
	dir, err := shortDir()
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	// It is the temporary directory of those inside, of other users too.
	if err := os.Chmod(dir, os.ModeSticky|0o777); err != nil {
		return 1, err
	}

	cmd := exec.Command(argv[0], argv[1:]...)
	// At the end of a program with the race detector comes a second's sleep.
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"), stageVariable+"="+stageInit, dirVariable+"="+dir, "TMPDIR="+dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID,
		// A terminal's interrupt comes to us alone, and is passed on once.
		Setpgid: true,
		// If we are killed, so is everything.
		Pdeathsig: syscall.SIGKILL,
	}
	// The signal of the parent's death is that of the thread which forked.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, passedOn()...)
	if err := cmd.Start(); err != nil {
		return 1, fmt.Errorf("make namespaces: %w", err)
	}
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case s := <-signals:
				_ = cmd.Process.Signal(s)
			case <-done:
				signal.Stop(signals)
				return
			}
		}
	}()
	err = cmd.Wait()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return exitCode(exit.Sys().(syscall.WaitStatus)), nil
	}
	return 0, err
}

// shortDir is os.MkdirTemp with five characters less: tests add their own to
// it, and the paths of sockets are limited to 107.
func shortDir() (string, error) {
	for {
		name := strconv.FormatUint(uint64(rand.Uint32()), 36)
		dir := filepath.Join(os.TempDir(), "cw"+name[:min(5, len(name))])
		if err := os.Mkdir(dir, 0o700); !errors.Is(err, fs.ErrExist) {
			return dir, err
		}
	}
}

func passedOn() []os.Signal {
	return []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2}
}

// exitCode as shells have it.
func exitCode(s syscall.WaitStatus) int {
	if s.Signaled() {
		return 128 + int(s.Signal())
	}
	return s.ExitStatus()
}

// initialise is process 1: it furnishes the namespaces, runs the program, and
// reaps whatever loses its parent. When it ends, the kernel kills the rest.
func initialise(argv []string) (code int, err error) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, passedOn()...)
	dir := os.Getenv(dirVariable)
	if err := furnish(dir); err != nil {
		return 1, fmt.Errorf("furnish the namespaces: %w", err)
	}
	if err := errors.Join(os.Setenv(stageVariable, stageInside), os.Setenv("PATH", searchPath())); err != nil {
		return 1, err
	}
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return 1, err
	}
	p, err := os.StartProcess(path, argv, &os.ProcAttr{
		Env:   os.Environ(),
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
	})
	if err != nil {
		return 1, err
	}
	go func() {
		for s := range signals {
			_ = p.Signal(s)
		}
	}()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 1, fmt.Errorf("wait: %w", err)
		case pid == p.Pid:
			return exitCode(status), nil
		}
	}
}

// searchPath with the directories of daemons, which a user's may lack.
func searchPath() string {
	path := os.Getenv("PATH")
	for _, dir := range []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"} {
		if !strings.Contains(":"+path+":", ":"+dir+":") {
			path += ":" + dir
		}
	}
	return path
}
