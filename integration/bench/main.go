// Command bench measures Causeway's agent, each thing beside the raw operation
// in the same run, on the same file system and with the same client.
//
//	bench [-only NAME] [-runs N] [-lease D] [-grace D] [-json FILE] [-log FILE]
//
// It needs root and what the demo needs, and runs in namespaces of its own. It prints a table, and writes a line
// of JSON for each result.
//
// What the raw halves do without: a jail, capabilities, a bind mount of what
// they serve, a ledger on the disk, a look at the result. What both have: the
// configuration that the agent renders, the bus, the environment, the client
// (package nfs41), the bridge and the directory.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/integration/lab"
)

func main() {
	if code, inside := lab.Enter(); !inside {
		os.Exit(code)
	}
	o := options{}
	flag.StringVar(&o.only, "only", "", "measure only `NAME`: "+strings.Join(names(), ", "))
	flag.IntVar(&o.runs, "runs", 15, "samples of each median, at least 10 for numbers to be shown to others")
	flag.StringVar(&o.json, "json", "bench.json", "write results to `FILE`, one object a line")
	flag.DurationVar(&o.lease, "lease", 10*time.Second, "lease of the gateways")
	flag.DurationVar(&o.grace, "grace", 15*time.Second, "longest grace period of the gateways")
	flag.StringVar(&o.log, "log", "", "copy the agent's log to `FILE`")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	err := o.run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	only string
	runs int
	json string
	log  string

	lease, grace time.Duration
}

// A measure takes seconds to a minute, and can be had alone.
type measure struct {
	name string
	run  func(*bench, context.Context) ([]Result, error)

	guest bool // it needs one
}

// measures in an order in which each leaves the next what it needs: memory
// sees an agent with no exports first, and restart no more than it wants.
func measures() []measure {
	return []measure{
		{name: "attach", run: (*bench).attach, guest: true},
		{name: "mounted", run: (*bench).mounted, guest: true},
		{name: "repair", run: (*bench).repair, guest: true},
		{name: "data-virtiofs", run: (*bench).dataVirtiofs, guest: true},
		{name: "first-export", run: (*bench).firstExport},
		{name: "stall", run: (*bench).stall},
		{name: "stall-guest", run: (*bench).stallGuest, guest: true},
		{name: "data", run: (*bench).data},
		{name: "flood", run: (*bench).floods},
		{name: "memory", run: (*bench).memory},
		{name: "restart", run: (*bench).restart},
		{name: "further-export", run: (*bench).furtherExport},
		{name: "cold-start", run: (*bench).coldStart},
		{name: "gateways", run: (*bench).manyGateways},
		{name: "scale", run: (*bench).scale},
	}
}

func names() []string {
	var names []string
	for _, m := range measures() {
		names = append(names, m.name)
	}
	return names
}

// A bench is the agent under measurement and what is beside it.
type bench struct {
	world    *world
	dir      string // for the hand-made things
	runs     int
	log      *slog.Logger
	template template

	attachments nodev1.AttachmentsClient
	networks    nodev1.NetworksClient
	exports     nodev1.ExportsClient
	node        nodev1.NodeClient
}

// limit of the whole bench; it should take a third of that.
const limit = 20 * time.Minute

func (o options) run(ctx context.Context) (err error) {
	chosen := measures()
	if o.only != "" {
		chosen = slices.DeleteFunc(chosen, func(m measure) bool { return m.name != o.only })
		if len(chosen) == 0 {
			return fmt.Errorf("no measure %q: want one of %s", o.only, strings.Join(names(), ", "))
		}
	}
	if o.runs < 1 {
		return errors.New("-runs must be at least 1")
	}
	if err := listen(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the bench takes over %s", limit))
	defer cancel()
	cleanup := context.WithoutCancel(ctx)

	dir, err := lab.TempDir()
	if err != nil {
		return err
	}
	needsGuest := slices.ContainsFunc(chosen, func(m measure) bool { return m.guest })
	w, err := newWorld(ctx, worldOptions{Guest: needsGuest, Lease: o.lease, Grace: o.grace})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close(cleanup)) }()

	b := &bench{
		world: w, dir: dir, runs: o.runs, log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		attachments: nodev1.NewAttachmentsClient(w.conn),
		networks:    nodev1.NewNetworksClient(w.conn),
		exports:     nodev1.NewExportsClient(w.conn),
		node:        nodev1.NewNodeClient(w.conn),
	}
	var results []Result
	var errs []error
	for _, m := range chosen {
		start := time.Now()
		r, err := m.run(b, ctx)
		results = append(results, r...)
		b.log.Info("measured", "measure", m.name, "dur", time.Since(start).Round(time.Millisecond), "err", err)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", m.name, err))
		}
	}
	if len(errs) > 0 {
		errs = append(errs, fmt.Errorf("the agent's log ends:\n%s", w.agent.Log()))
	}
	errs = append(errs, b.clear(cleanup), o.report(os.Stdout, results))
	if o.log != "" {
		log, err := os.ReadFile(w.agent.LogFile())
		errs = append(errs, err, os.WriteFile(o.log, log, 0o644))
	}
	return errors.Join(errs...)
}

// clear takes back what the measures left with the agent.
func (b *bench) clear(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	list, err := b.exports.List(ctx, &nodev1.ListExportsRequest{})
	if err != nil {
		return err
	}
	for _, e := range list.GetExports() {
		if err := b.deleteExport(ctx, e.GetId()); err != nil {
			return err
		}
	}
	nets, err := b.networks.List(ctx, &nodev1.ListNetworksRequest{})
	if err != nil {
		return err
	}
	for _, n := range nets.GetNetworks() {
		if err := b.deleteNetwork(ctx, network{id: n.GetId()}); err != nil {
			return err
		}
	}
	return nil
}

func (o options) report(w io.Writer, results []Result) error {
	var host unix.Utsname
	if err := unix.Uname(&host); err != nil {
		return err
	}
	fmt.Fprintf(w, "%d CPUs, Linux %s, medians of %d\n", runtime.NumCPU(), unix.ByteSliceToString(host.Release[:]), o.runs)
	if err := writeTable(w, results); err != nil {
		return err
	}
	f, err := os.Create(o.json)
	if err != nil {
		return err
	}
	return errors.Join(writeJSON(f, results), f.Close())
}

// residentMemory of a process in MB, the median of some samples: a garbage
// collector makes the number breathe.
func (b *bench) residentMemory(ctx context.Context, pid int) (float64, error) {
	var samples []float64
	for range max(b.runs, 10) {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return 0, err
		}
		_, rest, _ := strings.Cut(string(data), "VmRSS:")
		kB, err := strconv.ParseFloat(strings.TrimSpace(strings.SplitN(rest, "kB", 2)[0]), 64)
		if err != nil {
			return 0, fmt.Errorf("memory of process %d: %w", pid, err)
		}
		samples = append(samples, kB*1024/1e6)
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return 0, err
		}
	}
	return median(samples), nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
