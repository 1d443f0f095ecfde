package integration

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/integration/lab"
	"github.com/causeway-project/causeway/integration/nfs41"
)

// TestLife is the whole life of a share: over NFS and virtiofs into one
// guest, and out again.
func TestLife(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 6*time.Minute)
	dir := w.share(t, "docs")
	n := w.started(ctx, t, lab.AgentOptions{})
	n.putNetwork(ctx, blueNetwork())
	e := n.putExport(ctx, exported("docs", "docs"))
	if diff := cmp.Diff([]string{"10.77.0.2:/docs", "[fd77::2]:/docs"}, e.GetLocations()); diff != "" {
		t.Errorf("locations (-want +got):\n%s", diff)
	}

	// The guest's kernel, over both families.
	n.must(n.guest.MountNFS(ctx, lab.NFSMount{Server: gateway4, Path: "/docs", Client: guest4, At: "/mnt/nfs4"}))
	n.must(n.guest.MountNFS(ctx, lab.NFSMount{Server: gateway6, Path: "/docs", Client: "fd77::5", At: "/mnt/nfs6"}))
	n.in(ctx, "echo by nfs >/mnt/nfs4/a; cat /mnt/nfs6/hello")
	if data, err := os.ReadFile(filepath.Join(dir, "a")); err != nil || string(data) != "by nfs\n" {
		t.Errorf("the guest's file reads %q, %v", data, err)
	}

	// The same share as a device, mounted by the agent and by the guest.
	mounted := attached("docs-vm1", "docs")
	mounted.MountAt = "/mnt/docs"
	if a := n.attach(ctx, mounted); a.GetGuest() != nodev1.GuestState_GUEST_STATE_MOUNTED {
		t.Errorf("guest is %v, want mounted; status %v", a.GetGuest(), a.GetStatus())
	}
	if got := n.in(ctx, "cat /mnt/docs/a; echo by virtiofs >/mnt/docs/b"); got != "by nfs" {
		t.Errorf("over virtiofs the file reads %q", got)
	}
	if got := n.in(ctx, "cat /mnt/nfs4/b"); got != "by virtiofs" {
		t.Errorf("over NFS the file reads %q", got)
	}
	reader := attached("reader", "docs")
	reader.ReadOnly = true
	n.attach(ctx, reader)
	n.must(n.guest.MountVirtiofs(ctx, "reader", "/mnt/ro"))
	n.refused(ctx, "read-only attachment", "cat /mnt/ro/a", "/mnt/ro")

	// A rule that changes is noticed by a file that is open.
	c := dial(ctx, t, n.client, gateway4)
	f, err := c.Open(ctx, "/docs/open", nfs41.OpenOptions{Access: nfs41.ReadWrite, Create: nfs41.Unchecked, Mode: 0o644})
	n.must(err)
	if _, err := f.WriteAt(ctx, []byte("first"), 0); err != nil {
		t.Error(err)
	}
	e = exported("docs", "docs")
	e.Rules = []*nodev1.AccessRule{rule("10.77.0.0/24", nodev1.Level_LEVEL_RO)}
	if got := n.putExport(ctx, e); got.GetStatus().GetGeneration() != 2 || got.GetStatus().GetObservedGeneration() != 2 {
		t.Errorf("status after the update is %v", got.GetStatus())
	}
	if _, err := f.WriteAt(ctx, []byte("second"), 0); !errors.Is(err, nfs41.ROFS) && !errors.Is(err, nfs41.ACCESS) {
		t.Errorf("write to the open file: %v, want it refused", err)
	}
	p := make([]byte, 16)
	if got, err := f.ReadAt(ctx, p, 0); err != nil || string(p[:got]) != "first" {
		t.Errorf("read of the open file: %q, %v", p[:got], err)
	}
	n.refused(ctx, "read-only rule", "cat /mnt/nfs4/a", "/mnt/nfs4")
	if _, err := n.guest.Shell(ctx, "cat /mnt/nfs6/a /mnt/nfs6/b"); err == nil {
		t.Error("a client without a rule still reads")
	}
	// Back again, for the clients that want to go.
	n.putExport(ctx, exported("docs", "docs"))
	if _, err := f.WriteAt(ctx, []byte("third"), 0); err != nil {
		t.Error(err)
	}
	n.must(f.Close(ctx))
	closeClient(ctx, t, c)

	n.in(ctx, "umount /mnt/nfs4 /mnt/nfs6 /mnt/ro")
	n.detach(ctx, "reader")
	n.detach(ctx, "docs-vm1")
	if got := n.in(ctx, "grep -c virtiofs /proc/mounts || true"); got != "0" {
		t.Errorf("the guest still has %s virtiofs mounts", got)
	}
	n.deleteExport(ctx, "docs")
	n.deleteNetwork(ctx, "blue")
	for _, again := range []func(){
		func() { n.detach(ctx, "docs-vm1") }, func() { n.deleteExport(ctx, "docs") }, func() { n.deleteNetwork(ctx, "blue") },
	} {
		again() // nothing to delete is success
	}
	n.finish(ctx)
}

// TestIDs: every id that is taken can be used, for all that is named after it
// on the host.
func TestIDs(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 6*time.Minute)
	w.share(t, "docs")
	n := w.started(ctx, t, lab.AgentOptions{})
	for _, id := range []string{"my.net_1-a", strings.Repeat("x", 63)} {
		n.putNetwork(ctx, bridged(id, w.blue.Name, gateway4+"/24"))
		e := exported(id, "docs")
		e.Network = id
		n.putExport(ctx, e)
		c := dial(ctx, t, n.client, gateway4)
		if _, err := c.ReadFile(ctx, "/"+id+"/hello"); err != nil {
			t.Errorf("export %s: %v", id, err)
		}
		closeClient(ctx, t, c)
		a := attached(id, "docs")
		a.Tag = "docs"
		n.attach(ctx, a)
		n.detach(ctx, id)
		n.deleteExport(ctx, id)
		n.deleteNetwork(ctx, id)
	}
	n.finish(ctx)
}
