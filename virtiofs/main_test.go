package virtiofs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"libvirt.org/go/libvirt"

	"github.com/causeway-project/causeway/agent/process"
	"github.com/causeway-project/causeway/integration/needs"
	"github.com/causeway-project/causeway/integration/programs"
	"github.com/causeway-project/causeway/integration/wait"
	"github.com/causeway-project/causeway/virtiofs/virtiofsd"
)

var built = programs.Built{Packages: []string{"cmd/causeway-launch", "cmd/causeway-keeper"}}

func TestMain(m *testing.M) {
	code := m.Run()
	if err := errors.Join(realWorld.close(), built.Close()); err != nil {
		fmt.Fprintln(os.Stderr, "clean up:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// A world is libvirt's QEMU driver in this process, with one guest that all
// tests share, because a boot takes 4 s under software emulation.
type world struct {
	once  sync.Once
	err   error // why there is none
	root  string
	conn  *libvirt.Connect
	host  *Host
	guest *libvirt.Domain
	stop  func()
	seen  events
}

var realWorld world

// events collects what a Host reports.
type events struct {
	mu  sync.Mutex
	all []Event
}

func (e *events) add(v Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, v)
}

func (e *events) count(match func(Event) bool) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for _, v := range e.all {
		if match(v) {
			n++
		}
	}
	return n
}

const guestUUID = "11111111-2222-3333-4444-5555555555aa"

// domainXML is a machine that needs no disk. With a kernel it boots, without
// one it is only started paused.
type domainXML struct {
	name, uuid, kernel, initramfs, console string
	machine                                string // "q35" by default
	mebibytes                              int    // enough by default
	memory                                 string // the memoryBacking and cpu elements
	ports                                  string // the PCI controllers
}

const (
	sharedCell = `<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
  <cpu mode='maximum'><numa><cell id='0' cpus='0' memory='%d' unit='MiB' memAccess='shared'/></numa></cpu>`
	rootPort = `<controller type='pci' model='pcie-root-port'/>`
	pcieRoot = `<controller type='pci' model='pcie-root'/>`
)

func (d domainXML) String() string {
	mebibytes, boot, devices := max(16, d.mebibytes), "", ""
	if d.kernel != "" {
		mebibytes = max(256, d.mebibytes)
		boot = fmt.Sprintf(`<kernel>%s</kernel><initrd>%s</initrd><cmdline>console=ttyS0 quiet panic=-1</cmdline>`, d.kernel, d.initramfs)
		devices = fmt.Sprintf(`<controller type='virtio-serial' index='0'/>
    <serial type='pty'><log file='%s' append='off'/><target port='0'/></serial>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>`, d.console)
	}
	if d.machine == "" {
		d.machine = "q35"
	}
	memory := d.memory
	if strings.Contains(memory, "%d") {
		memory = fmt.Sprintf(memory, mebibytes)
	}
	return fmt.Sprintf(`<domain type='qemu'>
  <name>%s</name><uuid>%s</uuid>
  <memory unit='MiB'>%d</memory>
  %s
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='%s'>hvm</type>%s</os>
  <features><acpi/><apic/></features>
  <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    %s
    <controller type='usb' model='none'/>
    %s
    <memballoon model='none'/>
  </devices>
</domain>`, d.name, d.uuid, mebibytes, memory, d.machine, boot, d.ports, devices)
}

// embedded returns the world with libvirt in it, and no guest yet.
func embedded(t *testing.T) *world {
	t.Helper()
	needs.Root(t)
	needs.Programs(t, "qemu-system-x86_64")
	_, err := user.Lookup("libvirt-qemu") // of libvirt's QEMU driver
	needs.Met(t, err)
	_, err = new(virtiofsd.Daemons).Program(t.Context())
	needs.Met(t, err)
	w := &realWorld
	w.once.Do(func() { w.err = w.open() })
	if w.err != nil {
		t.Fatalf("libvirt: %v", w.err)
	}
	return w
}

func (w *world) open() error {
	// QEMU's sockets lie in it, whose paths are limited.
	root, err := os.MkdirTemp("/tmp", "cwvfs")
	if err != nil {
		return err
	}
	w.root = root
	conf := "user = \"root\"\ngroup = \"root\"\ncgroup_controllers = []\nstdio_handler = \"file\"\n"
	if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(root, "etc", "qemu.conf"), []byte(conf), 0o644); err != nil {
		return err
	}
	// It warns of each machine that runs as root.
	if err := os.Setenv("LIBVIRT_LOG_OUTPUTS", "4:stderr"); err != nil {
		return err
	}
	if err := eventLoop(); err != nil {
		return err
	}
	uri := "qemu:///embed?root=" + root
	if w.conn, err = libvirt.NewConnect(uri); err != nil {
		return err
	}
	w.host = New(Options{URI: uri, Changed: w.seen.add})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- w.host.Run(ctx) }()
	w.stop = func() { cancel(); <-done }
	return wait.Within(wait.Long, func() bool { return w.host.Connected() == nil })
}

// booted returns the world with a guest whose agent answers.
func bootedGuest(t *testing.T) *world {
	t.Helper()
	dir := os.Getenv("CAUSEWAY_GUEST_DIR")
	if dir == "" {
		needs.Met(t, errors.New("needs CAUSEWAY_GUEST_DIR with vmlinuz and initramfs.gz"))
	}
	w := embedded(t)
	if w.guest == nil {
		d := domainXML{
			name: "guest", uuid: guestUUID, memory: sharedCell, ports: pcieRoot + strings.Repeat(rootPort, 9),
			kernel: filepath.Join(dir, "vmlinuz"), initramfs: filepath.Join(dir, "initramfs.gz"), console: filepath.Join(w.root, "console"),
		}
		guest, err := w.conn.DomainCreateXML(d.String(), 0)
		if err != nil {
			t.Fatalf("start the guest: %v", err)
		}
		w.guest = guest
	}
	w.agentAnswers(t)
	return w
}

func (w *world) agentAnswers(t *testing.T) {
	t.Helper()
	if err := wait.Within(4*time.Minute, func() bool {
		i, err := w.host.Instance(t.Context(), guestUUID)
		return err == nil && i.GuestAgent
	}); err != nil {
		console, _ := os.ReadFile(filepath.Join(w.root, "console"))
		t.Fatalf("guest agent: %v\n%s", err, console)
	}
}

func (w *world) close() error {
	if w.root == "" {
		return nil
	}
	if w.guest != nil {
		if err := w.guest.Destroy(); err != nil {
			return fmt.Errorf("guest: %w", err)
		}
	}
	if w.stop != nil {
		w.stop()
	}
	if w.conn != nil {
		if _, err := w.conn.Close(); err != nil {
			return err
		}
	}
	return os.RemoveAll(w.root)
}

// daemon runs one until the test ends.
func daemon(t *testing.T, source string) (*virtiofsd.Daemons, virtiofsd.Daemon) {
	t.Helper()
	return daemonAs(t, virtiofsd.Daemon{Source: source})
}

// daemonAs runs v, in a directory of its own, until the test ends.
func daemonAs(t *testing.T, v virtiofsd.Daemon) (*virtiofsd.Daemons, virtiofsd.Daemon) {
	t.Helper()
	run, err := os.MkdirTemp("/tmp", "cwrun")
	if err != nil {
		t.Fatal(err)
	}
	d := &virtiofsd.Daemons{Starter: &process.Starter{Launcher: built.Path(t, "causeway-launch")}, Keeper: built.Path(t, "causeway-keeper")}
	v.Dir = filepath.Join(run, "virtiofs", "a")
	t.Cleanup(func() {
		if err := errors.Join(d.Stop(context.Background(), v, time.Second), os.RemoveAll(run)); err != nil {
			t.Error(err)
		}
	})
	if err := d.Start(limited(t, time.Minute), v); err != nil {
		t.Fatal(err)
	}
	return d, v
}

func wantState(t *testing.T, d *virtiofsd.Daemons, v virtiofsd.Daemon, want virtiofsd.State) {
	t.Helper()
	var got virtiofsd.State
	var err error
	if wait.Within(wait.Long, func() bool { got, err = d.State(v); return got == want }) != nil {
		t.Fatalf("State = %q, %v, want %q", got, err, want)
	}
}
