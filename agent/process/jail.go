package process

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// staging is where the new root is built: a directory that every host has,
// that no piece comes from, and that only this mount namespace sees covered.
// So nothing is left on the host's disks.
const staging = "/proc"

// enter makes r the root of this thread.
func (r *Root) enter() error {
	pieces, links, err := r.pieces()
	if err != nil {
		return err
	}
	// The new namespace comes with a copy of the root, working directory and
	// umask that this thread shared with the others.
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	defer unix.Umask(unix.Umask(0)) // modes below are what they say
	// Slaves: what the host mounts or unmounts shows here, never the reverse.
	if err := mount(unixMount{target: "/", flags: unix.MS_REC | unix.MS_SLAVE}); err != nil {
		return err
	}
	if err := furnish(cmp.Or(r.Mtab, "/proc/self/mounts")); err != nil {
		return err
	}
	for _, dir := range r.Tmp {
		if err := emptyDir(dir); err != nil {
			return err
		}
	}
	for _, p := range pieces {
		if err := p.bind(); err != nil {
			return err
		}
	}
	for _, l := range links {
		if err := os.MkdirAll(filepath.Dir(staging+l.path), 0o755); err != nil {
			return err
		}
		if err := os.Symlink(l.to, staging+l.path); err != nil {
			return err
		}
	}
	if err := pivot(staging); err != nil {
		return err
	}
	// From here on paths, and symbolic links in them, are those inside.
	for _, path := range r.Hide {
		if err := hide(path); err != nil {
			return err
		}
	}
	return setattr("/", unix.MOUNT_ATTR_RDONLY)
}

// furnish mounts the new root and makes in it what every program expects.
func furnish(mtab string) error {
	for _, m := range []unixMount{
		{source: "root", target: staging, fstype: "tmpfs", flags: unix.MS_NOSUID | unix.MS_NOEXEC, data: "size=1m,nr_inodes=1024,mode=755"},
		// Read-only, for /proc/sys and its like ask for uid 0 and nothing more.
		{source: "proc", target: staging + "/proc", fstype: "proc", flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, attr: unix.MOUNT_ATTR_RDONLY},
		{source: "tmp", target: staging + "/tmp", fstype: "tmpfs", flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, data: "size=16m,nr_inodes=4096,mode=1777"},
	} {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := mount(m); err != nil {
			return err
		}
	}
	for _, dir := range []string{"/dev", "/etc"} {
		if err := os.Mkdir(staging+dir, 0o755); err != nil {
			return err
		}
	}
	// Numbers from the kernel's Documentation/admin-guide/devices.txt.
	for name, minor := range map[string]uint32{"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9} {
		node := staging + "/dev/" + name
		if err := unix.Mknod(node, unix.S_IFCHR|0o666, int(unix.Mkdev(1, minor))); err != nil {
			return &os.PathError{Op: "mknod", Path: node, Err: err}
		}
	}
	for link, to := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2",
		"/etc/mtab": mtab, // Ganesha looks up its exports' file systems there
	} {
		if err := os.Symlink(to, staging+link); err != nil {
			return err
		}
	}
	return nil
}

// emptyDir makes an empty writable directory part of the new root.
func emptyDir(path string) error {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || path == "/" {
		return fmt.Errorf("%q: want an absolute path, clean, and not the whole root", path)
	}
	if err := os.MkdirAll(staging+path, 0o755); err != nil {
		return err
	}
	return mount(unixMount{
		source: "tmp", target: staging + path, fstype: "tmpfs",
		flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, data: "size=1m,nr_inodes=256,mode=755",
	})
}

type access int

const (
	readOnly access = iota
	readWrite
	slave
)

// A piece is part of the host's tree, by its paths without symbolic links.
type piece struct {
	path   string // inside
	source string // on the host: the same, but for pieces of another system
	access access
	dir    bool
	mount  uint64 // id of the mount that it is on
	within bool   // below another piece, in which its mount point is there already
}

// A link leads to a piece that was asked for by another path.
type link struct{ path, to string }

// pieces returns what is to be bound, parents first, and the links to that.
func (r *Root) pieces() ([]piece, []link, error) {
	var pieces []piece
	var links []link
	for _, list := range []struct {
		access access
		paths  []string
		from   string
	}{{readOnly, r.System, r.SystemDir}, {readOnly, r.ReadOnly, ""}, {readWrite, r.ReadWrite, ""}, {slave, r.Slave, ""}} {
		for _, path := range list.paths {
			p, err := look(path, list.from)
			if list.access == readOnly && errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, nil, err
			}
			p.access = list.access
			pieces = append(pieces, p)
			if p.path != path {
				links = append(links, link{path: path, to: p.path})
			}
		}
	}
	slices.SortStableFunc(pieces, func(a, b piece) int { return strings.Compare(a.path, b.path) })
	var kept []piece
	for _, p := range pieces {
		over := around(kept, p.path)
		if over != nil && over.access == p.access && over.mount == p.mount && over.source+p.path[len(over.path):] == p.source {
			continue // it is part of that one: /usr/lib of /usr
		}
		if over != nil && over.path == p.path {
			return nil, nil, fmt.Errorf("%s is asked for in two ways", p.path)
		}
		p.within = over != nil
		kept = append(kept, p)
	}
	links = slices.DeleteFunc(links, func(l link) bool {
		return around(kept, l.path) != nil // the link is in a piece
	})
	slices.SortFunc(links, func(a, b link) int { return strings.Compare(a.path, b.path) })
	var outer []link
	for _, l := range links {
		// One below another is reached through that. Made as well, it would be
		// made on the host, where the other leads to while the root is built.
		if n := len(outer); n == 0 || !below(l.path, outer[n-1].path) {
			outer = append(outer, l)
		}
	}
	return kept, outer, nil
}

// around returns the innermost of pieces that path is or lies below.
func around(pieces []piece, path string) *piece {
	var best *piece
	for i := range pieces {
		p := &pieces[i]
		if below(path, p.path) && (best == nil || len(p.path) > len(best.path)) {
			best = p
		}
	}
	return best
}

// below tells whether path is dir or lies below it.
func below(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, dir+"/")
}

// look finds out what path is on the host, or below the root directory from.
func look(path, from string) (piece, error) {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || path == "/" {
		return piece{}, fmt.Errorf("%q: want an absolute path, clean, and not the whole root", path)
	}
	inside, source, err := resolve(path, from)
	if err != nil {
		return piece{}, err
	}
	if below(inside, staging) {
		return piece{}, fmt.Errorf("%s: the root has a %s of its own", path, staging)
	}
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, source, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_TYPE|unix.STATX_MNT_ID, &st); err != nil {
		return piece{}, &os.PathError{Op: "statx", Path: source, Err: err}
	}
	return piece{path: inside, source: source, dir: st.Mode&unix.S_IFMT == unix.S_IFDIR, mount: st.Mnt_id}, nil
}

// resolve follows the symbolic links in path, which are those of the root
// directory from, or the host's where that is empty.
func resolve(path, from string) (inside, source string, err error) {
	if from == "" {
		real, err := filepath.EvalSymlinks(path)
		return real, real, err
	}
	if !filepath.IsAbs(from) {
		return "", "", fmt.Errorf("system directory %q: want an absolute path", from)
	}
	if from, err = filepath.EvalSymlinks(from); err != nil {
		return "", "", fmt.Errorf("system directory: %v", err) // not wrapped: only what is missing in it may be left out
	}
	root, err := os.OpenFile(from, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return "", "", fmt.Errorf("system directory: %v", err)
	}
	defer root.Close()
	fd, err := unix.Openat2(int(root.Fd()), path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if err != nil {
		return "", "", &os.PathError{Op: "openat2", Path: from + path, Err: err}
	}
	defer unix.Close(fd)
	source, err = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return "", "", err
	}
	inside, ok := strings.CutPrefix(source, strings.TrimSuffix(from, "/"))
	if !ok || !strings.HasPrefix(inside, "/") {
		return "", "", fmt.Errorf("%s is %s, which is not below %s", path, source, from)
	}
	return inside, source, nil
}

// bind makes p part of the new root. It is one mount(2), not open_tree and
// move_mount: to a tree that is not yet in a namespace the host's mounts do
// not propagate, and one that it makes at that very moment would be missed.
func (p *piece) bind() error {
	target := staging + p.path
	if !p.within {
		if err := p.makeMountPoint(target); err != nil {
			return err
		}
	}
	m := unixMount{source: p.source, target: target, flags: unix.MS_BIND}
	switch p.access {
	case readOnly:
		m.attr = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	case readWrite:
		m.attr = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	case slave:
		m.flags |= unix.MS_REC                                                           // a copy of a slave is a slave of the same master
		m.attr = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV // of this mount, of none below it
	}
	return mount(m)
}

func (p *piece) makeMountPoint(target string) error {
	if p.dir {
		return os.MkdirAll(target, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(target, os.O_RDONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

// pivot makes root the root, and lets go of everything outside it.
func pivot(root string) error {
	if err := unix.Chdir(root); err != nil {
		return &os.PathError{Op: "chdir", Path: root, Err: err}
	}
	// With the same directory twice the old root ends up on top of the new,
	// and needs no directory of its own: pivot_root(2), NOTES.
	if err := unix.PivotRoot(".", "."); err != nil {
		return os.NewSyscallError("pivot_root", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return os.NewSyscallError("umount", err)
	}
	return os.NewSyscallError("chdir", unix.Chdir("/"))
}

// hide covers the file at path, where there is one.
func hide(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.IsDir() {
		return fmt.Errorf("hide %s: it is a directory", path)
	}
	return mount(unixMount{source: "/dev/null", target: path, flags: unix.MS_BIND})
}

// A unixMount is the arguments of mount(2), and attributes to add afterwards.
type unixMount struct {
	source, target, fstype, data string
	flags                        uintptr
	attr                         uint64
}

func mount(m unixMount) error {
	if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil {
		return &os.PathError{Op: "mount", Path: m.target, Err: err}
	}
	if m.attr == 0 {
		return nil
	}
	return setattr(m.target, m.attr)
}

// setattr adds attributes to one mount. Unlike a remount it leaves those that
// the host's own mount has.
func setattr(target string, attr uint64) error {
	if err := unix.MountSetattr(unix.AT_FDCWD, target, unix.AT_NO_AUTOMOUNT, &unix.MountAttr{Attr_set: attr}); err != nil {
		return &os.PathError{Op: "mount_setattr", Path: target, Err: err}
	}
	return nil
}
