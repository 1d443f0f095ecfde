package main

import (
	"context"
	"fmt"
	"slices"
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
				{"NFS versions", one(func(n T) string { return strings.Join(n.GetNfsVersions(), ", ") })},
				{"Gateway", one(gatewayState)},
				{"Drift", c.driftDetail},
			}, statusDetail(T.GetStatus)...),
		},
	}
}

// driftDetail says how often the network was put right, and what it was last.
func (c *cli) driftDetail(n *nodev1.Network) []string {
	d := n.GetDrift()
	if d.GetCount() == 0 {
		return nil
	}
	return append([]string{fmt.Sprintf("%d since the agent started, the last %s ago:", d.GetCount(), c.age(d.GetAt()))}, d.GetWhat()...)
}

func (c *cli) network() *cobra.Command {
	n := c.networks()
	return group("network", "Tenant networks as plugged into this host",
		c.networkCreate(n), c.networkUpdate(n), n.show(c), n.all(c), n.remove(c, func(ctx context.Context, r remote, id string) error {
			_, err := r.networks.Delete(ctx, &nodev1.DeleteNetworkRequest{Id: id})
			return err
		}), c.watch("network"))
}

// networkFlags are a network's settings besides its id.
type networkFlags struct {
	plug      plugFlags
	addresses []string
	routes    []string
	mtu       int32
	mac       string
	versions  []string
}

func (f *networkFlags) add(cmd *cobra.Command) {
	f.plug.add(cmd)
	flags := cmd.Flags()
	flags.StringArrayVar(&f.addresses, "address", nil, "an address of the gateway with its prefix length; may be repeated")
	flags.StringArrayVar(&f.routes, "route", nil, "a route as DESTINATION=VIA; may be repeated")
	flags.Int32Var(&f.mtu, "mtu", 0, "bytes; 0 takes what the bridge or device carries")
	flags.StringVar(&f.mac, "mac", "", "hardware address; chosen by the agent if not given")
	flags.StringArrayVar(&f.versions, "nfs-version", nil, "a version of NFS to serve: 3, 4.0, 4.1 or 4.2; may be repeated (4.1 and 4.2 if not given)")
}

func (f *networkFlags) given(cmd *cobra.Command) bool {
	return f.plug.given(cmd) || slices.ContainsFunc([]string{"address", "route", "mtu", "mac", "nfs-version"}, cmd.Flags().Changed)
}

// set gives the network the settings that were given, but for the plug.
func (f *networkFlags) set(cmd *cobra.Command, n *nodev1.Network) error {
	given := cmd.Flags().Changed
	if given("address") {
		n.Addresses = f.addresses
	}
	if given("route") {
		n.Routes = nil
		for _, s := range f.routes {
			r, err := parseRoute(s)
			if err != nil {
				return err
			}
			n.Routes = append(n.Routes, r)
		}
	}
	if given("mtu") {
		n.Mtu = f.mtu
	}
	if given("mac") {
		n.Mac = f.mac
	}
	if given("nfs-version") {
		n.NfsVersions = f.versions
	}
	return nil
}

func (c *cli) networkCreate(n noun[*nodev1.Network]) *cobra.Command {
	var settings networkFlags
	var noWait bool
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
			network := &nodev1.Network{Id: args[0]}
			if err := settings.plug.set(cmd, network); err != nil {
				return err
			}
			if err := settings.set(cmd, network); err != nil {
				return err
			}
			return n.create(cmd.Context(), c, creation[*nodev1.Network]{id: network.GetId(), noWait: noWait,
				put: func(ctx context.Context, r remote) (*nodev1.Network, error) {
					resp, err := r.networks.Put(ctx, &nodev1.PutNetworkRequest{Network: network})
					return resp.GetNetwork(), err
				}})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	settings.add(cmd)
	addNoWait(cmd, &noWait)
	must(cmd.MarkFlagRequired("address"))
	return cmd
}

func (c *cli) networkUpdate(n noun[*nodev1.Network]) *cobra.Command {
	var settings networkFlags
	var noRoutes bool
	cmd := &cobra.Command{
		Use:   "update ID [--address ADDRESS/BITS]...",
		Short: "Change a network, or plug it in elsewhere",
		Long: `Change the settings that are given, and wait until the gateway serves as wanted;
the others stay. --address, --route and --nfs-version replace the whole list.
Other NFS versions restart the gateway once, and clients reclaim. Addresses, routes,
MTU, MAC and the peers of a VXLAN change in place. A plug is given whole, as with
create; with another one the gateway is made anew with the same exports, and
clients that reach it there reclaim what they had open. The same command may be
repeated.`,
		Example: `  causeway network update blue --address 10.77.0.2/24 --address 10.77.0.3/24
  causeway network update blue --bridge br-trunk --vlan 100`,
		Args: oneArg("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !settings.given(cmd) && !noRoutes {
				return usage("nothing to change is given; see '%s --help'", cmd.CommandPath())
			}
			return c.with(cmd.Context(), task{doing: "update network " + args[0]}, func(ctx context.Context, r remote) error {
				network, err := n.get(ctx, r, args[0])
				if err != nil {
					return err
				}
				if settings.plug.given(cmd) {
					if err := settings.plug.set(cmd, network); err != nil {
						return err
					}
				}
				if err := settings.set(cmd, network); err != nil {
					return err
				}
				if noRoutes {
					network.Routes = nil
				}
				seen := network.GetStatus().GetGeneration()
				network.Gateway, network.Status = nil, nil
				resp, err := r.networks.Update(ctx, &nodev1.UpdateNetworkRequest{Network: network, Generation: seen})
				if err != nil {
					return err
				}
				return printOne(c, n.view, resp.GetNetwork())
			})
		},
		ValidArgsFunction: n.complete(c, 1),
	}
	settings.add(cmd)
	cmd.Flags().BoolVar(&noRoutes, "no-routes", false, "take all routes away")
	cmd.MarkFlagsMutuallyExclusive("route", "no-routes")
	return cmd
}
