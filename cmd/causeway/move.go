package main

import (
	"context"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
)

// moves says which part of a move this host has.
func moves(a *nodev1.Attachment) string {
	switch m := a.GetMove(); {
	case m == nil:
		return ""
	case m.GetSide() == nodev1.Move_SIDE_DESTINATION:
		return "here, awaited until " + stamp(m.GetExpiresAt())
	case m.GetExpiresAt() == nil:
		return "rolled back"
	default:
		return "away, released until " + stamp(m.GetExpiresAt())
	}
}

func (c *cli) attachmentMove(n noun[*nodev1.Attachment]) *cobra.Command {
	cmd := group("move", "Let a share follow its instance to another host",
		c.movePrepare(n),
		c.moveStep(n, moveStep{
			verb: "release", short: "At the source: take the share from the instance, so that it can be migrated",
			long: `Take the share from the instance, in the order of delete, and keep the
attachment. When the instance has gone, delete the attachment; when it stays,
roll back. With neither until the time is over, the agent attaches an instance
that is still here again, and keeps nothing of one that has left.`,
			expires: true,
			call: func(ctx context.Context, r remote, o moveOptions) (*nodev1.Attachment, error) {
				resp, err := r.attachments.Release(ctx, &nodev1.ReleaseAttachmentRequest{Id: o.id, ExpiresAt: o.expires})
				return resp.GetAttachment(), err
			},
		}),
		c.moveStep(n, moveStep{
			verb: "finish", short: "At the destination: wait until the instance has arrived and has the share",
			call: func(ctx context.Context, r remote, o moveOptions) (*nodev1.Attachment, error) {
				resp, err := r.attachments.Finish(ctx, &nodev1.FinishAttachmentRequest{Id: o.id})
				return resp.GetAttachment(), err
			},
		}),
		c.moveStep(n, moveStep{
			verb: "rollback", short: "At the source: give the share back to an instance that stays",
			call: func(ctx context.Context, r remote, o moveOptions) (*nodev1.Attachment, error) {
				resp, err := r.attachments.Rollback(ctx, &nodev1.RollbackAttachmentRequest{Id: o.id})
				return resp.GetAttachment(), err
			},
		}),
	)
	cmd.Long = `Let a share follow its instance to another host, each of which has an agent:

  1. destination: causeway attachment move prepare
  2. source:      causeway attachment move release
  3.              migrate the instance
  4. destination: causeway attachment move finish
  5. source:      causeway attachment delete

To give up before the instance has gone: rollback at the source, and delete at
the destination. The instance has no share from 2 until it runs at the
destination.`
	return cmd
}

func (c *cli) movePrepare(n noun[*nodev1.Attachment]) *cobra.Command {
	a := &nodev1.Attachment{}
	var words attachmentWords
	var expires string
	var force bool
	cmd := &cobra.Command{
		Use:   "prepare ID --instance UUID --source KIND:SOURCE --tag TAG --expires WHEN",
		Short: "At the destination: make everything that does not need the instance",
		Long: `Mount the share and start its virtiofsd for an instance that is about to be
migrated to this host. When it runs here it is attached, without a further
command. If it does not until the time is over, everything is taken away and the
attachment is gone.`,
		Example: `  causeway attachment move prepare docs-vm1 --instance 8c5b4ff3-6d52-4d4c-9bb1-000000000001 --source local:docs --tag docs --mount-at /mnt/docs --expires 30m`,
		Args:    oneArg("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := words.parse(c, cmd, a); err != nil {
				return err
			}
			a.Id = args[0]
			at, err := c.parseExpiry(expires)
			if err != nil {
				return err
			}
			t := task{doing: "prepare attachment " + a.GetId(), giveUp: "causeway attachment delete " + a.GetId()}
			return c.with(cmd.Context(), t, func(ctx context.Context, r remote) error {
				resp, err := r.attachments.Prepare(ctx, &nodev1.PrepareAttachmentRequest{Attachment: a, ExpiresAt: at, Force: force})
				if err != nil {
					return err
				}
				return printOne(c, n.view, resp.GetAttachment())
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	addAttachment(cmd, a)
	cmd.Flags().Lookup("instance").Usage = "UUID of the instance (required)" // which is not here to be found by name
	addForce(cmd, &force)
	words.add(cmd)
	addExpires(cmd, &expires)
	return cmd
}

// A moveStep is one of the commands that need no more than the id.
type moveStep struct {
	verb, short, long string
	expires           bool // it has --expires
	call              func(context.Context, remote, moveOptions) (*nodev1.Attachment, error)
}

type moveOptions struct {
	id      string
	expires *timestamppb.Timestamp
}

func (c *cli) moveStep(n noun[*nodev1.Attachment], s moveStep) *cobra.Command {
	var expires string
	cmd := &cobra.Command{
		Use: s.verb + " ID", Short: s.short, Long: s.long,
		Args:              oneArg("ID"),
		ValidArgsFunction: n.complete(c, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := c.parseExpiry(expires)
			if err != nil {
				return err
			}
			return c.with(cmd.Context(), task{doing: s.verb + " attachment " + args[0]}, func(ctx context.Context, r remote) error {
				item, err := s.call(ctx, r, moveOptions{id: args[0], expires: at})
				if err != nil {
					return err
				}
				return printOne(c, n.view, item)
			})
		},
	}
	if s.expires {
		cmd.Use += " --expires WHEN"
		addExpires(cmd, &expires)
	}
	return cmd
}

func addExpires(cmd *cobra.Command, expires *string) {
	cmd.Flags().StringVar(expires, "expires", "", "when the agent ends this by itself: from now as 30m, at most 24h, or a time as 2030-01-31T18:00:00Z (required)")
	must(cmd.MarkFlagRequired("expires"))
}
