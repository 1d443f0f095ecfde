package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const identityFile = "identity"

// readIdentity returns the identity that a launcher left in dir, and whether
// that launcher has yet to become the program. Where there is none, or one
// that no launcher wrote, the identity is zero and names no process.
func readIdentity(dir string) (id Identity, launching bool, err error) {
	f, err := os.Open(filepath.Join(dir, identityFile))
	if errors.Is(err, os.ErrNotExist) {
		return Identity{}, false, nil
	}
	if err != nil {
		return Identity{}, false, err
	}
	defer f.Close()
	// The launcher holds this lock from before the file has its name until exec.
	free, err := free(f)
	if err != nil {
		return Identity{}, false, err
	}
	if err := json.NewDecoder(f).Decode(&id); err != nil || id.PID <= 0 {
		return Identity{}, false, nil
	}
	return id, !free, nil
}

// writeIdentity makes id the identity of dir, at once and whole. The file that
// it returns is locked until it is closed.
func writeIdentity(dir string, id Identity) (*os.File, error) {
	text, err := json.Marshal(id)
	if err != nil {
		return nil, err
	}
	// The lock of dir is ours, so is this name.
	name := filepath.Join(dir, identityFile)
	if err := os.Remove(name + ".new"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	f, err := os.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, err
	}
	if _, err := f.Write(text); err != nil {
		return nil, err
	}
	return f, os.Rename(name+".new", name)
}

// identify returns the identity of the running process pid.
func identify(pid int) (Identity, error) {
	boot, err := bootID()
	if err != nil {
		return Identity{}, err
	}
	s, err := readStat(pid)
	if err != nil {
		return Identity{}, err
	}
	return Identity{BootID: boot, PID: pid, Start: s.start}, nil
}

// running tells whether the process lives. A zombie does not: who reaps it,
// and when, is not in our hands.
func (id Identity) running() (bool, error) {
	if id.PID <= 0 {
		return false, nil
	}
	s, err := readStat(id.PID)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if s.start != id.Start || s.state == 'Z' || s.state == 'X' {
		return false, nil
	}
	boot, err := bootID()
	if err != nil {
		return false, err
	}
	return boot == id.BootID, nil
}

// ownPID is this process's number where /proc is from: in a process namespace
// of its own, os.Getpid returns 1.
func ownPID() (int, error) {
	to, err := os.Readlink("/proc/self")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(to)
}

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}

// stat is what we use of /proc/PID/stat, see proc_pid_stat(5).
type stat struct {
	state   byte
	parent  int
	session int
	start   uint64
}

func readStat(pid int) (stat, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return stat{}, err
	}
	s, err := parseStat(string(b))
	if err != nil {
		return stat{}, fmt.Errorf("status of process %d: %w", pid, err)
	}
	return s, nil
}

func parseStat(line string) (stat, error) {
	// The second field is the program's name in parentheses, and may itself
	// hold spaces and parentheses; no later field does.
	end := strings.LastIndexByte(line, ')')
	if end < 0 {
		return stat{}, fmt.Errorf("no name in %q", line)
	}
	f := strings.Fields(line[end+1:]) // from field 3 on
	if len(f) < 20 {
		return stat{}, fmt.Errorf("%d fields after the name, want 20", len(f))
	}
	parent, err := strconv.Atoi(f[4-3])
	if err != nil {
		return stat{}, err
	}
	session, err := strconv.Atoi(f[6-3])
	if err != nil {
		return stat{}, err
	}
	start, err := strconv.ParseUint(f[22-3], 10, 64)
	if err != nil {
		return stat{}, err
	}
	return stat{state: f[0][0], parent: parent, session: session, start: start}, nil
}
