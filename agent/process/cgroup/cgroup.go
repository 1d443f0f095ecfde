// Package cgroup holds processes to their limits of memory and tasks, each in a
// control group of its own, on hosts where no systemd does.
//
//	version 2   ROOT/causeway/GROUP/NAME
//	version 1   ROOT/memory/causeway/GROUP/NAME and ROOT/pids/causeway/GROUP/NAME
//
// The files are those of the kernel's Documentation/admin-guide/cgroup-v2.rst
// and cgroup-v1/{memory,pids}.rst. No library: containerd/cgroups v3 knows no
// pids.events, of which a task that was refused is told, and is ten modules.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/causeway-project/causeway/agent/process"
)

// DefaultRoot is where every distribution mounts control groups.
const DefaultRoot = "/sys/fs/cgroup"

// parent of all groups of ours.
const parent = "causeway"

// A Tree is the part of a host's control groups that is ours. It implements
// process.Groups. Its zero value limits nothing.
type Tree struct {
	controllers []controller
	missing     []string
}

// A controller limits one thing.
type controller struct {
	name  string // of the controller
	dir   string // our part of its hierarchy
	limit string // file of the limit
	event string // file with the counter
	key   string // of the counter
}

// New finds out what the control groups at root can limit, and makes our part
// of them. That they cannot is no error, see Missing.
func New(root string) *Tree {
	t := &Tree{}
	found, two := controllers(root)
	for _, c := range found {
		var err error
		if two {
			err = c.enable()
		} else if !exists(filepath.Join(c.dir, "cgroup.procs")) {
			err = errors.New("its controller is not there")
		}
		c.dir = filepath.Join(c.dir, parent)
		if err == nil {
			err = mkdir(c.dir)
		}
		if err == nil && two {
			err = c.enable()
		}
		if err != nil {
			t.missing = append(t.missing, fmt.Sprintf("%s: %v", c.name, err))
			continue
		}
		t.controllers = append(t.controllers, c)
	}
	return t
}

// controllers at root, and whether they are those of version 2.
func controllers(root string) ([]controller, bool) {
	all := []controller{
		{name: "memory", limit: "memory.max", event: "memory.events", key: "oom_kill", dir: root},
		{name: "pids", limit: "pids.max", event: "pids.events", key: "max", dir: root},
	}
	if exists(filepath.Join(root, "cgroup.controllers")) {
		return all, true
	}
	for i, c := range all {
		all[i].dir = filepath.Join(root, c.name)
	}
	all[0].limit, all[0].event = "memory.limit_in_bytes", "memory.oom_control"
	return all, false
}

// Used tells whether there are groups of ours, or were since the host started.
func Used(root string) bool {
	all, _ := controllers(root)
	return slices.ContainsFunc(all, func(c controller) bool { return exists(filepath.Join(c.dir, parent)) })
}

// Missing says of each limit that cannot be set why.
func (t *Tree) Missing() []string { return slices.Clone(t.missing) }

// enable lets the children of dir be limited (version 2). The kernel refuses
// it with EBUSY where processes are in dir itself and it is not the root.
func (c controller) enable() error {
	if have, err := os.ReadFile(filepath.Join(c.dir, "cgroup.controllers")); err != nil {
		return err
	} else if !slices.Contains(strings.Fields(string(have)), c.name) {
		return fmt.Errorf("its controller is not there, %s has %q", c.dir, strings.TrimSpace(string(have)))
	}
	return write(filepath.Join(c.dir, "cgroup.subtree_control"), "+"+c.name)
}

// Enter implements process.Groups.
func (t *Tree) Enter(s process.Spec, pid int) error {
	if err := check(s.Name); err != nil {
		return err
	}
	if err := t.enter(s, pid); err != nil {
		return fmt.Errorf("control group of %s: %w", s.Name.Own, err)
	}
	return nil
}

func (t *Tree) enter(s process.Spec, pid int) error {
	// Anew, so that its counters are this process's.
	if err := t.Remove(s.Name); err != nil && !errors.Is(err, errInUse) {
		return err
	}
	limits := map[string]uint64{"memory": s.Limits.Memory, "pids": s.Limits.Tasks}
	for _, c := range t.controllers {
		group := filepath.Join(c.dir, s.Name.Group)
		if err := mkdir(group); err != nil {
			return err
		}
		if exists(filepath.Join(group, "cgroup.controllers")) {
			if err := (controller{name: c.name, dir: group}).enable(); err != nil {
				return err
			}
		}
		dir := filepath.Join(group, s.Name.Own)
		if err := mkdir(dir); err != nil {
			return err
		}
		if n := limits[c.name]; n > 0 {
			if err := write(filepath.Join(dir, c.limit), strconv.FormatUint(n, 10)); err != nil {
				return err
			}
		}
	}
	for _, dir := range t.dirs(s.Name) {
		if err := write(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(pid)); err != nil {
			return err
		}
	}
	return nil
}

// dirs of a process: one in version 2, one for each controller in version 1.
func (t *Tree) dirs(n process.Name) []string {
	var dirs []string
	for _, c := range t.controllers {
		dirs = append(dirs, filepath.Join(c.dir, n.Group, n.Own))
	}
	return slices.Compact(dirs)
}

// Hits implements process.Groups.
func (t *Tree) Hits(n process.Name) (process.Hits, error) {
	if err := check(n); err != nil {
		return process.Hits{}, err
	}
	return hits(t.controllers, filepath.Join(n.Group, n.Own))
}

// Read returns the counters of another's group, by its path below the
// hierarchies at root. Not there is none.
func Read(root, group string) (process.Hits, error) {
	all, _ := controllers(root)
	return hits(all, group)
}

func hits(all []controller, group string) (process.Hits, error) {
	var h process.Hits
	for _, c := range all {
		count, err := counter(filepath.Join(c.dir, group, c.event), c.key)
		if err != nil {
			return process.Hits{}, err
		}
		if c.name == "memory" {
			h.Memory = count
		} else {
			h.Tasks = count
		}
	}
	return h, nil
}

// counter reads a line "key 3"; no such file, or line, is 0.
func counter(file, key string) (uint64, error) {
	text, err := os.ReadFile(file)
	if gone(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == key {
			n, err := strconv.ParseUint(f[1], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read %s: %w", file, err)
			}
			return n, nil
		}
	}
	return 0, nil
}

// errInUse: processes are in a group.
var errInUse = errors.New("processes are in it")

// Remove implements process.Groups. A process that ended an instant ago may
// still be in the group, so the kernel is asked for a moment.
func (t *Tree) Remove(n process.Name) error {
	if err := check(n); err != nil {
		return err
	}
	for _, dir := range t.dirs(n) {
		for deadline := time.Now().Add(100 * time.Millisecond); ; time.Sleep(time.Millisecond) {
			err := os.Remove(dir)
			if err == nil || gone(err) {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("remove %s: %w: %w", dir, errInUse, err)
			}
		}
	}
	return nil
}

func check(n process.Name) error {
	for _, part := range []string{n.Group, n.Own} {
		if part == "" || part == "." || part == ".." || strings.ContainsAny(part, "/\x00\n") {
			return fmt.Errorf("name %q: not that of a directory", part)
		}
	}
	return nil
}

// gone: not there, or removed while it was read.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func mkdir(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// write in one write(2), as the kernel wants it, to a file that is there.
func write(file, text string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}
