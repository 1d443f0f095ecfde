package virtiofs

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"
	"unicode/utf8"
)

// A GuestMount is a mount in a guest.
type GuestMount struct {
	Instance string // UUID
	Tag      string
	Path     string // absolute, without "." and ".."; of an unmount, empty: wherever it is
	ReadOnly bool   // for show: what enforces it is the share's own mount on the host
	Lazy     bool   // of an unmount: also while it is in use, whose users then keep what they have open
}

// ValidateGuestPath says why a path in a guest cannot be mounted on.
func ValidateGuestPath(p string) error {
	switch {
	case !path.IsAbs(p) || path.Clean(p) != p || p == "/":
		return fmt.Errorf("guest path %q: want an absolute path below / without dot elements", p)
	case len(p) > 4095:
		return fmt.Errorf("guest path: it has %d bytes, and Linux allows 4095", len(p))
	case !utf8.ValidString(p) || strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return fmt.Errorf("guest path %q: want UTF-8 without control characters", p)
	}
	return nil
}

func (g GuestMount) validate() error {
	if err := ValidateTag(g.Tag); err != nil {
		return err
	}
	return ValidateGuestPath(g.Path)
}

const (
	// mountPatience is how long a guest may take to find a device that QEMU has
	// plugged in. mount(8) says of a tag that is not there yet what it says of
	// one that never will be.
	mountPatience = 20 * time.Second
	minRetry      = 20 * time.Millisecond
	maxRetry      = time.Second
	// maxMounts of one tag are taken off by one unmount.
	maxMounts = 16
)

// GuestMount mounts the tag at the path through the guest agent, making the
// directory, and trying again until the guest sees the device. Already mounted
// there is success, if it answers: a mount whose daemon has died is taken off.
//
// Errors: ErrGuestAgent; ErrGuestForbids where the agent may not run programs;
// ErrGuestRefused with the guest's words, also where something else is mounted
// there; ErrNoInstance, ErrInstanceOff,
// ErrUnavailable. What runs in the guest when ctx ends goes on; the same call
// again finds what it did.
func (h *Host) GuestMount(ctx context.Context, g GuestMount) error {
	if err := h.guestMount(ctx, g); err != nil {
		return fmt.Errorf("mount %s at %q in instance %s: %w", g.Tag, g.Path, g.Instance, err)
	}
	return nil
}

func (h *Host) guestMount(ctx context.Context, g GuestMount) error {
	if err := g.validate(); err != nil {
		return err
	}
	s := h.guest(g.Instance)
	options := "nosuid,nodev"
	if g.ReadOnly {
		options += ",ro"
	}
	deadline := time.Now().Add(mountPatience)
	for wait := minRetry; ; wait = min(2*wait, maxRetry) {
		err := s.do(ctx, "sh", "-c", mountPlainly, "sh", g.Tag, g.Path, options)
		if err != nil && ctx.Err() == nil && !mountsOwn(err) {
			done, again := s.prepare(ctx, g)
			if again != nil || done {
				return again
			}
			err = s.do(ctx, "mount", "-t", "virtiofs", "-o", options, "--", g.Tag, g.Path)
		}
		if err == nil {
			return nil
		}
		if !errors.Is(err, ErrGuestRefused) || errors.Is(err, errNonsense) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", err, context.Cause(ctx))
		}
	}
}

// mountPlainly mounts the tag $1 at $2 with the options $3 where nothing is in
// the way, with as few processes as can be: guests may be slow. A guest that
// does not see the device yet often does an instant later. Nothing is mounted
// over what is mounted there; what the table would write with escapes is left
// to the one who can read them.
const mountPlainly = `cd -P -- "$2" 2>/dev/null || { mkdir -p -- "$2" && cd -P -- "$2"; } || exit 100
case $PWD in *[!A-Za-z0-9/._-]*) exit 100 ;; esac
[ -r /proc/self/mounts ] || exit 100
while read -r source target rest; do
	[ "$target" = "$PWD" ] && exit 100
done </proc/self/mounts
for try in 1 2 3 4; do mount -t virtiofs -o "$3" -- "$1" "$2" 2>/dev/null && exit; done
exec mount -t virtiofs -o "$3" -- "$1" "$2"`

// notPlain is its exit code where something is in the way.
const notPlain = 100

// mountsOwn says whether mountPlainly came as far as mount(8).
func mountsOwn(err error) bool {
	var exit *exitError
	return errors.As(err, &exit) && exit.code != notPlain
}

// prepare makes the directory, unless the tag is mounted there already.
func (s *session) prepare(ctx context.Context, g GuestMount) (mounted bool, err error) {
	at, err := s.mounted(ctx, g.Path)
	if err != nil {
		return false, err
	}
	switch {
	case at == nil:
	case !at.is(g.Tag):
		return false, fmt.Errorf("%w: %.100q of type %.100q is mounted there", ErrGuestRefused, at.source, at.kind)
	default:
		// df(1) asks the daemon; stat(1) might be answered from the guest's cache.
		err := s.do(ctx, "df", g.Path)
		if err == nil || errors.Is(err, ErrGuestForbids) {
			return true, nil
		}
		if !errors.Is(err, ErrGuestRefused) || ctx.Err() != nil {
			return false, err
		}
		// Lazily: who still holds the dead mount gets ENOTCONN from it whatever
		// we do, and must not keep the path from coming back.
		if err := s.do(ctx, "umount", "-l", at.path); err != nil {
			return false, err
		}
	}
	return false, s.do(ctx, "mkdir", "-p", g.Path)
}

// GuestMounted asks the guest whether the tag is mounted at the path: two or
// three short questions, and nothing is changed. Errors as of GuestMount.
func (h *Host) GuestMounted(ctx context.Context, g GuestMount) (bool, error) {
	mounted, err := h.guestMounted(ctx, g)
	if err != nil {
		return false, fmt.Errorf("look for %s at %q in instance %s: %w", g.Tag, g.Path, g.Instance, err)
	}
	return mounted, nil
}

func (h *Host) guestMounted(ctx context.Context, g GuestMount) (bool, error) {
	if err := g.validate(); err != nil {
		return false, err
	}
	s := h.guest(g.Instance)
	at, err := s.mounted(ctx, g.Path)
	return at != nil && at.is(g.Tag), err
}

// GuestUnmount undoes GuestMount, but for the directory; with an empty Path,
// wherever the guest has the tag. Not mounted, or no such instance, or one that
// is off, is success. ErrGuestBusy with the guest's words where it is in use,
// as a HeldError where the guest tells by whom; ErrGuestAgent, ErrGuestForbids,
// ErrGuestRefused, ErrUnavailable.
func (h *Host) GuestUnmount(ctx context.Context, g GuestMount) error {
	err := h.guestUnmount(ctx, g)
	if err == nil || errors.Is(err, ErrNoInstance) || errors.Is(err, ErrInstanceOff) {
		return nil
	}
	return fmt.Errorf("unmount %s in instance %s: %w", g.Tag, g.Instance, err)
}

func (h *Host) guestUnmount(ctx context.Context, g GuestMount) error {
	if err := ValidateTag(g.Tag); err != nil {
		return err
	}
	if g.Path != "" {
		if err := g.validate(); err != nil {
			return err
		}
	}
	s := h.guest(g.Instance)
	refusals := map[string]error{}
	for range maxMounts {
		at, err := s.next(ctx, g)
		if err != nil || at == nil {
			return err
		}
		if refused := refusals[at.path]; refused != nil {
			return s.held(ctx, at.path, refused)
		}
		switch err := s.unmount(ctx, g, at.path); {
		case errors.Is(err, ErrGuestForbids):
			return fmt.Errorf("%w: it is mounted at %s: %w", ErrGuestBusy, quote(at.path), err)
		case errors.Is(err, ErrGuestRefused) && ctx.Err() == nil:
			refusals[at.path] = err // look whether it went all the same
		case err != nil:
			return err
		}
	}
	return fmt.Errorf("%w: it is mounted more than %d times", ErrGuestRefused, maxMounts)
}

func (s *session) unmount(ctx context.Context, g GuestMount, path string) error {
	if g.Lazy {
		return s.do(ctx, "umount", "-l", path)
	}
	return s.do(ctx, "umount", path)
}

// next finds the topmost mount of the tag, at the path where there is one. What
// the guest mounted over it counts not as ours.
func (s *session) next(ctx context.Context, g GuestMount) (*guestEntry, error) {
	if g.Path != "" {
		at, err := s.mounted(ctx, g.Path)
		if at != nil && !at.is(g.Tag) {
			at = nil
		}
		return at, err
	}
	table, err := s.table(ctx)
	if err != nil {
		return nil, err
	}
	var last *guestEntry
	for _, e := range parseTable(table) {
		if e.is(g.Tag) {
			last = &e
		}
	}
	return last, nil
}

// A guestEntry is one line of the guest's mount table.
type guestEntry struct{ source, path, kind string }

func (e *guestEntry) is(tag string) bool { return e.kind == "virtiofs" && e.source == tag }

// mounted returns what is mounted on top at a path, nil where nothing is.
func (s *session) mounted(ctx context.Context, p string) (*guestEntry, error) {
	table, err := s.table(ctx)
	if err != nil {
		return nil, err
	}
	if top := topMount(table, p); top != nil {
		return top, nil
	}
	// The table has paths without symbolic links.
	real, err := s.exec(ctx, "readlink", "-f", p)
	if (errors.Is(err, ErrGuestRefused) || errors.Is(err, ErrGuestForbids)) && ctx.Err() == nil {
		return nil, nil // some of it does not exist yet, or nobody can tell
	}
	if err != nil {
		return nil, err
	}
	return topMount(table, strings.TrimSuffix(real, "\n")), nil
}

// topMount finds the last mount on a path in a table like /proc/mounts.
func topMount(table, p string) *guestEntry {
	var top *guestEntry
	for _, e := range parseTable(table) {
		if e.path == p {
			top = &e
		}
	}
	return top
}

// parseTable reads a table like /proc/mounts.
func parseTable(table string) []guestEntry {
	var entries []guestEntry
	for line := range strings.Lines(table) {
		if f := strings.Fields(line); len(f) >= 3 {
			entries = append(entries, guestEntry{unescape(f[0]), unescape(f[1]), f[2]})
		}
	}
	return entries
}

// unescape undoes the kernel's mangle (fs/seq_file.c, mangle_path): what would
// break a line into wrong fields is a backslash and three octal digits.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && octal(s[i+1]) && octal(s[i+2]) && octal(s[i+3]) {
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func octal(c byte) bool { return '0' <= c && c <= '7' }
