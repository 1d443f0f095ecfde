// Package usage tells what processes take of what they may: open files and
// memory, from /proc (proc(5)).
package usage

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrEnded says that there is no such process.
var ErrEnded = errors.New("process has ended")

// A Process is what one takes, with its children: a virtiofsd in a sandbox is
// two processes, and the inner has the files.
type Process struct {
	Files    uint64 // open in the one with most
	MaxFiles uint64 // that it may have open
	Memory   uint64 // bytes of their own: anonymous, resident
	Group    Group
}

// A Group is the memory of the control group that a process is in.
type Group struct {
	Memory    uint64 // bytes, without those that the kernel gives up first; 0 where nobody counts
	MaxMemory uint64 // 0 is no limit
}

// Of looks at one process and its children: ErrEnded.
func Of(pid int) (Process, error) {
	p := Process{MaxFiles: 1}
	if err := p.add(pid, 0); err != nil {
		return Process{}, fmt.Errorf("look at process %d: %w", pid, err)
	}
	groups, err := os.ReadFile(proc(pid, "cgroup"))
	if err != nil {
		return Process{}, fmt.Errorf("look at process %d: %w", pid, ended(err))
	}
	p.Group = groupOf(string(groups))
	return p, nil
}

func proc(pid int, name string) string { return filepath.Join("/proc", strconv.Itoa(pid), name) }

// maxDepth of children. A keeper's virtiofsd is in the third place.
const maxDepth = 4

func (p *Process) add(pid, depth int) error {
	files, err := countFiles(proc(pid, "fd"))
	if err != nil {
		return err
	}
	var limit unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &limit); err != nil {
		return ended(os.NewSyscallError("prlimit", err))
	}
	if most := max(limit.Cur, 1); float64(files)/float64(most) >= float64(p.Files)/float64(p.MaxFiles) {
		p.Files, p.MaxFiles = files, most
	}
	status, err := os.ReadFile(proc(pid, "status"))
	if err != nil {
		return ended(err)
	}
	p.Memory += field(status, "RssAnon:") << 10
	if depth == maxDepth {
		return nil
	}
	// Those that any of its threads has started.
	threads, err := os.ReadDir(proc(pid, "task"))
	if err != nil {
		return ended(err)
	}
	for _, t := range threads {
		children, err := os.ReadFile(proc(pid, filepath.Join("task", t.Name(), "children")))
		if err != nil {
			continue // the thread has ended
		}
		for _, child := range strings.Fields(string(children)) {
			if n, err := strconv.Atoi(child); err == nil {
				if err := p.add(n, depth+1); err != nil && !errors.Is(err, ErrEnded) {
					return err
				}
			}
		}
	}
	return nil
}

// countFiles counts the entries of /proc/PID/fd. Since Linux 6.2 stat(2) says
// it in the size, in constant time; before that the size is 0.
func countFiles(dir string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return 0, ended(&os.PathError{Op: "stat", Path: dir, Err: err})
	}
	if st.Size > 0 {
		return uint64(st.Size), nil
	}
	return list(dir)
}

func list(dir string) (uint64, error) {
	f, err := os.Open(dir)
	if err != nil {
		return 0, ended(err)
	}
	defer f.Close()
	var n uint64
	for {
		names, err := f.Readdirnames(4096)
		n += uint64(len(names))
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return 0, ended(err)
		}
	}
}

// ended marks the errors of a process that is no more.
func ended(err error) error {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("%w: %w", ErrEnded, err)
	}
	return err
}

// field reads a number off a line of /proc/PID/status; 0 where there is none,
// as of a zombie.
func field(text []byte, name string) uint64 {
	for line := range bytes.Lines(text) {
		if rest, ok := bytes.CutPrefix(line, []byte(name)); ok {
			f := strings.Fields(string(rest))
			if len(f) == 0 {
				return 0
			}
			n, err := strconv.ParseUint(f[0], 10, 64)
			if err != nil {
				return 0
			}
			return n
		}
	}
	return 0
}

// Where control groups are mounted (systemd's file-hierarchy(7)).
const groupRoot = "/sys/fs/cgroup"

// groupOf finds the memory in the lines of /proc/PID/cgroup (cgroups(7)). The
// root group has no limit, and is nobody's own.
func groupOf(lines string) Group {
	for line := range strings.Lines(lines) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 || parts[2] == "/" {
			continue
		}
		switch {
		case parts[0] == "0" && parts[1] == "":
			if g, ok := readGroup(filepath.Join(groupRoot, parts[2]), version2); ok {
				return g
			}
		case strings.Contains(","+parts[1]+",", ",memory,"):
			if g, ok := readGroup(filepath.Join(groupRoot, "memory", parts[2]), version1); ok {
				return g
			}
		}
	}
	return Group{}
}

// A version of control groups has names of its own.
type version struct {
	now, most string
	freed     []string // of memory.stat: what the kernel gives up before it kills
}

var (
	version1 = version{"memory.usage_in_bytes", "memory.limit_in_bytes", []string{"total_active_file ", "total_inactive_file "}}
	version2 = version{"memory.current", "memory.max", []string{"active_file ", "inactive_file ", "slab_reclaimable "}}
)

// noLimit is what version 1 shows where there is none, or more: the largest
// multiple of a page.
const noLimit = 1 << 60

func readGroup(dir string, v version) (Group, bool) {
	used, err := number(filepath.Join(dir, v.now))
	if err != nil {
		return Group{}, false
	}
	limit, err := number(filepath.Join(dir, v.most)) // "max" is no number
	if err != nil || limit >= noLimit {
		limit = 0
	}
	stat, err := os.ReadFile(filepath.Join(dir, "memory.stat"))
	if err != nil {
		return Group{Memory: used, MaxMemory: limit}, true
	}
	for _, name := range v.freed {
		used -= min(used, field(stat, name))
	}
	return Group{Memory: used, MaxMemory: limit}, true
}

// A Host is what bounds the open files of processes on this machine.
type Host struct {
	Own  uint64 // hard limit of this process, which it may pass on
	Each uint64 // the most that any process may have: fs.nr_open
	All  uint64 // the most of all processes: fs.file-max
	Open uint64 // of all processes, now
}

// OfHost looks at this machine.
func OfHost() (Host, error) {
	var h Host
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return h, os.NewSyscallError("getrlimit", err)
	}
	h.Own = limit.Max
	var err error
	if h.Each, err = number("/proc/sys/fs/nr_open"); err != nil {
		return h, err
	}
	f, err := os.Open("/proc/sys/fs/file-nr")
	if err != nil {
		return h, err
	}
	defer f.Close()
	var unused uint64
	if _, err := fmt.Fscan(bufio.NewReader(f), &h.Open, &unused, &h.All); err != nil {
		return h, fmt.Errorf("read fs.file-nr: %w", err)
	}
	return h, nil
}

func number(file string) (uint64, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
}
