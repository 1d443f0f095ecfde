package generations

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/causeway-project/causeway/integration/lab"
	"github.com/causeway-project/causeway/integration/wait"
)

// virsh runs one command; what it complained of is the error.
func (s seat) virsh(ctx context.Context, args ...string) (string, error) {
	s.Helper()
	out, err := exec.CommandContext(ctx, "virsh", append([]string{"-q", "-c", s.libvirt.URI}, args...)...).CombinedOutput()
	text := strings.TrimSpace(string(out))
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.Exited() {
		lines := strings.Split(text, "\n")
		return "", errors.New(strings.TrimPrefix(lines[len(lines)-1], "error: "))
	}
	return text, err
}

// A hand is a virtiofsd that was started by hand, without the agent.
type hand struct {
	dir     string
	socket  string
	options []string
	cmd     *exec.Cmd
}

func (h *hand) share() string { return filepath.Join(h.dir, "share") }

// daemon starts one that shares an empty directory, and ends it with the test.
func (s seat) daemon(ctx context.Context, options ...string) *hand {
	s.Helper()
	dir, err := lab.TempDir()
	s.must(err)
	h := &hand{dir: dir, socket: filepath.Join(dir, "sock"), options: options}
	// QEMU need not be root.
	s.must(errors.Join(os.Chmod(dir, 0o755), os.Mkdir(h.share(), 0o755)))
	h.start(ctx, s)
	s.Cleanup(func() { h.kill() })
	return h
}

func (h *hand) start(ctx context.Context, s seat) {
	s.Helper()
	// A predecessor on its way out may still have its lock on the latter.
	s.must(errors.Join(os.RemoveAll(h.socket), os.RemoveAll(h.socket+".pid")))
	argv := []string{rust, "--socket-path=" + h.socket, "--shared-dir=" + h.share()}
	if _, err := os.Stat(rust); err != nil {
		argv = []string{"/usr/lib/qemu/virtiofsd", "-f", "--socket-path=" + h.socket, "-o", "source=" + h.share()}
	}
	argv = append(argv, h.options...)
	h.cmd = exec.Command(argv[0], argv[1:]...)
	// The one in Rust has a child that serves, and that outlives it a little.
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	s.must(h.cmd.Start())
	s.must(wait.For(ctx, func() (bool, error) {
		err := os.Chmod(h.socket, 0o777)
		return err == nil, err
	}))
}

func (h *hand) kill() {
	_ = syscall.Kill(-h.cmd.Process.Pid, syscall.SIGKILL)
	_ = h.cmd.Wait()
}

// connected tells whether a daemon holds QEMU's connection.
func (h *hand) connected() (bool, error) {
	table, err := os.ReadFile("/proc/net/unix")
	for line := range strings.Lines(string(table)) {
		// State 03 is that of a connection (unix(7), net/unix/af_unix.c).
		if f := strings.Fields(line); len(f) == 8 && f[5] == "03" && f[7] == h.socket {
			return true, nil
		}
	}
	return false, err
}

// device writes the XML of one, and returns the file.
func (h *hand) device(s seat, tag, more string) string {
	s.Helper()
	file := filepath.Join(h.dir, tag+".xml")
	s.must(os.WriteFile(file, fmt.Appendf(nil, `<filesystem type='mount'><driver type='virtiofs'/><source socket='%s'/>
<target dir='%s'/>%s<alias name='%s'/></filesystem>`, h.socket, tag, more, h.alias()), 0o644))
	return file
}

func (h *hand) alias() string { return "ua-" + filepath.Base(h.dir) }

func (h *hand) unplug(ctx context.Context, s seat) {
	s.Helper()
	if _, err := s.virsh(ctx, "detach-device-alias", s.guest.Name, h.alias(), "--live"); err != nil {
		s.Error(err)
	}
	h.gone(ctx, s)
}

// gone waits until the device is.
func (h *hand) gone(ctx context.Context, s seat) {
	s.Helper()
	s.must(wait.For(ctx, func() (bool, error) {
		xml, err := s.guest.XML()
		return err == nil && !strings.Contains(xml, h.alias()), err
	}))
}

// verdict on what libvirt was asked for.
func verdict(err error) string {
	if err == nil {
		return "taken"
	}
	return "refused: " + err.Error()
}

// What libvirt and QEMU do, asked without the agent.
var rules = []finding{
	{"`<readonly/>` in the XML of a device whose daemon is not libvirt's", func(ctx context.Context, s seat) string {
		h := s.daemon(ctx)
		if _, err := s.virsh(ctx, "attach-device", s.guest.Name, h.device(s, "locked", "<readonly/>"), "--live"); err != nil {
			return verdict(err)
		}
		s.must(s.guest.MountVirtiofs(ctx, "locked", "/mnt/locked"))
		_, err := s.guest.Shell(ctx, "touch /mnt/locked/new")
		s.in(ctx, "umount /mnt/locked")
		h.unplug(ctx, s)
		if err == nil {
			return "taken, and the guest writes"
		}
		return "taken, and the guest cannot write"
	}},
	{"a second device with one tag", func(ctx context.Context, s seat) string {
		h, second := s.daemon(ctx), s.daemon(ctx)
		_, err := s.virsh(ctx, "attach-device", s.guest.Name, h.device(s, "twin", ""), "--live")
		s.must(err)
		_, err = s.virsh(ctx, "attach-device", s.guest.Name, second.device(s, "twin", ""), "--live")
		if err == nil {
			second.unplug(ctx, s)
		}
		h.unplug(ctx, s)
		return verdict(err)
	}},
	{"a new device after a restart of libvirtd, where only memoryBacking says that memory is shared", func(ctx context.Context, s seat) string {
		h := s.daemon(ctx)
		file := filepath.Join(h.dir, "plain.xml")
		s.must(os.WriteFile(file, []byte(`<domain type='qemu'><name>plain</name><memory unit='MiB'>16</memory>
<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
<os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<controller type='pci' model='pcie-root'/><controller type='pci' model='pcie-root-port'/><controller type='usb' model='none'/>
<memballoon model='none'/></devices></domain>`), 0o644))
		_, err := s.virsh(ctx, "create", file, "--paused")
		s.must(err)
		s.must(s.libvirt.Kill())
		s.must(s.libvirt.Start(ctx))
		_, attach := s.virsh(ctx, "attach-device", "plain", h.device(s, "late", ""), "--live")
		_, err = s.virsh(ctx, "destroy", "plain")
		s.must(err)
		return verdict(attach)
	}},
	{"unplug from a suspended instance", func(ctx context.Context, s seat) string {
		h := s.daemon(ctx)
		_, err := s.virsh(ctx, "attach-device", s.guest.Name, h.device(s, "asleep", ""), "--live")
		s.must(err)
		s.must(s.guest.Suspend())
		_, unplug := s.virsh(ctx, "detach-device", s.guest.Name, h.device(s, "asleep", ""), "--live")
		xml, err := s.guest.XML()
		s.must(err)
		there := strings.Contains(xml, h.socket)
		s.must(s.guest.Resume())
		h.gone(ctx, s) // the question was asked, and is answered now
		switch {
		case unplug != nil:
			return verdict(unplug)
		case there:
			return "success, with the device still there"
		}
		return "success"
	}},
	{"the daemon dies, and another listens on its socket", func(ctx context.Context, s seat) string {
		h := s.daemon(ctx)
		_, err := s.virsh(ctx, "attach-device", s.guest.Name, h.device(s, "dies", ""), "--live")
		s.must(err)
		s.must(s.guest.MountVirtiofs(ctx, "dies", "/mnt/dies"))
		h.kill()
		s.must(wait.For(ctx, func() (bool, error) { // its child may take a moment longer
			held, err := h.connected()
			return !held, err
		}))
		h.start(ctx, s)
		short, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		again := wait.For(short, h.connected) == nil
		h.unplug(ctx, s)
		said, _ := s.guest.Shell(ctx, "ls /mnt/dies 2>&1 | sed 's/.*: //'; umount /mnt/dies")
		if again {
			return "QEMU connects again"
		}
		return "QEMU does not connect; when the device is unplugged the guest hears: " + strings.TrimSpace(said)
	}},
}
