package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/integration/lab"
)

// exportsOfEach gateway in TestScale; CAUSEWAY_SCALE says another number, such
// as 100 for a host with 2,000 exports. make bench measures that.
func exportsOfEach(t *testing.T) int {
	text := os.Getenv("CAUSEWAY_SCALE")
	if text == "" {
		return 15
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("CAUSEWAY_SCALE: %v", err)
	}
	return n
}

// A crowd is many gateways with as many exports each, of a directory each.
type crowd struct {
	*node
	gateways, each int
}

func (c *crowd) network(gateway int) string   { return fmt.Sprintf("crowd-%d", gateway) }
func (c *crowd) address(gateway int) string   { return fmt.Sprintf("10.77.0.%d", 100+gateway) }
func (c *crowd) export(gateway, i int) string { return fmt.Sprintf("crowd-%d-%d", gateway, i) }
func (c *crowd) all(do func(gateway, i int) error) time.Duration {
	c.t.Helper()
	const callers = 16
	return together(c.t, callers, func(caller int) error {
		for n := caller; n < c.gateways*c.each; n += callers {
			if err := do(n%c.gateways, n/c.gateways); err != nil {
				return fmt.Errorf("%s: %w", c.export(n%c.gateways, n/c.gateways), err)
			}
		}
		return nil
	})
}

// ready waits until every export is.
func (c *crowd) ready(ctx context.Context) {
	c.t.Helper()
	until(ctx, c.t, "exports are not ready", func() (bool, error) {
		list, err := c.exports.List(ctx, &nodev1.ListExportsRequest{})
		if err != nil {
			return false, err
		}
		for _, e := range list.GetExports() {
			if e.GetStatus().GetPhase() != nodev1.Phase_PHASE_READY {
				return false, fmt.Errorf("%s: %v", e.GetId(), e.GetStatus())
			}
		}
		return len(list.GetExports()) == c.gateways*c.each, fmt.Errorf("%d exports", len(list.GetExports()))
	})
}

// TestScale fills a host with gateways and exports. One gateway that is killed
// comes back with all of its own, an agent that starts anew adopts everything,
// a regular look changes nothing, and when all are deleted nothing is left.
func TestScale(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 6*time.Minute)
	bridge := w.bridge(ctx, t, "br-crowd")
	client := bridge.plug(ctx, t, "c-crowd", client4+"/24")
	const resync = 3 * time.Second
	n := w.started(ctx, t, lab.AgentOptions{Resync: resync, LogLevel: "INFO"})
	c := &crowd{node: n, gateways: 20, each: exportsOfEach(t)}
	pool := filepath.Join(w.pool.Dir, "crowd")
	t.Cleanup(func() {
		if err := os.RemoveAll(pool); err != nil {
			t.Error(err)
		}
	})
	for gateway := range c.gateways {
		for i := range c.each {
			dir := filepath.Join(pool, c.export(gateway, i))
			n.must(errors.Join(os.MkdirAll(dir, 0o777), os.WriteFile(filepath.Join(dir, "hello"), []byte(c.export(gateway, i)), 0o644)))
		}
	}
	took := together(t, c.gateways, func(gateway int) error {
		_, err := n.networks.Put(ctx, &nodev1.PutNetworkRequest{Network: bridged(c.network(gateway), bridge.Name, c.address(gateway)+"/24")})
		return err
	})
	t.Logf("%d networks made in %s", c.gateways, took.Round(time.Millisecond))
	took = c.all(func(gateway, i int) error {
		_, err := n.exports.Put(ctx, &nodev1.PutExportRequest{Export: &nodev1.Export{
			Id: c.export(gateway, i), Network: c.network(gateway), Connection: local("crowd/" + c.export(gateway, i)),
			Rules: []*nodev1.AccessRule{rule("10.77.0.0/24", nodev1.Level_LEVEL_RW)},
		}})
		return err
	})
	t.Logf("%d exports made in %s", c.gateways*c.each, took.Round(time.Millisecond))
	settled := n.state(ctx)
	pids := map[string]int32{}
	for gateway := range c.gateways {
		pids[c.network(gateway)] = int32(n.gateway(ctx, c.network(gateway)).GetPid())
		nfs := dialAs(ctx, t, client, c.address(gateway), t.Name())
		for _, i := range []int{0, c.each - 1} {
			got, err := nfs.ReadFile(ctx, "/"+c.export(gateway, i)+"/hello")
			if err != nil || string(got) != c.export(gateway, i) {
				t.Errorf("%s reads %q, %v", c.export(gateway, i), got, err)
			}
		}
		closeClient(ctx, t, nfs)
	}

	// What is open on the last export outlives the gateway's end.
	last := c.export(0, c.each-1)
	nfs := dial(ctx, t, client, c.address(0))
	s := scribble(ctx, t, nfs, "/"+last+"/scribe")
	s.more(ctx, 5)
	begin := time.Now()
	n.must(syscall.Kill(int(pids[c.network(0)]), syscall.SIGKILL))
	s.more(ctx, 5)
	c.ready(ctx)
	t.Logf("one gateway's exports are back after %s", time.Since(begin).Round(time.Millisecond))
	n.unchanged(ctx, settled)

	begin = time.Now()
	n.kill()
	n.start(ctx)
	t.Logf("a new agent is in sync after %s", time.Since(begin).Round(time.Millisecond))
	c.ready(ctx)
	n.unchanged(ctx, settled)
	looks := time.NewTimer(resync * 3 / 2)
	defer looks.Stop()
	select {
	case <-looks.C:
	case <-ctx.Done():
	}
	c.ready(ctx)
	n.unchanged(ctx, settled)
	for gateway := range c.gateways {
		now := n.gateway(ctx, c.network(gateway))
		if gateway > 0 && int32(now.GetPid()) != pids[c.network(gateway)] {
			t.Errorf("gateway %d is %v, and was %d", gateway, now, pids[c.network(gateway)])
		}
		if int(now.GetExports()) != c.each {
			t.Errorf("gateway %d has %d exports", gateway, now.GetExports())
		}
	}
	s.more(ctx, 5)
	s.finish(ctx, filepath.Join(pool, last, "scribe"))
	closeClient(ctx, t, nfs)

	took = c.all(func(gateway, i int) error {
		_, err := n.exports.Delete(ctx, &nodev1.DeleteExportRequest{Id: c.export(gateway, i)})
		return err
	})
	t.Logf("deleted in %s", took.Round(time.Millisecond))
	took = together(t, c.gateways, func(gateway int) error {
		_, err := n.networks.Delete(ctx, &nodev1.DeleteNetworkRequest{Id: c.network(gateway)})
		return err
	})
	t.Logf("networks deleted in %s", took.Round(time.Millisecond))
	n.finish(ctx)
}
