package virtiofs

import (
	"context"
	"fmt"
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
	s, err := h.guest(ctx, uuid)
	if err != nil {
		return nil, err
	}
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
