package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// account is libvirt's: its QEMU driver wants it to exist whoever QEMU runs as.
const account = "libvirt-qemu"

// furnish makes fresh mount, network and pid namespaces usable, and hides the
// host's own daemons and their files. dir lies on the host's disk.
func furnish(dir string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make / private: %w", err)
	}
	if root := os.Getenv(rootVariable); root != "" {
		if err := enterRoot(root, dir); err != nil {
			return fmt.Errorf("enter the system in %s: %w", root, err)
		}
	}
	// Of /sys, that of this network namespace; its control groups are left out.
	for _, m := range []struct{ kind, path, options string }{
		{"proc", "/proc", ""},
		{"sysfs", "/sys", ""},
		{"tmpfs", "/run", "mode=755"},
	} {
		if err := unix.Mount(m.kind, m.path, m.kind, unix.MS_NOSUID|unix.MS_NODEV, m.options); err != nil {
			return fmt.Errorf("mount %s: %w", m.path, err)
		}
	}
	for _, path := range []string{"/run/lock", "/run/netns"} {
		if err := os.Mkdir(path, 0o755); err != nil {
			return err
		}
	}
	layers := filepath.Join(dir, "layers")
	if err := os.Mkdir(layers, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", layers, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount %s: %w", layers, err)
	}
	if err := overlay("/etc", filepath.Join(layers, "etc")); err != nil {
		return err
	}
	if err := addAccount("/etc"); err != nil {
		return err
	}
	// Ganesha reads it, and the smallest of Debian's systems do not have it.
	if err := os.Symlink("/proc/self/mounts", "/etc/mtab"); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := os.MkdirAll("/etc/libvirt", 0o755); err != nil {
		return err
	}
	for _, path := range []string{"/etc/libvirt", "/var/lib/libvirt", "/var/cache/libvirt", "/var/log/libvirt"} {
		if err := cover(path, layers); err != nil {
			return err
		}
	}
	// As systemd has it on a real host.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("make / shared: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// cover mounts an empty directory over path. Where the host has no such
// directory, changes to its parent are kept away from the host first.
func cover(path, layers string) error {
	empty := filepath.Join(layers, strings.ReplaceAll(path[1:], "/", "-"))
	if err := os.Mkdir(empty, 0o755); err != nil {
		return err
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := overlay(filepath.Dir(path), empty+"-parent"); err != nil {
			return err
		}
		if err := os.Mkdir(path, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount(empty, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("cover %s: %w", path, err)
	}
	return nil
}

// overlay sends what is changed below path to layer, which it makes.
func overlay(path, layer string) error {
	upper, work := filepath.Join(layer, "upper"), filepath.Join(layer, "work")
	if err := errors.Join(os.MkdirAll(upper, 0o755), os.Mkdir(work, 0o755)); err != nil {
		return err
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", path, upper, work)
	if err := unix.Mount("overlay", path, "overlay", 0, options); err != nil {
		return fmt.Errorf("overlay %s: %w", path, err)
	}
	return nil
}

// addAccount adds libvirt's account to the files of etc, unless it is there.
func addAccount(etc string) error {
	const id = "64055" // Debian's
	for name, entry := range map[string]string{
		"group":  account + ":x:" + id + ":\n",
		"passwd": account + ":x:" + id + ":" + id + "::/var/lib/libvirt:/usr/sbin/nologin\n",
	} {
		file := filepath.Join(etc, name)
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if strings.Contains("\n"+string(data), "\n"+account+":") {
			continue
		}
		f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString(entry)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}
