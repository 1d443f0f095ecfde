package statistics

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/causeway-project/causeway/ganesha"
)

// An oddMute of an odd number does not answer.
type oddMute int

func (n oddMute) ExportStats(ctx context.Context) ([]ganesha.ExportStats, error) {
	if n%2 == 1 {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return []ganesha.ExportStats{{ID: 1}}, nil
}

func (n oddMute) ClientStats(context.Context, int) ([]ganesha.ClientStats, error) { return nil, nil }

func answered(all []Gateway) int {
	n := 0
	for _, g := range all {
		if g.Err == nil {
			n++
		}
	}
	return n
}

// TestScrapeHangs: gateways that do not answer do not keep the others' figures
// back, nor the scrape.
func TestScrapeHangs(t *testing.T) {
	var sources []Source
	for i := range 50 {
		sources = append(sources, Source{Network: fmt.Sprint(i), Server: oddMute(i), Figures: NewFigures(), Exports: map[uint16]string{1: "docs"}})
	}
	got := askAll(t.Context(), sources, func(ctx context.Context, s Source) Gateway { return s.ask(ctx, time.Hour) })
	if got[0].Err != nil || len(got[0].Exports) != 1 || got[1].Err == nil {
		t.Errorf("%+v, %+v", got[0], got[1])
	}
	for i, g := range got {
		if g.Err == nil && (g.Network != fmt.Sprint(i) || i%2 == 1) {
			t.Errorf("%d answered: %+v", i, g)
		}
	}
	if n := answered(got); n != 25 {
		t.Errorf("%d answered of 25 that do not hang", n)
	}
}
