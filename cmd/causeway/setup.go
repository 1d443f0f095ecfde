package main

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/virtiofs/recipe"
)

// setupFlag lets a command print what guests without a guest agent need, in
// place of the attachments themselves.
func (c *cli) setupFlag(cmd *cobra.Command, get func(ctx context.Context, r remote, args []string) ([]*nodev1.Attachment, error)) *cobra.Command {
	var setup bool
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !setup {
			return run(cmd, args)
		}
		return c.with(cmd.Context(), task{doing: "print the guest's setup"}, func(ctx context.Context, r remote) error {
			attachments, err := get(ctx, r, args)
			if err != nil {
				return err
			}
			var mounts []recipe.Mount
			for _, a := range attachments {
				mounts = append(mounts, recipe.Mount{Tag: a.GetTag(), Path: a.GetMountAt(), ReadOnly: a.GetReadOnly()})
			}
			text, err := recipe.CloudConfig(mounts)
			if err != nil {
				return err
			}
			_, err = io.WriteString(c.out, text)
			return err
		})
	}
	cmd.Flags().BoolVar(&setup, "guest-setup", false, "print cloud-config that has a Linux guest with systemd mount it by itself, without a guest agent")
	return cmd
}

func (c *cli) attachmentShow(n noun[*nodev1.Attachment]) *cobra.Command {
	return c.setupFlag(n.show(c), func(ctx context.Context, r remote, args []string) ([]*nodev1.Attachment, error) {
		a, err := n.get(ctx, r, args[0])
		return []*nodev1.Attachment{a}, err
	})
}
