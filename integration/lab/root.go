package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// rootVariable names the root directory of another system, which everything
// inside then runs on.
const rootVariable = "CAUSEWAY_LAB_ROOT"

// Debian13 returns the root of Debian 13 that 'make deps' made.
func Debian13() (string, error) {
	repo, err := Repo()
	if err != nil {
		return "", err
	}
	root, err := filepath.EvalSymlinks(filepath.Join(repo, ".cache", "debian13"))
	if err == nil {
		_, err = os.Stat(filepath.Join(root, "usr/libexec/virtiofsd"))
	}
	if err != nil {
		return "", fmt.Errorf("make deps brings a root of Debian 13: %w", err)
	}
	return root, nil
}

// On returns the command that runs a program, which must be one that goes
// inside, in namespaces of its own on the system whose root directory is root.
// It may be called inside.
func On(ctx context.Context, root string, argv ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, stageVariable+"=")
	})
	cmd.Env = append(cmd.Env, rootVariable+"="+root)
	// Killed, it could not remove its directory.
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	return cmd
}

// Of another system come its programs, its settings and an empty state; what
// is nobody's system, the sources among it, is the host's.
var systemDirectories = []string{"bin", "boot", "etc", "lib", "lib32", "lib64", "libx32", "sbin", "usr", "var"}

// hostRoot is where the host's own root is, once another is entered.
const hostRoot = "/host"

// enterRoot makes the system in root that of this process and its children.
// Nothing is written there.
func enterRoot(root, dir string) error {
	to := filepath.Join(dir, "root")
	if err := os.Mkdir(to, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("root", to, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount %s: %w", to, err)
	}
	if err := system(root, to); err != nil {
		return err
	}
	if err := bindOthers(to); err != nil {
		return err
	}
	for _, path := range []string{"proc", "sys", "run", hostRoot} {
		if err := os.MkdirAll(filepath.Join(to, path), 0o755); err != nil {
			return err
		}
	}
	if err := unix.PivotRoot(to, to+hostRoot); err != nil {
		return fmt.Errorf("pivot_root to %s: %w", to, err)
	}
	// What looks for control groups would find the host's there.
	if err := unix.Unmount(hostRoot+"/sys", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s/sys: %w", hostRoot, err)
	}
	if err := unix.Mount("proc", hostRoot+"/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
		return fmt.Errorf("mount %s/proc: %w", hostRoot, err)
	}
	return toolchain()
}

// system puts another system's directories below to.
func system(root, to string) error {
	for _, name := range systemDirectories {
		from, at := filepath.Join(root, name), filepath.Join(to, name)
		info, err := os.Lstat(from)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return err
		case info.Mode()&fs.ModeSymlink != 0:
			link, err := os.Readlink(from)
			if err != nil {
				return err
			}
			err = os.Symlink(link, at)
			if err != nil {
				return err
			}
		case name == "etc":
			// A copy of 1 MB, since an overlay on an overlay may be one too many.
			if err := os.CopyFS(at, os.DirFS(from)); err != nil {
				return err
			}
		case name == "var":
			for _, path := range []string{"lib", "cache", "log", "tmp"} {
				if err := os.MkdirAll(filepath.Join(at, path), 0o755); err != nil {
					return err
				}
			}
			if err := os.Symlink("/run", filepath.Join(at, "run")); err != nil {
				return err
			}
		default:
			if err := bind(from, at); err != nil {
				return err
			}
			if err := unix.MountSetattr(unix.AT_FDCWD, at, unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
				return fmt.Errorf("make %s read-only: %w", at, err)
			}
		}
	}
	return nil
}

// bindOthers puts below to what of the host is no system's.
func bindOthers(to string) error {
	entries, err := os.ReadDir("/")
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		if !e.IsDir() || slices.Contains(systemDirectories, name) || slices.Contains([]string{"proc", "sys", "run", "host"}, name) {
			continue
		}
		if err := bind("/"+name, filepath.Join(to, name)); err != nil {
			return err
		}
	}
	// A checkout may lie in /var.
	repo, err := Repo()
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(to, repo)); errors.Is(err, fs.ErrNotExist) {
		return bind(repo, filepath.Join(to, repo))
	}
	return nil
}

// bind makes a directory a second time, with all that is mounted below.
func bind(from, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s: %w", from, err)
	}
	return nil
}

// toolchain has the compilers of the host build for this system, whose C
// library is not older.
func toolchain() error {
	const dir = "/usr/local/bin"
	if err := unix.Mount("tools", dir, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount %s: %w", dir, err)
	}
	for _, program := range []string{"go", "gcc"} {
		script := fmt.Sprintf("#!/bin/sh\nexec unshare --root=%s --wd=\"$PWD\" %s \"$@\"\n", hostRoot, program)
		if err := os.WriteFile(filepath.Join(dir, program), []byte(script), 0o755); err != nil {
			return err
		}
	}
	return nil
}
