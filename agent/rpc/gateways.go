package rpc

import (
	"context"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/causeway-project/causeway/agent/statistics"
	nodev1 "github.com/causeway-project/causeway/api/node/v1"
)

type gateways struct {
	nodev1.UnsafeGatewaysServer
	agent Gateways
}

func (s gateways) Statistics(ctx context.Context, r *nodev1.GatewayStatisticsRequest) (*nodev1.GatewayStatisticsResponse, error) {
	got, err := s.agent.GatewayStatistics(ctx, r.GetNetwork(), int(r.GetClients()))
	if err != nil {
		return nil, err
	}
	return &nodev1.GatewayStatisticsResponse{Gateways: each(got, statisticsTo)}, nil
}

func statisticsTo(g statistics.Gateway) *nodev1.GatewayStatistics {
	out := &nodev1.GatewayStatistics{
		Network: g.Network, At: timeTo(g.At),
		Exports: each(g.Exports, func(e statistics.Export) *nodev1.ExportStatistics {
			return &nodev1.ExportStatistics{Export: e.ID, ExportId: int32(e.ExportStats.ID), Read: transfersTo(e.Read), Write: transfersTo(e.Write)}
		}),
		Clients: each(g.Clients, func(c statistics.Client) *nodev1.ClientStatistics {
			return &nodev1.ClientStatistics{
				Address: c.Address.String(), Seen: timeTo(c.Seen),
				Read: transfersTo(c.Read), Write: transfersTo(c.Write), Requests: c.Compounds,
			}
		}),
	}
	if g.Err != nil {
		out.Error = g.Err.Error()
	}
	return out
}

func transfersTo(t statistics.Transfer) *nodev1.Transfers {
	return &nodev1.Transfers{Operations: t.Ops, Errors: t.Errors, Bytes: t.Bytes, Time: durationpb.New(t.Time)}
}
