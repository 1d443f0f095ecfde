package agent

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/ganesha"
)

// GatewayStatistics are what the clients of one network's gateway have read
// and written since its process began.
type GatewayStatistics struct {
	Network string
	At      time.Time          // when Ganesha was asked
	Exports []ExportStatistics // those with any figures, by id
	Clients []ClientStatistics
	Err     error // why figures are missing
}

// ClientStatistics are those of one client, and Transfer is what they count:
// the figures are Ganesha's, as package ganesha reads them.
type (
	ClientStatistics = ganesha.ClientStats
	Transfer         = ganesha.Transfer
)

// ExportStatistics are those of one export.
type ExportStatistics struct {
	ID string
	ganesha.ExportStats
}

// MaxClients is how many clients of one gateway are asked for at most, each by
// a call of D-Bus.
const MaxClients = 256

// Figures are asked for when somebody wants them, of a few gateways at a time
// and within a deadline for all, and kept for so long that several readers do
// not ask twice.
const (
	statsDeadline = 2 * time.Second        // for all
	statsPatience = 500 * time.Millisecond // with each
	statsAtOnce   = 8
	scrapeFresh   = 3 * time.Second
	callFresh     = 500 * time.Millisecond
)

// figures are what one gateway's process last answered.
type figures struct {
	turn    chan struct{} // capacity 1: whoever holds it asks, the others wait
	at      time.Time     // guarded by turn, as is what follows
	pid     int
	exports []ganesha.ExportStats
}

// A source is a running gateway and the names of its exports.
type source struct {
	network string
	pid     int
	server  Server
	figures *figures
	exports map[uint16]string
}

// sources lists running gateways: all, or that of one network.
func (a *Agent) sources(network string) []source {
	a.mu.Lock()
	defer a.mu.Unlock()
	byNetwork := map[string]*source{}
	for key, o := range a.objects {
		server := a.servers[key.id].Server
		if key.kind != model.KindNetwork || o.serving != up || o.stuck || server == nil || network != "" && key.id != network {
			continue
		}
		if o.figures == nil {
			o.figures = &figures{turn: make(chan struct{}, 1)}
		}
		byNetwork[key.id] = &source{network: key.id, pid: o.gateway.PID, server: server, figures: o.figures, exports: map[uint16]string{}}
	}
	for network, s := range byNetwork {
		for id, o := range a.exports.of(network) {
			if o.rec != nil {
				s.exports[o.rec.Export.ExportID] = id
			}
		}
	}
	list := make([]source, 0, len(byNetwork))
	for _, s := range byNetwork {
		list = append(list, *s)
	}
	slices.SortFunc(list, func(x, y source) int { return cmp.Compare(x.network, y.network) })
	return list
}

// ask returns figures that are no older than fresh.
func (s source) ask(ctx context.Context, fresh time.Duration) GatewayStatistics {
	ctx, cancel := context.WithTimeout(ctx, statsPatience)
	defer cancel()
	g := GatewayStatistics{Network: s.network}
	f := s.figures
	select {
	case f.turn <- struct{}{}:
	case <-ctx.Done():
		g.Err = ctx.Err()
		return g
	}
	defer func() { <-f.turn }()
	if f.pid != s.pid || time.Since(f.at) > fresh {
		asked := time.Now()
		exports, err := s.server.ExportStats(ctx)
		if err != nil {
			g.Err = err
			return g
		}
		f.at, f.pid, f.exports = asked, s.pid, exports
	}
	g.At = f.at
	for _, e := range f.exports {
		if id := s.exports[e.ID]; id != "" {
			g.Exports = append(g.Exports, ExportStatistics{ID: id, ExportStats: e})
		}
	}
	slices.SortFunc(g.Exports, func(x, y ExportStatistics) int { return cmp.Compare(x.ID, y.ID) })
	return g
}

// statistics asks some gateways at a time, and all within the deadline.
func statistics(ctx context.Context, sources []source, ask func(context.Context, source) GatewayStatistics) []GatewayStatistics {
	ctx, cancel := context.WithTimeout(ctx, statsDeadline)
	defer cancel()
	all := make([]GatewayStatistics, len(sources))
	next := make(chan int)
	var asking sync.WaitGroup
	for range min(statsAtOnce, len(sources)) {
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

// GatewayStatistics asks the gateway of one network, or every running one, and
// for at most so many clients of each. A gateway that does not answer has an
// error among the others' figures; one that does not run is not in the list.
func (a *Agent) GatewayStatistics(ctx context.Context, network string, clients int) ([]GatewayStatistics, error) {
	if clients < 0 || clients > MaxClients {
		return nil, fault.Invalidf(fault.BadCount, "%d clients are not between 0 and %d", clients, MaxClients)
	}
	if network != "" {
		if _, err := a.Network(ctx, network); err != nil {
			return nil, err
		}
	}
	return statistics(ctx, a.sources(network), func(ctx context.Context, s source) GatewayStatistics {
		g := s.ask(ctx, callFresh)
		if g.Err == nil && clients > 0 {
			g.Clients, g.Err = s.server.ClientStats(ctx, clients)
		}
		return g
	}), nil
}

// exportMetrics have bounded labels: the ids of networks and exports, and two
// words. Clients are no labels, for whoever can reach a gateway makes them.
type exportMetrics struct {
	operations, errors, bytes, seconds *prometheus.Desc
	missed                             prometheus.Counter
}

func newExportMetrics() exportMetrics {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, []string{"network", "export", "op"}, nil)
	}
	return exportMetrics{
		operations: desc("causeway_export_operations_total", "Reads and writes of NFS clients, since the gateway's process began."),
		errors:     desc("causeway_export_errors_total", "Reads and writes that failed."),
		bytes:      desc("causeway_export_bytes_total", "Bytes read and written."),
		seconds:    desc("causeway_export_operation_seconds_total", "Time that reads and writes took in the gateway, all together."),
		missed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "causeway_gateway_statistics_missed_total", Help: "Times that a running gateway gave no figures to a scrape in time.",
		}),
	}
}

func (m exportMetrics) describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.operations, m.errors, m.bytes, m.seconds} {
		ch <- d
	}
	m.missed.Describe(ch)
}

func (m exportMetrics) collect(ch chan<- prometheus.Metric, sources []source) {
	all := statistics(context.Background(), sources, func(ctx context.Context, s source) GatewayStatistics {
		return s.ask(ctx, scrapeFresh)
	})
	for _, g := range all {
		if g.Err != nil {
			m.missed.Inc()
			continue
		}
		for _, e := range g.Exports {
			for _, x := range []struct {
				op string
				t  ganesha.Transfer
			}{{"read", e.Read}, {"write", e.Write}} {
				for _, v := range []struct {
					d     *prometheus.Desc
					value float64
				}{
					{m.operations, float64(x.t.Ops)}, {m.errors, float64(x.t.Errors)},
					{m.bytes, float64(x.t.Bytes)}, {m.seconds, x.t.Time.Seconds()},
				} {
					ch <- prometheus.MustNewConstMetric(v.d, prometheus.CounterValue, v.value, g.Network, e.ID, x.op)
				}
			}
		}
	}
	m.missed.Collect(ch)
}
