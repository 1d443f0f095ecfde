package integration

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/integration/lab"
	"github.com/causeway-project/causeway/integration/programs"
)

// locked says what becomes of a lock that one guest tries and another holds,
// each at a path of its own, for both kinds of locks.
func (n *node) locked(ctx context.Context, holder, other *lab.Guest, held, tried string) map[string]string {
	n.t.Helper()
	outcome := map[string]string{}
	for guest, at := range map[*lab.Guest]string{holder: held, other: tried} {
		_, err := guest.Shell(ctx, "cp "+filepath.Dir(at)+"/locker /tmp") // from there it starts sooner
		n.must(err)
	}
	for _, kind := range []string{"flock", "posix"} {
		_, err := holder.Shell(ctx, "/tmp/locker "+kind+" hold "+held+" >/tmp/held 2>&1 </dev/null & echo $! >/tmp/holder; until [ -s /tmp/held ]; do sleep 0.1; done; grep -q ^locked /tmp/held")
		n.must(err)
		out, err := other.Shell(ctx, "/tmp/locker "+kind+" try "+tried)
		n.must(err)
		outcome[kind] = strings.TrimSpace(out)
		_, err = holder.Shell(ctx, "kill -9 $(cat /tmp/holder); while kill -0 $(cat /tmp/holder) 2>/dev/null; do sleep 0.1; done; rm /tmp/held")
		n.must(err)
	}
	return outcome
}

// TestTwoWriters: what the agent says of locks is what two guests see, and what
// a guest and an NFS client see.
func TestTwoWriters(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 6*time.Minute)
	dir := w.share(t, "docs")
	if err := programs.Build(ctx, programs.Options{Dir: dir, Packages: []string{"virtiofs/testdata/locker"}}); err != nil {
		t.Fatal(err)
	}
	second, err := w.libvirt.Boot(ctx, lab.GuestOptions{Name: "vm2"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := second.Close(); err != nil {
			t.Error(err)
		}
	})
	n := w.started(ctx, t, lab.AgentOptions{})
	node, err := n.nodes.Get(ctx, &nodev1.GetNodeRequest{})
	n.must(err)
	attach := func(guest string, locks nodev1.Locks, force bool) (*nodev1.Attachment, error) {
		a := attached("docs-"+guest, "docs")
		a.Instance, a.MountAt, a.Settings = guest, "/mnt/docs", &nodev1.DeviceSettings{Locks: locks}
		r, err := n.attachments.Attach(ctx, &nodev1.AttachRequest{Attachment: a, Force: force})
		return r.GetAttachment(), err
	}
	refused := func(err error, other string) {
		t.Helper()
		got, info, message := refusalOf(err)
		if want := (refusal{codes.FailedPrecondition, "locks_not_shared"}); got != want || info.GetMetadata()["users"] != other {
			t.Errorf("%v %v, want %v, users %s: %s", got, info.GetMetadata(), want, other, message)
		}
	}
	const lockedOut = "resource temporarily unavailable"

	// Local: refused, and rightly so.
	_, err = attach("vm1", nodev1.Locks_LOCKS_LOCAL, false)
	n.must(err)
	_, err = attach("vm2", nodev1.Locks_LOCKS_LOCAL, false)
	refused(err, "attachment/docs-vm1")
	n.putNetwork(ctx, blueNetwork())
	_, err = n.exports.Put(ctx, &nodev1.PutExportRequest{Export: exported("docs", "docs")})
	refused(err, "attachment/docs-vm1")
	a, err := attach("vm2", nodev1.Locks_LOCKS_LOCAL, true)
	n.must(err)
	if a.GetLockScope() != nodev1.LockScope_LOCK_SCOPE_GUEST || !slices.Equal(a.GetUnlockedUsers(), []string{"attachment/docs-vm1"}) {
		t.Errorf("lock scope %v, unlocked users %v", a.GetLockScope(), a.GetUnlockedUsers())
	}
	if d := cmp.Diff(map[string]string{"flock": "locked", "posix": "locked"}, n.locked(ctx, n.guest, second, "/mnt/docs/local", "/mnt/docs/local")); d != "" {
		t.Errorf("local locks of two guests (-want +got):\n%s", d)
	}
	n.detach(ctx, "docs-vm1")
	n.detach(ctx, "docs-vm2")

	// Shared, where virtiofsd can: let in, and rightly so.
	_, err = attach("vm2", nodev1.Locks_LOCKS_SHARED, false)
	if !slices.Contains(node.GetVirtiofsd().GetAbilities(), "shared_locks") {
		if got, _, message := refusalOf(err); got != (refusal{codes.FailedPrecondition, "virtiofsd_unable"}) {
			t.Errorf("%v: %s", got, message)
		}
	} else {
		n.must(err)
		a, err = attach("vm1", nodev1.Locks_LOCKS_SHARED, false)
		n.must(err)
		if a.GetLockScope() != nodev1.LockScope_LOCK_SCOPE_HOST || len(a.GetUnlockedUsers()) > 0 {
			t.Errorf("lock scope %v, unlocked users %v", a.GetLockScope(), a.GetUnlockedUsers())
		}
		if d := cmp.Diff(map[string]string{"flock": lockedOut, "posix": lockedOut}, n.locked(ctx, n.guest, second, "/mnt/docs/shared", "/mnt/docs/shared")); d != "" {
			t.Errorf("shared locks of two guests (-want +got):\n%s", d)
		}
		// NFS has locks of fcntl(2) alone, and clients make such of flock(2).
		n.putExport(ctx, exported("docs", "docs"))
		n.must(n.guest.MountNFS(ctx, lab.NFSMount{Server: gateway4, Path: "/docs", Client: guest4, At: "/mnt/nfs"}))
		if d := cmp.Diff(map[string]string{"flock": "locked", "posix": lockedOut}, n.locked(ctx, n.guest, second, "/mnt/nfs/both", "/mnt/docs/both")); d != "" {
			t.Errorf("locks of an NFS client and a guest (-want +got):\n%s", d)
		}
		n.in(ctx, "umount /mnt/nfs")
		n.deleteExport(ctx, "docs")
		n.detach(ctx, "docs-vm1")
		n.detach(ctx, "docs-vm2")
	}
	n.deleteNetwork(ctx, "blue")
	n.finish(ctx)
}
