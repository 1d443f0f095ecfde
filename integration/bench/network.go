package main

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/causeway-project/causeway/integration/lab"
)

// A tenant is the bench's tenant network: the agent's gateways, the hand-made
// one and the client are machines on one bridge.
type tenant struct {
	on     *lab.Bridge
	bridge string
	hand   string // path of the namespace of the hand-made gateway
	client string // path of the client's namespace
}

const handAddress = "10.99.0.3:2049"

func newTenant(ctx context.Context) (tenant, error) {
	bridge, err := lab.NewBridge(ctx, "br-bench")
	if err != nil {
		return tenant{}, err
	}
	hand, err := bridge.NewClient(ctx, "hand", netip.MustParsePrefix("10.99.0.3/24"))
	if err != nil {
		return tenant{}, err
	}
	client, err := bridge.NewClient(ctx, "client", netip.MustParsePrefix("10.99.0.4/24"))
	if err != nil {
		return tenant{}, err
	}
	return tenant{on: bridge, bridge: bridge.Name, hand: hand.NetNS, client: client.NetNS}, nil
}

// A network of the agent's on the bench's bridge.
type network struct {
	id, prefix, address string
}

// numbered networks do not meet each other, nor the hand-made gateway.
func numbered(n int) network {
	ip := fmt.Sprintf("10.99.0.%d", 10+n)
	return network{id: fmt.Sprintf("bench-%d", n), prefix: ip + "/24", address: ip + ":2049"}
}
