package local_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/causeway-project/causeway/drivers"
	"github.com/causeway-project/causeway/drivers/drivertest"
	"github.com/causeway-project/causeway/drivers/local"
	"github.com/causeway-project/causeway/drivers/mounts"
	"github.com/causeway-project/causeway/integration/needs"
)

func TestMain(m *testing.M) { os.Exit(drivertest.Main(m)) }

// conn is a connection to a share of the default pool.
func conn(source string) drivers.Connection {
	return drivers.Connection{Kind: local.Kind, Source: source}
}

func newDriver(t *testing.T, pools map[string]string) *local.Driver {
	t.Helper()
	d, err := local.New(local.Options{Pools: pools})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func mkdir(t *testing.T, parts ...string) string {
	t.Helper()
	dir := filepath.Join(parts...)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestContract runs the contract on each file system that a pool is meant to
// lie on.
func TestContract(t *testing.T) {
	fstypes := []string{"here", "tmpfs", "ext4", "btrfs"}
	if _, err := exec.LookPath("mkfs.xfs"); err == nil {
		fstypes = append(fstypes, "xfs") // not part of a bare Debian
	}
	for _, fstype := range fstypes {
		t.Run(fstype, func(t *testing.T) {
			drivertest.RunMounter(t, func(t *testing.T, e drivertest.Env) drivertest.Backend {
				pool := filepath.Join(e.Dir, "pool")
				mountPool(t, fstype, e.Dir, pool)
				mkdir(t, pool, "team", "docs")
				d, err := local.New(local.Options{Pools: map[string]string{"fast": pool}, Logger: e.Log})
				if err != nil {
					t.Fatal(err)
				}
				in := func(source string) drivers.Connection {
					c := conn(source)
					c.Options = map[string]string{local.PoolOption: "fast"}
					return c
				}
				secret := in("team/docs")
				secret.Secret = drivers.NewSecret([]byte("no share takes this"))
				return drivertest.Backend{
					Mounter: d,
					Share:   in("team/docs"),
					Missing: in("team/none"),
					Invalid: map[string]drivers.Connection{
						"dotdot": in("team/../docs"), "absolute": in("/etc"), "empty": in(""),
						"no pool": conn("team/docs"), "secret": secret,
					},
					Properties: drivers.Properties{StableHandles: true},
					Abilities:  []drivers.Ability{drivers.CanProbe, drivers.CanReportOwner},
					Delete: func(t *testing.T) {
						if err := os.RemoveAll(filepath.Join(pool, "team", "docs")); err != nil {
							t.Error(err)
						}
					},
				}
			})
		})
	}
}

// mountPool puts a file system of fstype at pool, unless it is there already.
func mountPool(t *testing.T, fstype, dir, pool string) {
	t.Helper()
	mkdir(t, pool)
	if _, there, err := mounts.At(pool); err != nil || there || fstype == "here" {
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	if fstype == "tmpfs" {
		run(t, "mount", "-t", "tmpfs", "-o", "size=1m", "pool", pool)
	} else {
		needs.Programs(t, "mkfs."+fstype)
		image := filepath.Join(dir, "image")
		f, err := os.Create(image)
		if err != nil {
			t.Fatal(err)
		}
		// Sparse; 320 MiB is more than what mkfs.xfs wants at least.
		if err := errors.Join(f.Truncate(320<<20), f.Close()); err != nil {
			t.Fatal(err)
		}
		run(t, "mkfs."+fstype, "-q", image)
		run(t, "mount", "-o", "loop", image, pool)
	}
	t.Cleanup(func() {
		if err := mounts.Unmount(context.WithoutCancel(t.Context()), pool); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}
