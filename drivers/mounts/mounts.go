// Package mounts is the only code that mounts and unmounts in the agent, and
// the guard around every touch below a backend mount.
//
// Everything goes by file descriptor: a directory is resolved once, its tree is
// cloned from the descriptor, gets its flags while nobody can see it, and is
// attached in one system call. So a kill between any two instructions leaves
// either no mount or the finished one, and no path is looked up twice.
package mounts

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// table is read through thread-self, because the main thread, which "self"
// means, may be locked to a goroutine that went into another namespace.
const table = "/proc/thread-self/mountinfo"

// deleted is what the kernel appends to the root of a mount whose directory is
// gone. No name holds a slash, so no living directory ends in this.
const deleted = "//deleted"

// A Mount is one line of /proc/self/mountinfo (proc_pid_mountinfo(5)).
type Mount struct {
	ID       int // reused by the kernel after an unmount
	Parent   int // ID of the mount that Target lies on
	Target   string
	Root     string // the mounted tree's path in its file system; may end in "//deleted", see Gone
	Source   string
	FSType   string
	ReadOnly bool // of the mount or its file system
	Shared   bool // mounts made below reach its peers and slaves
	Gone     bool // the mounted directory, or the btrfs subvolume that it is in, has been deleted
}

// Below lists the mounts at and below root, parents before children, and of
// several at one target the lowest first. It reads the kernel's table and
// touches none of the mounts. Targets begin with root as the caller wrote it,
// also where a directory above root is a symbolic link.
func Below(root string) ([]Mount, error) {
	root = filepath.Clean(root)
	// The kernel's paths are resolved. Only the parent is looked up here: root
	// itself may be a mount that hangs.
	parent, err := filepath.EvalSymlinks(filepath.Dir(root))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	real := filepath.Join(parent, filepath.Base(root))

	f, err := os.Open(table)
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	defer func() { _ = f.Close() }()
	infos, err := mountinfo.GetMountsFromReader(f, mountinfo.PrefixFilter(real))
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	ms := make([]Mount, 0, len(infos))
	for _, i := range infos {
		m := mountOf(i)
		m.markDeletedSubvolume()
		m.Target = filepath.Join(root, strings.TrimPrefix(m.Target, real))
		ms = append(ms, m)
	}
	return parentsFirst(ms), nil
}

// parentsFirst sorts by depth in the tree of mounts. The table's own order is
// nearly that, but a tree that was moved may come before its parent.
func parentsFirst(ms []Mount) []Mount {
	byID := make(map[int]Mount, len(ms))
	for _, m := range ms {
		byID[m.ID] = m
	}
	depth := make(map[int]int, len(ms))
	for _, m := range ms {
		for p, ok := byID[m.Parent]; ok && p.ID != p.Parent; p, ok = byID[p.Parent] {
			depth[m.ID]++
		}
	}
	slices.SortStableFunc(ms, func(a, b Mount) int { return cmp.Compare(depth[a.ID], depth[b.ID]) })
	return ms
}

func mountOf(i *mountinfo.Info) Mount {
	return Mount{
		ID:       i.ID,
		Parent:   i.Parent,
		Target:   i.Mountpoint,
		Root:     i.Root,
		Source:   i.Source,
		FSType:   i.FSType,
		ReadOnly: hasOption(i.Options, "ro") || hasOption(i.VFSOptions, "ro"),
		Shared:   strings.Contains(" "+i.Optional, " shared:"),
		Gone:     strings.HasSuffix(i.Root, deleted),
	}
}

// markDeletedSubvolume adds what the table does not say: that m is a directory
// of a btrfs subvolume that was deleted as a whole. Such a mount is still read
// and written, into an orphan that the cleaner will drop. Measured on 6.18: the
// path carries no "//deleted" and the link count stays, but the subvolume's
// device number has been given back and reads 0:0, which no other has.
func (m *Mount) markDeletedSubvolume() {
	if m.FSType != "btrfs" || m.Gone {
		return
	}
	st, err := look(unix.AT_FDCWD, m.Target)
	if err == nil && int(st.Mnt_id) == m.ID && noDevice(st) {
		m.Gone = true
	}
}

// isDeleted tells a directory without a name. Measured: rmdir leaves no link on
// ext4, tmpfs and btrfs; a deleted btrfs subvolume keeps its one link and loses
// its device number.
func isDeleted(st unix.Statx_t) bool { return st.Nlink == 0 || noDevice(st) }

func noDevice(st unix.Statx_t) bool { return st.Dev_major == 0 && st.Dev_minor == 0 }

func hasOption(list, want string) bool {
	return slices.Contains(strings.Split(list, ","), want)
}

// At returns the topmost mount whose target is exactly target. A target that
// is not there has none. Where nothing is mounted the answer costs one system
// call; else the table is searched for the mount's one line: 1.3 ms where there
// are 2,000. Peek is enough for many questions, and Below for many targets.
func At(target string) (m Mount, ok bool, err error) {
	// A mount may be replaced between the two looks: look again then.
	for range 16 {
		st, err := look(unix.AT_FDCWD, target)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			return Mount{}, false, nil
		}
		if err != nil {
			return Mount{}, false, fmt.Errorf("look at mount %s: %w", target, err)
		}
		if !isRoot(st) {
			return Mount{}, false, nil
		}
		m, ok, err := byID(int(st.Mnt_id))
		if err != nil {
			return Mount{}, false, fmt.Errorf("look at mount %s: %w", target, err)
		}
		if ok {
			m.markDeletedSubvolume()
			m.Target = target
			return m, true, nil
		}
	}
	return Mount{}, false, fmt.Errorf("look at mount %s: it keeps changing", target)
}

// Holding returns the mount that path lies on, of which it may be the target.
// It costs what At costs for a target.
func Holding(path string) (Mount, error) {
	st, err := look(unix.AT_FDCWD, path)
	if err != nil {
		return Mount{}, fmt.Errorf("look at %s: %w", path, err)
	}
	m, ok, err := byID(int(st.Mnt_id))
	if err == nil && !ok {
		err = unix.ENOENT // it went between the two looks
	}
	if err != nil {
		return Mount{}, fmt.Errorf("look at mount of %s: %w", path, err)
	}
	m.markDeletedSubvolume()
	return m, nil
}

// A Sight is what Peek sees at a target.
type Sight struct {
	Mounted bool
	Gone    bool // like Mount's, as far as the kernel knows without the backend
}

// Peek tells whether something is mounted at exactly target and whether that
// has been deleted, in one system call (0.6 µs, however many mounts there
// are) that touches no backend. A target that is not there has no mount.
func Peek(target string) (Sight, error) {
	st, err := look(unix.AT_FDCWD, target)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return Sight{}, nil
	}
	if err != nil {
		return Sight{}, fmt.Errorf("look at mount %s: %w", target, err)
	}
	if !isRoot(st) {
		return Sight{}, nil
	}
	return Sight{Mounted: true, Gone: isDeleted(st)}, nil
}

// look asks for what the kernel knows without the backend: DONT_SYNC answers
// from the inode in memory, so that a mount that hangs answers too.
func look(dirfd int, path string) (unix.Statx_t, error) {
	flags := unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT | unix.AT_STATX_DONT_SYNC
	if path == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	var st unix.Statx_t
	err := unix.Statx(dirfd, path, flags, unix.STATX_TYPE|unix.STATX_INO|unix.STATX_NLINK|unix.STATX_MNT_ID, &st)
	return st, err
}

func isRoot(st unix.Statx_t) bool { return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 }

// byID parses only the one line: of 4,000 lines the parsing would cost more
// than the kernel's writing of them.
func byID(id int) (Mount, bool, error) {
	f, err := os.Open(table)
	if err != nil {
		return Mount{}, false, err
	}
	defer func() { _ = f.Close() }()
	want := []byte(strconv.Itoa(id) + " ")
	r := bufio.NewReaderSize(f, 64<<10)
	for {
		line, err := r.ReadBytes('\n')
		if bytes.HasPrefix(line, want) {
			infos, err := mountinfo.GetMountsFromReader(bytes.NewReader(line), nil)
			if err != nil || len(infos) != 1 {
				return Mount{}, false, fmt.Errorf("parse mountinfo line %q: %w", line, err)
			}
			return mountOf(infos[0]), true, nil
		}
		if errors.Is(err, io.EOF) {
			return Mount{}, false, nil
		}
		if err != nil {
			return Mount{}, false, err
		}
	}
}
