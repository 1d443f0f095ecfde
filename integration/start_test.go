package integration

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/integration/lab"
)

// hooked starts an agent of which libvirt tells of starts. libvirtd is started
// anew twice for that: guests go on.
func (w *world) hooked(ctx context.Context, t *testing.T, o lab.AgentOptions) *node {
	t.Helper()
	n := w.node(ctx, t, o)
	again := func() { n.must(errors.Join(w.libvirt.Stop(), w.libvirt.Start(ctx))) }
	n.must(n.InstallHook())
	again()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := errors.Join(n.RemoveHook(), w.libvirt.Stop(), w.libvirt.Start(ctx)); err != nil {
			t.Error(err)
		}
	})
	n.start(ctx)
	return n
}

func (n *node) persists(ctx context.Context, id string, want nodev1.Persistence) {
	n.t.Helper()
	until(ctx, n.t, "attachment is not "+want.String(), func() (bool, error) {
		a := n.attachment(ctx, id)
		return a.GetPersistence() == want, errors.New(a.GetPersistence().String() + " " + a.GetLiveOnly())
	})
}

// TestStopAndStart: the share is there when the guest boots, and nothing of it on
// the host while it is off.
func TestStopAndStart(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 4*time.Minute)
	w.share(t, "docs")
	n := w.hooked(ctx, t, lab.AgentOptions{})
	if a := n.attach(ctx, docsVM1()); a.GetPersistence() != nodev1.Persistence_PERSISTENCE_PERSISTENT {
		t.Fatalf("the attachment is %v", a)
	}
	settled := n.state(ctx)
	for range 2 {
		n.must(n.guest.Destroy())
		until(ctx, t, "something stays", func() (bool, error) {
			diff := n.state(ctx).Without("run", "ledger", "device").Diff(n.before)
			return diff == "", errors.New(diff)
		})
		begin := time.Now()
		n.must(n.guest.Start(ctx))
		t.Logf("booted in %s", time.Since(begin).Round(time.Millisecond))
		n.settles(ctx, settled)
		until(ctx, t, "not mounted", func() (bool, error) {
			out, err := n.guest.Shell(ctx, "cat /mnt/docs/hello")
			return out == "from docs\n", err
		})
	}
	t.Log(n.Log())
	n.must(n.guest.Destroy())
	n.detach(ctx, "docs-vm1")
	xml, err := n.guest.XML()
	n.must(err)
	if strings.Contains(xml, "ua-cw-") {
		t.Errorf("the definition still has the device:\n%s", xml)
	}
	n.must(n.guest.Start(ctx))
	n.finish(ctx)
}
