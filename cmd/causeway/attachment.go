package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
)

func (c *cli) attachments(instance string) noun[*nodev1.Attachment] {
	type T = *nodev1.Attachment
	source := func(a T) string { return share(a.GetConnection()) }
	guest := func(a T) string { return word(a.GetGuest(), "GUEST_STATE_") }
	return noun[T]{
		name: "attachment",
		id:   "ID",
		get: func(ctx context.Context, r remote, id string) (T, error) {
			resp, err := r.attachments.Get(ctx, &nodev1.GetAttachmentRequest{Id: id})
			return resp.GetAttachment(), err
		},
		list: func(ctx context.Context, r remote) ([]T, error) {
			resp, err := r.attachments.List(ctx, &nodev1.ListAttachmentsRequest{Instance: instance})
			return resp.GetAttachments(), err
		},
		keyOf: T.GetId,
		view: view[T]{
			json: protoJSON[T],
			row: []column[T]{
				{"ID", T.GetId},
				{"INSTANCE", T.GetInstance},
				{"SOURCE", source},
				{"TAG", T.GetTag},
				{"MODE", func(a T) string { return mode(a.GetReadOnly()) }},
				{"GUEST", guest},
				{"PHASE", func(a T) string { return phase(a.GetStatus()) }},
				{"AGE", func(a T) string { return c.age(a.GetStatus().GetSince()) }},
				{"REASON", func(a T) string { return a.GetStatus().GetReason() }},
			},
			detail: append([]detail[T]{
				{"ID", one(T.GetId)},
				{"Instance", one(T.GetInstance)},
				{"Instance UUID", one(T.GetInstanceUuid)},
				{"Source", one(source)},
				{"Options", func(a T) []string { return options(a.GetConnection()) }},
				{"Tag", one(T.GetTag)},
				{"Mode", one(func(a T) string { return mode(a.GetReadOnly()) })},
				{"Mount at", one(T.GetMountAt)},
				{"Guest", one(guest)},
				{"Guest note", one(T.GetGuestNote)},
				{"Held by", func(a T) []string { return holders(a.GetHolders()) }},
				{"Removal forced", one(func(a T) string { return yesNo(a.GetRemovalForced()) })},
				{"Settings", func(a T) []string { return []string{strings.Join(settings(a.GetSettings()), " ")} }},
				{"Ids", func(a T) []string { return ids(a.GetIds()) }},
				{"Lock scope", one(func(a T) string { return word(a.GetLockScope(), "LOCK_SCOPE_") })},
				{"Unlocked users", T.GetUnlockedUsers},
				{"Forced", one(func(a T) string { return yesNo(a.GetForced()) })},
				{"Persistence", one(func(a T) string { return word(a.GetPersistence(), "PERSISTENCE_") })},
				{"Live only", one(T.GetLiveOnly)},
				{"Moves", one(moves)},
				{"Usage", func(a T) []string { return taken(a.GetUsage()) }},
			}, statusDetail(T.GetStatus)...),
		},
	}
}

func (c *cli) attachment() *cobra.Command {
	n := c.attachments("")
	return group("attachment", "Shares that instances have as virtiofs devices",
		c.attachmentCreate(n), c.attachmentShow(n), c.attachmentList(), c.attachmentDelete(n), c.attachmentRepair(n), c.attachmentPreflight(), c.attachmentMove(n), c.watch("attachment"))
}

func (c *cli) attachmentCreate(n noun[*nodev1.Attachment]) *cobra.Command {
	a := &nodev1.Attachment{}
	var words attachmentWords
	var noWait, force bool
	cmd := &cobra.Command{
		Use:   "create ID --instance INSTANCE --source KIND:SOURCE --tag TAG",
		Short: "Attach a share to a running instance",
		Long: `Attach a share to a running instance as a virtiofs device, and wait until it is
there. The same command may be repeated. What the device does that no flag
says is the agent's default; 'causeway node show' has what this host's virtiofsd
can do.`,
		Example: `  causeway attachment create docs-vm1 --instance vm1 --source local:docs --tag docs --mount-at /mnt/docs
  causeway attachment create data-vm1 --instance vm1 --source local:data --tag data --cache never --locks shared --ids map=0:100000:65536`,
		Args: oneArg("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := words.parse(c, cmd, a); err != nil {
				return err
			}
			a.Id = args[0]
			return n.create(cmd.Context(), c, creation[*nodev1.Attachment]{id: a.GetId(), noWait: noWait,
				put: func(ctx context.Context, r remote) (*nodev1.Attachment, error) {
					resp, err := r.attachments.Attach(ctx, &nodev1.AttachRequest{Attachment: a, Force: force})
					return resp.GetAttachment(), err
				}})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	addAttachment(cmd, a)
	addForce(cmd, &force)
	addNoWait(cmd, &noWait)
	words.add(cmd)
	return cmd
}

// addAttachment adds the flags that say what an attachment is to be, but for
// its source.
func addAttachment(cmd *cobra.Command, a *nodev1.Attachment) {
	flags := cmd.Flags()
	flags.StringVar(&a.Instance, "instance", "", "name or UUID of the instance (required)")
	flags.StringVar(&a.Tag, "tag", "", "what the guest mounts: 'mount -t virtiofs TAG DIR' (required)")
	flags.BoolVar(&a.ReadOnly, "read-only", false, "the instance may not write")
	flags.StringVar(&a.MountAt, "mount-at", "", "mount it there in the guest too, through the guest agent")
	must(cmd.MarkFlagRequired("instance"))
	must(cmd.MarkFlagRequired("tag"))
}

// attachmentWords are the flags of an attachment that have to be parsed.
type attachmentWords struct {
	connectionFlags
	deviceFlags
}

func (f *attachmentWords) add(cmd *cobra.Command) {
	f.connectionFlags.add(cmd)
	f.deviceFlags.add(cmd)
}

// parse fills in what they say of a.
func (f *attachmentWords) parse(c *cli, cmd *cobra.Command, a *nodev1.Attachment) (err error) {
	if a.Connection, err = f.connectionFlags.parse(c.in); err != nil {
		return err
	}
	if a.Settings, err = f.settings(cmd); err != nil {
		return err
	}
	a.Ids, err = f.policy()
	return err
}

func (c *cli) attachmentList() *cobra.Command {
	var instance string
	cmd := c.attachments("").all(c)
	cmd.Flags().StringVar(&instance, "instance", "", "only those of one instance, by name or UUID")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return c.attachments(instance).all(c).RunE(cmd, args)
	}
	return c.setupFlag(cmd, func(ctx context.Context, r remote, _ []string) ([]*nodev1.Attachment, error) {
		return c.attachments(instance).list(ctx, r)
	})
}

func (c *cli) attachmentRepair(n noun[*nodev1.Attachment]) *cobra.Command {
	return &cobra.Command{
		Use:               "repair ID",
		Short:             "Look at an attachment now, without waiting for the next try",
		Args:              oneArg("ID"),
		ValidArgsFunction: n.complete(c, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.with(cmd.Context(), task{doing: "repair attachment " + args[0]}, func(ctx context.Context, r remote) error {
				resp, err := r.attachments.Repair(ctx, &nodev1.RepairAttachmentRequest{Id: args[0]})
				if err != nil {
					return err
				}
				return printOne(c, n.view, resp.GetAttachment())
			})
		},
	}
}

func (c *cli) attachmentPreflight() *cobra.Command {
	a := &nodev1.Attachment{}
	var words attachmentWords
	cmd := &cobra.Command{
		Use:   "preflight --instance INSTANCE --source KIND:SOURCE",
		Short: "Check whether an instance can have a share",
		Long: `Check whether an instance can have a share, one verdict a line, each with the
command that cures it. Nothing is changed. The exit code is 4 where a check
failed: create would be refused for the same reason.`,
		Example: `  causeway attachment preflight --instance vm1 --source local:docs --tag docs`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := words.parse(c, cmd, a); err != nil {
				return err
			}
			return c.with(cmd.Context(), task{doing: "preflight of instance " + a.GetInstance()}, func(ctx context.Context, r remote) error {
				resp, err := r.attachments.Preflight(ctx, &nodev1.PreflightAttachmentRequest{Attachment: a})
				if err != nil {
					return err
				}
				return c.verdicts(resp.GetChecks(), "the instance cannot have the share")
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := cmd.Flags()
	flags.StringVar(&a.Instance, "instance", "", "name or UUID of the instance (required)")
	flags.StringVar(&a.Tag, "tag", "", "look whether the instance can have this tag")
	flags.BoolVar(&a.ReadOnly, "read-only", false, "the instance may not write")
	flags.StringVar(&a.MountAt, "mount-at", "", "it is to be mounted there in the guest, through the guest agent")
	words.add(cmd)
	must(cmd.MarkFlagRequired("instance"))
	return cmd
}

func addForce(cmd *cobra.Command, force *bool) {
	cmd.Flags().BoolVar(force, "force", false, "though others write to the share that do not meet this guest's locks")
}

func addNoWait(cmd *cobra.Command, noWait *bool) {
	cmd.Flags().BoolVar(noWait, "no-wait", false,
		fmt.Sprintf("return when the agent has taken the request, after at most %s", noWaitTime))
}
