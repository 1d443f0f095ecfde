package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
)

// attachmentDelete takes a share away; force says what that does, and asks
// nothing, since scripts have nobody to answer.
func (c *cli) attachmentDelete(n noun[*nodev1.Attachment]) *cobra.Command {
	var force bool
	cmd := n.remove(c, func(ctx context.Context, r remote, id string) error {
		_, err := r.attachments.Detach(ctx, &nodev1.DetachRequest{Id: id, Force: force})
		return err
	})
	cmd.Long = `Delete, and wait until nothing of it is left on the host.

The guest is asked to unmount, then to give the device back. While it uses the
share the delete fails with guest_busy, names who uses it where the guest agent
tells, and all goes on working; the agent tries again by itself. To end what
uses the share lets it go, the same 'causeway attachment create' again calls the
delete off, and --force does not wait for the guest.`
	cmd.Example = `  causeway attachment delete docs-vm1
  causeway attachment delete docs-vm1 --force`
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if force {
			for _, id := range args {
				c.say("%s: the instance's access ends within 15 s, whatever the guest does: its programs get ENOTCONN, and what they have not yet written is lost", id)
			}
		}
		return run(cmd, args)
	}
	cmd.Flags().BoolVar(&force, "force", false, "take the share away from a guest that uses it or does not answer")
	return cmd
}

// holders shows who uses a mount in a guest.
func holders(all []*nodev1.Holder) []string {
	var lines []string
	for _, h := range all {
		lines = append(lines, fmt.Sprintf("%d %s", h.GetPid(), h.GetCommand()))
	}
	return lines
}
