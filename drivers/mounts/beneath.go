package mounts

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/drivers"
)

// resolveTries bounds how often a lookup that met a concurrent rename is tried
// again; openat2(2) says that EAGAIN is for the caller to repeat.
const resolveTries = 128

// A RootError says that the root given to OpenBeneath could not be opened,
// which is not the fault of who named a directory below it.
type RootError struct {
	Root string
	Err  error // the system's
}

func (e *RootError) Error() string { return fmt.Sprintf("open root %s: %v", e.Root, e.Err) }

// Unwrap gives the system's error.
func (e *RootError) Unwrap() error { return e.Err }

// OpenBeneath opens (O_PATH) the directory rel below root with openat2,
// refusing "..", symbolic links, magic links and other mounts on the way:
// drivers.ErrSource. Whoever can write below root may rename at the same time;
// the result is still below it. A rel that is not there is
// drivers.ErrNotFound. An error about root itself is a *RootError. root may be a symbolic link: it is the operator's.
//
// A btrfs subvolume is not another mount. The descriptor is the caller's to
// close.
func OpenBeneath(root, rel string) (fd int, err error) {
	if slices.Contains(strings.Split(rel, "/"), "..") {
		return -1, fmt.Errorf("open %s: \"..\" is not allowed, name the directory itself: %w", short(rel), drivers.ErrSource)
	}
	if path.IsAbs(rel) || rel == "" || strings.ContainsRune(rel, 0) {
		return -1, fmt.Errorf("open %s: give a path relative to its root: %w", short(rel), drivers.ErrSource)
	}
	top, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &RootError{Root: root, Err: err}
	}
	defer func() { _ = unix.Close(top) }()

	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	for range resolveTries {
		fd, err = unix.Openat2(top, rel, &how)
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", short(rel), explain(err))
	}
	return fd, nil
}

// explain says what to do about an error of openat2.
func explain(err error) error {
	var why string
	kind := drivers.ErrSource
	switch {
	case errors.Is(err, unix.ENOENT):
		return drivers.ErrNotFound
	case errors.Is(err, unix.ELOOP):
		why = "a symbolic link is on the way, name the real directory"
	case errors.Is(err, unix.EXDEV):
		why = "it crosses into another mount, name a directory of this file system"
	case errors.Is(err, unix.ENOTDIR):
		why = "it is not a directory"
	case errors.Is(err, unix.ENAMETOOLONG):
		why = "the name is too long"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: %w", drivers.ErrAccess, err)
	case errors.Is(err, unix.EAGAIN):
		why, kind = "directories above it are being renamed all the time", drivers.ErrUnreachable
	default:
		return err
	}
	return fmt.Errorf("%s: %w", why, kind)
}

// short quotes a name for an error, so that neither its length nor its control
// characters reach the reader.
func short(s string) string {
	const most = 80
	if len(s) > most {
		return fmt.Sprintf("%q... (%d bytes)", s[:most], len(s))
	}
	return fmt.Sprintf("%q", s)
}
