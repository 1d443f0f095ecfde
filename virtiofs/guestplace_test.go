package virtiofs

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/causeway-project/causeway/integration/wait"
)

// TestGuestMountPlaces: what a guest may have at the path already.
func TestGuestMountPlaces(t *testing.T) {
	w := bootedGuest(t)
	ctx := limited(t, 2*time.Minute)
	d := w.device(t, "places", "places", t.TempDir())
	if err := w.host.Attach(ctx, d); err != nil {
		t.Fatal(err)
	}
	w.run(t, "sh", "-c", `mkdir -p /tmp/full /tmp/to; echo hidden >/tmp/full/file; echo >/tmp/plain; ln -sfn /tmp/to /tmp/link; ln -sfn /tmp/nowhere/x /tmp/loose; ln -sfn /tmp/loop /tmp/loop`)
	for _, tt := range []struct {
		name, path string
		want       error
	}{
		{"new, and its parents", "/tmp/a/b/c", nil},
		{"directory with files", "/tmp/full", nil},
		{"link to a directory", "/tmp/link", nil},
		{"file", "/tmp/plain", ErrGuestRefused},
		{"below a file", "/tmp/plain/x", ErrGuestRefused},
		{"link to nothing", "/tmp/loose", ErrGuestRefused},
		{"link to itself", "/tmp/loop", ErrGuestRefused},
		{"where nothing can be made", "/proc/x", ErrGuestRefused},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := GuestMount{Instance: guestUUID, Tag: d.Tag, Path: tt.path}
			err := w.host.GuestMount(ctx, m)
			if !errors.Is(err, tt.want) {
				t.Fatalf("GuestMount = %v, want %v", err, tt.want)
			}
			if got, err := w.host.GuestMounted(ctx, m); err != nil || got != (tt.want == nil) {
				t.Errorf("GuestMounted = %v, %v", got, err)
			}
			m.Path = "" // wherever it is
			if err := w.host.GuestUnmount(ctx, m); err != nil {
				t.Error(err)
			}
		})
	}
	if got := w.run(t, "cat", "/tmp/full/file"); got != "hidden\n" {
		t.Errorf("what was mounted over reads %q", got)
	}
}

// TestGuestAgentForbids restarts the guest's agent with commands blocked, as
// distributions ship it.
func TestGuestAgentForbids(t *testing.T) {
	w := bootedGuest(t)
	ctx := limited(t, 3*time.Minute)
	d := w.device(t, "forbids", "forbids", t.TempDir())
	if err := w.host.Attach(ctx, d); err != nil {
		t.Fatal(err)
	}
	m := GuestMount{Instance: guestUUID, Tag: d.Tag, Path: "/mnt/forbids"}
	if err := w.host.GuestMount(ctx, m); err != nil {
		t.Fatal(err)
	}
	s := &session{h: w.host, uuid: guestUUID}
	const restart = `for p in /sys/class/virtio-ports/*; do grep -q guest_agent $p/name && port=/dev/${p##*/}; done
(sleep 1; killall qemu-ga; sleep 1; exec qemu-ga -m virtio-serial -p $port -t /run -b guest-exec,guest-exec-status) >/dev/null 2>&1 &`
	if err := s.do(ctx, "sh", "-c", restart); err != nil {
		t.Fatal(err)
	}
	wait.Until(t, "the guest forbids", func() bool { return errors.Is(s.do(ctx, "true"), ErrGuestForbids) })
	if got, err := w.host.GuestMounted(ctx, m); err != nil || !got {
		t.Errorf("GuestMounted = %v, %v, want it seen all the same", got, err)
	}
	if err := w.host.GuestMount(ctx, m); err != nil {
		t.Errorf("GuestMount of what is mounted: %v", err)
	}
	other := GuestMount{Instance: guestUUID, Tag: d.Tag, Path: "/mnt/other"}
	if err := w.host.GuestMount(ctx, other); !errors.Is(err, ErrGuestForbids) || !strings.Contains(err.Error(), "guest-exec") {
		t.Errorf("GuestMount elsewhere = %v, want ErrGuestForbids", err)
	}
	if err := w.host.GuestUnmount(ctx, m); !errors.Is(err, ErrGuestBusy) {
		t.Errorf("GuestUnmount = %v, want ErrGuestBusy, since the guest alone can", err)
	}
	if err := w.guest.Reset(0); err != nil {
		t.Fatal(err)
	}
	wait.Until(t, "mounted after a reset", func() bool { return w.host.GuestMount(ctx, m) == nil })
	if err := w.host.GuestUnmount(ctx, m); err != nil {
		t.Error(err)
	}
}
