package lab

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/integration/wait"
)

//go:embed systemd.sh
var systemdScript string

// A Systemd is a real one, process 1 of namespaces of its own over a
// throw-away copy of this machine's root. It shares the network, the lab's
// directory, where programs and pools are, and nothing else: /run, /etc and
// process ids are its own.
type Systemd struct {
	PID int // of process 1

	d *daemon
}

// groupsOf systemds, below which each has one; see systemd.sh.
const groupsOf = "causeway-lab"

// StartSystemd boots one, which takes about a second.
func StartSystemd(ctx context.Context) (*Systemd, error) {
	if err := SystemdReady(); err != nil {
		return nil, err
	}
	home, err := TempDir()
	if err != nil {
		return nil, err
	}
	if err := removeGroups(); err != nil { // that a killed test left
		return nil, err
	}
	group := filepath.Join(groupsOf, filepath.Base(os.Getenv(dirVariable))+"-"+filepath.Base(home))
	argv := []string{"unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child",
		"bash", "-c", systemdScript, "systemd.sh", group, os.Getenv(dirVariable)}
	d, err := startDaemon(filepath.Join(home, "systemd.log"), nil, argv...)
	if err != nil {
		return nil, err
	}
	s := &Systemd{d: d}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err = d.until(ctx, func() (bool, error) {
		if s.PID = child(d.cmd.Process.Pid); s.PID == 0 {
			return false, errors.New("no process 1 yet")
		}
		if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", s.PID)); err != nil || string(name) != "systemd\n" {
			return false, fmt.Errorf("process 1 is %q, %v", name, err)
		}
		out, err := s.Command(ctx, "systemctl", "is-system-running").CombinedOutput()
		state := strings.TrimSpace(string(out))
		if state != "running" {
			return false, fmt.Errorf("systemd is %q: %w", state, err)
		}
		return true, nil
	})
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// child of a process that has one.
func child(pid int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return n
}

// Command runs there.
func (s *Systemd) Command(ctx context.Context, argv ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"-t", strconv.Itoa(s.PID), "-m", "-p", "-C", "-u", "-i", "--"}, argv...)...)
	cmd.WaitDelay = time.Second
	return cmd
}

// Run runs there and returns what was printed, which is in the error too.
func (s *Systemd) Run(ctx context.Context, argv ...string) (string, error) {
	out, err := s.Command(ctx, argv...).CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		return text, fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, text)
	}
	return text, nil
}

// Path of a file there, as this program reaches it.
func (s *Systemd) Path(path string) string { return fmt.Sprintf("/proc/%d/root%s", s.PID, path) }

// Close kills it with all that it runs, and removes its control groups.
func (s *Systemd) Close() error {
	if s.PID > 0 {
		if err := syscall.Kill(s.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	err := s.d.kill()
	// Process 1 is gone when all others there are.
	ctx, cancel := context.WithTimeout(context.Background(), wait.Long)
	defer cancel()
	err = errors.Join(err, wait.For(ctx, func() (bool, error) {
		err := syscall.Kill(s.PID, 0)
		return s.PID == 0 || errors.Is(err, syscall.ESRCH), err
	}))
	return errors.Join(err, removeGroups())
}

// removeGroups removes the control groups of systemds that have ended. Those in
// use cannot be removed, and are kept.
func removeGroups() error {
	dir, err := TempDir()
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(dir) }()
	hierarchies, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(hierarchies)) {
		_, rest, _ := strings.Cut(line, ":")
		kind, _, _ := strings.Cut(rest, ":")
		fstype := "cgroup"
		switch {
		case kind == "":
			fstype = "cgroup2"
		case strings.HasPrefix(kind, "name="):
			kind = "none," + kind
		}
		if err := unix.Mount("cgroup", dir, fstype, 0, kind); err != nil {
			return fmt.Errorf("mount control groups %q: %w", kind, err)
		}
		removeEmpty(filepath.Join(dir, groupsOf))
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			return err
		}
	}
	return nil
}

// removeEmpty removes a group and those below it, as far as nobody is in them.
func removeEmpty(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // somebody else removed it
	}
	for _, e := range entries {
		if e.IsDir() {
			removeEmpty(filepath.Join(dir, e.Name()))
		}
	}
	_ = os.Remove(dir)
}

// SystemdReady says what this machine lacks for StartSystemd, or nil.
func SystemdReady() error {
	if os.Geteuid() != 0 {
		return errors.New("needs root, for namespaces and mounts")
	}
	missing := []error{find("unshare"), find("nsenter")}
	for _, file := range []string{"/lib/systemd/systemd", "/lib/systemd/system/dbus.socket"} {
		_, err := os.Stat(file)
		missing = append(missing, err)
	}
	return errors.Join(missing...)
}
