package lab_test

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/causeway-project/causeway/integration/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

// limited is for one whole test; a guest needs 4 s to boot.
func limited(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestGuest(t *testing.T) {
	ctx := limited(t)
	begin := time.Now()
	lap := func(what string) { t.Logf("%s after %s", what, time.Since(begin).Round(time.Millisecond)) }
	blue, err := lab.NewBridge(ctx, "br-blue")
	if err != nil {
		t.Fatal(err)
	}
	client, err := blue.NewClient(ctx, "c1", netip.MustParsePrefix("10.77.0.9/24"), netip.MustParsePrefix("fd77::9/64"))
	if err != nil {
		t.Fatal(err)
	}
	lap("network")
	virt, err := lab.StartLibvirt(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := virt.Close(); err != nil {
			t.Error(err)
		}
	})
	lap("libvirt")
	g, err := virt.Boot(ctx, lab.GuestOptions{
		Name: "vm1", Bridge: blue.Name,
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.77.0.5/24"), netip.MustParsePrefix("fd77::5/64")},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	lap("guest")
	for _, address := range []string{"10.77.0.5", "fd77::5"} {
		if out, err := client.Command(ctx, "busybox", "ping", "-c", "1", "-W", "2", address).CombinedOutput(); err != nil {
			t.Errorf("ping %s: %v: %s", address, err, out)
		}
	}
	lap("ping")
	w, err := g.StartWriter(ctx, "/tmp/log", 10*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.WaitMore(ctx, 10); err != nil {
		t.Fatal(err)
	}
	p, err := w.Stop(ctx)
	t.Logf("%+v", p)
	if err != nil {
		t.Fatal(err)
	}
	lap("writer")
	if err := virt.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := virt.Start(ctx); err != nil {
		t.Fatal(err)
	}
	lap("libvirt again")
	if out, err := g.Exec(ctx, "false"); err == nil {
		t.Errorf("false succeeded: %q", out)
	}
	if err := g.Reset(ctx); err != nil {
		t.Fatal(err)
	}
	lap("reset")
}

func TestPool(t *testing.T) {
	p, err := lab.NewPool(t.Context(), 256)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.Dir, "file"), nil, 0o600); err != nil {
		t.Error(err)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
