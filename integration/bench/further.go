package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
)

// furtherExport compares one more export, a change of its rules and its removal
// with the bare calls over D-Bus, at few and at many exports. Ours and the bare
// ones take turns.
func (b *bench) furtherExport(ctx context.Context) ([]Result, error) {
	t, err := b.learn(ctx)
	if err != nil {
		return nil, err
	}
	counts := []int{10, 100, 1000}
	var results []Result
	var first, last turn
	for i, n := range counts {
		ours, raw, err := b.furtherAt(ctx, t, n)
		if err != nil {
			return nil, err
		}
		for _, r := range []struct {
			name, call string
			ours, raw  []time.Duration
			wanted     float64
		}{
			{"further_export", "AddExport", ours.add, raw.add, 3},
			{"export_changed", "UpdateExport", ours.change, raw.change, 0},
			{"export_removed", "RemoveExport", ours.remove, raw.remove, 0},
		} {
			b.log.Info(r.name, "at", n, "ours", spread(r.ours), "raw", spread(r.raw))
			result := beside(fmt.Sprintf("%s_at_%d", r.name, n), median(r.ours), median(r.raw), "bare D-Bus "+r.call)
			if r.wanted > 0 {
				result = result.want(r.wanted)
			}
			results = append(results, result)
		}
		if i == 0 {
			first = ours
		}
		last = ours
	}
	growth := float64(median(last.add)) / float64(median(first.add))
	return append(results, alone(fmt.Sprintf("further_export_growth_%d_to_%d", counts[0], counts[len(counts)-1]), growth, "times").want(2)), nil
}

// A turn is one export's life, many times.
type turn struct{ add, change, remove []time.Duration }

func (b *bench) furtherAt(ctx context.Context, t template, n int) (ours, raw turn, err error) {
	if err := b.fill(ctx, n); err != nil {
		return turn{}, turn{}, err
	}
	if _, err := b.directory("further"); err != nil {
		return turn{}, turn{}, err
	}
	g, err := b.handOfMany(t, n)
	if err != nil {
		return turn{}, turn{}, err
	}
	defer func() { err = errors.Join(err, g.stop()) }()
	if err := g.start(); err != nil {
		return turn{}, turn{}, err
	}
	if err := b.world.tenant.read(ctx, handAddress, handExport{id: n}.pseudo()+"/file"); err != nil {
		return turn{}, turn{}, err
	}
	bus, err := g.connectBus()
	if err != nil {
		return turn{}, turn{}, err
	}
	defer bus.conn.Close()
	for i := range b.runs {
		err := errors.Join(
			timed(&ours.add, func() error { return b.putExport(ctx, numbered(0), "further") }),
			timed(&ours.change, func() error { return b.putExportAs(ctx, numbered(0), "further", nodev1.Level_LEVEL_RO) }),
			timed(&ours.remove, func() error { return b.deleteExport(ctx, "further") }),
		)
		if err != nil {
			return turn{}, turn{}, err
		}
		// Ganesha frees a removed export after its answer, and until then
		// refuses its id.
		e := handExport{id: n + 1 + i, path: filepath.Join(b.world.pool.Dir, "further")}
		block, err := t.renderExport(e)
		if err != nil {
			return turn{}, turn{}, err
		}
		err = errors.Join(
			timed(&raw.add, func() error { return bus.add(ctx, e, block) }),
			timed(&raw.change, func() error { return bus.change(ctx, e, block) }),
			timed(&raw.remove, func() error { return bus.remove(ctx, e) }),
		)
		if err != nil {
			return turn{}, turn{}, err
		}
	}
	return ours, raw, nil
}

// timed adds how long do took.
func timed(samples *[]time.Duration, do func() error) error {
	start := time.Now()
	err := do()
	*samples = append(*samples, time.Since(start))
	return err
}

// handOfMany is a hand-made gateway with the directories of fill. It sees the
// mount table of a host without an agent, which it searches for each export.
func (b *bench) handOfMany(t template, n int) (*handGateway, error) {
	exports := make([]handExport, n)
	for i := range exports {
		exports[i] = handExport{id: i + 1, path: filepath.Join(b.world.pool.Dir, fmt.Sprintf("fill-%d", i))}
	}
	g, err := newHandGateway(b.handPlace(), t, exports...)
	if err != nil {
		return nil, err
	}
	return g, g.hideMounts(b.world.agent.RunDir)
}
