package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
)

func (c *cli) nodeView() view[*nodev1.GetNodeResponse] {
	type T = *nodev1.GetNodeResponse
	return view[T]{
		json: protoJSON[T],
		detail: []detail[T]{
			{"Hostname", one(T.GetHostname)},
			{"Agent", one(T.GetVersion)},
			{"In sync", one(func(n T) string { return yesNo(n.GetInSync()) })},
			{"Started at", one(func(n T) string { return stamp(n.GetStartedAt()) })},
			{"Drivers", func(n T) []string {
				var all []string
				for _, d := range n.GetDrivers() {
					all = append(all, driver(d))
				}
				return all
			}},
			{"Virtiofsd", func(n T) []string { return virtiofsd(n.GetVirtiofsd()) }},
			{"Subsystems", func(n T) []string {
				var all []string
				for _, s := range n.GetSubsystems() {
					line := s.GetName() + " " + word(s.GetVerdict(), "VERDICT_")
					if s.GetMessage() != "" {
						line += ": " + s.GetMessage()
					}
					all = append(all, line)
				}
				return all
			}},
			{"Mounts", one(func(n T) string { return fmt.Sprint(len(n.GetMounts())) })},
			{"Damaged records", T.GetDamagedRecords},
		},
	}
}

func virtiofsd(v *nodev1.Virtiofsd) []string {
	switch {
	case v == nil:
		return nil
	case v.GetMessage() != "":
		return []string{v.GetMessage()}
	}
	return []string{fmt.Sprintf("%s (flavour %s, version %s)", v.GetPath(), v.GetFlavour(), v.GetVersion()), strings.Join(v.GetAbilities(), ", ")}
}

func driver(d *nodev1.Driver) string {
	abilities := slices.Clone(d.GetAbilities())
	for _, p := range []struct {
		name string
		has  bool
	}{
		{"stable-handles", d.GetStableHandles()},
		{"shared-write", d.GetSharedWrite()},
		{"coherent-locks", d.GetCoherentLocks()},
	} {
		if p.has {
			abilities = append(abilities, p.name)
		}
	}
	if len(abilities) == 0 {
		return d.GetKind()
	}
	return d.GetKind() + " (" + strings.Join(abilities, ", ") + ")"
}

func (c *cli) node() *cobra.Command {
	show := &cobra.Command{
		Use:               "show",
		Short:             "Show the agent, its drivers and how its parts are",
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.with(cmd.Context(), task{doing: "show node"}, func(ctx context.Context, r remote) error {
				n, err := r.node.Get(ctx, &nodev1.GetNodeRequest{})
				if err != nil {
					return err
				}
				return printOne(c, c.nodeView(), n)
			})
		},
	}
	preflight := &cobra.Command{
		Use:   "preflight",
		Short: "Check what this host needs",
		Long: `Check what this host needs, one verdict a line, each with the command that cures
it. The exit code is 4 where a check failed.`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.with(cmd.Context(), task{doing: "preflight"}, c.preflight)
		},
	}
	return group("node", "This host and its agent", show, preflight)
}

func (c *cli) preflight(ctx context.Context, r remote) error {
	resp, err := r.node.Preflight(ctx, &nodev1.PreflightRequest{})
	if err != nil {
		return err
	}
	return c.verdicts(resp.GetChecks(), "this host is not ready")
}

// verdicts prints checks, and fails where one did.
func (c *cli) verdicts(checks []*nodev1.Check, otherwise string) error {
	type T = *nodev1.Check
	err := printAll(c, view[T]{
		json: protoJSON[T],
		row: []column[T]{
			{"VERDICT", func(k T) string { return word(k.GetVerdict(), "VERDICT_") }},
			{"CHECK", T.GetName},
			{"MESSAGE", T.GetMessage},
			{"FIX", T.GetFix},
		},
	}, checks)
	if err != nil {
		return err
	}
	var bad []string
	for _, k := range checks {
		if k.GetVerdict() == nodev1.Verdict_VERDICT_FAIL {
			bad = append(bad, k.GetName())
		}
	}
	if len(bad) > 0 {
		return &failure{exitConflict, fmt.Sprintf("preflight: %s (%s); run the commands under FIX", otherwise, strings.Join(bad, ", "))}
	}
	return nil
}

func (c *cli) mounts() noun[*nodev1.Mount] {
	type T = *nodev1.Mount
	source := func(m T) string { return m.GetBackendKind() + ":" + m.GetSource() }
	list := func(ctx context.Context, r remote) ([]T, error) {
		resp, err := r.node.Get(ctx, &nodev1.GetNodeRequest{})
		return resp.GetMounts(), err
	}
	return noun[T]{
		name:  "mount",
		id:    "NAME",
		list:  list,
		keyOf: T.GetName,
		get: func(ctx context.Context, r remote, name string) (T, error) {
			all, err := list(ctx, r)
			if err != nil {
				return nil, err
			}
			for _, m := range all {
				if m.GetName() == name {
					return m, nil
				}
			}
			return nil, &failure{exitNotFound, fmt.Sprintf("no mount is named %s; see 'causeway mount list'", name)}
		},
		view: view[T]{
			json: protoJSON[T],
			row: []column[T]{
				{"NAME", T.GetName},
				{"SOURCE", source},
				{"PATH", T.GetPath},
				{"MODE", func(m T) string { return mode(m.GetReadOnly()) }},
				{"USERS", func(m T) string { return strings.Join(m.GetUsers(), ",") }},
				{"PHASE", func(m T) string { return phase(m.GetStatus()) }},
				{"REASON", func(m T) string { return m.GetStatus().GetReason() }},
			},
			detail: append([]detail[T]{
				{"Name", one(T.GetName)},
				{"Source", one(source)},
				{"Path", one(T.GetPath)},
				{"Mode", one(func(m T) string { return mode(m.GetReadOnly()) })},
				{"Users", T.GetUsers},
			}, statusDetail(T.GetStatus)...),
		},
	}
}

func (c *cli) mount() *cobra.Command {
	n := c.mounts()
	return group("mount", "Shares mounted on this host; they come and go with their users", n.show(c), n.all(c))
}
