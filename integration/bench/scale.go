package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sync/errgroup"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
)

// A full host.
const (
	scaleGateways = 20
	scalePer      = 100 // exports of each
	scaleExports  = scaleGateways * scalePer
	scaleCallers  = 16 // at once
)

// fewRuns of what takes a second each and varies little.
const fewRuns = 10

// scale fills a host with gateways and exports, and measures what the agent
// costs there: to make and to delete an export, its memory, its restart, its
// regular look at everything, and the return of one gateway that was killed.
func (b *bench) scale(ctx context.Context) (results []Result, err error) {
	if err := b.clear(ctx); err != nil {
		return nil, err
	}
	put, err := b.fillHost(ctx)
	if err != nil {
		return nil, err
	}
	results = append(results, alone(b.atScale("export_made"), milliseconds(put)/scaleExports, "ms"))
	rss, err := b.residentMemory(ctx, b.world.agent.PID())
	if err != nil {
		return nil, err
	}
	results = append(results, alone(b.atScale("agent_memory"), rss, "MB").want(100))
	for _, part := range []func(context.Context) ([]Result, error){b.oneGatewayReturns, b.resyncCost, b.restartAtScale} {
		r, err := part(ctx)
		if err != nil {
			return nil, err
		}
		results = append(results, r...)
	}
	start := time.Now()
	if err := b.clearHost(ctx); err != nil {
		return nil, err
	}
	return append(results, alone(b.atScale("export_deleted"), milliseconds(time.Since(start))/scaleExports, "ms")), nil
}

func (b *bench) atScale(what string) string { return fmt.Sprintf("%s_at_%d", what, scaleExports) }

func scaleName(gateway, i int) string { return fmt.Sprintf("scale-%d-%d", gateway, i) }

// atOnce calls do for each export of a full host, some at a time, gateways in
// turn.
func atOnce(ctx context.Context, do func(ctx context.Context, gateway, i int) error) error {
	workers, ctx := errgroup.WithContext(ctx)
	workers.SetLimit(scaleCallers)
	for i := range scalePer {
		for gateway := range scaleGateways {
			workers.Go(func() error { return do(ctx, gateway, i) })
		}
	}
	return workers.Wait()
}

// fillHost makes everything, and returns how long the exports took.
func (b *bench) fillHost(ctx context.Context) (time.Duration, error) {
	for gateway := range scaleGateways {
		if err := b.putNetwork(ctx, numbered(gateway)); err != nil {
			return 0, err
		}
		for i := range scalePer {
			if _, err := b.directory(scaleName(gateway, i)); err != nil {
				return 0, err
			}
		}
	}
	start := time.Now()
	err := atOnce(ctx, func(ctx context.Context, gateway, i int) error {
		return b.putExport(ctx, numbered(gateway), scaleName(gateway, i))
	})
	return time.Since(start), err
}

func (b *bench) clearHost(ctx context.Context) error {
	return atOnce(ctx, func(ctx context.Context, gateway, i int) error {
		return b.deleteExport(ctx, scaleName(gateway, i))
	})
}

// oneGatewayReturns is the time from the kill of one gateway until the client
// reads from the last of its exports.
func (b *bench) oneGatewayReturns(ctx context.Context) ([]Result, error) {
	var samples []time.Duration
	for gateway := range min(b.runs, fewRuns) { // another one each time: see coldRuns
		took, err := b.killToRead(ctx, numbered(gateway), "/"+scaleName(gateway, scalePer-1)+"/file")
		if err != nil {
			return nil, err
		}
		samples = append(samples, took)
		if err := b.allReady(ctx, scaleExports); err != nil {
			return nil, err
		}
	}
	b.log.Info("one gateway of many returns", "ours", spread(samples))
	return []Result{alone(b.atScale(fmt.Sprintf("gateway_of_%d_killed_to_read", scalePer)), milliseconds(median(samples)), "ms")}, nil
}

// resyncCost is the agent's processor time for one look at everything. An agent
// that resyncs every few seconds is compared with one that never does, so that
// the health probes of the gateways do not count.
func (b *bench) resyncCost(ctx context.Context) ([]Result, error) {
	const (
		every  = 2 * time.Second
		window = 5 * every
	)
	with, err := b.agentTime(ctx, every, window)
	if err != nil {
		return nil, err
	}
	without, err := b.agentTime(ctx, 24*time.Hour, window)
	if err != nil {
		return nil, err
	}
	raw, err := b.askAll(ctx)
	if err != nil {
		return nil, err
	}
	ours := (with - without) / time.Duration(window/every)
	b.log.Info("resync", "with", with, "without", without, "window", window)
	return []Result{beside(b.atScale("resync_processor_time"), ours, raw, "bare D-Bus DisplayExport of each")}, nil
}

// agentTime is the processor time that an agent takes for a while.
func (b *bench) agentTime(ctx context.Context, resync, window time.Duration) (time.Duration, error) {
	if err := b.relaunch(ctx, resync); err != nil {
		return 0, err
	}
	if err := b.allReady(ctx, scaleExports); err != nil {
		return 0, err
	}
	before, err := processorTime(b.world.agent.PID())
	if err != nil {
		return 0, err
	}
	if err := pause(ctx, window); err != nil {
		return 0, err
	}
	after, err := processorTime(b.world.agent.PID())
	return after - before, err
}

// relaunch kills the agent and starts one with another resync.
func (b *bench) relaunch(ctx context.Context, resync time.Duration) error {
	o := b.world.options
	o.Resync = resync
	return errors.Join(b.world.agent.Kill(), b.world.agent.Configure(o), b.world.launch(ctx))
}

// processorTime of a process, user and system, since it began. The kernel counts
// in ticks of 10 ms (proc_pid_stat(5)).
func processorTime(pid int) (time.Duration, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	fields := strings.Fields(rest)
	var ticks time.Duration
	for _, f := range fields[11:13] {
		n, err := strconv.Atoi(f)
		if err != nil {
			return 0, err
		}
		ticks += time.Duration(n)
	}
	return ticks * 10 * time.Millisecond, nil
}

// askAll asks the agent's gateways for each export, and returns the processor
// time that the asking took.
func (b *bench) askAll(ctx context.Context) (time.Duration, error) {
	var calls []dbus.BusObject
	for gateway := range scaleGateways {
		conn, err := dbus.Connect("unix:path=" + b.world.gatewayBus(numbered(gateway).id))
		if err != nil {
			return 0, err
		}
		defer conn.Close()
		calls = append(calls, (&handBus{conn: conn}).manager())
	}
	before, err := processorTime(os.Getpid())
	if err != nil {
		return 0, err
	}
	const rounds = 5
	for range rounds {
		for _, gateway := range calls {
			for id := uint16(1); id <= scalePer; id++ {
				if err := gateway.CallWithContext(ctx, "org.ganesha.nfsd.exportmgr.DisplayExport", 0, id).Err; err != nil {
					return 0, err
				}
			}
		}
	}
	after, err := processorTime(os.Getpid())
	return (after - before) / rounds, err
}

// restartAtScale is restart with a full host.
func (b *bench) restartAtScale(ctx context.Context) ([]Result, error) {
	if err := b.relaunch(ctx, b.world.options.Resync); err != nil {
		return nil, err
	}
	return b.restarts(ctx, scaleExports)
}

// The agent lets a gateway wait that ends a third time within half a minute,
// which is not what is measured.
const (
	coldRuns = 6
	steady   = 31 * time.Second
)

// coldStart is the time from the kill of a gateway with many exports until the
// client reads from one of them, beside a hand-made one.
func (b *bench) coldStart(ctx context.Context) (results []Result, err error) {
	const exports = 1000
	t, err := b.learn(ctx)
	if err != nil {
		return nil, err
	}
	if err := b.fill(ctx, exports); err != nil {
		return nil, err
	}
	g, err := b.handOfMany(t, exports)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, g.stop()) }()
	var ours, raw []time.Duration
	for i := range min(b.runs, coldRuns) {
		if i > 0 && i%2 == 0 {
			if err := pause(ctx, steady); err != nil {
				return nil, err
			}
		}
		took, err := b.killToRead(ctx, numbered(0), fmt.Sprintf("/fill-%d/file", exports-1))
		if err != nil {
			return nil, err
		}
		ours = append(ours, took)
		if err := b.allReady(ctx, exports); err != nil {
			return nil, err
		}
		start := time.Now()
		if err := g.start(); err != nil {
			return nil, err
		}
		if err := b.world.tenant.read(ctx, handAddress, handExport{id: exports}.pseudo()+"/file"); err != nil {
			return nil, err
		}
		raw = append(raw, time.Since(start))
		if err := g.kill(); err != nil {
			return nil, err
		}
	}
	b.log.Info("cold start", "ours", spread(ours), "raw", spread(raw))
	return []Result{beside(fmt.Sprintf("gateway_of_%d_killed_to_read", exports), median(ours), median(raw),
		"start by hand").want(1.5)}, nil
}

// killToRead kills a network's gateway, and returns how long it took until the
// client read a file through its successor.
func (b *bench) killToRead(ctx context.Context, n network, file string) (time.Duration, error) {
	reply, err := b.networks.Get(ctx, &nodev1.GetNetworkRequest{Id: n.id})
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := syscall.Kill(int(reply.GetNetwork().GetGateway().GetPid()), syscall.SIGKILL); err != nil {
		return 0, err
	}
	err = b.world.tenant.read(ctx, n.address, file)
	return time.Since(start), err
}
