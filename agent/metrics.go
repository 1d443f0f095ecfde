package agent

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-project/causeway/agent/metrics"
	"github.com/causeway-project/causeway/agent/model"
)

// Collector offers the agent's metrics to a registry.
func (a *Agent) Collector() prometheus.Collector { return a.metrics }

// state is what a scrape is told.
func (a *Agent) state() metrics.State {
	s := metrics.State{Objects: map[string]map[model.Phase]int{}, Pulse: a.Pulse(), Usage: a.strained(), Sources: a.sources("")}
	a.mu.Lock()
	defer a.mu.Unlock()
	s.Synced, s.Damaged = a.synced, len(a.damaged)
	for key, o := range a.objects {
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
