package agent

import (
	"context"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/statistics"
)

// MaxClients is how many clients of one gateway are asked for at most, each by
// a call of D-Bus.
const MaxClients = 256

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
	return statistics.Of(ctx, a.Sources(network), clients), nil
}
