package virtiofs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"libvirt.org/go/libvirt"

	"github.com/causeway-project/causeway/integration/wait"
)

// runHost runs a Host until the test ends.
func runHost(t *testing.T, h *Host) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
}

func fakeDevice(n string) Device {
	return Device{Instance: guestUUID, Alias: AliasPrefix + n, Tag: "tag-" + n, Socket: "/run/" + n}
}

func TestAttachOnModel(t *testing.T) {
	f, h, _ := startFake(t)
	ctx := limited(t, wait.Long)
	a := fakeDevice("a")
	for range 2 {
		if err := h.Attach(ctx, a); err != nil {
			t.Fatal(err)
		}
	}
	moved := a
	moved.Socket = "/run/elsewhere"
	if err := h.Attach(ctx, moved); err != nil {
		t.Fatal(err)
	}
	want := []string{"attach ua-cw-a", "unplug ua-cw-a", "attach ua-cw-a"}
	if f.mu.Lock(); !slices.Equal(f.log, want) {
		t.Errorf("libvirt was asked for %q, want %q", f.log, want)
	}
	f.mu.Unlock()
	if got, want := f.String(), "guest running=true\n  ua-cw-a tag-a /run/elsewhere\n"; got != want {
		t.Errorf("model is\n%swant\n%s", got, want)
	}
}

func TestAttachErrorsOnModel(t *testing.T) {
	tests := []struct {
		name   string
		change func(*fakeDomain)
		fail   error
		dev    Device
		want   error
	}{
		{"off", func(d *fakeDomain) { d.running = false }, nil, fakeDevice("x"), ErrInstanceOff},
		{"private memory", func(d *fakeDomain) { d.private = true }, nil, fakeDevice("x"), ErrNoSharedMemory},
		{"no port", func(d *fakeDomain) { d.ports = 0 }, nil, fakeDevice("x"), ErrNoPort},
		{"tag of somebody else's device", func(d *fakeDomain) {
			d.devices = []Device{{guestUUID, "fs0", "tag-x", "", 0}}
		}, nil, fakeDevice("x"), ErrTagTaken},
		{"defect of libvirt 9.0 after its restart", nil,
			libvirt.Error{Code: libvirt.ERR_CONFIG_UNSUPPORTED, Message: "unsupported configuration: 'virtiofs' requires shared memory"},
			fakeDevice("x"), ErrNoSharedMemory},
		{"a port that is none", nil, libvirt.Error{Code: libvirt.ERR_INTERNAL_ERROR, Message: "internal error: No more available PCI slots"}, fakeDevice("x"), ErrNoPort},
		{"another's alias", nil, nil, Device{guestUUID, "fs0", "x", "/run/x", 0}, errAny},
		{"relative socket", nil, nil, Device{guestUUID, AliasPrefix + "x", "x", "run/x", 0}, errAny},
		{"no instance", nil, nil, Device{"nobody", AliasPrefix + "x", "x", "/run/x", 0}, ErrNoInstance},
		{"empty instance", nil, nil, Device{"", AliasPrefix + "x", "x", "/run/x", 0}, ErrNoInstance},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, h, _ := startFake(t)
			if tt.change != nil {
				f.change(tt.change)
			}
			if tt.fail != nil {
				f.fail["attach"] = tt.fail
			}
			before := f.String()
			err := h.Attach(limited(t, wait.Long), tt.dev)
			if err == nil || tt.want != errAny && !errors.Is(err, tt.want) {
				t.Errorf("Attach = %v, want %v", err, tt.want)
			}
			if after := f.String(); after != before {
				t.Errorf("model was\n%sand is\n%s", before, after)
			}
		})
	}
}

var errAny = errors.New("any error")

func TestOneTagAtOnce(t *testing.T) {
	f, h, _ := startFake(t)
	f.change(func(d *fakeDomain) { d.ports = 100 })
	ctx := limited(t, wait.Long)
	var wg sync.WaitGroup
	errs := make([]error, 20)
	for i := range errs {
		d := fakeDevice(fmt.Sprint(i))
		d.Tag = "same"
		wg.Go(func() { errs[i] = h.Attach(ctx, d) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else if !errors.Is(err, ErrTagTaken) {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d attaches of one tag succeeded, want 1:\n%s", won, f)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.gates) != 0 || len(h.watches) != 0 {
		t.Errorf("left behind: %d gates, %d watches", len(h.gates), len(h.watches))
	}
}

func TestDetachWaitsForTheGuest(t *testing.T) {
	f, h, _ := startFake(t)
	a := fakeDevice("a")
	if err := h.Attach(limited(t, wait.Long), a); err != nil {
		t.Fatal(err)
	}
	f.change(func(d *fakeDomain) { d.asleep = true })
	done := make(chan error)
	brief, cancel := context.WithCancel(t.Context())
	go func() { done <- h.Detach(brief, a) }()
	wait.Until(t, "the guest is asked", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.domains[guestUUID].pending) > 0
	})
	cancel()
	if err := <-done; !errors.Is(err, ErrGuestBusy) {
		t.Fatalf("Detach = %v, want ErrGuestBusy: libvirt's success is none", err)
	}
	ctx := limited(t, wait.Long)
	go func() { done <- h.Detach(ctx, a) }()
	f.release(guestUUID)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestDetachOfNothing(t *testing.T) {
	f, h, _ := startFake(t)
	ctx := limited(t, wait.Long)
	if err := h.Detach(ctx, fakeDevice("a")); err != nil {
		t.Errorf("no such device: %v", err)
	}
	if err := h.Attach(ctx, fakeDevice("a")); err != nil {
		t.Fatal(err)
	}
	if err := h.Detach(ctx, Device{Instance: guestUUID, Alias: "fs0"}); err == nil {
		t.Error("a device that is not ours was detached")
	}
	f.change(func(d *fakeDomain) { d.running = false })
	if err := h.Detach(ctx, fakeDevice("a")); err != nil {
		t.Errorf("instance off: %v", err)
	}
	f.mu.Lock()
	delete(f.domains, guestUUID)
	f.mu.Unlock()
	if err := h.Detach(ctx, fakeDevice("a")); err != nil {
		t.Errorf("no such instance: %v", err)
	}
}

func TestReconnect(t *testing.T) {
	f, h, seen := startFake(t)
	everything := func(e Event) bool { return e == Event{} }
	if n := seen.count(everything); n != 1 {
		t.Errorf("%d times everything at the first connect, want once", n)
	}
	f.mu.Lock()
	f.away = true
	f.mu.Unlock()
	if _, err := h.Instance(t.Context(), "guest"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Instance on a dead connection = %v, want ErrUnavailable", err)
	}
	// No close callback: the failed call is enough.
	wait.Until(t, "it tries again", func() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.dials > 2 })
	if err := h.Connected(); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Connected = %v, want ErrUnavailable", err)
	}
	if _, err := h.Instance(t.Context(), "guest"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Instance = %v, want ErrUnavailable", err)
	}
	f.mu.Lock()
	f.away = false
	f.mu.Unlock()
	wait.Equal(t, "everything is reported again", 2, func() int { return seen.count(everything) })
	if _, err := h.Instance(t.Context(), "guest"); err != nil {
		t.Error(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed != 1 {
		t.Errorf("%d connections closed, want 1", f.closed)
	}
}

func TestHungLibvirtd(t *testing.T) {
	f, h, _ := startFake(t)
	hang := make(chan struct{})
	f.mu.Lock()
	f.hang = hang
	f.mu.Unlock()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	const n = 3 * maxCalls
	errs := make([]error, n)
	for i := range n {
		wg.Go(func() { errs[i] = h.Attach(ctx, Device{fmt.Sprint(i), AliasPrefix + "x", "x", "/run/x", 0}) })
	}
	inside := func() int { f.mu.Lock(); defer f.mu.Unlock(); return f.inside }
	wait.Equal(t, "all calls wait", maxCalls, inside)
	cancel()
	wg.Wait() // though libvirtd has answered none of them
	for _, err := range errs {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Attach = %v, want context.Canceled", err)
		}
	}
	if got := inside(); got != maxCalls {
		t.Errorf("%d calls wait, want %d", got, maxCalls)
	}
	if _, err := h.Instance(limited(t, 10*time.Millisecond), "guest"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Instance = %v, want ErrUnavailable", err)
	}
	f.mu.Lock()
	f.hang = nil
	f.mu.Unlock()
	close(hang)
	wait.Until(t, "it goes on", func() bool { _, err := h.Instance(t.Context(), "guest"); return err == nil })
}

func TestLoss(t *testing.T) {
	for name, lose := range map[string]func(*fakeVirt){
		"close callback": func(f *fakeVirt) { f.lost() },
		"silently":       func(f *fakeVirt) { f.mu.Lock(); defer f.mu.Unlock(); f.dead = true },
	} {
		t.Run(name, func(t *testing.T) {
			f, h, seen := startFake(t)
			lose(f)
			wait.Until(t, "it connects again", func() bool { return seen.count(func(e Event) bool { return e == Event{} }) == 2 })
			if _, err := h.Instance(t.Context(), "guest"); err != nil {
				t.Error(err)
			}
		})
	}
}

// An attach that outlives its caller still keeps a second one from looking.
func TestLateAttachHoldsItsLock(t *testing.T) {
	f, h, _ := startFake(t)
	hang := make(chan struct{})
	f.mu.Lock()
	f.hang = hang
	f.mu.Unlock()
	done := make(chan error)
	brief, cancel := context.WithCancel(t.Context())
	go func() { done <- h.Attach(brief, fakeDevice("a")) }()
	wait.Until(t, "libvirt is asked", func() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.inside == 1 })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("Attach = %v", err)
	}
	second := fakeDevice("b")
	second.Tag = fakeDevice("a").Tag
	ctx := limited(t, wait.Long)
	go func() { done <- h.Attach(ctx, second) }()
	f.mu.Lock()
	f.hang = nil
	f.mu.Unlock()
	close(hang)
	if err := <-done; !errors.Is(err, ErrTagTaken) {
		t.Errorf("second Attach = %v, want ErrTagTaken", err)
	}
	if err := h.Attach(ctx, fakeDevice("a")); err != nil {
		t.Errorf("the first again: %v", err)
	}
}
