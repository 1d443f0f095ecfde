package statistics

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-project/causeway/ganesha"
)

// Metrics are what Prometheus is told. They have bounded labels: the ids of networks and exports, and two
// words. Clients are no labels, for whoever can reach a gateway makes them.
type Metrics struct {
	operations, errors, bytes, seconds *prometheus.Desc
	missed                             prometheus.Counter
}

// NewMetrics are those of an agent; one set serves all its gateways.
func NewMetrics() Metrics {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, []string{"network", "export", "op"}, nil)
	}
	return Metrics{
		operations: desc("causeway_export_operations_total", "Reads and writes of NFS clients, since the gateway's process began."),
		errors:     desc("causeway_export_errors_total", "Reads and writes that failed."),
		bytes:      desc("causeway_export_bytes_total", "Bytes read and written."),
		seconds:    desc("causeway_export_operation_seconds_total", "Time that reads and writes took in the gateway, all together."),
		missed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "causeway_gateway_statistics_missed_total", Help: "Times that a running gateway gave no figures to a scrape in time.",
		}),
	}
}

// Describe names them.
func (m Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.operations, m.errors, m.bytes, m.seconds} {
		ch <- d
	}
	m.missed.Describe(ch)
}

// Collect asks the gateways. Those that do not answer in time are counted, and
// their figures left out.
func (m Metrics) Collect(ch chan<- prometheus.Metric, sources []Source) {
	all := askAll(context.Background(), sources, func(ctx context.Context, s Source) Gateway {
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
