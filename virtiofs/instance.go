package virtiofs

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"libvirt.org/go/libvirtxml"
)

// guestAgentChannel is the name that libvirt knows the QEMU guest agent by.
const guestAgentChannel = "org.qemu.guest_agent.0"

// parseInstance reads a domain's live XML.
func parseInstance(doc string) (_ Instance, err error) {
	var d libvirtxml.Domain
	if err = d.Unmarshal(doc); err != nil {
		return Instance{}, fmt.Errorf("parse domain XML: %w", err)
	}
	i := Instance{
		UUID:         d.UUID,
		Name:         d.Name,
		Running:      d.ID != nil, // libvirt gives an id to active domains only
		SharedMemory: sharedMemory(&d),
	}
	if i.Memory, err = kibibytes(d.Memory); err != nil {
		return Instance{}, err
	}
	for _, l := range d.SecLabel {
		if l.Model == "dac" {
			i.User, _, _ = strings.Cut(l.Label, ":")
		}
	}
	if d.OS != nil && d.OS.Type != nil {
		i.Machine = d.OS.Type.Machine
	}
	if d.VCPU != nil {
		i.CPUs = int(d.VCPU.Value)
	}
	if d.CPU != nil && d.CPU.Numa != nil {
		i.Cells = len(d.CPU.Numa.Cell)
	}
	if d.Devices == nil {
		return i, nil
	}
	i.Express = slices.ContainsFunc(d.Devices.Controllers, func(c libvirtxml.DomainController) bool { return c.Type == "pci" && c.Model == "pcie-root" })
	if i.FreePorts, err = freePorts(doc, d.Devices.Controllers); err != nil {
		return Instance{}, err
	}
	for _, c := range d.Devices.Channels {
		if t := c.Target; t != nil && t.VirtIO != nil && t.VirtIO.Name == guestAgentChannel {
			i.Channel = true
			i.GuestAgent = i.GuestAgent || t.VirtIO.State == "connected"
		}
	}
	for _, f := range d.Devices.Filesystems {
		if f.Driver == nil || f.Driver.Type != "virtiofs" {
			continue
		}
		dev := Device{Instance: d.UUID}
		if f.Alias != nil {
			dev.Alias = parseAlias(f.Alias.Name)
		}
		if f.Target != nil {
			dev.Tag = f.Target.Dir
		}
		if f.Source != nil && f.Source.Mount != nil {
			dev.Socket = f.Source.Mount.Socket
		}
		i.Filesystems = append(i.Filesystems, dev)
	}
	return i, nil
}

// kibibytes of a domain's memory, in which libvirt writes it whatever it read.
func kibibytes(m *libvirtxml.DomainMemory) (uint64, error) {
	switch {
	case m == nil:
		return 0, nil
	case m.Unit != "KiB" && m.Unit != "":
		return 0, fmt.Errorf("memory in %q, not in KiB", m.Unit)
	}
	return uint64(m.Value), nil
}

// sharedMemory tells whether virtiofsd can map the guest's memory, by the rule
// of libvirt 9.0, which TestRulesAreLibvirts measures: <access mode='shared'/>
// in <memoryBacking>, or, with NUMA cells, memAccess='shared' in each cell that
// does not take the former by saying nothing. What backs the memory does not
// matter: libvirt never makes shared memory anonymous.
//
// After a restart of libvirtd 9.0 a running domain without a NUMA cell takes no
// more virtiofs devices all the same, which its XML does not show.
func sharedMemory(d *libvirtxml.Domain) bool {
	var all string
	if m := d.MemoryBacking; m != nil && m.MemoryAccess != nil {
		all = m.MemoryAccess.Mode
	}
	if d.CPU == nil || d.CPU.Numa == nil || len(d.CPU.Numa.Cell) == 0 {
		return all == "shared"
	}
	for _, c := range d.CPU.Numa.Cell {
		if cmp.Or(c.MemAccess, all) != "shared" {
			return false
		}
	}
	return true
}

// pciAddresses are the guest's PCI addresses of all devices of a domain,
// whatever kind they are. Host addresses lie deeper, below <source>.
type pciAddresses struct {
	Devices struct {
		Any []struct {
			Address []struct {
				Type string `xml:"type,attr"`
				Bus  string `xml:"bus,attr"`
				Slot string `xml:"slot,attr"`
			} `xml:"address"`
		} `xml:",any"`
	} `xml:"devices"`
}

// conventionalSlots of a PCI bus: 0 is the host bridge's. On the root bus the
// chip set has 1, and libvirt keeps 2 for a graphics card.
const conventionalSlots = 31

// freePorts counts the places where libvirt would hot-plug a virtio device.
// Where there is a PCIe root (q35, virt) that is a root port or a downstream
// port with nothing on its bus and hot-plug not switched off: the root bus
// itself takes none. Otherwise (pc) it is a slot of a conventional bus.
func freePorts(doc string, controllers []libvirtxml.DomainController) (int, error) {
	var used pciAddresses
	if err := xml.Unmarshal([]byte(doc), &used); err != nil {
		return 0, fmt.Errorf("parse PCI addresses: %w", err)
	}

	slots := map[uint64]map[uint64]bool{} // by bus
	for _, dev := range used.Devices.Any {
		for _, a := range dev.Address {
			if a.Type != "pci" || a.Bus == "" || a.Slot == "" { // libvirt assigns the latter at start
				continue
			}
			bus, err := strconv.ParseUint(a.Bus, 0, 16)
			if err != nil {
				return 0, fmt.Errorf("PCI bus %q: %w", a.Bus, err)
			}
			slot, err := strconv.ParseUint(a.Slot, 0, 16)
			if err != nil {
				return 0, fmt.Errorf("PCI slot %q: %w", a.Slot, err)
			}
			if slots[bus] == nil {
				slots[bus] = map[uint64]bool{}
			}
			slots[bus][slot] = true
		}
	}
	var express, conventional int
	pcie := false
	for _, c := range controllers {
		if c.Type != "pci" || c.Index == nil {
			continue
		}
		taken := len(slots[uint64(*c.Index)])
		switch c.Model {
		case "pcie-root":
			pcie = true
		case "pcie-root-port", "pcie-switch-downstream-port":
			off := c.PCI != nil && c.PCI.Target != nil && c.PCI.Target.Hotplug == "off"
			if taken == 0 && !off {
				express++
			}
		case "pci-root":
			if slots[0] == nil {
				slots[0] = map[uint64]bool{}
			}
			slots[0][1], slots[0][2] = true, true
			conventional += max(0, conventionalSlots-len(slots[0]))
		case "pci-bridge":
			conventional += max(0, conventionalSlots-taken)
		}
	}
	if pcie {
		return express, nil
	}
	return conventional, nil
}
