package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"libvirt.org/go/libvirt"

	"github.com/causeway-project/causeway/integration/wait"
)

// GuestOptions of a Guest.
type GuestOptions struct {
	Name      string         // required: of the domain; letters, digits, - and _
	Bridge    string         // its network card is a port of it; empty: no card
	Addresses []netip.Prefix // of the card
	Memory    int            // MiB; 256 by default
	Ports     int            // PCIe root ports free for devices that are plugged in; 10 by default

	NoSharedMemory bool // so that no virtiofs device can be attached
	NoCell         bool // shared memory, which libvirt 9.0 forgets when it is started anew
	NoAgent        bool // without a guest agent; then Boot does not wait, and Exec fails
}

// A Guest is a libvirt domain with the image of 'make deps': Linux, busybox
// and the QEMU guest agent, all in memory.
type Guest struct {
	Name string
	UUID string

	libvirt *Libvirt
	console string
	agent   bool
	writers int
	exec    sync.Mutex // guards writers
}

// bootLimit is what a boot takes at most under software emulation, with other guests
// beside it on two processors.
const bootLimit = 2 * time.Minute

// Define makes the domain, and does not start it.
func (l *Libvirt) Define(ctx context.Context, o GuestOptions) (*Guest, error) {
	g := &Guest{Name: o.Name, libvirt: l, console: l.path(o.Name + ".console"), agent: !o.NoAgent}
	xml, err := o.xml(l, g.console)
	if err != nil {
		return nil, err
	}
	err = l.with(func(c *libvirt.Connect) error {
		d, err := c.DomainDefineXML(xml)
		if err != nil {
			return err
		}
		defer func() { _ = d.Free() }()
		g.UUID, err = d.GetUUIDString()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("define guest %s: %w", o.Name, err)
	}
	// Only now libvirt has asked QEMU.
	return g, errors.Join(saveCapabilities(), ctx.Err())
}

// Boot makes a guest, starts it, and returns when its agent answers: its
// addresses are set then. Several may boot at once.
func (l *Libvirt) Boot(ctx context.Context, o GuestOptions) (*Guest, error) {
	g, err := l.Define(ctx, o)
	if err != nil {
		return nil, err
	}
	if err := g.Start(ctx); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

// with connects for one use: that takes 2 ms, and no connection is left over
// when libvirtd is killed.
func (l *Libvirt) with(use func(*libvirt.Connect) error) error {
	c, err := libvirt.NewConnect(l.URI)
	if err != nil {
		return err
	}
	return errors.Join(use(c), closed(c))
}

func closed(c *libvirt.Connect) error {
	_, err := c.Close()
	return err
}

func (g *Guest) with(use func(*libvirt.Domain) error) error {
	return g.libvirt.with(func(c *libvirt.Connect) error {
		d, err := c.LookupDomainByUUIDString(g.UUID)
		if err != nil {
			return err
		}
		defer func() { _ = d.Free() }()
		return use(d)
	})
}

// Start a guest that is off, and wait for its agent.
func (g *Guest) Start(ctx context.Context) error {
	if err := g.with((*libvirt.Domain).Create); err != nil {
		return fmt.Errorf("start guest %s: %w\n%s", g.Name, err, g.Log())
	}
	return g.WaitAgent(ctx)
}

// WaitAgent returns when the guest agent answers.
func (g *Guest) WaitAgent(ctx context.Context) error {
	if !g.agent {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	err := wait.For(ctx, func() (bool, error) {
		err := g.with(func(d *libvirt.Domain) error {
			_, err := d.QemuAgentCommand(`{"execute":"guest-ping"}`, 1, 0)
			return err
		})
		return err == nil, err
	})
	if err != nil {
		return fmt.Errorf("agent of guest %s does not answer: %w\n%s", g.Name, err, g.Log())
	}
	return nil
}

// Suspend the guest's processors.
func (g *Guest) Suspend() error { return g.with((*libvirt.Domain).Suspend) }

// Resume a suspended guest.
func (g *Guest) Resume() error { return g.with((*libvirt.Domain).Resume) }

// Reset is the reset button: the guest starts anew at once, keeps its devices
// and loses its mounts. It returns when the agent answers again.
func (g *Guest) Reset(ctx context.Context) error {
	// The agent of before must not be the one that answers.
	before, err := g.bootID(ctx)
	if err != nil {
		return err
	}
	if err := g.with(func(d *libvirt.Domain) error { return d.Reset(0) }); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	return wait.For(ctx, func() (bool, error) {
		now, err := g.bootID(ctx)
		return err == nil && now != before, err
	})
}

func (g *Guest) bootID(ctx context.Context) (string, error) {
	return g.Exec(ctx, "cat", "/proc/sys/kernel/random/boot_id")
}

// Destroy switches the guest off, as if by its plug. Off already is success.
func (g *Guest) Destroy() error {
	return g.with(func(d *libvirt.Domain) error {
		active, err := d.IsActive()
		if err != nil || !active {
			return err
		}
		return d.Destroy()
	})
}

// Close destroys the guest and forgets its domain.
func (g *Guest) Close() error {
	return errors.Join(g.Destroy(), g.with((*libvirt.Domain).Undefine))
}

// XML of the domain as it is now.
func (g *Guest) XML() (xml string, err error) {
	err = g.with(func(d *libvirt.Domain) error {
		xml, err = d.GetXMLDesc(0)
		return err
	})
	return xml, err
}

// Log returns the ends of the guest's console and of QEMU's log.
func (g *Guest) Log() string {
	return fmt.Sprintf("console ends:\n%s\nQEMU's log ends:\n%s",
		tail(g.console), tail(filepath.Join(g.libvirt.own.log, "qemu", g.Name+".log")))
}

var safeName = regexp.MustCompile(`^[a-zA-Z0-9_-]+$`)

// kvm is used where the processor can, unless CAUSEWAY_LAB_KVM=0, and is forced
// by CAUSEWAY_LAB_KVM=1. A /dev/kvm proves nothing: there are some, without the
// processor's help, that boot no ordinary kernel.
func kvm() bool {
	switch os.Getenv("CAUSEWAY_LAB_KVM") {
	case "0":
		return false
	case "1":
		return true
	}
	if _, err := os.Stat("/dev/kvm"); err != nil {
		return false
	}
	info, err := os.ReadFile("/proc/cpuinfo")
	return err == nil && regexp.MustCompile(`(?m)^flags\s*:.*\b(vmx|svm)\b`).Match(info)
}

func (o GuestOptions) xml(l *Libvirt, console string) (string, error) {
	if !safeName.MatchString(o.Name) || (o.Bridge != "" && !safeName.MatchString(o.Bridge)) {
		return "", fmt.Errorf("guest name %q or bridge %q has unusual characters", o.Name, o.Bridge)
	}
	if o.Memory == 0 {
		o.Memory = 256
	}
	if o.Ports == 0 {
		o.Ports = 10
	}
	kind, cpu := "qemu", "maximum"
	if kvm() {
		kind, cpu = "kvm", "host-passthrough"
	}
	parameters := []string{"console=ttyS0", "quiet", "panic=-1"}
	for _, a := range o.Addresses {
		parameters = append(parameters, "cw.ip="+a.String())
	}
	// A cell of its own, because libvirt 9.0 forgets after a restart that the
	// memory is shared if only memoryBacking says so.
	memory := fmt.Sprintf("<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>\n"+
		"  <cpu mode='%s'><numa><cell id='0' cpus='0' memory='%d' unit='MiB' memAccess='shared'/></numa></cpu>", cpu, o.Memory)
	if o.NoCell {
		memory = fmt.Sprintf("<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>\n  <cpu mode='%s'/>", cpu)
	}
	if o.NoSharedMemory {
		memory = fmt.Sprintf("<cpu mode='%s'/>", cpu)
	}
	ports, devices := o.Ports, ""
	if !o.NoAgent {
		ports++
		devices += "<controller type='virtio-serial' index='0'/>\n" +
			"    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\n    "
	}
	if o.Bridge != "" {
		ports++
		devices += fmt.Sprintf("<interface type='bridge'><source bridge='%s'/><model type='virtio'/></interface>\n    ", o.Bridge)
	}
	// A shell is on the socket beside the console's log. A pty would need a
	// /dev/pts that works, which containers may not have.
	return fmt.Sprintf(`<domain type='%s'>
  <name>%s</name>
  <memory unit='MiB'>%d</memory>
  %s
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>%s</kernel>
    <initrd>%s</initrd>
    <cmdline>%s</cmdline>
  </os>
  <features><acpi/><apic/></features>
  <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='pci' model='pcie-root'/>
    %s
    <controller type='usb' model='none'/>
    %s<serial type='unix'><source mode='bind' path='%s.sock'/><log file='%s' append='off'/><target port='0'/></serial>
    <memballoon model='none'/>
  </devices>
</domain>`, kind, o.Name, o.Memory, memory, l.path("vmlinuz"), l.path("initramfs"), strings.Join(parameters, " "),
		strings.Repeat("<controller type='pci' model='pcie-root-port'/>", ports), devices, console, console), nil
}
