package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/integration/nfs41"
)

// stall compares how long a client's open file stands still when the gateway
// is killed, with the agent's restart and with one by hand: with a client that
// notices at once, and with one that waits as Linux does.
func (b *bench) stall(ctx context.Context) ([]Result, error) {
	t, err := b.learn(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := b.directory("stall")
	if err != nil {
		return nil, err
	}
	e := handExport{id: 1, path: dir}
	g, err := newHandGateway(b.handPlace(), t, e)
	if err != nil {
		return nil, err
	}
	if err := g.start(); err != nil {
		return nil, errors.Join(err, g.stop())
	}
	var results []Result
	for _, c := range []struct {
		name   string
		timing nfs41.Timing
	}{
		{"stall_of_open_file_quick_client", quick()},
		{"stall_of_open_file_linux_timing", nfs41.Linux()},
	} {
		ours, err := b.stallOurs(ctx, c.timing)
		if err != nil {
			return results, errors.Join(fmt.Errorf("%s: %w", c.name, err), g.stop())
		}
		raw, err := b.world.tenant.stallOf(ctx, stalled{
			runs: b.runs, address: handAddress, path: e.pseudo() + "/file", timing: c.timing,
			kill: func() (time.Time, error) { return time.Now(), errors.Join(g.kill(), g.start()) },
		})
		if err != nil {
			return results, errors.Join(fmt.Errorf("%s by hand: %w; its log ends: %s", c.name, err, g.log()), g.stop())
		}
		b.log.Info(c.name, "ours", spread(ours), "raw", spread(raw))
		r := beside(c.name, median(ours), median(raw), "kill -9 and start by hand").want(1.5)
		if c.timing == quick() {
			// The firewall holds the news of the end back for 200 ms, for the sake
			// of clients that would come too early.
			r = alone(c.name, milliseconds(median(ours)), "ms").want(300)
		}
		results = append(results, r)
	}
	return results, g.stop()
}

// stallOurs kills each gateway twice at most: the agent lets one wait that ends
// three times within a minute, and that is not what is measured.
func (b *bench) stallOurs(ctx context.Context, t nfs41.Timing) (samples []time.Duration, err error) {
	for i := 1; len(samples) < b.runs; i++ {
		some, err := b.stallOfNetwork(ctx, numbered(i), t)
		if err != nil {
			return nil, err
		}
		samples = append(samples, some...)
	}
	return samples[:b.runs], nil
}

func (b *bench) stallOfNetwork(ctx context.Context, n network, t nfs41.Timing) (samples []time.Duration, err error) {
	if err := b.putNetwork(ctx, n); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.deleteNetwork(ctx, n)) }()
	if err := b.putExport(ctx, n, "stall"); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.deleteExport(ctx, "stall")) }()
	killed := 0
	return b.world.tenant.stallOf(ctx, stalled{
		runs: 2, address: n.address, path: "/stall/file", timing: t,
		kill: func() (time.Time, error) {
			pid, err := b.gatewayPID(ctx, n, killed)
			if err != nil {
				return time.Time{}, err
			}
			killed = pid
			return time.Now(), syscall.Kill(pid, syscall.SIGKILL)
		},
	})
}

// gatewayPID is the gateway's process once it is another than former: a client
// may be served before the agent has noted so.
func (b *bench) gatewayPID(ctx context.Context, n network, former int) (int, error) {
	for {
		reply, err := b.networks.Get(ctx, &nodev1.GetNetworkRequest{Id: n.id})
		if err != nil {
			return 0, err
		}
		if pid := int(reply.GetNetwork().GetGateway().GetPid()); pid > 1 && pid != former {
			return pid, nil
		}
		if err := pause(ctx, time.Millisecond); err != nil {
			return 0, err
		}
	}
}

type stalled struct {
	runs          int
	address, path string
	timing        nfs41.Timing
	kill          func() (at time.Time, err error)
}

// stallOf writes to one open file and kills the server under it. A sample is
// the time between the kill and the first write that the new process answered.
func (t tenant) stallOf(ctx context.Context, s stalled) (samples []time.Duration, err error) {
	c, err := t.dial(ctx, s.address, s.timing)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close(ctx)) }()
	f, err := c.Open(ctx, s.path, nfs41.OpenOptions{Access: nfs41.ReadWrite})
	if err != nil {
		return nil, err
	}
	write := func() error {
		_, err := f.WriteAt(ctx, []byte(content), 0)
		return err
	}
	for len(samples) < s.runs {
		for range 10 {
			if err := write(); err != nil {
				return samples, err
			}
		}
		before := c.Stats()
		start, err := s.kill()
		if err != nil {
			return samples, err
		}
		for c.Stats().Sessions == before.Sessions {
			if err := write(); err != nil {
				return samples, err
			}
		}
		samples = append(samples, time.Since(start))
		if now := c.Stats(); now.Lost != before.Lost {
			return samples, fmt.Errorf("the file was lost, not reclaimed: %+v", now)
		}
	}
	return samples, nil
}
