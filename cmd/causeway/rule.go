package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
)

// rules are those of one export.
func (c *cli) rules(export string) noun[*nodev1.AccessRule] {
	type T = *nodev1.AccessRule
	level := func(r T) string { return word(r.GetLevel(), "LEVEL_") }
	squash := func(r T) string { return strings.ReplaceAll(word(r.GetSquash(), "SQUASH_"), "-", "_") }
	state := func(r T) string { return word(r.GetState(), "RULE_STATE_") }
	priority := func(r T) string { return fmt.Sprint(r.GetPriority()) }
	sec := func(r T) string {
		var words []string
		for _, s := range r.GetSec() {
			words = append(words, word(s, "SEC_"))
		}
		return strings.Join(words, ",")
	}
	return noun[T]{
		name: "rule",
		id:   "RULE",
		get: func(ctx context.Context, r remote, id string) (T, error) {
			resp, err := r.exports.GetRule(ctx, &nodev1.GetRuleRequest{Export: export, Id: id})
			return resp.GetRule(), err
		},
		list: func(ctx context.Context, r remote) ([]T, error) {
			resp, err := r.exports.ListRules(ctx, &nodev1.ListRulesRequest{Export: export})
			return resp.GetRules(), err
		},
		keyOf: T.GetId,
		view: view[T]{
			json: protoJSON[T],
			row: []column[T]{
				{"ID", T.GetId},
				{"PRIORITY", priority},
				{"CLIENT", T.GetClient},
				{"LEVEL", level},
				{"SQUASH", squash},
				{"SEC", sec},
				{"EXPIRES", func(r T) string { return c.left(r.GetExpiresAt()) }},
				{"STATE", state},
				{"AGE", func(r T) string { return c.age(r.GetCreatedAt()) }},
				{"REASON", T.GetReason},
			},
			detail: []detail[T]{
				{"ID", one(T.GetId)},
				{"Client", one(T.GetClient)},
				{"Level", one(level)},
				{"Squash", one(squash)},
				{"Anonymous", one(func(r T) string {
					if r.AnonymousUid == nil || r.AnonymousGid == nil {
						return ""
					}
					return fmt.Sprintf("%d:%d", r.GetAnonymousUid(), r.GetAnonymousGid())
				})},
				{"Security", one(sec)},
				{"Priority", one(priority)},
				{"Expires at", one(func(r T) string { return stamp(r.GetExpiresAt()) })},
				{"Metadata", func(r T) []string {
					var lines []string
					for _, k := range slices.Sorted(maps.Keys(r.GetMetadata())) {
						lines = append(lines, k+"="+r.GetMetadata()[k])
					}
					return lines
				}},
				{"State", one(state)},
				{"Created at", one(func(r T) string { return stamp(r.GetCreatedAt()) })},
				{"Reason", one(T.GetReason)},
				{"Message", one(T.GetMessage)},
			},
		},
	}
}

// left is the time until t, in its largest unit.
func (c *cli) left(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	if !t.AsTime().After(c.now()) {
		return "expired"
	}
	// The age that now has at t.
	later := cli{now: t.AsTime}
	return "in " + later.age(timestamppb.New(c.now()))
}

func (c *cli) rule() *cobra.Command {
	return group("rule", "Who may reach an export", c.ruleCreate(), c.ruleShow(), c.ruleList(), c.ruleDelete(), c.ruleRecover())
}

// completeRule offers exports for the first argument, and rules of that for up
// to limit more; -1 is any number.
func (c *cli) completeRule(limit int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return c.exports("").complete(c, 1)(cmd, args, word)
		}
		return c.rules(args[0]).complete(c, limit)(cmd, args[1:], word)
	}
}

func (c *cli) ruleCreate() *cobra.Command {
	var level, squash, expires string
	var secs, metadata []string
	var uid, gid uint32
	var noWait bool
	r := &nodev1.AccessRule{}
	cmd := &cobra.Command{
		Use:   "create EXPORT --client CLIENT --level rw|ro",
		Short: "Add an access rule to an export, or change one",
		Long: `Add an access rule to an export, and wait until clients see it so. The same id
changes the rule that has it. Without an id the agent chooses one, and a rule
that says the same as one that is there is that one.

Of several rules that match a client the first counts: that with the lowest
priority, of these the one with the longest prefix.`,
		Example: `  causeway rule create docs --client 10.77.0.0/24 --level rw
  causeway rule create docs --id audit --client 10.77.0.9 --level ro --squash all --uid 4711 --gid 4711 --expires 2h
  causeway rule create docs --client ::/0 --everyone --level ro --priority 10`,
		Args: oneArg("EXPORT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.fillRule(r, ruleWords{level, squash, expires, secs, metadata}); err != nil {
				return err
			}
			if cmd.Flags().Changed("uid") {
				r.AnonymousUid = &uid
			}
			if cmd.Flags().Changed("gid") {
				r.AnonymousGid = &gid
			}
			if noWait && r.GetId() == "" {
				return usage("--no-wait wants an --id, by which the rule is asked for afterwards")
			}
			t := task{doing: fmt.Sprintf("create rule for %s of export %s", r.GetClient(), args[0])}
			if r.GetId() != "" {
				t.giveUp = fmt.Sprintf("causeway rule delete %s %s", args[0], r.GetId())
			}
			put := creation[*nodev1.AccessRule]{id: r.GetId(), noWait: noWait,
				put: func(ctx context.Context, to remote) (*nodev1.AccessRule, error) {
					resp, err := to.exports.PutRule(ctx, &nodev1.PutRuleRequest{Export: args[0], Rule: r})
					return resp.GetRule(), err
				}}
			return c.with(cmd.Context(), t, func(ctx context.Context, to remote) error {
				return c.rules(args[0]).putAndPrint(ctx, c, to, put)
			})
		},
		ValidArgsFunction: c.exports("").complete(c, 1),
	}
	flags := cmd.Flags()
	flags.StringVar(&r.Client, "client", "", "address or prefix of the clients (required)")
	flags.StringVar(&level, "level", "", "rw or ro (required)")
	flags.StringVar(&r.Id, "id", "", "the rule's id; chosen by the agent if not given")
	flags.StringVar(&squash, "squash", "root", "who becomes the anonymous user: none, root, root_id or all")
	flags.Uint32Var(&uid, "uid", 65534, "the anonymous user")
	flags.Uint32Var(&gid, "gid", 65534, "the anonymous group")
	flags.StringSliceVar(&secs, "sec", nil, "security flavours: sys, krb5, krb5i, krb5p (default sys)")
	flags.Int32Var(&r.Priority, "priority", 0, "the lowest counts first")
	flags.StringVar(&expires, "expires", "", "when the rule ends: from now as 90m or 48h, or a time as 2030-01-31T18:00:00Z")
	flags.StringArrayVar(&metadata, "metadata", nil, "a note of yours as KEY=VALUE; may be repeated")
	flags.BoolVar(&r.AllowEveryone, "everyone", false, "the client may be 0.0.0.0/0 or ::/0")
	addNoWait(cmd, &noWait)
	must(cmd.MarkFlagRequired("client"))
	must(cmd.MarkFlagRequired("level"))
	for flag, words := range map[string][]string{
		"level": {"rw", "ro"}, "squash": {"none", "root", "root_id", "all"}, "sec": {"sys", "krb5", "krb5i", "krb5p"},
		"client": nil, "id": nil, "uid": nil, "gid": nil, "priority": nil, "expires": nil, "metadata": nil,
	} {
		must(cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)))
	}
	return cmd
}

// ruleWords are a rule's settings as they stand on the command line.
type ruleWords struct {
	level, squash, expires string
	secs, metadata         []string
}

func (c *cli) fillRule(r *nodev1.AccessRule, w ruleWords) error {
	var err error
	if r.Level, err = parseLevel(w.level); err != nil {
		return usage("%v", err)
	}
	if r.Squash, err = parseSquash(w.squash); err != nil {
		return usage("%v", err)
	}
	if r.ExpiresAt, err = c.parseExpiry(w.expires); err != nil {
		return usage("%v", err)
	}
	r.Sec = nil
	for _, s := range w.secs {
		sec, known := nodev1.Sec_value["SEC_"+strings.ToUpper(s)]
		if !known || sec == 0 {
			return usage("security flavour %q is none of sys, krb5, krb5i, krb5p", s)
		}
		r.Sec = append(r.Sec, nodev1.Sec(sec))
	}
	r.Metadata = nil
	for _, m := range w.metadata {
		k, v, ok := strings.Cut(m, "=")
		if _, twice := r.Metadata[k]; !ok || k == "" || twice {
			return usage("metadata %q is not KEY=VALUE, or its key is given twice", m)
		}
		if r.Metadata == nil {
			r.Metadata = map[string]string{}
		}
		r.Metadata[k] = v
	}
	return nil
}

func parseLevel(s string) (nodev1.Level, error) {
	switch s {
	case "rw":
		return nodev1.Level_LEVEL_RW, nil
	case "ro":
		return nodev1.Level_LEVEL_RO, nil
	}
	return 0, fmt.Errorf("level %q is neither rw nor ro", s)
}

// parseExpiry reads a time, or one from now. Whether it has passed is the
// agent's to say: its clock counts.
func (c *cli) parseExpiry(s string) (*timestamppb.Timestamp, error) {
	if s == "" {
		return nil, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return timestamppb.New(c.now().Add(d)), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return nil, fmt.Errorf("expiry %q is neither a duration as 90m or 48h, nor a time as 2030-01-31T18:00:00Z", s)
	}
	return timestamppb.New(t), nil
}

func (c *cli) ruleShow() *cobra.Command {
	return &cobra.Command{
		Use:               "show EXPORT RULE",
		Short:             "Show one rule",
		Args:              twoArgs,
		ValidArgsFunction: c.completeRule(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			show := c.rules(args[0]).show(c)
			show.SetContext(cmd.Context())
			return show.RunE(show, args[1:])
		},
	}
}

func (c *cli) ruleList() *cobra.Command {
	return &cobra.Command{
		Use:               "list EXPORT",
		Short:             "List an export's rules, in the order in which they match",
		Args:              oneArg("EXPORT"),
		ValidArgsFunction: c.exports("").complete(c, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			list := c.rules(args[0]).all(c)
			list.SetContext(cmd.Context())
			return list.RunE(list, nil)
		},
	}
}

func (c *cli) ruleDelete() *cobra.Command {
	return &cobra.Command{
		Use:               "delete EXPORT RULE...",
		Short:             "Delete rules, and wait until clients see it so",
		Args:              cobra.MinimumNArgs(2),
		ValidArgsFunction: c.completeRule(-1),
		RunE: func(cmd *cobra.Command, args []string) error {
			del := c.rules(args[0]).remove(c, func(ctx context.Context, r remote, id string) error {
				_, err := r.exports.DeleteRule(ctx, &nodev1.DeleteRuleRequest{Export: args[0], Id: id})
				return err
			})
			del.SetContext(cmd.Context())
			return del.RunE(del, args[1:])
		},
	}
}

func (c *cli) ruleRecover() *cobra.Command {
	return &cobra.Command{
		Use:   "recover EXPORT",
		Short: "Give the gateway an export's rules anew, whatever it has",
		Long: `Give the gateway an export's rules anew, whatever it has, and wait until they
were read back. Clients that were and are let in notice nothing. Rules that the
gateway had refused are tried again.`,
		Args:              oneArg("EXPORT"),
		ValidArgsFunction: c.exports("").complete(c, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.with(cmd.Context(), task{doing: "recover rules of export " + args[0]}, func(ctx context.Context, r remote) error {
				resp, err := r.exports.RecoverRules(ctx, &nodev1.RecoverRulesRequest{Export: args[0]})
				if err != nil {
					return err
				}
				return printAll(c, c.rules(args[0]).view, resp.GetExport().GetRules())
			})
		},
	}
}

func twoArgs(cmd *cobra.Command, args []string) error {
	if len(args) != 2 {
		return usage("%s wants an EXPORT and a RULE, not %d words; see '%s --help'", cmd.Name(), len(args), cmd.CommandPath())
	}
	return nil
}
