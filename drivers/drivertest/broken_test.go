package drivertest_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/drivers"
	"github.com/causeway-project/causeway/drivers/drivertest"
	"github.com/causeway-project/causeway/drivers/local"
)

// brokenDriver names, in a child process, the fault that its driver has.
const brokenDriver = "CAUSEWAY_DRIVERTEST_BROKEN"

// A faulty is a sound driver with one fault.
type faulty struct {
	drivers.Mounter
	mount   func(ctx context.Context, r drivers.MountRequest) error
	unmount func(ctx context.Context, target string) error
	mounts  func(ctx context.Context, root string) ([]drivers.Mounted, error)
}

func (f faulty) Mount(ctx context.Context, r drivers.MountRequest) error {
	if f.mount != nil {
		return f.mount(ctx, r)
	}
	return f.Mounter.Mount(ctx, r)
}

func (f faulty) Unmount(ctx context.Context, target string) error {
	if f.unmount != nil {
		return f.unmount(ctx, target)
	}
	return f.Mounter.Unmount(ctx, target)
}

func (f faulty) Mounts(ctx context.Context, root string) ([]drivers.Mounted, error) {
	if f.mounts != nil {
		return f.mounts(ctx, root)
	}
	return f.Mounter.Mounts(ctx, root)
}

// A fault is one way to break a driver, and the test of the suite that must
// find it.
type fault struct {
	foundBy string
	make    func(d drivers.Mounter, log *slog.Logger) faulty
}

func faults() map[string]fault {
	return map[string]fault{
		"stacks": {"Twice", func(d drivers.Mounter, _ *slog.Logger) faulty {
			return faulty{Mounter: d, mount: func(ctx context.Context, r drivers.MountRequest) error {
				if err := d.Mount(ctx, r); err != nil {
					return err
				}
				return unix.Mount(r.Target, r.Target, "", unix.MS_BIND, "")
			}}
		}},
		"writable": {"ReadOnly", func(d drivers.Mounter, _ *slog.Logger) faulty {
			return faulty{Mounter: d, mount: func(ctx context.Context, r drivers.MountRequest) error {
				r.ReadOnly = false
				return d.Mount(ctx, r)
			}}
		}},
		"replaces": {"Occupied", func(d drivers.Mounter, _ *slog.Logger) faulty {
			return faulty{Mounter: d, mount: func(ctx context.Context, r drivers.MountRequest) error {
				return errors.Join(d.Unmount(ctx, r.Target), d.Mount(ctx, r))
			}}
		}},
		"detaches": {"Busy", func(d drivers.Mounter, _ *slog.Logger) faulty {
			return faulty{Mounter: d, unmount: func(_ context.Context, target string) error {
				if err := unix.Unmount(target, unix.MNT_DETACH); !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
					return err
				}
				return nil
			}}
		}},
		"deaf": {"Cancelled", func(d drivers.Mounter, _ *slog.Logger) faulty {
			return faulty{Mounter: d, mount: func(ctx context.Context, r drivers.MountRequest) error {
				return d.Mount(context.WithoutCancel(ctx), r)
			}}
		}},
		"blind": {"Gone", func(d drivers.Mounter, _ *slog.Logger) faulty {
			return faulty{Mounter: d, mounts: func(ctx context.Context, root string) ([]drivers.Mounted, error) {
				ms, err := d.Mounts(ctx, root)
				for i := range ms {
					ms[i].Gone = false
				}
				return ms, err
			}}
		}},
		"logs secrets": {"Secret", func(d drivers.Mounter, log *slog.Logger) faulty {
			return faulty{Mounter: d, mount: func(ctx context.Context, r drivers.MountRequest) error {
				log.Info("mounting", "with", string(r.Connection.Secret.Reveal()))
				return d.Mount(ctx, r)
			}}
		}},
		"tells secrets": {"Secret", func(d drivers.Mounter, _ *slog.Logger) faulty {
			return faulty{Mounter: d, mount: func(ctx context.Context, r drivers.MountRequest) error {
				if err := d.Mount(ctx, r); err != nil {
					return fmt.Errorf("mount with %x: %w", r.Connection.Secret.Reveal(), err)
				}
				return nil
			}}
		}},
		// Embedding hides the optional half: an ability has vanished silently.
		"unable": {"Described", func(d drivers.Mounter, _ *slog.Logger) faulty { return faulty{Mounter: d} }},
	}
}

// TestSuiteFindsFaults runs the suite in a child process, where it may fail.
func TestSuiteFindsFaults(t *testing.T) {
	drivertest.NeedRoot(t)
	all := faults()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		t.Run(name, func(t *testing.T) {
			want := "--- FAIL: TestBroken/" + all[name].foundBy
			cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestBroken$/^"+all[name].foundBy+"$")
			cmd.Env = append(os.Environ(), brokenDriver+"="+name)
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), want) {
				t.Errorf("want %q: %v\n%s", want, err, out)
			}
		})
	}
}

// TestBroken is the child of TestSuiteFindsFaults. On its own it shows that
// the suite finds nothing in the same driver without a fault.
func TestBroken(t *testing.T) {
	drivertest.RunMounter(t, func(t *testing.T, e drivertest.Env) drivertest.Backend {
		share := filepath.Join(e.Dir, "docs")
		if err := os.MkdirAll(share, 0o755); err != nil {
			t.Fatal(err)
		}
		d, err := local.New(local.Options{Pools: map[string]string{local.DefaultPool: e.Dir}, Logger: e.Log})
		if err != nil {
			t.Fatal(err)
		}
		b := drivertest.Backend{
			Mounter:    d,
			Share:      drivers.Connection{Kind: local.Kind, Source: "docs"},
			Missing:    drivers.Connection{Kind: local.Kind, Source: "none"},
			Invalid:    map[string]drivers.Connection{"empty": {Kind: local.Kind}},
			Properties: drivers.Properties{StableHandles: true},
			Abilities:  []drivers.Ability{drivers.CanProbe, drivers.CanReportOwner},
			Delete: func(t *testing.T) {
				if err := os.RemoveAll(share); err != nil {
					t.Error(err)
				}
			},
		}
		if fault, ok := faults()[os.Getenv(brokenDriver)]; ok {
			b.Mounter = fault.make(d, e.Log)
		}
		return b
	})
}
