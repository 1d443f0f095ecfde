package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"libvirt.org/go/libvirt"

	"github.com/causeway-project/causeway/integration/wait"
)

// A Libvirt is the virtlogd and the libvirtd of this program. There is one at
// most in the paths that they were compiled with; others have these to
// themselves, see StartOtherLibvirt.
type Libvirt struct {
	URI  string
	dir  string // for its logs and those of guests
	own  places
	logd *daemon
	d    *daemon
}

// How long libvirtd takes at most: it starts QEMU four times to learn what it
// can do, and up to 9 s were seen on two busy processors.
const libvirtLimit = 90 * time.Second

// Below libvirt's cache, where it keeps what it learned of QEMU.
const capabilities = "qemu/capabilities"

// QEMU runs as on Debian and Ubuntu: as a user who is not root.
const qemuConf = `user = "` + account + `"
group = "` + account + `"
# Without control groups, which the tests' machines may not have; in libvirt
# 9.0 a virtiofsd of libvirt's own must then not be used.
cgroup_controllers = []
security_driver = "none"
`

const libvirtdConf = `listen_tls = 0
auth_unix_ro = "none"
auth_unix_rw = "none"
log_outputs = "3:stderr"
`

// StartLibvirt returns when libvirtd answers.
func StartLibvirt(ctx context.Context) (*Libvirt, error) {
	dir, err := TempDir()
	if err != nil {
		return nil, err
	}
	l := &Libvirt{URI: "qemu:///system", dir: dir, own: shared}
	if err := l.boot(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start libvirt: %w", err), l.Close())
	}
	return l, nil
}

func (l *Libvirt) boot(ctx context.Context) error {
	for path, text := range map[string]string{
		filepath.Join(l.own.etc, "qemu.conf"): qemuConf,
		l.path("libvirtd.conf"):               libvirtdConf + l.own.settings(),
		l.path("virtlogd.conf"):               "log_outputs = \"3:stderr\"\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	if err := restoreCapabilities(l.own.cache); err != nil {
		return err
	}
	if err := l.images(); err != nil {
		return err
	}
	var err error
	if l.logd, err = startDaemon(l.path("virtlogd.log"), nil, l.own.argv("virtlogd", "-f", l.path("virtlogd.conf"))...); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, libvirtLimit)
	defer cancel()
	if err := l.logd.until(ctx, exists(filepath.Join(l.own.run, "virtlogd-sock"))); err != nil {
		return err
	}
	return l.Start(ctx)
}

// images copies those of the guests: libvirt gives them to QEMU's user while a
// guest runs. The directory is that user's to search.
func (l *Libvirt) images() error {
	kernel, initramfs, err := GuestImage()
	if err != nil {
		return err
	}
	return errors.Join(os.Chmod(l.dir, 0o711), copyFile(kernel, l.path("vmlinuz")), copyFile(initramfs, l.path("initramfs")))
}

func (l *Libvirt) path(name string) string { return filepath.Join(l.dir, name) }

func exists(path string) func() (bool, error) {
	return func() (bool, error) {
		_, err := os.Stat(path)
		return err == nil, err
	}
}

// Start starts libvirtd, after Kill or Stop, and returns when it answers.
func (l *Libvirt) Start(ctx context.Context) error {
	d, err := startDaemon(l.path("libvirtd.log"), nil, l.own.argv("libvirtd", "-f", l.path("libvirtd.conf"))...)
	if err != nil {
		return err
	}
	l.d = d
	ctx, cancel := context.WithTimeout(ctx, libvirtLimit)
	defer cancel()
	return d.until(ctx, func() (bool, error) {
		c, err := libvirt.NewConnect(l.URI)
		if err != nil {
			return false, err
		}
		_, err = c.Close()
		return err == nil, err
	})
}

// Kill ends libvirtd with SIGKILL; guests go on.
func (l *Libvirt) Kill() error { return l.d.kill() }

// Stop ends libvirtd, and guests go on.
func (l *Libvirt) Stop() error { return l.d.stop(wait.Long) }

// Pause makes libvirtd hang, until Continue; guests go on.
func (l *Libvirt) Pause() error { return l.d.signal(syscall.SIGSTOP) }

// Continue lets a libvirtd go on that hangs.
func (l *Libvirt) Continue() error { return l.d.signal(syscall.SIGCONT) }

// Log returns the end of libvirtd's log.
func (l *Libvirt) Log() string { return tail(l.path("libvirtd.log")) }

// Close ends both daemons. Guests must be destroyed before.
func (l *Libvirt) Close() error {
	var errs []error
	for _, d := range []*daemon{l.d, l.logd} {
		if d != nil {
			errs = append(errs, d.stop(wait.Long))
		}
	}
	return errors.Join(append(errs, os.RemoveAll(l.dir))...)
}

// The cache below the repository, one for each system, makes a start take
// 0.2 s. libvirtd checks for itself whether it fits this machine.
func capabilityCache() (string, error) {
	repo, err := Repo()
	name := "libvirt"
	if root := os.Getenv(rootVariable); root != "" {
		name += "-" + filepath.Base(root)
	}
	return filepath.Join(repo, ".cache", name), err
}

func restoreCapabilities(below string) error {
	cache, err := capabilityCache()
	if err != nil {
		return err
	}
	capabilities := filepath.Join(below, capabilities)
	if err := os.MkdirAll(capabilities, 0o755); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(cache, "*.xml"))
	if err != nil {
		return err
	}
	for _, file := range files {
		if err := copyFile(file, filepath.Join(capabilities, filepath.Base(file))); err != nil {
			return err
		}
	}
	return nil
}

// saveCapabilities replaces each file whole, since another lab may read it.
func saveCapabilities() error {
	cache, err := capabilityCache()
	if err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(shared.cache, capabilities, "*.xml"))
	if err != nil || len(files) == 0 {
		return err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return err
	}
	for _, file := range files {
		if err := copyFile(file, filepath.Join(cache, filepath.Base(file))); err != nil {
			return err
		}
	}
	return nil
}

// copyFile keeps the time: libvirt compares it.
func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	if old, err := os.ReadFile(to); err == nil && string(old) == string(data) {
		return nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	made := fmt.Sprintf("%s.%s", to, filepath.Base(os.Getenv(dirVariable)))
	if err := os.WriteFile(made, data, 0o600); err != nil {
		return err
	}
	if err := os.Chtimes(made, info.ModTime(), info.ModTime()); err != nil {
		return err
	}
	return os.Rename(made, to)
}
