package strain

import "github.com/prometheus/client_golang/prometheus"

// Metrics are what Prometheus is told. Their one label with an open end is the
// attachment's id, of which there are as many as attachments on this host.
type Metrics struct {
	files, filesLimit, memory, memoryLimit *prometheus.Desc
	warnings                               *prometheus.CounterVec
}

// NewMetrics are those of an agent.
func NewMetrics() Metrics {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, []string{"attachment"}, nil)
	}
	return Metrics{
		files:       desc("causeway_virtiofsd_open_files", "Files that an attachment's virtiofsd has open."),
		filesLimit:  desc("causeway_virtiofsd_open_files_limit", "Files that it may have open."),
		memory:      desc("causeway_virtiofsd_memory_bytes", "Memory that an attachment's virtiofsd takes, without what the kernel frees first."),
		memoryLimit: desc("causeway_virtiofsd_memory_limit_bytes", "Memory that it may take; absent without a limit."),
		warnings: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "causeway_virtiofsd_near_limit_total", Help: "Times that a virtiofsd came to 80 % of a limit.",
		}, []string{"limit"}),
	}
}

// Warned counts.
func (m Metrics) Warned(b Begun) {
	if b.Files {
		m.warnings.WithLabelValues("files").Inc()
	}
	if b.Memory {
		m.warnings.WithLabelValues("memory").Inc()
	}
}

// Describe names them.
func (m Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.files, m.filesLimit, m.memory, m.memoryLimit} {
		ch <- d
	}
	m.warnings.Describe(ch)
}

// Collect tells the last looks, by attachment.
func (m Metrics) Collect(ch chan<- prometheus.Metric, last map[string]Usage) {
	for id, u := range last {
		gauge := func(d *prometheus.Desc, v uint64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), id)
		}
		gauge(m.files, u.Files)
		gauge(m.filesLimit, u.FilesLimit)
		gauge(m.memory, u.Memory)
		if u.MemoryLimit > 0 {
			gauge(m.memoryLimit, u.MemoryLimit)
		}
	}
	m.warnings.Collect(ch)
}
