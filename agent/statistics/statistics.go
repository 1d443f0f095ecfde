// Package statistics is what clients have read and written through gateways:
// asked of each, kept for a moment, told to callers and to Prometheus.
package statistics

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/causeway-project/causeway/ganesha"
)

// A Gateway is what the clients of one network's gateway have read
// and written since its process began.
type Gateway struct {
	Network string
	At      time.Time // when Ganesha was asked
	Exports []Export  // those with any figures, by id
	Clients []Client
	Err     error // why figures are missing
}

// A Client has those of one client, and Transfer is what they count:
// the figures are Ganesha's, as package ganesha reads them.
type (
	Client   = ganesha.ClientStats
	Transfer = ganesha.Transfer
)

// An Export has those of one export.
type Export struct {
	ID string
	ganesha.ExportStats
}

// Figures are asked for when somebody wants them, of a few gateways at a time
// and within a deadline for all, and kept for so long that several readers do
// not ask twice.
const (
	deadline    = 2 * time.Second        // for all
	patience    = 500 * time.Millisecond // with each
	atOnce      = 8
	scrapeFresh = 3 * time.Second
	callFresh   = 500 * time.Millisecond
)

// Figures are what one gateway's process last answered.
type Figures struct {
	turn    chan struct{} // capacity 1: whoever holds it asks, the others wait
	at      time.Time     // guarded by turn, as is what follows
	process int           // the one that answered
	answer  []ganesha.ExportStats
}

// NewFigures are those of a gateway that nobody has asked.
func NewFigures() *Figures { return &Figures{turn: make(chan struct{}, 1)} }

// A Server answers for one gateway.
type Server interface {
	ExportStats(ctx context.Context) ([]ganesha.ExportStats, error)
	ClientStats(ctx context.Context, most int) ([]ganesha.ClientStats, error)
}

// A Source is a running gateway to be asked, and the names of its exports.
type Source struct {
	Network string
	PID     int // of its process: another's figures are no use
	Server  Server
	Figures *Figures          // the network's, and kept with it
	Exports map[uint16]string // Ganesha's numbers, and whose they are
}

// ask returns figures that are no older than fresh.
func (s Source) ask(ctx context.Context, fresh time.Duration) Gateway {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	g := Gateway{Network: s.Network}
	f := s.Figures
	select {
	case f.turn <- struct{}{}:
	case <-ctx.Done():
		g.Err = ctx.Err()
		return g
	}
	defer func() { <-f.turn }()
	if f.process != s.PID || time.Since(f.at) > fresh {
		asked := time.Now()
		exports, err := s.Server.ExportStats(ctx)
		if err != nil {
			g.Err = err
			return g
		}
		f.at, f.process, f.answer = asked, s.PID, exports
	}
	g.At = f.at
	for _, e := range f.answer {
		if id := s.Exports[e.ID]; id != "" {
			g.Exports = append(g.Exports, Export{ID: id, ExportStats: e})
		}
	}
	slices.SortFunc(g.Exports, func(x, y Export) int { return cmp.Compare(x.ID, y.ID) })
	return g
}

// askAll asks some gateways at a time, and all within the deadline.
func askAll(ctx context.Context, sources []Source, ask func(context.Context, Source) Gateway) []Gateway {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	all := make([]Gateway, len(sources))
	next := make(chan int)
	var asking sync.WaitGroup
	for range min(atOnce, len(sources)) {
		asking.Go(func() {
			for i := range next {
				all[i] = ask(ctx, sources[i])
			}
		})
	}
	for i := range sources {
		next <- i
	}
	close(next)
	asking.Wait()
	return all
}

// Of asks some gateways, and for at most so many clients of each.
func Of(ctx context.Context, sources []Source, clients int) []Gateway {
	return askAll(ctx, sources, func(ctx context.Context, s Source) Gateway {
		g := s.ask(ctx, callFresh)
		if g.Err == nil && clients > 0 {
			g.Clients, g.Err = s.Server.ClientStats(ctx, clients)
		}
		return g
	})
}
