package virtiofs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/causeway-project/causeway/agent/crashpoint"
)

// Instance finds a domain by UUID or name: ErrNoInstance, ErrUnavailable. One
// that is off has Running false.
func (h *Host) Instance(ctx context.Context, nameOrUUID string) (Instance, error) {
	i, err := call(ctx, h, h.calls, func(v hypervisor) (Instance, error) { return h.find(v, nameOrUUID) })
	if err != nil {
		return Instance{}, fmt.Errorf("look at instance %q: %w", nameOrUUID, err)
	}
	return i, nil
}

// find reads one domain, and its definition.
func (h *Host) find(v hypervisor, ref string) (Instance, error) {
	i, err := h.findLive(v, ref)
	if err != nil {
		return Instance{}, err
	}
	return h.withDefinition(v, i)
}

// findLive reads one domain without its definition: where it is off, what it
// has is not told apart from what its next start has.
func (h *Host) findLive(v hypervisor, ref string) (Instance, error) {
	// libvirt's C strings end at a NUL, so that it would find what stands before.
	if ref == "" || strings.ContainsRune(ref, 0) {
		return Instance{}, ErrNoInstance
	}
	doc, where, err := v.domain(ref)
	if err != nil {
		return Instance{}, err
	}
	i, err := h.parsed.instance(doc)
	if err != nil {
		return Instance{}, err
	}
	i.Migrating, i.Migrated = where == migrating, where == migrated
	return i, nil
}

// live is Instance without the definition.
func (h *Host) live(ctx context.Context, ref string) (Instance, error) {
	return call(ctx, h, h.calls, func(v hypervisor) (Instance, error) { return h.findLive(v, ref) })
}

// Devices lists the devices of every running domain whose alias is ours.
func (h *Host) Devices(ctx context.Context) ([]Device, error) {
	docs, err := call(ctx, h, h.calls, hypervisor.running)
	if err != nil {
		return nil, fmt.Errorf("list instances: %w", err)
	}
	var devices []Device
	for _, doc := range docs {
		i, err := h.parsed.instance(doc)
		if err != nil {
			return nil, err
		}
		for _, d := range i.Filesystems {
			if ours(d.Alias) {
				devices = append(devices, d)
			}
		}
	}
	return devices, nil
}

// device returns the one with an alias.
func (i Instance) device(alias string) (Device, bool) {
	for _, d := range i.Filesystems {
		if d.Alias == alias {
			return d, true
		}
	}
	return Device{}, false
}

// Attach plugs the device in and returns when it is in the live XML. The same
// device there already is success; the alias with another tag or socket is
// taken out first.
//
// It says that QEMU has the device. The guest sees it a little later.
//
// Errors: ErrBadTag, ErrNoInstance, ErrInstanceOff, ErrNoSharedMemory,
// ErrTagTaken, ErrNoPort, ErrNoListener, ErrUnavailable; ErrGuestBusy when the
// guest keeps the alias's former device, or one that libvirt does not know of, and
// ErrNoMonitor where there may be such a one. When ctx ends, the device may come all
// the same: the same call again finds it.
func (h *Host) Attach(ctx context.Context, d Device) error {
	if err := h.attach(ctx, d); err != nil {
		return fmt.Errorf("attach %s to instance %s: %w", d.Alias, d.Instance, err)
	}
	return nil
}

func (h *Host) attach(ctx context.Context, d Device) error {
	xml, err := d.XML()
	if err != nil {
		return err
	}
	for {
		unlock, err := h.lock(ctx, d.Instance)
		if err != nil {
			return err
		}
		// The lock is for the time that libvirt takes, not for the time that ctx
		// gives it: a second attach that looked at the tags while the first is
		// still under way would not see its tag.
		verdict, err := callThen(ctx, h, h.calls, func(v hypervisor) (plugged, error) { return h.plug(v, d, xml) }, unlock)
		if refusedByQEMU(err) {
			return h.afterStrays(ctx, d, err)
		}
		if err != nil {
			return err
		}
		if verdict == inPlace {
			return nil
		}
		if err := h.Detach(ctx, d); err != nil {
			return fmt.Errorf("take the former device out: %w", err)
		}
	}
}

// afterStrays is the error of an attach that QEMU refused. Where a stray was in
// its way that is out now, and what QEMU has once connected to, be it for a
// refusal, serves no second time.
func (h *Host) afterStrays(ctx context.Context, d Device, refused error) error {
	switch found, err := h.takeStrays(ctx, d.Instance, ""); {
	case err != nil:
		return fmt.Errorf("%w: look for a device that libvirt does not know of: %w", refused, err)
	case found:
		return fmt.Errorf("%w: devices that libvirt did not know of were in the way, and are out: %w", ErrNoListener, refused)
	}
	return refused
}

// plugged is what plug found or did.
type plugged int

const (
	inPlace plugged = iota + 1 // the device is in the instance
	former                     // its alias is, with other settings
)

// plug checks the instance and attaches the device, under the instance's lock.
func (h *Host) plug(v hypervisor, d Device, xml string) (plugged, error) {
	i, err := h.findLive(v, d.Instance)
	if err != nil {
		return 0, err
	}
	if !i.Running {
		return 0, ErrInstanceOff
	}
	if is, ok := i.device(d.Alias); ok {
		if is.Tag == d.Tag && is.Socket == d.Socket {
			return inPlace, nil
		}
		return former, nil
	}
	for _, other := range i.Filesystems {
		// libvirt accepts a second device with the same tag; the guest then mounts
		// whichever it found first.
		if other.Tag == d.Tag {
			return 0, fmt.Errorf("%w: %q is the tag of device %q", ErrTagTaken, d.Tag, other.Alias)
		}
	}
	if !i.SharedMemory {
		return 0, ErrNoSharedMemory
	}
	if i.FreePorts == 0 {
		return 0, ErrNoPort
	}
	if err := h.admit(i, d.Socket); err != nil {
		return 0, err
	}
	if err := v.attach(i.UUID, xml); err != nil {
		// It may have stopped since.
		if now, again := h.findLive(v, i.UUID); again == nil && !now.Running {
			return 0, fmt.Errorf("%w: %w", ErrInstanceOff, err)
		}
		if errors.Is(explain(err), ErrNoSharedMemory) {
			// The definition says that it has, and libvirt took it at the start: libvirt
			// before 9.2 forgets how the memory is named that belongs to no NUMA cell.
			return 0, fmt.Errorf("%w that libvirt knows of since it was started anew, for want of a NUMA cell", ErrNoSharedMemory)
		}
		return 0, err
	}
	// libvirt answers when QEMU has the device and the live XML shows it.
	crashpoint.Hit(crashpoint.DeviceAttached)
	return inPlace, nil
}

const (
	// look is how often a wait for the guest reads the live XML unasked, should
	// an event be lost.
	look = 500 * time.Millisecond
	// nag is how often the guest is asked again. A request that meets a guest
	// before it has set up its hot-plug, during a boot, is lost for good; a
	// second one to a guest that still ponders the first changes nothing. QEMU
	// takes one a second.
	nag = 2 * time.Second
)

// Detach unplugs by alias and returns when the live XML no longer has it:
// ErrGuestBusy when the guest does not let go before ctx ends, ErrUnavailable.
// No such device, or domain, or one that is off, is success. The guest may
// still let go after ErrGuestBusy; the same call again finds that.
func (h *Host) Detach(ctx context.Context, d Device) error {
	if err := h.detach(ctx, d); err != nil {
		return fmt.Errorf("detach %s from instance %s: %w", d.Alias, d.Instance, err)
	}
	return nil
}

func (h *Host) detach(ctx context.Context, d Device) error {
	if !ours(d.Alias) {
		return fmt.Errorf("alias %q is not ours", d.Alias)
	}
	woken, stop := h.watch(d.Instance)
	defer stop()
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	asked := time.Now()
	last := h.unplug(ctx, d) // what libvirt said to the last request
	if errors.Is(last, ErrUnavailable) {
		return last
	}
	// What libvirt took it has only passed on, so that a look at once would see
	// nothing new; what it refused may be gone.
	for looking := last != nil; ; looking = true {
		if looking {
			there, err := h.there(ctx, d)
			switch {
			case err == nil && !there:
				return nil
			case err != nil && ctx.Err() == nil:
				return err
			case err == nil && time.Since(asked) >= nag:
				asked = time.Now()
				last = h.unplug(ctx, d)
			}
		}
		select {
		case <-woken:
		case <-ticker.C:
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%w: %w", ErrGuestBusy, context.Cause(ctx)), last)
		}
	}
}

// there tells whether a device is in a running domain.
func (h *Host) there(ctx context.Context, d Device) (bool, error) {
	i, err := h.live(ctx, d.Instance)
	if errors.Is(err, ErrNoInstance) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	_, ok := i.device(d.Alias)
	return ok && i.Running, nil
}

// unplug asks the guest once. What libvirt says says nothing of whether the
// device is there.
func (h *Host) unplug(ctx context.Context, d Device) error {
	_, err := call(ctx, h, h.calls, func(v hypervisor) (struct{}, error) {
		err := v.detach(d.Instance, libvirtAlias(d.Alias))
		crashpoint.Hit(crashpoint.DeviceUnplug)
		return struct{}{}, err
	})
	return err
}
