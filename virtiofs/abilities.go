package virtiofs

import (
	"context"
	"fmt"
	"strings"

	"libvirt.org/go/libvirtxml"
)

// A Hypervisor is what instances run on. Versions are 1,000,000 * major +
// 1,000 * minor + release, as libvirt counts.
type Hypervisor struct {
	Libvirt uint32
	QEMU    uint32
}

// Hypervisor asks libvirt what it is: ErrUnavailable.
func (h *Host) Hypervisor(ctx context.Context) (Hypervisor, error) {
	v, err := call(ctx, h, h.calls, hypervisor.versions)
	if err != nil {
		return Hypervisor{}, fmt.Errorf("ask for versions: %w", err)
	}
	return v, nil
}

// A Confinement is what libvirt keeps QEMU in.
type Confinement struct {
	User     string // that QEMU runs as, as labels have it: "+64055"
	AppArmor bool
	SELinux  bool
}

// Confinement asks libvirt for its default: ErrUnavailable.
func (h *Host) Confinement(ctx context.Context) (Confinement, error) {
	doc, err := call(ctx, h, h.calls, hypervisor.capabilities)
	if err != nil {
		return Confinement{}, fmt.Errorf("ask for capabilities: %w", err)
	}
	var caps libvirtxml.Caps
	if err := caps.Unmarshal(doc); err != nil {
		return Confinement{}, fmt.Errorf("parse capabilities: %w", err)
	}
	var c Confinement
	for _, m := range caps.Host.SecModel {
		switch m.Name {
		case "apparmor":
			c.AppArmor = true
		case "selinux":
			c.SELinux = true
		case "dac":
			for _, l := range m.Labels {
				c.User, _, _ = strings.Cut(l.Value, ":") // one for each accelerator, all alike
			}
		}
	}
	return c, nil
}

// maxCommands is how many commands of a guest agent are looked at; it has some
// fifty, and its answer is a stranger's.
const maxCommands = 500

// GuestCommands lists what an instance's guest agent allows: ErrNoInstance,
// ErrInstanceOff, ErrGuestAgent, ErrGuestRefused, ErrUnavailable.
func (h *Host) GuestCommands(ctx context.Context, uuid string) ([]string, error) {
	commands, err := h.guestCommands(ctx, uuid)
	if err != nil {
		return nil, fmt.Errorf("ask the guest agent of instance %s: %w", uuid, err)
	}
	return commands, nil
}

func (h *Host) guestCommands(ctx context.Context, uuid string) ([]string, error) {
	s := h.guest(uuid)
	var is struct {
		Commands []struct {
			Name    string `json:"name"`
			Enabled bool   `json:"enabled"`
		} `json:"supported_commands"`
	}
	if err := s.ask(ctx, "guest-info", struct{}{}, &is); err != nil {
		return nil, err
	}
	if len(is.Commands) > maxCommands {
		return nil, fmt.Errorf("%w: guest-info: %d commands", ErrGuestRefused, len(is.Commands))
	}
	var allowed []string
	for _, c := range is.Commands {
		if c.Enabled {
			allowed = append(allowed, c.Name)
		}
	}
	return allowed, nil
}
