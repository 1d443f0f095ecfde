package integration

import (
	"context"
	"errors"
	"testing"
	"time"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/integration/lab"
)

// TestAttachmentOutlives has what an attachment stands on go away and come
// back. Each time the guest has it again, without anybody's call.
func TestAttachmentOutlives(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 6*time.Minute)
	w.share(t, "docs")
	n := w.started(ctx, t, lab.AgentOptions{Resync: 2 * time.Second})
	n.attach(ctx, docsVM1())
	settled := n.state(ctx)
	for _, c := range []struct {
		name  string
		spoil func(*node)
	}{
		{"virtiofsd killed", func(n *node) { n.killProcess("virtiofsd") }},
		{"guest reset", func(n *node) { n.must(n.guest.Reset(ctx)) }},
		{"instance destroyed and started", func(n *node) {
			n.must(n.guest.Destroy())
			// The share's mount and its daemon are of no use meanwhile. The
			// daemon's directory may stay until the attachment goes.
			until(ctx, n.t, "something stays", func() (bool, error) {
				diff := n.state(ctx).Without("run", "ledger").Diff(n.before)
				return diff == "", errors.New(diff)
			})
			if a := n.attachment(ctx, "docs-vm1"); a.GetStatus().GetPhase() != nodev1.Phase_PHASE_PENDING || a.GetStatus().GetReason() != "instance_off" {
				n.t.Errorf("attachment of an instance that is off: %v", a.GetStatus())
			}
			n.must(n.guest.Start(ctx))
		}},
		{"libvirtd killed", func(n *node) {
			n.must(n.libvirt.Kill())
			n.must(n.libvirt.Start(ctx))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := n.within(t)
			begin := time.Now()
			c.spoil(n)
			within, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			// Nothing may touch the mount before: on a dead one it would hang,
			// and hold the device.
			until(within, t, "the host differs", func() (bool, error) {
				diff := n.state(within).Diff(settled)
				return diff == "", errors.New(diff)
			})
			until(within, t, "the attachment is not ready", func() (bool, error) {
				a := n.attachment(within, "docs-vm1")
				return a.GetStatus().GetPhase() == nodev1.Phase_PHASE_READY && a.GetGuest() == nodev1.GuestState_GUEST_STATE_MOUNTED, nil
			})
			until(within, t, "the guest does not have it again", func() (bool, error) {
				out, err := n.guest.Shell(within, "timeout 2 cat /mnt/docs/hello; grep -c /mnt/docs /proc/mounts")
				return out == "from docs\n1\n", err
			})
			t.Logf("as it was after %s", time.Since(begin).Round(time.Millisecond))
		})
	}
	n.detach(ctx, "docs-vm1")
	n.finish(ctx)
}

func (n *node) attachment(ctx context.Context, id string) *nodev1.Attachment {
	n.t.Helper()
	r, err := n.attachments.Get(ctx, &nodev1.GetAttachmentRequest{Id: id})
	n.must(err)
	return r.GetAttachment()
}
