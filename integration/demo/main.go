// Command demo shows one hypervisor, end to end, with nothing faked: a share
// reaches a running guest by NFS and by virtiofs, another tenant sees nothing
// of it, kills lose nothing, and nothing is left.
//
// It needs root and what 'make deps' and 'make build' bring, and runs in
// namespaces of its own. Its exit code is 0 if all went as it must, else 1.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/causeway-project/causeway/integration/lab"
)

// How long the whole may take, and the cleaning up after it.
const (
	limit      = 4 * time.Minute
	closeLimit = time.Minute
)

func main() {
	verbose := flag.Bool("verbose", false, "show the agent's log below each step")
	flag.Parse()
	if code, inside := lab.Enter(); !inside {
		os.Exit(code)
	}
	os.Exit(run(*verbose))
}

func run(verbose bool) int {
	signalled, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	// A second signal does not wait for the cleaning up.
	context.AfterFunc(signalled, stop)
	ctx, cancel := context.WithTimeout(signalled, limit)
	defer cancel()

	if err := lab.Ready(); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		return 1
	}
	begin := time.Now()
	d := &demo{transcript: transcript{out: os.Stdout, verbose: verbose}}
	err := d.play(ctx)
	if err != nil {
		// Before the directories go, and the log with them.
		d.explain(err, signalled.Err() != nil)
	}
	closing, cancelClosing := context.WithTimeout(context.WithoutCancel(ctx), closeLimit)
	defer cancelClosing()
	// After a failure things are in each other's way, and what cannot be
	// closed goes with the namespaces.
	if closeErr := d.close(closing); err == nil && closeErr != nil {
		err = fmt.Errorf("clean up: %w", closeErr)
		d.explain(err, false)
	}
	if err != nil {
		return 1
	}
	d.line("all of it", time.Since(begin))
	fmt.Fprintln(d.out, "demo: ok")
	return 0
}

// explain prints why the demo ends early.
func (d *demo) explain(err error, interrupted bool) {
	if interrupted {
		fmt.Fprintln(d.out, "demo: interrupted; cleaning up")
		return
	}
	fmt.Fprintf(d.out, "demo: failed: %v\n", err)
	if d.agent != nil && !d.verbose {
		fmt.Fprintf(d.out, "the agent's log ends:\n%s\n", d.agent.Log())
	}
}

// A demo is what it has built so far.
type demo struct {
	transcript
	pool    *lab.Pool
	agent   *lab.Agent
	libvirt *lab.Libvirt
	guest   *lab.Guest
	client  *lab.Client // of tenant red
	before  lab.HostState
	closers []func(context.Context) error
}

// play is the whole, in order.
func (d *demo) play(ctx context.Context) error {
	d.machine(ctx)
	d.overNFS(ctx)
	d.overVirtiofs(ctx)
	d.otherTenant(ctx)
	d.kills(ctx)
	d.removal(ctx)
	return d.err
}

// atEnd puts off a close until the end; the last one is the first.
func (d *demo) atEnd(c func(context.Context) error) { d.closers = append(d.closers, c) }

func (d *demo) close(ctx context.Context) error {
	var errs []error
	for i := len(d.closers) - 1; i >= 0; i-- {
		errs = append(errs, d.closers[i](ctx))
	}
	return errors.Join(errs...)
}
