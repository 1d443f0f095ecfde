package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/integration/lab"
	"github.com/causeway-project/causeway/integration/nfs41"
)

// TestPoolsAreLetGo has one gateway with exports on several file systems, which
// the host unmounts one after the other as soon as their last export is
// deleted, whatever happened to gateway, agent and clients meanwhile. The others
// are served on.
func TestPoolsAreLetGo(t *testing.T) {
	const pools, each = 5, 8
	w, ctx := theWorld(t), limited(t, 6*time.Minute)
	dirs := map[string]string{"default": w.pool.Dir}
	unmount := make([]func(context.Context) error, pools)
	name := func(pool int) string { return fmt.Sprintf("pool-%d", pool) }
	id := func(pool, i int) string { return fmt.Sprintf("pool-%d-%d", pool, i) }
	for pool := range pools {
		dirs[name(pool)], unmount[pool] = fileSystem(ctx, t, pool%2 == 0)
		for i := range each {
			dir := filepath.Join(dirs[name(pool)], id(pool, i))
			if err := os.Mkdir(dir, 0o777); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "file"), []byte(id(pool, i)), 0o666); err != nil {
				t.Fatal(err)
			}
		}
	}
	o := quick
	o.Pools = dirs
	n := w.started(ctx, t, o)
	n.putNetwork(ctx, blueNetwork())
	together(t, pools*each, func(nth int) error {
		pool, i := nth%pools, nth/pools
		e := exported(id(pool, i), id(pool, i))
		e.Connection.Options = map[string]string{"pool": name(pool)}
		_, err := n.exports.Put(ctx, &nodev1.PutExportRequest{Export: e})
		return err
	})
	reads := func(from int) {
		t.Helper()
		c := dialAs(ctx, t, n.client, gateway4, fmt.Sprintf("from pool %d", from))
		defer closeClient(ctx, t, c)
		for pool := from; pool < pools; pool++ {
			for i := range each {
				if got, err := c.ReadFile(ctx, "/"+id(pool, i)+"/file"); err != nil || string(got) != id(pool, i) {
					t.Errorf("%s reads %q, %v", id(pool, i), got, err)
				}
			}
		}
	}
	// It holds a file of each export open all the time.
	holder := dial(ctx, t, n.client, gateway4)
	defer holder.Abandon()
	for pool := range pools {
		for i := range each {
			if _, err := holder.Open(ctx, "/"+id(pool, i)+"/file", nfs41.OpenOptions{Access: nfs41.ReadWrite}); err != nil {
				t.Fatalf("%s: %v", id(pool, i), err)
			}
		}
	}
	reads(0)
	for pool := range pools {
		switch pool {
		case 1: // an agent that did not make them
			n.kill()
			n.start(ctx)
		case 2: // a gateway that had them all from its start
			n.must(syscall.Kill(int(n.gateway(ctx, "blue").GetPid()), syscall.SIGKILL))
			reads(pool)
		}
		together(t, each, func(i int) error {
			_, err := n.exports.Delete(ctx, &nodev1.DeleteExportRequest{Id: id(pool, i)})
			return err
		})
		if err := unmount[pool](ctx); err != nil {
			t.Errorf("%s, of which no export is left: %v", name(pool), err)
		}
		if pool < pools-1 {
			reads(pool + 1)
		}
	}
	n.deleteNetwork(ctx, "blue")
	n.finish(ctx)
}

// fileSystem makes one, on a disk or in memory, and returns where it is mounted
// and what unmounts it. What is still mounted goes when the test ends.
func fileSystem(ctx context.Context, t *testing.T, disk bool) (string, func(context.Context) error) {
	t.Helper()
	if disk {
		pool, err := lab.NewPool(ctx, 128)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = syscall.Unmount(pool.Dir, syscall.MNT_DETACH) })
		return pool.Dir, pool.Close
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=16m,mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir, func(context.Context) error { return syscall.Unmount(dir, 0) }
}
