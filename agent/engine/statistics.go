package engine

import (
	"cmp"
	"slices"

	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/statistics"
	"github.com/causeway-project/causeway/agent/vitals"
)

// Sources lists running gateways: all, or that of one network.
func (eng *Engine) Sources(network string) []statistics.Source {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	byNetwork := map[string]*statistics.Source{}
	for key, o := range eng.objects {
		server := eng.gateways.Last(key.ID)
		if key.Kind != model.KindNetwork || o.gateway.Serving() != vitals.Up || o.gateway.Stuck() || server == nil || network != "" && key.ID != network {
			continue
		}
		if o.figures == nil {
			o.figures = statistics.NewFigures()
		}
		byNetwork[key.ID] = &statistics.Source{Network: key.ID, PID: o.gateway.Told.PID, Server: server, Figures: o.figures, Exports: map[uint16]string{}}
	}
	for network, s := range byNetwork {
		for id, o := range eng.exports.Of(network) {
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
