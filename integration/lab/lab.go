package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Repo returns the root of the repository, found from the working directory.
func Repo() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == "/" {
			return "", errors.New("no go.mod in the working directory or above: run it inside the repository")
		}
		dir = filepath.Dir(dir)
	}
}

// GuestImage returns the kernel and the initramfs that 'make deps' built.
func GuestImage() (kernel, initramfs string, err error) {
	dir := os.Getenv("CAUSEWAY_GUEST_DIR")
	if dir == "" {
		root, err := Repo()
		if err != nil {
			return "", "", err
		}
		dir = filepath.Join(root, ".cache", "guest")
	}
	kernel, initramfs = filepath.Join(dir, "vmlinuz"), filepath.Join(dir, "initramfs.gz")
	for _, file := range []string{kernel, initramfs} {
		if _, err := os.Stat(file); err != nil {
			return "", "", fmt.Errorf("guest image: %w", err)
		}
	}
	return kernel, initramfs, nil
}

// Ready says what this machine lacks, or nil.
func Ready() error {
	if os.Geteuid() != 0 {
		return errors.New("needs root, for namespaces, mounts and links")
	}
	var missing []error
	for _, program := range []string{
		"qemu-system-x86_64", "libvirtd", "virtlogd", "ganesha.nfsd", "dbus-daemon",
		"nft", "ip", "mkfs.btrfs", "mount", "nsenter", "go",
	} {
		if err := find(program); err != nil {
			missing = append(missing, err)
		}
	}
	if daemons, _ := filepath.Glob("/usr/lib*/qemu/virtiofsd"); len(daemons) == 0 {
		if _, err := os.Stat("/usr/libexec/virtiofsd"); err != nil {
			missing = append(missing, errors.New("virtiofsd is not installed"))
		}
	}
	if _, _, err := GuestImage(); err != nil {
		missing = append(missing, err)
	}
	if len(missing) > 0 {
		return fmt.Errorf("make deps brings what is missing: %w", errors.Join(missing...))
	}
	return nil
}

func find(program string) error {
	for _, dir := range filepath.SplitList(searchPath()) {
		if info, err := os.Stat(filepath.Join(dir, program)); err == nil && info.Mode()&0o111 != 0 {
			return nil
		}
	}
	return fmt.Errorf("%s is not installed", program)
}

// TempDir makes a directory that goes with the whole program at the latest.
// Its path is short enough for sockets of unix(7), which testing's is not.
func TempDir() (string, error) {
	return os.MkdirTemp(os.Getenv(dirVariable), "")
}

// command runs a program to its end; what it printed is in the error.
func command(ctx context.Context, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}
