package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
)

func (c *cli) networks() noun[*nodev1.Network] {
	type T = *nodev1.Network
	return noun[T]{
		name: "network",
		id:   "ID",
		get: func(ctx context.Context, r remote, id string) (T, error) {
			resp, err := r.networks.Get(ctx, &nodev1.GetNetworkRequest{Id: id})
			return resp.GetNetwork(), err
		},
		list: func(ctx context.Context, r remote) ([]T, error) {
			resp, err := r.networks.List(ctx, &nodev1.ListNetworksRequest{})
			return resp.GetNetworks(), err
		},
		keyOf: T.GetId,
		view: view[T]{
			json: protoJSON[T],
			row: []column[T]{
				{"ID", T.GetId},
				{"PLUG", plugWords},
				{"ADDRESSES", func(n T) string { return strings.Join(n.GetAddresses(), ",") }},
				{"GATEWAY", gatewayState},
				{"EXPORTS", func(n T) string { return fmt.Sprint(n.GetGateway().GetExports()) }},
				{"PHASE", func(n T) string { return phase(n.GetStatus()) }},
				{"AGE", func(n T) string { return c.age(n.GetStatus().GetSince()) }},
				{"REASON", func(n T) string { return n.GetStatus().GetReason() }},
			},
			detail: append([]detail[T]{
				{"ID", one(T.GetId)},
				{"Plug", plugDetail},
				{"Addresses", T.GetAddresses},
				{"Routes", func(n T) []string {
					var rs []string
					for _, r := range n.GetRoutes() {
						rs = append(rs, r.GetDestination()+" via "+r.GetVia())
					}
					return rs
				}},
				{"MTU", one(func(n T) string {
					if n.GetMtu() == 0 {
						return "the plug's"
					}
					return fmt.Sprint(n.GetMtu())
				})},
				{"MAC", one(T.GetMac)},
				{"Gateway", one(gatewayState)},
			}, statusDetail(T.GetStatus)...),
		},
	}
}

func (c *cli) network() *cobra.Command {
	n := c.networks()
	return group("network", "Tenant networks as plugged into this host",
		c.networkCreate(n), n.show(c), n.all(c), n.remove(c, func(ctx context.Context, r remote, id string) error {
			_, err := r.networks.Delete(ctx, &nodev1.DeleteNetworkRequest{Id: id})
			return err
		}), c.watch("network"))
}

func (c *cli) networkCreate(n noun[*nodev1.Network]) *cobra.Command {
	var plug plugFlags
	var routes []string
	var noWait bool
	network := &nodev1.Network{}
	cmd := &cobra.Command{
		Use:   "create ID --bridge BRIDGE --address ADDRESS/BITS",
		Short: "Plug this host's gateway into a tenant network",
		Long: `Plug this host's gateway into a tenant network, in a namespace of its own, and
wait until it is there. One flag names the kind of plug: --bridge,
--vlan-device, --vxlan, --macvlan, --ovs, or --namespace for an interface that
somebody else provides. The same command may be repeated.`,
		Example: `  causeway network create blue --bridge br-blue --address 10.77.0.2/24 --address fd77::2/64
  causeway network create red --bridge br-red --address 10.77.0.2/24 --route 0.0.0.0/0=10.77.0.1
  causeway network create green --vlan-device eth1 --vlan 100 --address 10.77.0.2/24
  causeway network create white --vxlan 42 --vxlan-device eth1 --vxlan-local 192.0.2.1 --vxlan-peer 192.0.2.2 --address 10.77.0.2/24
  causeway network create black --macvlan eth1 --address 10.77.0.2/24
  causeway network create brown --ovs br-int --iface-id 5f0c2a6e-9d3b --address 10.77.0.2/24
  causeway network create amber --namespace cni-7 --interface eth0 --address 10.77.0.2/24`,
		Args: oneArg("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			network.Id = args[0]
			if err := plug.set(cmd, network); err != nil {
				return err
			}
			network.Routes = nil
			for _, s := range routes {
				r, err := parseRoute(s)
				if err != nil {
					return err
				}
				network.Routes = append(network.Routes, r)
			}
			return n.create(cmd.Context(), c, creation[*nodev1.Network]{id: network.GetId(), noWait: noWait,
				put: func(ctx context.Context, r remote) (*nodev1.Network, error) {
					resp, err := r.networks.Put(ctx, &nodev1.PutNetworkRequest{Network: network})
					return resp.GetNetwork(), err
				}})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := cmd.Flags()
	plug.add(cmd)
	flags.StringArrayVar(&network.Addresses, "address", nil, "an address of the gateway with its prefix length; may be repeated (required)")
	flags.StringArrayVar(&routes, "route", nil, "a route as DESTINATION=VIA; may be repeated")
	flags.Int32Var(&network.Mtu, "mtu", 0, "bytes; 0 takes what the bridge or device carries")
	flags.StringVar(&network.Mac, "mac", "", "hardware address; chosen by the agent if not given")
	addNoWait(cmd, &noWait)
	must(cmd.MarkFlagRequired("address"))
	return cmd
}
