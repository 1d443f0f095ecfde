package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/causeway-project/causeway/api/node/client"
	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/virtiofs/hook"
)

// libvirtHook is what libvirt runs, by packaging/libvirt-hook. It says nothing
// on its standard output, where libvirt expects another domain at some
// operations, and fails only where QEMU would fail as well: libvirt kills the
// instances whose hook fails when it is started again.
func (c *cli) libvirtHook() *cobra.Command {
	return &cobra.Command{
		Use:    "libvirt-hook -- INSTANCE OPERATION SUB-OPERATION EXTRA",
		Short:  "Have the agent ready for an instance that libvirt is about to start",
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			s, is, err := hook.ParseStart(args, c.in)
			if err != nil {
				// It concerns us only if it has our devices.
				fmt.Fprintf(c.errs, "causeway: libvirt's hook: %s\n", safe(err.Error())) //nolint:errcheck // nobody to tell
				return nil
			}
			if !is || len(s.Sockets) == 0 {
				return nil
			}
			return c.prepareStart(cmd.Context(), s)
		},
	}
}

// prepareStart waits for an agent that is being started.
func (c *cli) prepareStart(ctx context.Context, s hook.Start) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	agent, err := client.New(client.Options{Socket: c.socket})
	if err != nil {
		return failed("%v", err)
	}
	defer func() { _ = agent.Close() }()
	t := task{doing: "get the shares of instance " + s.Instance + " ready"}
	_, err = agent.Attachments.PrepareStart(ctx, &nodev1.PrepareStartRequest{Instance: s.Instance, InstanceUuid: s.UUID, Sockets: s.Sockets, User: s.User})
	var u *client.Unreached
	switch {
	case err == nil:
		return nil
	case errors.As(err, &u):
		f := unreachable(t, u)
		f.message += fmt.Sprintf("; to start the instance without its shares, take the devices at %s out with 'virsh edit'", strings.Join(s.Sockets, " and "))
		return f
	}
	return c.explain(ctx, t, err)
}
