package mounts

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/drivers"
)

// ErrOccupied says that something else is mounted at a target: another
// directory, one that has been deleted, or the same with other options. The
// cure is Unmount.
var ErrOccupied = errors.New("something else is mounted there")

// BindOptions of Bind.
type BindOptions struct {
	ReadOnly bool // writing fails with EROFS; else as the source's mount has it
}

// tenantFlags hold for every bind of a tenant's data: neither its set-uid
// programs nor its device nodes may work on this host.
const tenantFlags = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV

// Bind attaches a clone of the single mount tree that the open directory dir
// (O_PATH is enough) refers to, not what is mounted below it, at the existing
// directory target, which may not be a symbolic link. The clone is nosuid and
// nodev, and mounts that are later made below the source do not reach it.
//
// The same directory there already with the same options is success; anything
// else there is ErrOccupied: Bind never stacks. Two calls for one target at
// the same time might, so the caller runs one at a time. A directory that has
// been deleted is drivers.ErrNotFound.
//
// Bind asks the file system of dir for its flags: below a backend that may
// hang, call it through a Guard.
func Bind(dir int, target string, o BindOptions) error {
	if err := bind(dir, target, o); err != nil {
		return fmt.Errorf("bind %s: %w", target, err)
	}
	return nil
}

func bind(dir int, target string, o BindOptions) error {
	at, err := openDir(target)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(at) }()

	there, err := holds(at, dir, o)
	if err != nil || there {
		return err
	}
	attr := unix.MountAttr{Attr_set: tenantFlags, Propagation: unix.MS_PRIVATE}
	if o.ReadOnly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	return attach(dir, at, attr)
}

// BindPath is Bind for a path that only this agent can change.
func BindPath(source, target string, o BindOptions) error {
	dir, err := openDir(source)
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("bind %s: source %s: %w", target, source, drivers.ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("bind %s: source %w", target, err)
	}
	defer func() { _ = unix.Close(dir) }()
	return Bind(dir, target, o)
}

// openDir opens what is topmost at path.
func openDir(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", path, err)
	}
	return fd, nil
}

// holds tells whether the open directory at is the root of a mount of the
// directory dir, with the options o. It costs four system calls, however many
// mounts there are.
//
// Equal device and inode numbers are proof here, although numbers are reused
// after a deletion: a mount pins its root's inode and the caller's descriptor
// pins dir's, and two living inodes of one file system never share a number. A
// directory that was deleted and made anew under its old name is therefore
// told from the old one that is still mounted.
func holds(at, dir int, o BindOptions) (bool, error) {
	want, err := look(dir, "")
	if err != nil {
		return false, fmt.Errorf("look at source: %w", err)
	}
	// Deleted subvolumes have no device number to compare, so none may get
	// past this.
	if isDeleted(want) {
		return false, fmt.Errorf("source has been deleted: %w", drivers.ErrNotFound)
	}
	have, err := look(at, "")
	if err != nil {
		return false, fmt.Errorf("look at target: %w", err)
	}
	if !isRoot(have) {
		return false, nil
	}
	if have.Dev_major != want.Dev_major || have.Dev_minor != want.Dev_minor || have.Ino != want.Ino {
		if isDeleted(have) {
			return false, fmt.Errorf("a directory that has been deleted: %w", ErrOccupied)
		}
		return false, fmt.Errorf("another directory: %w", ErrOccupied)
	}
	wantFlags, haveFlags, err := flagsOf(dir, at)
	if err != nil {
		return false, err
	}
	wantFlags |= unix.ST_NOSUID | unix.ST_NODEV
	if o.ReadOnly {
		wantFlags |= unix.ST_RDONLY
	}
	const compared = unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV
	if wantFlags&compared != haveFlags&compared {
		return false, fmt.Errorf("the same directory with other options: %w", ErrOccupied)
	}
	return true, nil
}

// flagsOf reads the flags (ST_*) of two mounts, those of their file systems
// included: a clone of a read-only mount is read-only, asked or not.
func flagsOf(dir, at int) (ofDir, ofAt int64, err error) {
	var d, a unix.Statfs_t
	if err := unix.Fstatfs(dir, &d); err != nil {
		return 0, 0, fmt.Errorf("flags of source: %w", err)
	}
	if err := unix.Fstatfs(at, &a); err != nil {
		return 0, 0, fmt.Errorf("flags of target: %w", err)
	}
	return d.Flags, a.Flags, nil
}

// attach clones the mount of dir, gives the clone each attr in turn and puts
// it on at. Until the last call the clone is known only by its descriptor, and
// vanishes with it when the process dies.
func attach(dir, at int, attrs ...unix.MountAttr) error {
	tree, err := unix.OpenTree(dir, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("open_tree: %w", err)
	}
	defer func() { _ = unix.Close(tree) }()
	for _, attr := range attrs {
		if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
			return fmt.Errorf("mount_setattr: %w", err)
		}
	}
	if err := unix.MoveMount(tree, "", at, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	return nil
}

// Shared makes dir a mount of itself with shared propagation, so that mounts
// made below it reach its slaves. Already so is success; a mount there that is
// not shared yet is made so, and none is stacked on it. Two calls for one
// directory at the same time might, so the caller runs one at a time.
func Shared(dir string) error {
	if err := shared(dir); err != nil {
		return fmt.Errorf("share mounts below %s: %w", dir, err)
	}
	return nil
}

func shared(dir string) error {
	fd, err := openDir(dir)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	st, err := look(fd, "")
	if err != nil {
		return err
	}
	if !isRoot(st) {
		// Private first: a clone of a shared mount is its peer, and what we
		// mount below would also appear below the original, in every namespace
		// that follows it.
		return attach(fd, fd,
			unix.MountAttr{Propagation: unix.MS_PRIVATE},
			unix.MountAttr{Propagation: unix.MS_SHARED})
	}
	m, ok, err := byID(int(st.Mnt_id))
	if err != nil {
		return err
	}
	// A mount that is shared keeps its peer group: slaves hang on it.
	if ok && m.Shared {
		return nil
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Propagation: unix.MS_SHARED}); err != nil {
		return fmt.Errorf("mount_setattr: %w", err)
	}
	return nil
}
