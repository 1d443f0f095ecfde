package engine

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-project/causeway/agent/metrics"
	"github.com/causeway-project/causeway/agent/model"
)

// Collector offers the metrics to a registry.
func (eng *Engine) Collector() prometheus.Collector { return eng.metrics }

// StraysTaken counts devices that were taken out of instances behind libvirt,
// which did not know of them.
func (eng *Engine) StraysTaken(n int) { eng.metrics.StraysTaken(n) }

// state is what a scrape is told.
func (eng *Engine) state() metrics.State {
	s := metrics.State{Objects: map[string]map[model.Phase]int{}, Pulse: eng.Pulse(), Usage: eng.strained(), Sources: eng.Sources("")}
	eng.mu.Lock()
	defer eng.mu.Unlock()
	s.Synced, s.Damaged = eng.synced, len(eng.damaged)
	for key, o := range eng.objects {
		if s.Objects[key.Kind] == nil {
			s.Objects[key.Kind] = map[model.Phase]int{}
		}
		s.Objects[key.Kind][o.status.Phase]++
		if o.gateway.Told.Running {
			s.Gateways++
		}
	}
	return s
}
