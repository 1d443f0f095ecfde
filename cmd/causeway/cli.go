package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/causeway-project/causeway/api/node/client"
	nodev1 "github.com/causeway-project/causeway/api/node/v1"
)

// A cli is one run of the command.
type cli struct {
	in        io.Reader
	out, errs io.Writer
	now       func() time.Time

	socket  string
	timeout time.Duration
	output  string
}

// run returns the exit code.
func (c *cli) run(ctx context.Context, args []string, socket string) int {
	root := c.root(socket)
	root.SetArgs(args)
	root.SetIn(c.in)
	root.SetOut(c.out)
	root.SetErr(c.errs)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	var f *failure
	if !errors.As(err, &f) { // cobra's own: flags, arguments, unknown commands
		f = usage("%v; see '%s --help'", err, cmd.CommandPath())
	}
	fmt.Fprintf(c.errs, "causeway: %s\n", safe(f.message))
	return f.exit
}

func (c *cli) root(socket string) *cobra.Command {
	if socket == "" {
		socket = client.DefaultSocket
	}
	cmd := &cobra.Command{
		Use:   "causeway",
		Short: "Bring shares to the machines of this host",
		Long: `causeway talks to the causeway-agent of this host.

Every create may be repeated: the same id with the same settings confirms what
is there. Deleting what is not there is success.

Exit codes:
  0    done
  1    failed
  2    wrong usage, or a request that must be corrected
  3    not found
  4    in conflict with what is there, or a precondition is not met
  5    the agent or something it needs is away, busy or slow; try again
  6    not allowed
  130  interrupted`,
		Version:           version(),
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRunE: func(*cobra.Command, []string) error { return c.checkFlags() },
	}
	flags := cmd.PersistentFlags()
	flags.StringVar(&c.socket, "socket", socket, "the agent's socket (environment: CAUSEWAY_SOCKET)")
	flags.DurationVar(&c.timeout, "timeout", time.Minute, "longest time to wait for the agent; watch waits for ever")
	flags.StringVarP(&c.output, "output", "o", "table", "table, json or yaml")
	must(cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(outputs(), cobra.ShellCompDirectiveNoFileComp)))
	cmd.AddCommand(c.attachment(), c.network(), c.export(), c.rule(), c.gateway(), c.mount(), c.node(), c.libvirtHook(), c.watch(allKinds))
	return cmd
}

func outputs() []string { return []string{"table", "json", "yaml"} }

func (c *cli) checkFlags() error {
	if !slices.Contains(outputs(), c.output) {
		return usage("output %q is unknown; use table, json or yaml", c.output)
	}
	if c.timeout <= 0 {
		return usage("timeout %s is not positive; use for example --timeout 60s", c.timeout)
	}
	if _, err := client.SocketPath(c.socket); err != nil {
		return usage("%v", err)
	}
	return nil
}

// A remote is a connection to the agent.
type remote struct {
	*client.Client

	attachments nodev1.AttachmentsClient
	networks    nodev1.NetworksClient
	exports     nodev1.ExportsClient
	gateways    nodev1.GatewaysClient
	node        nodev1.NodeClient
}

// A task is one exchange with the agent, said so that "doing: what went wrong"
// reads well.
type task struct {
	doing   string // required: "create attachment docs-vm1"
	giveUp  string // the command that takes the intent back, if there is one
	endless bool   // no timeout
}

// with connects, runs f within the timeout and explains its error.
func (c *cli) with(ctx context.Context, t task, f func(context.Context, remote) error) error {
	if !t.endless {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.timeout)
		defer cancel()
	}
	agent, err := client.New(client.Options{Socket: c.socket, Once: true})
	if err != nil {
		return failed("%s: %v", t.doing, err)
	}
	defer func() { _ = agent.Close() }()
	err = f(ctx, remote{agent, agent.Attachments, agent.Networks, agent.Exports, agent.Gateways, agent.Node})
	if err == nil {
		return nil
	}
	var u *client.Unreached
	if errors.As(err, &u) {
		return unreachable(t, u)
	}
	return c.explain(ctx, t, err)
}

// group makes the command of a noun. Cobra shows help, and succeeds, for a
// verb that it does not know: a script must hear of that.
func group(noun, short string, verbs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:     noun,
		Aliases: []string{noun + "s"},
		Short:   short,
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return usage("%s has no verb %q; see '%s --help'", noun, args[0], cmd.CommandPath())
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.AddCommand(verbs...)
	return cmd
}

// one argument, named as in the help.
func oneArg(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usage("%s wants one %s, not %d; see '%s --help'", cmd.Name(), what, len(args), cmd.CommandPath())
		}
		return nil
	}
}

// version as the go command stamped it.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// must is for registrations that fail only where the code is wrong.
func must(err error) {
	if err != nil {
		panic(err)
	}
}
