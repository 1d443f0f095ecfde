package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
)

func (c *cli) exports(network string) noun[*nodev1.Export] {
	type T = *nodev1.Export
	source := func(e T) string { return share(e.GetConnection()) }
	return noun[T]{
		name: "export",
		id:   "ID",
		get: func(ctx context.Context, r remote, id string) (T, error) {
			resp, err := r.exports.Get(ctx, &nodev1.GetExportRequest{Id: id})
			return resp.GetExport(), err
		},
		list: func(ctx context.Context, r remote) ([]T, error) {
			resp, err := r.exports.List(ctx, &nodev1.ListExportsRequest{Network: network})
			return resp.GetExports(), err
		},
		keyOf: T.GetId,
		view: view[T]{
			json: protoJSON[T],
			row: []column[T]{
				{"ID", T.GetId},
				{"NETWORK", T.GetNetwork},
				{"SOURCE", source},
				{"RULES", activeRules},
				{"LOCATION", func(e T) string {
					if len(e.GetLocations()) == 0 {
						return ""
					}
					return e.GetLocations()[0]
				}},
				{"PHASE", func(e T) string { return phase(e.GetStatus()) }},
				{"AGE", func(e T) string { return c.age(e.GetStatus().GetSince()) }},
				{"REASON", func(e T) string { return e.GetStatus().GetReason() }},
			},
			detail: append([]detail[T]{
				{"ID", one(T.GetId)},
				{"Network", one(T.GetNetwork)},
				{"Source", one(source)},
				{"Options", func(e T) []string { return options(e.GetConnection()) }},
				{"Mode", one(func(e T) string { return mode(e.GetReadOnly()) })},
				{"Allow", func(e T) []string {
					var rules []string
					for _, r := range e.GetRules() {
						rules = append(rules, rule(r)+" "+word(r.GetState(), "RULE_STATE_"))
					}
					return rules
				}},
				{"Locations", T.GetLocations},
				{"Export ID", one(func(e T) string { return fmt.Sprint(e.GetExportId()) })},
			}, statusDetail(T.GetStatus)...),
		},
	}
}

// activeRules of how many there are.
func activeRules(e *nodev1.Export) string {
	active := 0
	for _, r := range e.GetRules() {
		if r.GetState() == nodev1.RuleState_RULE_STATE_ACTIVE {
			active++
		}
	}
	return fmt.Sprintf("%d/%d", active, len(e.GetRules()))
}

// rule in the form that --allow takes, which does not tell all of it.
func rule(r *nodev1.AccessRule) string {
	s := fmt.Sprintf("%s=%s", r.GetClient(), word(r.GetLevel(), "LEVEL_"))
	switch r.GetSquash() {
	case nodev1.Squash_SQUASH_NONE:
		s += ",squash=none"
	case nodev1.Squash_SQUASH_ROOT_ID:
		s += ",squash=root_id"
	case nodev1.Squash_SQUASH_ALL:
		s += ",squash=all"
	default:
		s += ",squash=root"
	}
	if r.AnonymousUid != nil {
		s += fmt.Sprintf(",uid=%d", r.GetAnonymousUid())
	}
	if r.AnonymousGid != nil {
		s += fmt.Sprintf(",gid=%d", r.GetAnonymousGid())
	}
	if r.GetAllowEveryone() {
		s += ",everyone"
	}
	return s
}

func (c *cli) export() *cobra.Command {
	n := c.exports("")
	return group("export", "Shares published to tenant networks over NFS",
		c.exportCreate(n), n.show(c), c.exportList(), n.remove(c, func(ctx context.Context, r remote, id string) error {
			_, err := r.exports.Delete(ctx, &nodev1.DeleteExportRequest{Id: id})
			return err
		}), c.watch("export"))
}

func (c *cli) exportCreate(n noun[*nodev1.Export]) *cobra.Command {
	e := &nodev1.Export{}
	var from connectionFlags
	var allow []string
	var noWait bool
	cmd := &cobra.Command{
		Use:   "create ID --network NETWORK --source KIND:SOURCE [--allow RULE]...",
		Short: "Publish a share to a tenant network, or change who may reach it",
		Long: `Publish a share through a network's gateway, and wait until clients can mount
it. Without a rule nobody may. The same id with other rules replaces the rules;
nothing else of an export changes.

A rule is ` + allowForm + `:
CLIENT is an address or prefix; squash=root is meant where none is named; uid
and gid are those of the squashed, 65534 by default. A CLIENT that is everyone
(0.0.0.0/0, ::/0) wants the word everyone, too. 'causeway rule' has all there is
to a rule, and changes one at a time.`,
		Example: `  causeway export create docs --network blue --source local:docs --allow 10.77.0.0/24=rw
  causeway export create docs --network blue --source local:docs --allow 10.77.0.7=rw,squash=none --allow fd77::/64=ro`,
		Args: oneArg("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			connection, err := from.parse(c.in)
			if err != nil {
				return err
			}
			e.Id, e.Connection, e.Rules = args[0], connection, nil
			for _, s := range allow {
				r, err := parseAllow(s)
				if err != nil {
					return err
				}
				e.Rules = append(e.Rules, r)
			}
			return n.create(cmd.Context(), c, creation[*nodev1.Export]{id: e.GetId(), noWait: noWait,
				put: func(ctx context.Context, r remote) (*nodev1.Export, error) {
					resp, err := r.exports.Put(ctx, &nodev1.PutExportRequest{Export: e})
					return resp.GetExport(), err
				}})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := cmd.Flags()
	flags.StringVar(&e.Network, "network", "", "the network to publish to (required)")
	flags.StringArrayVar(&allow, "allow", nil, "who may reach it, as "+allowForm+"; may be repeated")
	flags.StringVar(&e.Pseudo, "pseudo", "", "its path in the gateway, / and the id by default")
	flags.BoolVar(&e.ReadOnly, "read-only", false, "nobody may write, whatever the rules say")
	addNoWait(cmd, &noWait)
	from.add(cmd)
	must(cmd.MarkFlagRequired("network"))
	must(cmd.RegisterFlagCompletionFunc("network", c.networks().complete(c, -1)))
	must(cmd.RegisterFlagCompletionFunc("allow", cobra.NoFileCompletions))
	return cmd
}

func (c *cli) exportList() *cobra.Command {
	var network string
	cmd := c.exports("").all(c)
	cmd.Flags().StringVar(&network, "network", "", "only those of one network")
	must(cmd.RegisterFlagCompletionFunc("network", c.networks().complete(c, -1)))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return c.exports(network).all(c).RunE(cmd, args)
	}
	return cmd
}
