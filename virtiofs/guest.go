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
	Path     string // absolute, without "." and ".."
	ReadOnly bool   // for show: what enforces it is the share's own mount on the host
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
	// stacked mounts of one tag on one path that an unmount takes off.
	maxStacked = 4
)

// GuestMount mounts the tag at the path through the guest agent, making the
// directory, and trying again until the guest sees the device. Already mounted
// there is success, if it answers: a mount whose daemon has died is taken off.
//
// Errors: ErrGuestAgent; ErrGuestRefused with the guest's words, also where
// something else is mounted there; ErrNoInstance, ErrInstanceOff,
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
	s, err := h.guest(ctx, g.Instance)
	if err != nil {
		return err
	}
	options := "nosuid,nodev"
	if g.ReadOnly {
		options += ",ro"
	}
	deadline := time.Now().Add(mountPatience)
	for wait := minRetry; ; wait = min(2*wait, maxRetry) {
		done, err := s.prepare(ctx, g)
		if err != nil || done {
			return err
		}
		err = s.do(ctx, "mount", "-t", "virtiofs", "-o", options, "--", g.Tag, g.Path)
		if err == nil {
			return nil
		}
		if !errors.Is(err, ErrGuestRefused) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", err, context.Cause(ctx))
		}
	}
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
		if err == nil {
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

// GuestUnmount undoes GuestMount, but for the directory. Not mounted, or no
// such instance, or one that is off, is success. ErrGuestBusy with the guest's
// words where it is in use; ErrGuestAgent, ErrGuestRefused, ErrUnavailable.
func (h *Host) GuestUnmount(ctx context.Context, g GuestMount) error {
	err := h.guestUnmount(ctx, g)
	if err == nil || errors.Is(err, ErrNoInstance) || errors.Is(err, ErrInstanceOff) {
		return nil
	}
	return fmt.Errorf("unmount %s from %q in instance %s: %w", g.Tag, g.Path, g.Instance, err)
}

func (h *Host) guestUnmount(ctx context.Context, g GuestMount) error {
	if err := g.validate(); err != nil {
		return err
	}
	s, err := h.guest(ctx, g.Instance)
	if err != nil {
		return err
	}
	var refused error
	for range maxStacked {
		at, err := s.mounted(ctx, g.Path)
		if err != nil {
			return err
		}
		if at == nil || !at.is(g.Tag) {
			return nil
		}
		if refused != nil {
			// The guest says why in its own language only; nearly always it is EBUSY.
			return fmt.Errorf("%w: %w", ErrGuestBusy, refused)
		}
		if err := s.do(ctx, "umount", at.path); errors.Is(err, ErrGuestRefused) && ctx.Err() == nil {
			refused = err // look whether it went all the same
		} else if err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: it is mounted there more than %d times", ErrGuestRefused, maxStacked)
}

// A guestEntry is one line of the guest's mount table.
type guestEntry struct{ source, path, kind string }

func (e *guestEntry) is(tag string) bool { return e.kind == "virtiofs" && e.source == tag }

// mounted returns what is mounted on top at a path, nil where nothing is.
func (s *session) mounted(ctx context.Context, p string) (*guestEntry, error) {
	table, err := s.exec(ctx, "cat", "/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	if top := topMount(table, p); top != nil {
		return top, nil
	}
	// The table has paths without symbolic links.
	real, err := s.exec(ctx, "readlink", "-f", p)
	if errors.Is(err, ErrGuestRefused) && ctx.Err() == nil {
		return nil, nil // some of it does not exist yet
	}
	if err != nil {
		return nil, err
	}
	return topMount(table, strings.TrimSuffix(real, "\n")), nil
}

// topMount finds the last mount on a path in a table like /proc/mounts.
func topMount(table, p string) *guestEntry {
	var top *guestEntry
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 3 {
			continue
		}
		if e := (guestEntry{unescape(f[0]), unescape(f[1]), f[2]}); e.path == p {
			top = &e
		}
	}
	return top
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
