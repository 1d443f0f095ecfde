// Package metrics counts what the agent does, for Prometheus;
// docs/troubleshooting.md lists the metrics.
package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/move"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/agent/reconcile"
	"github.com/causeway-project/causeway/agent/statistics"
	"github.com/causeway-project/causeway/agent/strain"
)

// A State is what is so at the time of a scrape. It is asked for then, so that
// it cannot drift.
type State struct {
	Objects  map[string]map[model.Phase]int // by kind
	Gateways int                            // that serve
	Synced   bool                           // the ledger was read and the host seen once
	Damaged  int                            // files of the ledger
	Pulse    time.Time                      // when the reconciler last showed that it is alive
	Usage    map[string]strain.Usage        // of virtiofsds, by attachment
	Sources  []statistics.Source            // of the gateways' figures
}

// Metrics are those of an agent. They implement prometheus.Collector.
type Metrics struct {
	state     func() State
	steps     *prometheus.HistogramVec
	failures  *prometheus.CounterVec
	restarts  prometheus.Counter
	stuck     prometheus.Counter
	limits    *prometheus.CounterVec
	deaths    *prometheus.CounterVec
	repairs   prometheus.Histogram
	drift     prometheus.Counter
	ruleDrift prometheus.Counter
	moves     *prometheus.CounterVec
	strays    prometheus.Counter
	exports   statistics.Metrics
	strain    strain.Metrics

	objects, synced, damaged, pulse, gateways *prometheus.Desc
}

// New returns metrics without a count.
func New(state func() State) *Metrics {
	return &Metrics{
		state: state,
		steps: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "causeway_step_duration_seconds", Help: "Time of one reconcile step, by what it works on and whether it worked.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16),
		}, []string{"step", "verb", "result"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "causeway_step_failures_total", Help: "Reconcile steps that failed, by reason.",
		}, []string{"step", "reason"}),
		restarts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "causeway_gateway_restarts_total", Help: "Gateways that ended by themselves and were started again.",
		}),
		stuck: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "causeway_gateway_stuck_total", Help: "Gateways that ran and did not answer, and were replaced.",
		}),
		limits: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "causeway_gateway_limits_reached_total", Help: "Times that a gateway was killed at its limit of memory, or got no thread at its limit of tasks.",
		}, []string{"limit"}),
		deaths: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "causeway_virtiofsd_deaths_total", Help: "virtiofsd that died under their device, by cause: killed, exited, memory, hung, replaced, keeper.",
		}, []string{"cause"}),
		repairs: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "causeway_virtiofsd_repair_seconds", Help: "Time from the death of a virtiofsd until its attachment was ready again.",
			Buckets: prometheus.ExponentialBuckets(0.05, 2, 14),
		}),
		drift: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "causeway_network_drift_total", Help: "Times that a network on this host was found other than wanted.",
		}),
		ruleDrift: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "causeway_access_rule_drift_total", Help: "Times that a gateway was found with other access rules than it was given.",
		}),
		moves: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "causeway_attachment_moves_total", Help: "Moves of instances that ended for an attachment without a call, by how.",
		}, []string{"end"}),
		strays: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "causeway_stray_devices_total", Help: "Devices that QEMU had and libvirt did not know of, and that were taken out.",
		}),
		exports:  statistics.NewMetrics(),
		strain:   strain.NewMetrics(),
		objects:  prometheus.NewDesc("causeway_objects", "Objects by kind and phase.", []string{"kind", "phase"}, nil),
		synced:   prometheus.NewDesc("causeway_in_sync", "1 when the ledger was read and the host seen once.", nil, nil),
		damaged:  prometheus.NewDesc("causeway_ledger_damaged_files", "Ledger files that could not be read.", nil, nil),
		pulse:    prometheus.NewDesc("causeway_pulse_timestamp_seconds", "When the reconciler last showed that it is alive.", nil, nil),
		gateways: prometheus.NewDesc("causeway_gateways_running", "Gateways that serve.", nil, nil),
	}
}

// Describe names them.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	m.steps.Describe(ch)
	m.failures.Describe(ch)
	m.restarts.Describe(ch)
	m.stuck.Describe(ch)
	m.limits.Describe(ch)
	m.deaths.Describe(ch)
	m.repairs.Describe(ch)
	m.drift.Describe(ch)
	m.ruleDrift.Describe(ch)
	m.moves.Describe(ch)
	m.strays.Describe(ch)
	m.exports.Describe(ch)
	m.strain.Describe(ch)
	for _, d := range []*prometheus.Desc{m.objects, m.synced, m.damaged, m.pulse, m.gateways} {
		ch <- d
	}
}

// Collect tells them.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	m.steps.Collect(ch)
	m.failures.Collect(ch)
	m.restarts.Collect(ch)
	m.stuck.Collect(ch)
	m.limits.Collect(ch)
	m.deaths.Collect(ch)
	m.repairs.Collect(ch)
	m.drift.Collect(ch)
	m.ruleDrift.Collect(ch)
	m.moves.Collect(ch)
	m.strays.Collect(ch)

	is := m.state()
	m.exports.Collect(ch, is.Sources)
	m.strain.Collect(ch, is.Usage)
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, kind := range []string{model.KindAttachment, model.KindNetwork, model.KindExport} {
		for _, p := range []model.Phase{model.Pending, model.Working, model.Ready, model.Degraded, model.Removing, model.Failed} {
			gauge(m.objects, float64(is.Objects[kind][p]), kind, string(p))
		}
	}
	synced := 0.0
	if is.Synced {
		synced = 1
	}
	gauge(m.synced, synced)
	gauge(m.damaged, float64(is.Damaged))
	gauge(m.pulse, float64(is.Pulse.UnixNano())/float64(time.Second))
	gauge(m.gateways, float64(is.Gateways))
}

// Step counts one step, and how long it took.
func (m *Metrics) Step(s reconcile.Step, err error, d time.Duration) {
	result := "ok"
	if err != nil {
		result = "error"
		m.failures.WithLabelValues(s.Key.Kind.String(), string(parts.Classify(err).Reason)).Inc()
	}
	m.steps.WithLabelValues(s.Key.Kind.String(), string(s.Verb), result).Observe(d.Seconds())
}

// GatewayEnded counts one that ended by itself.
func (m *Metrics) GatewayEnded() { m.restarts.Inc() }

// GatewayStuck counts one that ran and did not answer.
func (m *Metrics) GatewayStuck() { m.stuck.Inc() }

// GatewayLimited counts how often one has reached a limit.
func (m *Metrics) GatewayLimited(limit string, times uint64) {
	m.limits.WithLabelValues(limit).Add(float64(times))
}

// DaemonDied counts a virtiofsd that died under its device.
func (m *Metrics) DaemonDied(cause string) { m.deaths.WithLabelValues(cause).Inc() }

// DaemonRepaired measures how long an attachment was without one.
func (m *Metrics) DaemonRepaired(took time.Duration) { m.repairs.Observe(took.Seconds()) }

// DaemonStrained counts warnings that began.
func (m *Metrics) DaemonStrained(b strain.Begun) { m.strain.Warned(b) }

// NetworkDrifted counts one that was found other than wanted.
func (m *Metrics) NetworkDrifted() { m.drift.Inc() }

// RulesDrifted counts an export that was found with other access rules.
func (m *Metrics) RulesDrifted() { m.ruleDrift.Inc() }

// StraysTaken counts devices that libvirt did not know of.
func (m *Metrics) StraysTaken(n int) { m.strays.Add(float64(n)) }

// MoveEnded counts a move that ended without a call.
func (m *Metrics) MoveEnded(e move.End) { m.moves.WithLabelValues(string(e)).Inc() }
