package virtiofs

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A Holder is a process in a guest that uses a mount.
type Holder struct {
	PID     int64
	Command string // the guest's word, bounded and printable
}

// A HeldError is ErrGuestBusy with those who keep the mount busy, as far as the
// guest agent can see them: not those in containers with mounts of their own.
type HeldError struct {
	Holders []Holder
	Err     error
}

func (e *HeldError) Error() string {
	var words []string
	for _, h := range e.Holders {
		words = append(words, fmt.Sprintf("%d (%s)", h.PID, h.Command))
	}
	return fmt.Sprintf("%v: in use by %s", e.Err, strings.Join(words, ", "))
}

func (e *HeldError) Unwrap() error { return e.Err }

// Bounds of what a guest may make us read and show.
const (
	maxHolders = 16
	maxCommand = 40 // bytes; the kernel's own names have 15
)

// findHolders prints the names of the links in /proc that lead below the path,
// "/proc/412/cwd -> /mnt/docs". It needs nothing that a guest may not have, and
// starts few processes, since guests may be slow. Files that are only mapped
// are not seen.
const findHolders = `ls -ld /proc/[0-9]*/cwd /proc/[0-9]*/root /proc/[0-9]*/exe /proc/[0-9]*/fd/* 2>/dev/null |
	grep -F -e " -> $1" | sed 's/^.* \(\/proc\/[0-9]\)/\1/' | head -n 400`

// held adds to a refusal to unmount who it is because of, where the guest tells.
func (s *session) held(ctx context.Context, path string, refused error) error {
	// The guest says why in its own language only; nearly always it is EBUSY.
	busy := fmt.Errorf("%w: %w", ErrGuestBusy, refused)
	links, err := s.exec(ctx, "sh", "-c", findHolders, "sh", path)
	if err != nil {
		return busy
	}
	pids := parseHolders(links, path)
	if len(pids) == 0 {
		return busy
	}
	args := []string{"-s", ""} // of those that have ended meanwhile it says nothing
	for _, pid := range pids {
		args = append(args, fmt.Sprintf("/proc/%d/comm", pid))
	}
	// With one file grep leaves its name out.
	names, _ := s.exec(ctx, "grep", append(args, "/dev/null")...)
	commands := parseCommands(names)
	held := &HeldError{Err: busy}
	for _, pid := range pids {
		held.Holders = append(held.Holders, Holder{pid, cmp.Or(commands[pid], "?")})
	}
	return held
}

// parseHolders finds the processes in what findHolders prints.
func parseHolders(links, path string) []int64 {
	var pids []int64
	for line := range strings.Lines(links) {
		name, target, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " -> ")
		if !ok || target != path && !strings.HasPrefix(target, path+"/") && target != path+" (deleted)" {
			continue
		}
		if pid := pidOf(name); pid > 0 && !slices.Contains(pids, pid) {
			pids = append(pids, pid)
		}
		if len(pids) == maxHolders {
			break
		}
	}
	slices.Sort(pids)
	return pids
}

// parseCommands reads lines like "/proc/412/comm:bash".
func parseCommands(names string) map[int64]string {
	commands := map[int64]string{}
	for line := range strings.Lines(names) {
		file, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		if pid := pidOf(file); ok && pid > 0 && commands[pid] == "" {
			commands[pid] = printable(name)
		}
	}
	return commands
}

// pidOf is the process whose directory in /proc a path leads through; 0 for others.
func pidOf(path string) int64 {
	rest, ok := strings.CutPrefix(path, "/proc/")
	number, _, _ := strings.Cut(rest, "/")
	pid, err := strconv.ParseInt(number, 10, 32)
	if !ok || err != nil || pid <= 0 {
		return 0
	}
	return pid
}

// printable bounds a guest's word and makes it harmless to a terminal.
func printable(s string) string {
	if len(s) > maxCommand {
		s = s[:maxCommand]
	}
	quoted := fmt.Sprintf("%+q", s)
	return quoted[1 : len(quoted)-1]
}
