package virtiofs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"libvirt.org/go/libvirt"

	"github.com/causeway-project/causeway/integration/wait"
)

// qemuTakes is QEMU's word on a device that libvirt plugs into a port.
func (d *fakeDomain) qemuTakes(alias string, port int) error {
	refuse := func(format string, args ...any) error {
		return libvirt.Error{Code: libvirt.ERR_INTERNAL_ERROR, Domain: libvirt.FROM_QEMU, Message: "internal error: unable to execute QEMU command " + fmt.Sprintf(format, args...)}
	}
	if _, there := d.strays[alias]; there {
		return refuse("'chardev-add': Chardev with id 'chr-vu-%s' already exists", alias)
	}
	for other, taken := range d.strays {
		if taken == port {
			return refuse("'device_add': PCI: slot 0 function 0 not available for vhost-user-fs-pci, in use by vhost-user-fs-pci,id=%s", other)
		}
	}
	return nil
}

func (f *fakeVirt) monitor(uuid, command string) (string, error) {
	if err := f.enter("monitor"); err != nil {
		return "", err
	}
	defer f.mu.Unlock()
	d, err := f.get(uuid)
	if err != nil {
		return "", err
	}
	var q struct {
		Execute   string
		Arguments struct{ ID, Path string }
	}
	if err := json.Unmarshal([]byte(command), &q); err != nil {
		panic(err)
	}
	answer := func(v any) (string, error) {
		doc, err := json.Marshal(map[string]any{"return": v, "id": "libvirt-7"})
		return string(doc), err
	}
	refuse := func(format string, args ...any) (string, error) {
		doc, err := json.Marshal(map[string]any{"error": map[string]string{"class": "GenericError", "desc": fmt.Sprintf(format, args...)}})
		return string(doc), err
	}
	switch q.Execute {
	case "qom-list":
		list := []map[string]string{{"name": "type", "type": "string"}, {"name": "ua-cw-disk", "type": "child<virtio-blk-pci>"}}
		for _, v := range d.devices {
			list = append(list, map[string]string{"name": v.Alias, "type": "child<vhost-user-fs-pci>"})
		}
		for alias, port := range d.strays {
			if port > 0 {
				list = append(list, map[string]string{"name": alias, "type": "child<vhost-user-fs-pci>"})
			}
		}
		return answer(list)
	case "query-chardev":
		list := []map[string]any{{"label": "charmonitor", "frontend-open": true}}
		for _, v := range d.devices {
			list = append(list, map[string]any{"label": "chr-vu-" + v.Alias})
		}
		for alias := range d.strays {
			list = append(list, map[string]any{"label": "chr-vu-" + alias})
		}
		return answer(list)
	}
	alias := strings.TrimPrefix(q.Arguments.ID, "chr-vu-")
	port, there := d.strays[alias]
	if !there {
		panic("asked to touch " + q.Arguments.ID)
	}
	f.log = append(f.log, q.Execute+" "+q.Arguments.ID)
	switch {
	case q.Execute == "device_del" && slices.Contains(d.pending, alias):
		return refuse("Device %s is already in the process of unplug", alias)
	case q.Execute == "device_del":
		d.pending = append(d.pending, alias)
		if !d.asleep {
			go f.release(uuid)
		}
	case q.Execute == "chardev-remove" && port > 0:
		return refuse("Chardev '%s' is busy", q.Arguments.ID)
	case q.Execute == "chardev-remove":
		delete(d.strays, alias)
	default:
		panic("unknown command " + q.Execute)
	}
	return answer(struct{}{})
}

func TestStraysOnModel(t *testing.T) {
	dotted := fakeDevice("a.1")
	for _, c := range []struct {
		name   string
		strays map[string]int
		attach Device
		want   []string
	}{
		{"its own", map[string]int{"ua-cw-a": 1}, fakeDevice("a"), []string{"device_del ua-cw-a", "chardev-remove chr-vu-ua-cw-a", "attach ua-cw-a"}},
		{"its own chardev", map[string]int{"ua-cw-a": 0}, fakeDevice("a"), []string{"chardev-remove chr-vu-ua-cw-a", "attach ua-cw-a"}},
		{"its own, with a dot", map[string]int{"ua-cw-a_d1": 3}, dotted, []string{"device_del ua-cw-a_d1", "chardev-remove chr-vu-ua-cw-a_d1", "attach ua-cw-a_d1"}},
		{"another in its port", map[string]int{"ua-cw-b": 2}, fakeDevice("a"), []string{"device_del ua-cw-b", "chardev-remove chr-vu-ua-cw-b", "attach ua-cw-a"}},
		{"another elsewhere", map[string]int{"ua-cw-b": 3}, fakeDevice("a"), []string{"attach ua-cw-a"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, h, _ := startFake(t)
			taken := make(chan int, 1)
			h.o.Strays = func(n int) { taken <- n }
			ctx := limited(t, wait.Long)
			if c.name == "another in its port" {
				if err := h.Attach(ctx, fakeDevice("known")); err != nil {
					t.Fatal(err)
				}
			}
			f.change(func(d *fakeDomain) { f.log, d.strays = nil, c.strays })
			err := h.Attach(ctx, c.attach)
			if len(c.want) > 1 {
				// Its virtiofsd has served QEMU once, and has to be started anew.
				if !errors.Is(err, ErrNoListener) || <-taken != 1 {
					t.Fatalf("attach: %v, want ErrNoListener and one stray", err)
				}
				err = h.Attach(ctx, c.attach)
			}
			if err != nil {
				t.Fatal(err)
			}
			f.change(func(*fakeDomain) {
				// QEMU is asked again for what it refuses at first.
				if got := slices.Compact(f.log); !slices.Equal(got, c.want) {
					t.Errorf("did %q, want %q", got, c.want)
				}
			})
		})
	}
}

// TestNotStrays: what libvirt knows, or is not ours, is never touched: the model
// panics otherwise.
func TestNotStrays(t *testing.T) {
	f, h, _ := startFake(t)
	ctx := limited(t, wait.Long)
	a := fakeDevice("a")
	if err := h.Attach(ctx, a); err != nil {
		t.Fatal(err)
	}
	others := map[string]int{"fs0": 3, "ua-cw-": 0, "ua-cw-a_x": 0, "ua-nova-1": 0, "ua-cw-b": 4}
	f.change(func(d *fakeDomain) { d.strays, f.log = others, nil })
	if err := h.DetachStray(ctx, a); !errors.Is(err, ErrAttached) {
		t.Errorf("of what libvirt knows: %v, want ErrAttached", err)
	}
	if err := h.DetachStray(ctx, fakeDevice("c")); err != nil {
		t.Errorf("of what nobody has: %v", err)
	}
	if err := h.DetachStray(ctx, Device{Instance: guestUUID, Alias: "ua-nova-1"}); err == nil {
		t.Error("took out another's")
	}
	f.change(func(d *fakeDomain) {
		if len(f.log) > 0 {
			t.Errorf("did %q", f.log)
		}
	})
	if err := h.DetachStray(ctx, fakeDevice("b")); err != nil {
		t.Error(err)
	}
	f.change(func(d *fakeDomain) {
		if len(d.strays) != 4 {
			t.Errorf("left are %v", d.strays)
		}
		d.running = false
	})
	if err := h.DetachStray(ctx, fakeDevice("b")); err != nil {
		t.Errorf("of an instance that is off: %v", err)
	}
}

func TestStrayOfBusyGuest(t *testing.T) {
	f, h, _ := startFake(t)
	a := fakeDevice("a")
	f.change(func(d *fakeDomain) { d.strays, d.asleep = map[string]int{"ua-cw-a": 1}, true })
	brief, cancel := context.WithTimeout(t.Context(), 3*strayLook)
	defer cancel()
	if err := h.DetachStray(brief, a); !errors.Is(err, ErrGuestBusy) {
		t.Errorf("a guest that sleeps: %v, want ErrGuestBusy", err)
	}
	// Others are attached meanwhile, where the port is another.
	b := fakeDevice("b")
	f.change(func(d *fakeDomain) { d.strays["ua-cw-a"] = 4 })
	if err := h.Attach(limited(t, wait.Long), b); err != nil {
		t.Error(err)
	}
	f.change(func(d *fakeDomain) { d.asleep = false; go f.release(guestUUID) })
	if err := h.DetachStray(limited(t, wait.Long), a); err != nil {
		t.Error(err)
	}
}

func TestMonitorRefused(t *testing.T) {
	f, h, _ := startFake(t)
	ctx := limited(t, wait.Long)
	f.change(func(d *fakeDomain) { d.strays = map[string]int{"ua-cw-a": 1} })
	for _, code := range []libvirt.ErrorNumber{libvirt.ERR_NO_SUPPORT, libvirt.ERR_ACCESS_DENIED, libvirt.ERR_AUTH_UNAVAILABLE, libvirt.ERR_OPERATION_DENIED, libvirt.ERR_OPERATION_UNSUPPORTED} {
		f.change(func(*fakeDomain) { f.fail["monitor"] = libvirt.Error{Code: code, Message: "no"} })
		if err := h.Attach(ctx, fakeDevice("a")); !errors.Is(err, ErrNoMonitor) || !strings.Contains(err.Error(), "already exists") {
			t.Errorf("code %d: %v, want ErrNoMonitor, and what was refused", code, err)
		}
	}
	// An answer that is none.
	f.change(func(*fakeDomain) { f.fail["monitor"] = libvirt.Error{Code: libvirt.ERR_INTERNAL_ERROR, Message: "?"} })
	if err := h.Attach(ctx, fakeDevice("a")); err == nil || errors.Is(err, ErrNoMonitor) {
		t.Errorf("another failure: %v", err)
	}
}

// TestAttachRefusedWithoutStray: QEMU's refusal of something else is told as it is.
func TestAttachRefusedWithoutStray(t *testing.T) {
	f, h, _ := startFake(t)
	refused := libvirt.Error{Code: libvirt.ERR_INTERNAL_ERROR, Message: "internal error: unable to execute QEMU command 'device_add': no"}
	f.change(func(*fakeDomain) { f.fail["attach"] = refused })
	if err := h.Attach(limited(t, wait.Long), fakeDevice("a")); !errors.Is(err, libvirt.ERR_INTERNAL_ERROR) || errors.Is(err, ErrNoListener) {
		t.Error(err)
	}
}
