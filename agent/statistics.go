package agent

import (
	"cmp"
	"context"
	"slices"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/statistics"
	"github.com/causeway-project/causeway/agent/vitals"
)

// MaxClients is how many clients of one gateway are asked for at most, each by
// a call of D-Bus.
const MaxClients = 256

// sources lists running gateways: all, or that of one network.
func (a *Agent) sources(network string) []statistics.Source {
	a.mu.Lock()
	defer a.mu.Unlock()
	byNetwork := map[string]*statistics.Source{}
	for key, o := range a.objects {
		server := a.servers[key.ID].Server
		if key.Kind != model.KindNetwork || o.gateway.Serving() != vitals.Up || o.gateway.Stuck() || server == nil || network != "" && key.ID != network {
			continue
		}
		if o.figures == nil {
			o.figures = statistics.NewFigures()
		}
		byNetwork[key.ID] = &statistics.Source{Network: key.ID, PID: o.gateway.Told.PID, Server: server, Figures: o.figures, Exports: map[uint16]string{}}
	}
	for network, s := range byNetwork {
		for id, o := range a.exports.Of(network) {
			if o.rec != nil {
				s.Exports[o.rec.Export.ExportID] = id
			}
		}
	}
	list := make([]statistics.Source, 0, len(byNetwork))
	for _, s := range byNetwork {
		list = append(list, *s)
	}
	slices.SortFunc(list, func(x, y statistics.Source) int { return cmp.Compare(x.Network, y.Network) })
	return list
}

// GatewayStatistics asks the gateway of one network, or every running one, and
// for at most so many clients of each. A gateway that does not answer has an
// error among the others' figures; one that does not run is not in the list.
func (a *Agent) GatewayStatistics(ctx context.Context, network string, clients int) ([]statistics.Gateway, error) {
	if clients < 0 || clients > MaxClients {
		return nil, fault.Invalidf(fault.BadCount, "%d clients are not between 0 and %d", clients, MaxClients)
	}
	if network != "" {
		if _, err := a.Network(ctx, network); err != nil {
			return nil, err
		}
	}
	return statistics.Of(ctx, a.sources(network), clients), nil
}
