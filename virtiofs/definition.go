package virtiofs

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"libvirt.org/go/libvirt"

	"github.com/causeway-project/causeway/agent/crashpoint"
)

// withDefinition adds what the next start of a domain has. Of one that is off
// that is all there is.
func (h *Host) withDefinition(v hypervisor, i Instance) (Instance, error) {
	if !i.Running {
		i.Persistent, i.Defined, i.Filesystems = true, i.Filesystems, nil
		return i, nil
	}
	doc, err := v.definition(i.UUID)
	if err != nil || doc == "" {
		return i, err
	}
	d, err := h.parsed.instance(doc)
	i.Persistent, i.Defined = true, d.Filesystems
	return i, err
}

// Define puts the device into the instance's definition, so that its next start
// has it from the beginning; a running instance is not touched. The same device
// there already is success; the alias with another tag or socket is replaced.
//
// QEMU does not start while nothing listens on the socket.
//
// Errors: ErrBadTag, ErrNoInstance, ErrTransient, ErrTagTaken,
// ErrNoSharedMemory, ErrNoPort, ErrUnavailable.
func (h *Host) Define(ctx context.Context, d Device) error {
	xml, err := d.XML()
	if err == nil {
		err = h.redefine(ctx, d, func(v hypervisor, i Instance) error { return define(v, i, d, xml) })
	}
	if err != nil {
		return fmt.Errorf("put %s into the definition of instance %s: %w", d.Alias, d.Instance, err)
	}
	return nil
}

func define(v hypervisor, i Instance, d Device, xml string) error {
	if !i.Persistent {
		return ErrTransient
	}
	for _, is := range i.Defined {
		switch {
		case is.Alias == d.Alias && is.Tag == d.Tag && is.Socket == d.Socket:
			return nil
		case is.Alias == d.Alias:
			if err := v.undefine(i.UUID, libvirtAlias(d.Alias)); err != nil {
				return err
			}
		case is.Tag == d.Tag:
			return fmt.Errorf("%w: %q is the tag of device %q", ErrTagTaken, d.Tag, is.Alias)
		}
	}
	if err := v.define(i.UUID, xml); err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.DeviceDefined)
	return nil
}

// Undefine takes the device out of the instance's definition. No such device,
// definition or instance is success. ErrUnavailable.
func (h *Host) Undefine(ctx context.Context, d Device) error {
	err := h.redefine(ctx, d, func(v hypervisor, i Instance) error {
		if !slices.ContainsFunc(i.Defined, func(is Device) bool { return is.Alias == d.Alias }) {
			return nil
		}
		return v.undefine(i.UUID, libvirtAlias(d.Alias))
	})
	if err != nil && !errors.Is(err, ErrNoInstance) && !errors.Is(err, libvirt.ERR_DEVICE_MISSING) {
		return fmt.Errorf("take %s out of the definition of instance %s: %w", d.Alias, d.Instance, err)
	}
	return nil
}

// redefine changes one definition, and no other change of the instance goes on
// meanwhile.
func (h *Host) redefine(ctx context.Context, d Device, change func(hypervisor, Instance) error) error {
	if !ours(d.Alias) {
		return fmt.Errorf("alias %q is not ours", d.Alias)
	}
	unlock, err := h.lock(ctx, d.Instance)
	if err != nil {
		return err
	}
	_, err = callThen(ctx, h, h.calls, func(v hypervisor) (struct{}, error) {
		i, err := h.find(v, d.Instance)
		if err == nil {
			err = change(v, i)
		}
		return struct{}{}, err
	}, unlock)
	return err
}
