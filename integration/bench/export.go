package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/integration/nfs41"
)

const content = "what the client reads"

// putNetwork makes a network without exports, or finds it made.
func (b *bench) putNetwork(ctx context.Context, n network) error {
	_, err := b.networks.Put(ctx, &nodev1.PutNetworkRequest{Network: &nodev1.Network{
		Id:        n.id,
		Plug:      &nodev1.Network_Bridge{Bridge: &nodev1.BridgePlug{Bridge: b.world.tenant.bridge}},
		Addresses: []string{n.prefix},
	}})
	return err
}

func (b *bench) deleteNetwork(ctx context.Context, n network) error {
	_, err := b.networks.Delete(ctx, &nodev1.DeleteNetworkRequest{Id: n.id})
	return err
}

// directory makes a directory in the pool with one file in it, and returns its
// path.
func (b *bench) directory(name string) (string, error) {
	dir := filepath.Join(b.world.pool.Dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	return dir, os.WriteFile(filepath.Join(dir, "file"), []byte(content), 0o644)
}

// connection names a directory of the pool.
func connection(name string) *nodev1.Connection {
	return &nodev1.Connection{BackendKind: "local", Source: name}
}

// handPlace is where hand-made gateways live, one at a time.
func (b *bench) handPlace() place {
	return place{dir: filepath.Join(b.dir, "hand"), netns: b.world.tenant.hand}
}

func (b *bench) putExport(ctx context.Context, n network, name string) error {
	return b.putExportAs(ctx, n, name, nodev1.Level_LEVEL_RW)
}

func (b *bench) putExportAs(ctx context.Context, n network, name string, level nodev1.Level) error {
	_, err := b.exports.Put(ctx, &nodev1.PutExportRequest{Export: &nodev1.Export{
		Id:         name,
		Network:    n.id,
		Connection: connection(name),
		Rules: []*nodev1.AccessRule{{
			Client: "10.99.0.0/24", Level: level, Squash: nodev1.Squash_SQUASH_NONE,
		}},
	}})
	return err
}

func (b *bench) deleteExport(ctx context.Context, name string) error {
	_, err := b.exports.Delete(ctx, &nodev1.DeleteExportRequest{Id: name})
	return err
}

// dial connects from the client's namespace, again and again until it works.
func (t tenant) dial(ctx context.Context, address string, timing nfs41.Timing) (*nfs41.Client, error) {
	return nfs41.Dial(ctx, nfs41.Options{Address: address, NetNS: t.client, Owner: "bench", Timing: timing})
}

// quick is short of every wait of the client's own, so that the server's are
// what is measured.
func quick() nfs41.Timing {
	return nfs41.Timing{Retry: 2 * time.Millisecond, RetryMax: 2 * time.Millisecond,
		Refused: 200 * time.Microsecond, Connect: 5 * time.Millisecond, Reply: 10 * time.Second}
}

// read is a client's way to its first byte: connect, session, open, read.
func (t tenant) read(ctx context.Context, address, path string) error {
	c, err := t.dial(ctx, address, quick())
	if err != nil {
		return err
	}
	data, err := c.ReadFile(ctx, path)
	if err == nil && string(data) != content {
		err = fmt.Errorf("%s: read %q", path, data)
	}
	return errors.Join(err, c.Close(ctx))
}

// learn makes one export, reads what the agent rendered for it, and takes it
// away again.
func (b *bench) learn(ctx context.Context) (template, error) {
	if b.template.server != "" {
		return b.template, nil
	}
	if _, err := b.directory("template"); err != nil {
		return template{}, err
	}
	err := b.putNetwork(ctx, numbered(0))
	if err == nil {
		err = b.putExport(ctx, numbered(0), "template")
	}
	if err == nil {
		b.template, err = readTemplate(b.world.gatewayConf(numbered(0).id))
	}
	return b.template, errors.Join(err, b.deleteExport(ctx, "template"))
}

// firstExport compares the first export of a network that is there, which
// starts the gateway, with a hand-made gateway that has it in its
// configuration; both to the end of the client's first read.
func (b *bench) firstExport(ctx context.Context) ([]Result, error) {
	t, err := b.learn(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := b.directory("first")
	if err != nil {
		return nil, err
	}
	var ours, raw []time.Duration
	for range b.runs {
		// A network of its own each time: the agent takes a gateway down after
		// its last export was deleted, and that would be measured too.
		n := numbered(1)
		if err := b.putNetwork(ctx, n); err != nil {
			return nil, err
		}
		start := time.Now()
		if err := b.putExport(ctx, n, "first"); err != nil {
			return nil, err
		}
		if err := b.world.tenant.read(ctx, n.address, "/first/file"); err != nil {
			return nil, err
		}
		ours = append(ours, time.Since(start))
		if err := b.deleteExport(ctx, "first"); err != nil {
			return nil, err
		}
		if err := b.deleteNetwork(ctx, n); err != nil {
			return nil, err
		}

		e := handExport{id: 1, path: dir}
		g, err := newHandGateway(b.handPlace(), t, e)
		if err != nil {
			return nil, err
		}
		start = time.Now()
		err = g.start()
		if err == nil {
			err = b.world.tenant.read(ctx, handAddress, e.pseudo()+"/file")
		}
		raw = append(raw, time.Since(start))
		if err != nil {
			err = fmt.Errorf("%w; the log of the hand-made gateway ends: %s", err, g.log())
		}
		if err := errors.Join(err, g.stop()); err != nil {
			return nil, err
		}
	}
	b.log.Info("first export", "ours", spread(ours), "raw", spread(raw))
	return []Result{beside("first_export_to_read", median(ours), median(raw),
		"bus and Ganesha started by hand").want(1.5)}, nil
}

// many is how many exports a well-filled gateway has.
const many = 500

// fill makes the exports "fill-0" to "fill-(n-1)", and keeps those that are
// there.
func (b *bench) fill(ctx context.Context, n int) error {
	if err := b.putNetwork(ctx, numbered(0)); err != nil {
		return err
	}
	workers, ctx := errgroup.WithContext(ctx)
	workers.SetLimit(8)
	for i := range n {
		name := fmt.Sprintf("fill-%d", i)
		workers.Go(func() error {
			if _, err := b.directory(name); err != nil {
				return err
			}
			return b.putExport(ctx, numbered(0), name)
		})
	}
	return workers.Wait()
}

// memory is the agent's resident memory with no exports and with many. There
// is no raw operation beside it.
func (b *bench) memory(ctx context.Context) ([]Result, error) {
	var results []Result
	for _, n := range []int{0, many} {
		if n > 0 {
			if err := b.fill(ctx, n); err != nil {
				return nil, err
			}
		}
		rss, err := b.residentMemory(ctx, b.world.agent.PID())
		if err != nil {
			return nil, err
		}
		results = append(results, alone(fmt.Sprintf("agent_memory_at_%d_exports", n), rss, "MB").want(60))
	}
	return results, nil
}

// restart is the time from the start of a new agent, after a kill -9, until it
// says that it is in sync, and until it has seen that every export is ready.
// There is no raw operation beside it.
func (b *bench) restart(ctx context.Context) ([]Result, error) {
	if err := b.fill(ctx, many); err != nil {
		return nil, err
	}
	return b.restarts(ctx, many)
}

func (b *bench) restarts(ctx context.Context, n int) ([]Result, error) {
	var inSync, ready []time.Duration
	for range b.runs {
		if err := b.world.agent.Kill(); err != nil {
			return nil, err
		}
		start := time.Now()
		if err := b.world.launch(ctx); err != nil {
			return nil, err
		}
		inSync = append(inSync, time.Since(start))
		if err := b.allReady(ctx, n); err != nil {
			return nil, err
		}
		ready = append(ready, time.Since(start))
	}
	b.log.Info("restart", "in sync", spread(inSync), "all ready", spread(ready))
	return []Result{
		alone(fmt.Sprintf("agent_restart_to_in_sync_at_%d", n), milliseconds(median(inSync)), "ms").want(2000),
		alone(fmt.Sprintf("agent_restart_to_all_ready_at_%d", n), milliseconds(median(ready)), "ms").want(2000),
	}, nil
}

// allReady waits half a minute at most for n exports to be ready, and names one
// that is not.
func (b *bench) allReady(ctx context.Context, n int) error {
	limit := time.After(30 * time.Second)
	for {
		list, err := b.exports.List(ctx, &nodev1.ListExportsRequest{})
		if err != nil {
			return err
		}
		ready, other := 0, ""
		for _, e := range list.GetExports() {
			if e.GetStatus().GetPhase() == nodev1.Phase_PHASE_READY {
				ready++
			} else {
				other = fmt.Sprintf("%s: %v", e.GetId(), e.GetStatus())
			}
		}
		if ready >= n {
			return nil
		}
		select {
		case <-limit:
			return fmt.Errorf("%d of %d exports ready; not so %s", ready, n, other)
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
