package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
)

// A served is a network, seen from its Ganesha.
type served struct {
	*nodev1.Network
	stats *nodev1.GatewayStatistics // nil in lists, and where no gateway runs
}

// totals sums the exports' reads or writes up.
func (g served) totals(of func(*nodev1.ExportStatistics) *nodev1.Transfers) string {
	if g.stats == nil {
		return ""
	}
	if g.stats.GetError() != "" {
		return g.stats.GetError()
	}
	var ops, errors, bytes uint64
	for _, e := range g.stats.GetExports() {
		t := of(e)
		ops += t.GetOperations()
		errors += t.GetErrors()
		bytes += t.GetBytes()
	}
	return fmt.Sprintf("%d operations, %s, %d errors", ops, size(float64(bytes)), errors)
}

func (c *cli) gateways() noun[served] {
	pid := func(n served) string {
		if !n.GetGateway().GetRunning() {
			return ""
		}
		return strconv.Itoa(int(n.GetGateway().GetPid()))
	}
	state := func(n served) string { return gatewayState(n.Network) }
	version := func(n served) string { return n.GetGateway().GetVersion() }
	exports := func(n served) string { return fmt.Sprint(n.GetGateway().GetExports()) }
	restarts := func(n served) string { return fmt.Sprint(n.GetGateway().GetRestarts()) }
	networks := c.networks()
	return noun[served]{
		name: "gateway",
		id:   "NETWORK",
		get: func(ctx context.Context, r remote, id string) (served, error) {
			n, err := networks.get(ctx, r, id)
			if err != nil || !n.GetGateway().GetRunning() {
				return served{Network: n}, err
			}
			resp, err := r.gateways.Statistics(ctx, &nodev1.GatewayStatisticsRequest{Network: id})
			if err != nil || len(resp.GetGateways()) == 0 {
				return served{Network: n}, err
			}
			return served{n, resp.GetGateways()[0]}, nil
		},
		list: func(ctx context.Context, r remote) ([]served, error) {
			all, err := networks.list(ctx, r)
			var list []served
			for _, n := range all {
				list = append(list, served{Network: n})
			}
			return list, err
		},
		keyOf: func(n served) string { return n.GetId() },
		view: view[served]{
			json: gatewayJSON,
			row: []column[served]{
				{"NETWORK", func(n served) string { return n.GetId() }},
				{"STATE", state},
				{"PID", pid},
				{"VERSION", version},
				{"EXPORTS", exports},
				{"RESTARTS", restarts},
				{"UPTIME", func(n served) string {
					if !n.GetGateway().GetRunning() {
						return ""
					}
					return c.age(n.GetGateway().GetStartedAt())
				}},
			},
			detail: []detail[served]{
				{"Network", one(func(n served) string { return n.GetId() })},
				{"State", one(state)},
				{"PID", one(pid)},
				{"Version", one(version)},
				{"Started at", one(func(n served) string { return stamp(n.GetGateway().GetStartedAt()) })},
				{"Exports", one(exports)},
				{"Restarts", one(restarts)},
				{"Addresses", func(n served) []string { return n.GetAddresses() }},
				{"Read", one(func(n served) string { return n.totals((*nodev1.ExportStatistics).GetRead) })},
				{"Written", one(func(n served) string { return n.totals((*nodev1.ExportStatistics).GetWrite) })},
			},
		},
	}
}

func (c *cli) gateway() *cobra.Command {
	n := c.gateways()
	return group("gateway", "The NFS servers of the networks; they come and go with exports", n.show(c), n.all(c), c.top(n))
}

func gatewayState(n *nodev1.Network) string {
	switch g := n.GetGateway(); {
	case g.GetRunning():
		return "running"
	case g.GetExports() > 0:
		return "down"
	}
	return "idle"
}

// gatewayJSON has statistics where they were asked for.
func gatewayJSON(n served) ([]byte, error) {
	g, err := protoJSON(n.GetGateway())
	if err != nil {
		return nil, err
	}
	var stats json.RawMessage
	if n.stats != nil {
		if stats, err = protoJSON(n.stats); err != nil {
			return nil, err
		}
	}
	return json.Marshal(struct {
		Network    string          `json:"network"`
		Gateway    json.RawMessage `json:"gateway"`
		Statistics json.RawMessage `json:"statistics,omitempty"`
	}{n.GetId(), g, stats})
}
