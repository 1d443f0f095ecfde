package preflight

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/causeway-project/causeway/agent/device"
	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/agent/word"
)

// quoted is how errors show an instance: as the caller called it.
func quoted(instance string) string { return word.Quote(instance) }

// domain is how commands name the instance. A name that looks like an option
// would be taken for one, a UUID never is.
func (f Facts) domain() string {
	if strings.HasPrefix(f.Instance.Name, "-") {
		return f.Instance.UUID
	}
	return shell(cmp.Or(f.Instance.Name, f.Instance.UUID))
}

func (f Facts) running() Finding {
	if !f.Instance.Running {
		return fail("instance", "virsh start "+f.domain(),
			fault.Preconditionf(fault.InstanceOff, "instance %s is not running: start it, then attach", quoted(f.Want.Instance)))
	}
	return pass("instance", "%s runs", f.Instance.UUID)
}

// anew ends a cure that is of the definition: QEMU has it after its next start.
func (f Facts) anew(commands ...string) string {
	if f.Instance.Running {
		commands = append(commands, "virsh shutdown "+f.domain())
	}
	return strings.Join(commands, " && ")
}

func (f Facts) memory() Finding {
	if !f.Instance.SharedMemory {
		return fail("shared-memory", f.anew(f.share1(), f.cells()),
			fault.Preconditionf(fault.NoSharedMemory, "instance %s has no shared memory, which virtiofs needs: give its domain a NUMA cell with memAccess='shared' and start it anew",
				quoted(f.Want.Instance)))
	}
	if f.Instance.Cells == 0 && (f.Libvirt == nil || f.Libvirt.Libvirt < cellsNotNeeded) {
		return warn("shared-memory", f.anew(f.cells()),
			"shared, but without a NUMA cell: after a restart of libvirtd before 9.2 the instance takes no more shares until it is started anew")
	}
	return pass("shared-memory", "shared")
}

// cellsNotNeeded is the libvirt that remembers over its own restart how QEMU
// calls the memory of a domain without NUMA cells (Red Hat bug 2078693). 9.0 does
// not: seen.
const cellsNotNeeded = 9_002_000

// share1 shares all memory that says nothing for itself.
func (f Facts) share1() string {
	return "virt-xml " + f.domain() + " --edit --memorybacking source.type=memfd,access.mode=shared"
}

// cells shares each NUMA cell, or makes one of all memory and processors.
func (f Facts) cells() string {
	i := f.Instance
	var settings []string
	if i.Cells == 0 {
		cpus := "0"
		if i.CPUs > 1 {
			cpus = fmt.Sprintf("0-%d", i.CPUs-1)
		}
		settings = []string{"numa.cell0.id=0", "numa.cell0.cpus=" + cpus, fmt.Sprintf("numa.cell0.memory=%d", i.Memory), "numa.cell0.unit=KiB", "numa.cell0.memAccess=shared"}
	}
	for n := range i.Cells {
		settings = append(settings, fmt.Sprintf("numa.cell%d.memAccess=shared", n))
	}
	return "virt-xml " + f.domain() + " --edit --cpu " + strings.Join(settings, ",")
}

func (f Facts) tag() Finding {
	taken := slices.ContainsFunc(f.Instance.Devices, func(d parts.Device) bool { return d.Tag == f.Want.Tag && d.Alias != f.Alias })
	promised := slices.ContainsFunc(f.Others, func(o Other) bool { return o.Tag == f.Want.Tag })
	if taken || promised {
		return fail("tag", "", ErrTagTaken(f.Want))
	}
	return pass("tag", "%s is free", f.Want.Tag)
}

// ports are counted; a device takes one.
func (f Facts) ports() Finding {
	i := f.Instance
	if strings.HasPrefix(i.Machine, "microvm") {
		e := fault.Preconditionf(fault.NoFreePort, "instance %s is a microvm, which takes no devices while it runs: give it another machine type, for example q35", quoted(f.Want.Instance))
		return fail("ports", "", e)
	}
	if i.FreePorts == 0 {
		e := fault.Preconditionf(fault.NoFreePort, "instance %s has no free PCIe root port: detach something, or give its domain more pcie-root-port controllers and start it anew", quoted(f.Want.Instance))
		if !i.Express {
			e.Message = fmt.Sprintf("instance %s has no free slot on its PCI bus: detach something, or give its domain a pci-bridge and start it anew", quoted(f.Want.Instance))
		}
		return fail("ports", f.anew(f.morePorts()), e)
	}
	what := "PCIe root ports"
	if !i.Express {
		what = "slots of the PCI bus"
	}
	if i.FreePorts == 1 {
		return warn("ports", f.anew(f.morePorts()), "1 of the %s is free: the next share needs another", what)
	}
	return pass("ports", "%d %s are free, one for each share", i.FreePorts, what)
}

// spare is how many ports are added at a time.
const spare = 4

func (f Facts) morePorts() string {
	if !f.Instance.Express {
		return "virt-xml " + f.domain() + " --add-device --controller type=pci,model=pci-bridge"
	}
	return "virt-xml " + f.domain() + " --add-device" + strings.Repeat(" --controller type=pci,model=pcie-root-port", spare)
}

// twice warns of what is allowed: the guest then sees one share as two file
// systems, which know nothing of each other's caches.
func (f Facts) twice() Finding {
	var ids []string
	for _, o := range f.Others {
		if o.Share {
			ids = append(ids, o.ID)
		}
	}
	return warn("share-twice", "causeway attachment show "+ids[0],
		"the instance has this share already, as attachment %s: the guest would see two file systems with a cache each", strings.Join(ids, ", "))
}

// guestCommands are what a mount in the guest takes.
var guestCommands = []string{"guest-exec", "guest-exec-status"}

func (f Facts) guest() Finding {
	const name = "guest-agent"
	g := f.Guest
	hand := "the guest mounts the tag by itself"
	if f.Want.MountAt != "" {
		hand = "the mount at " + f.Want.MountAt + " would not be made"
	}
	switch {
	case !g.Channel:
		return warn(name, f.anew("virt-xml "+f.domain()+" --add-device --channel type=unix,target.type=virtio,target.name=org.qemu.guest_agent.0"),
			"the instance has no channel for a guest agent: %s", hand)
	case g.Err != nil:
		return warn(name, "in the guest: systemctl enable --now qemu-guest-agent", "%s: %s", g.Err.Error(), hand)
	}
	missing := slices.DeleteFunc(slices.Clone(guestCommands), func(c string) bool { return slices.Contains(g.Commands, c) })
	if len(missing) > 0 {
		return warn(name, "in the guest: allow "+strings.Join(missing, ", ")+" in /etc/sysconfig/qemu-ga or /etc/qemu/qemu-ga.conf, and restart qemu-guest-agent",
			"the guest agent does not allow %s: %s", strings.Join(missing, ", "), hand)
	}
	return pass(name, "it answers, and allows what a mount takes")
}

func (f Facts) share() Finding {
	if e := f.Share.Refused; e != nil {
		return fail("share", "", e)
	}
	return pass("share", "%s is there", f.Share.Name)
}

func (f Facts) hotPlug() Finding {
	if e := f.HotPlug; e != nil {
		return fail("hot-plug", "virsh reset "+f.domain(), e)
	}
	return pass("hot-plug", "no dead device holds it up")
}

func (f Facts) locks() Finding {
	if e := f.Locks; e != nil {
		return fail("locks", "--locks shared where virtiofsd can, --read-only, or --force", e)
	}
	return pass("locks", "nobody writes to the share without meeting the guest's locks")
}

func (f Facts) generation() Finding {
	v := *f.Libvirt
	return pass("libvirt", "libvirt %s, QEMU %s", dotted(v.Libvirt), dotted(v.QEMU))
}

// dotted is libvirt's way to count versions, for a person.
func dotted(v uint32) string { return fmt.Sprintf("%d.%d.%d", v/1_000_000, v/1000%1000, v%1000) }

func (f Facts) virtiofsd() Finding {
	if e := f.Missing; e != nil {
		return fail("virtiofsd", "apt-get install qemu-system-common, or virtiofsd where there is such a package", e)
	}
	if err := device.Fits(f.Want.Settings, f.Want.IDs); err != nil {
		return fail("virtiofsd", "causeway node show", err)
	}
	if err := f.Program.Check(device.Needs(f.Want.Settings, f.Want.IDs)); err != nil {
		return fail("virtiofsd", "causeway node show", err)
	}
	return pass("virtiofsd", "%s: flavour %s, version %s", f.Program.Path, f.Program.Flavour, f.Program.Version)
}

// memoryLimited is how many bytes virtiofsd may take, 0 for any.
func (f Facts) memoryLimited() uint64 { return cmp.Or(f.Want.Settings.Memory, f.Program.Memory) }

func (f Facts) memoryLimit() Finding {
	limit, guest := f.memoryLimited()>>20, f.Instance.Memory>>10
	if limit <= guest {
		return warn("memory-limit", fmt.Sprintf("--memory with more than %dM, or virtiofsd.limits.memory in agent.yaml", guest),
			"virtiofsd may take %d MiB, and the guest's own %d MiB count there where it is the first to touch them: it may be killed", limit, guest)
	}
	return pass("memory-limit", "%d MiB", limit)
}

// enoughFiles is what a guest's walk over a share of some size takes: virtiofsd
// keeps a file open for each inode that the guest remembers.
const enoughFiles = 1 << 16

// OpenFiles is the verdict on how many files a virtiofsd may have open.
func OpenFiles(p parts.Program) Finding {
	const name = "open-files"
	files := p.Files()
	why := fmt.Sprintf("each virtiofsd may have %d open", files)
	switch {
	case files < p.WantFiles && p.HostFiles <= p.NrOpen:
		return warn(name, fmt.Sprintf("systemctl edit causeway-agent: LimitNOFILE=%d", p.WantFiles),
			"%s, the limit that the agent runs with, and not %d as was asked for", why, p.WantFiles)
	case files < p.WantFiles:
		return warn(name, fmt.Sprintf("sysctl -w fs.nr_open=%d, then restart the agent", p.WantFiles),
			"%s, the host's fs.nr_open, and not %d as was asked for", why, p.WantFiles)
	case files < enoughFiles:
		return warn(name, "--open-files 1M, or virtiofsd.limits.files in agent.yaml", "%s: a guest that walks over more files than that gets errors", why)
	case p.FileMax-p.FilesOpen < files:
		return warn(name, fmt.Sprintf("sysctl -w fs.file-max=%d", p.FilesOpen+2*files), "%s, but this host only %d more in all", why, p.FileMax-p.FilesOpen)
	}
	return pass(name, "%s", why)
}
