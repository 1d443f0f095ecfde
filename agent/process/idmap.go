package process

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrNoIDMap means that a directory cannot be shown with other ids: its file
// system has no idmapped mounts, or the host has no user namespaces.
var ErrNoIDMap = errors.New("directory cannot have other ids")

// An IDMap shows a directory of the host to one process with other owners: an
// idmapped mount (mount_setattr(2), MOUNT_ATTR_IDMAP) in a mount namespace of
// its own, so that nothing of it is left when the process has ended. What the
// process makes there belongs to the mapped ids. Those that are not mapped it
// sees as 65534, makes nothing as them (EOVERFLOW), and has no rights over what
// is theirs, whatever its capabilities: inode_permission and
// capable_wrt_inode_uidgid in the kernel refuse them.
//
// Mounts below the directory do not show.
type IDMap struct {
	Dir  string    // required: absolute path of a directory
	UIDs []IDRange // required
	GIDs []IDRange // required
}

// An IDRange maps Count ids from Process on, as the process has them, to those
// from Disk on.
type IDRange struct{ Process, Disk, Count uint32 }

// holdFlag makes the launcher wait in a user namespace until its input ends.
const holdFlag = "--hold"

// hold keeps the namespace that the process is in.
func hold() error {
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// show makes the mount, in a new mount namespace of this thread.
func (m *IDMap) show() error {
	if !filepath.IsAbs(m.Dir) {
		return fmt.Errorf("%q: want an absolute path", m.Dir)
	}
	ns, err := m.namespace()
	if err != nil {
		return fmt.Errorf("%w: user namespace: %w", ErrNoIDMap, err)
	}
	defer ns.Close()
	// The new namespace comes with a copy of the root, working directory and
	// umask that this thread shared with the others.
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	// Slaves: what the host mounts or unmounts shows here, never the reverse.
	if err := mount(unixMount{target: "/", flags: unix.MS_REC | unix.MS_SLAVE}); err != nil {
		return err
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, m.Dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return &os.PathError{Op: "open_tree", Path: m.Dir, Err: err}
	}
	defer unix.Close(tree)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd()), Propagation: unix.MS_PRIVATE}
	switch err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err {
	case nil:
	case unix.EINVAL: // the file system has not FS_ALLOW_IDMAP
		return fmt.Errorf("%w: the file system of %s has no idmapped mounts", ErrNoIDMap, m.Dir)
	default:
		return &os.PathError{Op: "mount_setattr", Path: m.Dir, Err: err}
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, m.Dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "move_mount", Path: m.Dir, Err: err}
	}
	return nil
}

// namespace makes a user namespace with the map. A process has to be in it
// while it is opened.
func (m *IDMap) namespace() (*os.File, error) {
	in, keep, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer keep.Close()
	// In the namespace are the ids on disk, outside it those of the process.
	to := func(ranges []IDRange) (all []syscall.SysProcIDMap) {
		for _, r := range ranges {
			all = append(all, syscall.SysProcIDMap{ContainerID: int(r.Disk), HostID: int(r.Process), Size: int(r.Count)})
		}
		return all
	}
	holder, err := os.StartProcess("/proc/self/exe", []string{os.Args[0], holdFlag}, &os.ProcAttr{
		Files: []*os.File{in, nil, nil},
		Sys:   &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: to(m.UIDs), GidMappings: to(m.GIDs)},
	})
	in.Close()
	if err != nil {
		return nil, err
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", holder.Pid))
	err = errors.Join(err, keep.Close())
	if _, failed := holder.Wait(); failed != nil {
		err = errors.Join(err, failed)
	}
	if err != nil && ns != nil {
		ns.Close()
	}
	return ns, err
}

// failed is what a launcher said, with the errors that callers look for.
func failed(text string) error {
	if why, ok := strings.CutPrefix(text, idMapFailed+ErrNoIDMap.Error()); ok {
		return fmt.Errorf("%w%s", ErrNoIDMap, why)
	}
	return errors.New(text)
}

// idMapFailed begins what a launcher says of the step.
const idMapFailed = "ids: "
