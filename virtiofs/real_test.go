package virtiofs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"libvirt.org/go/libvirt"

	"github.com/causeway-project/causeway/integration/wait"
	"github.com/causeway-project/causeway/virtiofs/virtiofsd"
)

// device makes one for the shared guest, and takes it out when the test ends.
func (w *world) device(t *testing.T, name, tag, source string) Device {
	t.Helper()
	_, v := daemon(t, source)
	d := Device{Instance: guestUUID, Alias: AliasPrefix + name, Tag: tag, Socket: v.Socket()}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := w.host.Detach(ctx, d); err != nil {
			t.Error(err)
		}
	})
	return d
}

func limited(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// run runs a program in the guest.
func (w *world) run(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := w.host.guest(guestUUID).exec(limited(t, time.Minute), program, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestAttachMountDetach(t *testing.T) {
	w := bootedGuest(t)
	ctx := limited(t, 2*time.Minute)
	share := t.TempDir()
	write(t, filepath.Join(share, "from-host"), "host")
	d := w.device(t, "round.trip_1", "round", share)
	m := GuestMount{Instance: guestUUID, Tag: d.Tag, Path: "/mnt/a dir/'quoted' $(x)"}
	before := w.seen.count(func(e Event) bool { return e.Instance == guestUUID })

	for range 2 { // a second identical call is success
		if err := w.host.Attach(ctx, d); err != nil {
			t.Fatal(err)
		}
	}
	i, err := w.host.Instance(ctx, "guest")
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := i.device(d.Alias); !ok || got != d {
		t.Errorf("Instance has %+v, want %+v", got, d)
	}
	if all, err := w.host.Devices(ctx); err != nil || len(all) != 1 || all[0] != d {
		t.Errorf("Devices = %+v, %v, want %+v", all, err, d)
	}
	for range 2 {
		if err := w.host.GuestMount(ctx, m); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(w.run(t, "cat", "/proc/mounts"), "round /mnt"); n != 1 {
		t.Errorf("mounted %d times, want once", n)
	}
	if got := w.run(t, "cat", m.Path+"/from-host"); got != "host" {
		t.Errorf("guest reads %q", got)
	}
	w.run(t, "cp", m.Path+"/from-host", m.Path+"/from-guest")
	if got, err := os.ReadFile(filepath.Join(share, "from-guest")); err != nil || string(got) != "host" {
		t.Errorf("host reads %q, %v", got, err)
	}
	held := &session{h: w.host, uuid: guestUUID}
	if err := held.ask(ctx, "guest-exec", execArguments{Path: "sh", Arg: []string{"-c", `cd "$1" && exec sleep 1000`, "sh", m.Path}}, &struct{}{}); err != nil {
		t.Fatal(err)
	}
	wait.Until(t, "sleep runs in the guest", func() bool { return held.do(ctx, "pidof", "sleep") == nil })
	if err := w.host.GuestUnmount(ctx, m); !errors.Is(err, ErrGuestBusy) {
		t.Errorf("unmount of what sleep uses = %v, want ErrGuestBusy", err)
	}
	w.run(t, "killall", "sleep")
	wait.Until(t, "unmounted when nobody uses it", func() bool { return w.host.GuestUnmount(ctx, m) == nil })
	if err := w.host.GuestUnmount(ctx, m); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := w.host.Detach(ctx, d); err != nil {
			t.Fatal(err)
		}
	}
	if n := w.seen.count(func(e Event) bool { return e.Instance == guestUUID }); n < before+2 {
		t.Errorf("%d events, want one for the device coming and one for its going", n-before)
	}
	if all, err := w.host.Devices(ctx); err != nil || len(all) != 0 {
		t.Errorf("Devices = %+v, %v, want none", all, err)
	}
}

func TestAttachAgainWithAFreshDaemon(t *testing.T) {
	w := bootedGuest(t)
	ctx := limited(t, 2*time.Minute)
	m := GuestMount{Instance: guestUUID, Tag: "again", Path: "/mnt/again"}
	old := w.device(t, "again", "again", t.TempDir())
	if err := w.host.Attach(ctx, old); err != nil {
		t.Fatal(err)
	}
	if err := w.host.GuestMount(ctx, m); err != nil {
		t.Fatal(err)
	}
	// The same alias on another socket: the former device goes first, and leaves
	// a dead mount behind.
	share := t.TempDir()
	write(t, filepath.Join(share, "new"), "new")
	fresh := w.device(t, "again", "again", share)
	if err := w.host.Attach(ctx, fresh); err != nil {
		t.Fatal(err)
	}
	if err := w.host.GuestMount(ctx, m); err != nil {
		t.Fatal(err)
	}
	if got := w.run(t, "cat", "/mnt/again/new"); got != "new" {
		t.Errorf("guest reads %q", got)
	}
	if err := w.host.GuestUnmount(ctx, m); err != nil {
		t.Fatal(err)
	}
}

func TestKeeperDiesIdle(t *testing.T) {
	w := bootedGuest(t)
	ctx := limited(t, 2*time.Minute)
	ds, v := daemon(t, t.TempDir())
	d := Device{Instance: guestUUID, Alias: AliasPrefix + "dies", Tag: "dies", Socket: v.Socket()}
	m := GuestMount{Instance: guestUUID, Tag: "dies", Path: "/mnt/dies"}
	if err := w.host.Attach(ctx, d); err != nil {
		t.Fatal(err)
	}
	if err := w.host.GuestMount(ctx, m); err != nil {
		t.Fatal(err)
	}
	wantState(t, ds, v, virtiofsd.Connected)
	p, err := ds.Find(v)
	if err != nil || p == nil {
		t.Fatalf("Find = %v, %v, want a process", p, err)
	}
	if err := syscall.Kill(p.Identity().PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wantState(t, ds, v, virtiofsd.Stopped)
	if err := w.host.Detach(ctx, d); err != nil {
		t.Fatal(err)
	}
	if err := w.host.GuestUnmount(ctx, m); err != nil {
		t.Errorf("unmount of a dead mount: %v", err)
	}
}

func TestSuspendedGuest(t *testing.T) {
	w := bootedGuest(t)
	ctx := limited(t, 2*time.Minute)
	d := w.device(t, "asleep", "asleep", t.TempDir())
	if err := w.host.Attach(ctx, d); err != nil {
		t.Fatal(err)
	}
	if err := w.guest.Suspend(); err != nil {
		t.Fatal(err)
	}
	err := w.host.Detach(limited(t, 5*time.Second), d)
	if !errors.Is(err, ErrGuestBusy) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Detach = %v, want ErrGuestBusy", err)
	}
	m := GuestMount{Instance: guestUUID, Tag: d.Tag, Path: "/mnt/asleep"}
	if err := w.host.GuestMount(ctx, m); !errors.Is(err, ErrGuestAgent) {
		t.Errorf("GuestMount = %v, want ErrGuestAgent", err)
	}
	if err := w.guest.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := w.host.Detach(ctx, d); err != nil {
		t.Errorf("Detach after resume: %v", err)
	}
	if err := w.host.GuestUnmount(ctx, m); err != nil {
		t.Errorf("the guest agent after resume: %v", err)
	}
}

// A guest that boots loses the request, and nobody says so.
func TestDetachFromBootingGuest(t *testing.T) {
	w := bootedGuest(t)
	ctx := limited(t, 2*time.Minute)
	d := w.device(t, "boot", "boot", t.TempDir())
	if err := w.host.Attach(ctx, d); err != nil {
		t.Fatal(err)
	}
	rebooted := func() int {
		return w.seen.count(func(e Event) bool { return e == Event{Instance: guestUUID, Rebooted: true} })
	}
	before := rebooted()
	if err := w.guest.Reset(0); err != nil {
		t.Fatal(err)
	}
	wait.Until(t, "the reset is reported", func() bool { return rebooted() > before })
	if err := w.host.Detach(ctx, d); err != nil {
		t.Error(err)
	}
}

func TestHungGuestAgent(t *testing.T) {
	w := bootedGuest(t)
	s := w.host.guest(guestUUID)
	ctx := limited(t, 2*time.Minute)
	if err := s.do(ctx, "killall", "-STOP", "qemu-ga"); !errors.Is(err, ErrGuestAgent) {
		t.Errorf("the agent's last answer = %v, want ErrGuestAgent", err)
	}
	m := GuestMount{Instance: guestUUID, Tag: "x", Path: "/mnt/x"}
	// A slow guest stops its agent after nobody waits for the answer any more.
	wait.Until(t, "mount fails for the agent", func() bool { return errors.Is(w.host.GuestMount(ctx, m), ErrGuestAgent) })
	if err := w.guest.Reset(0); err != nil {
		t.Fatal(err)
	}
	wait.Until(t, "unmounted after a reset", func() bool { return w.host.GuestUnmount(ctx, m) == nil })
}

func TestConcurrentAttaches(t *testing.T) {
	w := bootedGuest(t)
	ctx := limited(t, 2*time.Minute)
	const n = 6
	var all []Device
	for i := range n {
		all = append(all, w.device(t, fmt.Sprint("many", i), fmt.Sprint("many", i), t.TempDir()))
	}
	same := w.device(t, "same", all[0].Tag, t.TempDir())
	errs := make([]error, n+1)
	var wg sync.WaitGroup
	for i, d := range append(all, same) {
		wg.Go(func() { errs[i] = w.host.Attach(ctx, d) })
	}
	wg.Wait()
	for i := 1; i < n; i++ {
		if errs[i] != nil {
			t.Error(errs[i])
		}
	}
	if first, second := errs[0], errs[n]; (first == nil) == (second == nil) || !errors.Is(errors.Join(first, second), ErrTagTaken) {
		t.Errorf("one tag at once: %v and %v, want one to succeed and ErrTagTaken", first, second)
	}
}

func TestDeadlineHalfWay(t *testing.T) {
	w := bootedGuest(t)
	d := w.device(t, "half", "half", t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.host.Attach(ctx, d); !errors.Is(err, context.Canceled) {
		t.Errorf("Attach = %v, want context.Canceled", err)
	}
	if err := w.host.Attach(limited(t, time.Minute), d); err != nil {
		t.Fatal(err)
	}
	if err := w.host.Detach(ctx, d); !errors.Is(err, context.Canceled) {
		t.Errorf("Detach = %v, want context.Canceled", err)
	}
	if err := w.host.Detach(limited(t, time.Minute), d); err != nil {
		t.Fatal(err)
	}
}

func TestRefusals(t *testing.T) {
	w := bootedGuest(t)
	ctx := limited(t, 2*time.Minute)
	d := w.device(t, "taken", "taken", t.TempDir())
	if err := w.host.Attach(ctx, d); err != nil {
		t.Fatal(err)
	}
	off := domainXML{name: "off", uuid: "11111111-2222-3333-4444-5555555555bb", memory: sharedCell, ports: pcieRoot + rootPort}
	defined, err := w.conn.DomainDefineXML(off.String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := defined.Undefine(); err != nil {
			t.Error(err)
		}
	}()
	tests := []struct {
		name string
		dev  Device
		want error
	}{
		{"tag taken", Device{guestUUID, AliasPrefix + "other", "taken", "/nowhere", 0}, ErrTagTaken},
		{"no listener", Device{guestUUID, AliasPrefix + "other", "free", "/nowhere", 0}, ErrNoListener},
		{"unknown", Device{"11111111-2222-3333-4444-5555555555ff", AliasPrefix + "x", "free", "/nowhere", 0}, ErrNoInstance},
		{"off", Device{off.uuid, AliasPrefix + "x", "free", "/nowhere", 0}, ErrInstanceOff},
		{"tag", Device{guestUUID, AliasPrefix + "x", "two words", "/nowhere", 0}, ErrBadTag},
		{"NUL", Device{"guest\x00x", AliasPrefix + "x", "free", "/nowhere", 0}, ErrNoInstance},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := w.host.Attach(ctx, tt.dev); !errors.Is(err, tt.want) {
				t.Errorf("Attach = %v, want %v", err, tt.want)
			}
		})
	}
	if i, err := w.host.Instance(ctx, off.uuid); err != nil || i.Running {
		t.Errorf("Instance = %+v, %v, want one that is off", i, err)
	}
	for _, gone := range []Device{{off.uuid, AliasPrefix + "x", "", "", 0}, {"11111111-2222-3333-4444-5555555555ff", AliasPrefix + "x", "", "", 0}} {
		if err := w.host.Detach(ctx, gone); err != nil {
			t.Errorf("Detach where there is nothing: %v", err)
		}
	}
	if i, err := w.host.Instance(ctx, guestUUID); err != nil || len(i.Filesystems) != 1 {
		t.Errorf("after the refusals: %+v, %v, want one device", i.Filesystems, err)
	}
}

// Somebody else may take a tag between our look and our attach: libvirt 9.0 has
// nothing against it, 11.3 has.
func TestTagTwice(t *testing.T) {
	w := bootedGuest(t)
	ctx := limited(t, 2*time.Minute)
	if err := w.host.Attach(ctx, w.device(t, "first", "twice", t.TempDir())); err != nil {
		t.Fatal(err)
	}
	doc, err := w.device(t, "second", "twice", t.TempDir()).XML()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.guest.AttachDeviceFlags(doc, libvirt.DOMAIN_DEVICE_MODIFY_LIVE); err != nil && !errors.Is(explain(err), ErrTagTaken) {
		t.Errorf("libvirt's refusal is not understood: %v", explain(err))
	}
}

// What the XML is taken to mean must be what libvirt does.
func TestRulesAreLibvirts(t *testing.T) {
	w := embedded(t)
	const (
		plainShared  = `<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>`
		accessOnly   = `<memoryBacking><access mode='shared'/></memoryBacking>`
		memfdOnly    = `<memoryBacking><source type='memfd'/></memoryBacking>`
		cell         = `<cpu mode='maximum'><numa><cell id='0' cpus='0' memory='%d' unit='MiB'/></numa></cpu>`
		privateCell  = `<cpu mode='maximum'><numa><cell id='0' cpus='0' memory='%d' unit='MiB' memAccess='private'/></numa></cpu>`
		sharedMemory = `<cpu mode='maximum'><numa><cell id='0' cpus='0' memory='%d' unit='MiB' memAccess='shared'/></numa></cpu>`
	)
	ports := pcieRoot + rootPort
	tests := []struct {
		name   string
		domain domainXML
		shared bool
		ports  int
	}{
		{"shared cell", domainXML{memory: sharedCell, ports: ports}, true, 1},
		{"shared", domainXML{memory: plainShared, ports: ports}, true, 1},
		{"access only", domainXML{memory: accessOnly, ports: ports}, true, 1},
		{"memfd only", domainXML{memory: memfdOnly, ports: ports}, false, 1},
		{"private", domainXML{ports: ports}, false, 1},
		{"cell alone shared", domainXML{memory: sharedMemory, ports: ports}, true, 1},
		{"cell says nothing, memory shared", domainXML{memory: plainShared + cell, ports: ports}, true, 1},
		{"cell says nothing", domainXML{memory: cell, ports: ports}, false, 1},
		{"private cell", domainXML{memory: plainShared + privateCell, ports: ports}, false, 1},
		{"no port", domainXML{memory: sharedCell, ports: pcieRoot}, true, 0},
		{"port without hot-plug", domainXML{memory: sharedCell, ports: pcieRoot + `<controller type='pci' model='pcie-root-port'><target hotplug='off'/></controller>`}, true, 0},
		{"bridge to conventional", domainXML{memory: sharedCell, ports: ports + `<controller type='pci' model='pcie-to-pci-bridge'/>`}, true, 0},
		{"taken port", domainXML{memory: sharedCell, ports: ports + `<controller type='virtio-serial' index='0'/>`}, true, 0},
		{"conventional", domainXML{machine: "pc", memory: sharedCell, ports: `<controller type='pci' model='pci-root'/>`}, true, 29},
	}
	parent := t
	var ending sync.WaitGroup
	defer ending.Wait()
	for n, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.domain.name, tt.domain.uuid = fmt.Sprint("rule", n), fmt.Sprintf("11111111-2222-3333-4444-%012d", n)
			d, err := w.conn.DomainCreateXML(tt.domain.String(), libvirt.DOMAIN_START_PAUSED)
			if err != nil {
				t.Fatal(err)
			}
			defer ending.Go(func() { // it takes 2 s
				if err := d.Destroy(); err != nil {
					parent.Error(err)
				}
			})
			i, err := w.host.Instance(t.Context(), tt.domain.uuid)
			if err != nil {
				t.Fatal(err)
			}
			if i.SharedMemory != tt.shared || i.FreePorts != tt.ports {
				doc, _ := d.GetXMLDesc(0)
				t.Errorf("shared %v, ports %d, want %v and %d\n%s", i.SharedMemory, i.FreePorts, tt.shared, tt.ports, doc)
			}
			_, v := daemon(t, t.TempDir())
			dev := Device{Instance: tt.domain.uuid, Alias: AliasPrefix + "x", Tag: "x", Socket: v.Socket()}
			xml, err := dev.XML()
			if err != nil {
				t.Fatal(err)
			}
			err = d.AttachDeviceFlags(xml, libvirt.DOMAIN_DEVICE_MODIFY_LIVE)
			if got, want := err == nil, i.SharedMemory && i.FreePorts > 0; got != want {
				t.Errorf("libvirt says %v", err)
			}
			switch {
			case err == nil:
			case !i.SharedMemory && !errors.Is(explain(err), ErrNoSharedMemory):
				t.Errorf("libvirt's refusal is not understood: %v", explain(err))
			case i.SharedMemory && !errors.Is(explain(err), ErrNoPort):
				t.Errorf("libvirt's refusal is not understood: %v", explain(err))
			}
		})
	}
}
