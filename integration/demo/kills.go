package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/causeway-project/causeway/integration/lab"
	"github.com/causeway-project/causeway/integration/wait"
)

// A gateway as the command line shows it.
type gateway struct {
	PID int `json:"pid"`
}

func (d *demo) gateway(ctx context.Context, network string) (gateway, error) {
	var shown struct {
		Gateway gateway `json:"gateway"`
	}
	text, err := d.agent.Must(ctx, "gateway", "show", network, "-o", "json")
	if err == nil {
		err = json.Unmarshal([]byte(text), &shown)
	}
	if err == nil && shown.Gateway.PID <= 1 {
		err = fmt.Errorf("gateway %s has no process: %s", network, text)
	}
	return shown.Gateway, err
}

// The guest writes a line each pause, and so many more after each kill.
const (
	pause = 10 * time.Millisecond
	lines = 50
)

// kills the gateway, the agent and both, while the guest writes.
func (d *demo) kills(ctx context.Context) {
	d.heading("kill -9, while vm1 writes")
	var w *lab.Writer
	var blue, red gateway
	d.step(ctx, "vm1 appends lines to "+overNFS+"/log, each with fsync", func(ctx context.Context) (err error) {
		if w, err = d.guest.StartWriter(ctx, overNFS+"/log", pause); err != nil {
			return err
		}
		if blue, err = d.gateway(ctx, "blue"); err != nil {
			return err
		}
		if red, err = d.gateway(ctx, "red"); err != nil {
			return err
		}
		return w.WaitMore(ctx, lines)
	})
	d.table(d.causeway(ctx, "gateway list"))
	if d.err != nil {
		return
	}
	killGateway := func() error { return syscall.Kill(blue.PID, syscall.SIGKILL) }
	d.stall(ctx, w, fmt.Sprintf("$ kill -9 %d  # blue's gateway", blue.PID), func(ctx context.Context) error {
		if err := killGateway(); err != nil {
			return err
		}
		return d.replaced(ctx, w, &blue)
	})
	d.stall(ctx, w, fmt.Sprintf("$ kill -9 %d  # the agent, started again later", d.agent.PID()), func(ctx context.Context) error {
		if err := d.agent.Kill(); err != nil {
			return err
		}
		if err := w.WaitMore(ctx, lines); err != nil {
			return fmt.Errorf("without the agent: %w", err)
		}
		if err := d.agent.Start(ctx); err != nil {
			return err
		}
		return d.same(ctx, "blue", blue)
	})
	d.stall(ctx, w, fmt.Sprintf("$ kill -9 %d %d  # both, and the agent started again", d.agent.PID(), blue.PID), func(ctx context.Context) error {
		if err := errors.Join(d.agent.Kill(), killGateway()); err != nil {
			return err
		}
		if err := d.agent.Start(ctx); err != nil {
			return err
		}
		return d.replaced(ctx, w, &blue)
	})
	d.step(ctx, "red's gateway has noticed nothing", func(ctx context.Context) error {
		return errors.Join(d.same(ctx, "red", red), d.seesOnlyPlans(ctx, gateway4))
	})
	var wrote lab.Progress
	d.step(ctx, "vm1 ends its log, and reads it by virtiofs", func(ctx context.Context) (err error) {
		if wrote, err = w.Stop(ctx); err != nil {
			return err
		}
		// virtiofs may show the length of a second ago.
		want := fmt.Sprintf("%d line %d\n", wrote.Lines, wrote.Lines)
		return wait.For(ctx, func() (bool, error) {
			got, err := d.guest.Shell(ctx, "cd "+overVirtiofs+"; echo $(wc -l <log) $(tail -n 1 log)")
			if err == nil && got != want {
				err = fmt.Errorf("vm1 reads %q by virtiofs, want %q", got, want)
			}
			return err == nil, err
		})
	})
	d.step(ctx, "every line is in the log on the host, once and in order", func(context.Context) error {
		return d.checkLog(wrote.Lines)
	})
	d.note("lines 1 to %d", wrote.Lines)
}

// stall is a step during which the guest writes; it prints the time of the
// slowest write, which must come to its end.
func (d *demo) stall(ctx context.Context, w *lab.Writer, text string, do func(context.Context) error) {
	var p lab.Progress
	d.step(ctx, text, func(ctx context.Context) (err error) {
		if err := w.Mark(ctx); err != nil {
			return err
		}
		if err := do(ctx); err != nil {
			return err
		}
		if err := w.WaitMore(ctx, lines); err != nil {
			return err
		}
		p, err = w.Progress(ctx)
		return err
	})
	d.note("vm1 writes on; its longest write took %d ms", p.Longest.Milliseconds())
}

// replaced returns when the guest writes to another process of blue's gateway,
// which it stores.
func (d *demo) replaced(ctx context.Context, w *lab.Writer, blue *gateway) error {
	if err := w.WaitMore(ctx, lines); err != nil {
		return err
	}
	now, err := d.gateway(ctx, "blue")
	if err == nil && now.PID == blue.PID {
		err = fmt.Errorf("gateway blue has still the process %d that was killed", now.PID)
	}
	*blue = now
	return err
}

// same fails unless the gateway is the process it was.
func (d *demo) same(ctx context.Context, network string, want gateway) error {
	now, err := d.gateway(ctx, network)
	if err == nil && now != want {
		err = fmt.Errorf("gateway %s was process %d and is process %d", network, want.PID, now.PID)
	}
	return err
}

// checkLog compares what is on the host with what the guest has written.
func (d *demo) checkLog(lines int) error {
	f, err := os.Open(filepath.Join(d.pool.Dir, "docs", "log"))
	if err != nil {
		return err
	}
	defer f.Close()
	return lab.CheckLines(f, lines)
}
