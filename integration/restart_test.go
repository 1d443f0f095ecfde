package integration

import (
	"context"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/integration/lab"
)

// slowest that a client's operation may be while the agent restarts: the data
// path does not go through the agent.
const slowest = time.Second

// TestAgentRestarts ends the agent in both ways, again and again, while
// clients write by NFS and by virtiofs.
func TestAgentRestarts(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 6*time.Minute)
	dir := w.share(t, "docs")
	n := w.started(ctx, t, lab.AgentOptions{})
	n.putNetwork(ctx, blueNetwork())
	n.putExport(ctx, exported("docs", "docs"))
	n.attach(ctx, docsVM1())
	settled, gateway := n.state(ctx), n.gateway(ctx, "blue")

	c := dial(ctx, t, n.client, gateway4)
	byNFS := scribble(ctx, t, c, "/docs/nfs")
	byVirtiofs, err := n.guest.StartWriter(ctx, "/mnt/docs/virtiofs", 5*time.Millisecond)
	n.must(err)
	for _, end := range []func() error{n.Kill, n.Stop, n.Kill, n.Stop, n.Kill, n.Kill} {
		byNFS.more(ctx, 20)
		n.must(byVirtiofs.WaitMore(ctx, 10))
		n.must(end())
		byNFS.more(ctx, 20)
		n.start(ctx)
		n.unchanged(ctx, settled)
	}
	byNFS.more(ctx, 20)

	lines, longest := byNFS.finish(ctx, filepath.Join(dir, "nfs"))
	t.Logf("by NFS: %d lines, the slowest took %s", lines, longest)
	if longest > slowest {
		t.Errorf("a write by NFS took %s, want at most %s", longest, slowest)
	}
	if stats := c.Stats(); stats.Connects != 1 || stats.Sessions != 1 {
		t.Errorf("the client had to connect anew: %+v", stats)
	}
	p, err := byVirtiofs.Stop(ctx)
	n.must(err)
	t.Logf("by virtiofs: %d lines, the slowest took %s", p.Lines, p.Longest)
	if p.Longest > slowest {
		t.Errorf("a write by virtiofs took %s, want at most %s", p.Longest, slowest)
	}
	checkFile(t, filepath.Join(dir, "virtiofs"), p.Lines)
	if now := n.gateway(ctx, "blue"); now.GetPid() != gateway.GetPid() || now.GetRestarts() != 0 {
		t.Errorf("the gateway is %v, was %v", now, gateway)
	}

	closeClient(ctx, t, c)
	n.detach(ctx, "docs-vm1")
	n.deleteExport(ctx, "docs")
	n.deleteNetwork(ctx, "blue")
	n.finish(ctx)
}

// TestGatewayKilled kills a gateway under its clients, with the agent there and
// without. They get their open files and locks back, and go on.
func TestGatewayKilled(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 6*time.Minute)
	dir := w.share(t, "docs")
	n := w.started(ctx, t, quick)
	n.putNetwork(ctx, blueNetwork())
	n.putExport(ctx, exported("docs", "docs"))
	settled := n.state(ctx)
	n.must(n.guest.MountNFS(ctx, lab.NFSMount{Server: gateway4, Path: "/docs", Client: guest4, At: "/mnt/nfs"}))
	inGuest, err := n.guest.StartWriter(ctx, "/mnt/nfs/guest", 5*time.Millisecond)
	n.must(err)
	c := dial(ctx, t, n.client, gateway4)
	other := dialAs(ctx, t, n.client, gateway4, "other")
	s := scribble(ctx, t, c, "/docs/scribe")
	for _, act := range []struct {
		name string
		do   func()
	}{
		{"gateway", func() { n.killGateway(ctx) }},
		{"agent and gateway", func() {
			n.killGatewayAfter(ctx, n.kill)
			n.start(ctx)
		}},
	} {
		s.more(ctx, 20)
		n.must(inGuest.Mark(ctx))
		reclaimed := c.Stats().Reclaimed
		begin := time.Now()
		act.do()
		s.more(ctx, 20)
		n.must(inGuest.WaitMore(ctx, 10))
		t.Logf("%s killed: after %s all clients write", act.name, time.Since(begin).Round(time.Millisecond))
		if now := c.Stats(); now.Reclaimed != reclaimed+1 {
			t.Errorf("%s killed: %+v, want the file reclaimed once more than %d", act.name, now, reclaimed)
		}
		s.locked(ctx, other)
		n.settles(ctx, settled)
	}

	lines, longest := s.finish(ctx, filepath.Join(dir, "scribe"))
	t.Logf("in user space: %d lines, the slowest took %s", lines, longest)
	p, err := inGuest.Stop(ctx)
	n.must(err)
	t.Logf("in the guest: %d lines, the slowest since the second kill took %s", p.Lines, p.Longest)
	checkFile(t, filepath.Join(dir, "guest"), p.Lines)
	closeClient(ctx, t, c)
	closeClient(ctx, t, other)
	n.in(ctx, "umount /mnt/nfs")
	n.deleteExport(ctx, "docs")
	n.deleteNetwork(ctx, "blue")
	n.finish(ctx)
}

// gateway of a network, as the agent knows it.
func (n *node) gateway(ctx context.Context, network string) *nodev1.Gateway {
	n.t.Helper()
	r, err := n.networks.Get(ctx, &nodev1.GetNetworkRequest{Id: network})
	n.must(err)
	return r.GetNetwork().GetGateway()
}

func (n *node) killGateway(ctx context.Context) { n.killGatewayAfter(ctx, func() {}) }

// killGatewayAfter asks the agent which process it is, before something else.
func (n *node) killGatewayAfter(ctx context.Context, first func()) {
	n.t.Helper()
	pid := int(n.gateway(ctx, "blue").GetPid())
	if pid <= 1 {
		n.t.Fatalf("the gateway's process is %d", pid)
	}
	first()
	n.must(syscall.Kill(pid, syscall.SIGKILL))
}
