package integration

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/integration/lab"
	"github.com/causeway-project/causeway/integration/nfs41"
)

// TestDrift spoils what the agent made behind its back. All comes to be as it
// was, and a client goes on with the file that it has open.
func TestDrift(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 6*time.Minute)
	dir := w.share(t, "docs")
	o := quick
	o.Resync = 2 * time.Second
	n := w.started(ctx, t, o)
	n.putNetwork(ctx, blueNetwork())
	n.putExport(ctx, exported("docs", "docs"))
	link := n.one(ctx, "link ")
	settled := n.state(ctx)
	firewall := n.inGateway(ctx, "nft", "--terse", "list", "ruleset")
	// Without the interface's number, which is another one after its link was deleted.
	addresses := func(text string) string { return strings.Join(strings.Fields(text)[1:], " ") }
	before := addresses(n.inGateway(ctx, "ip", "-brief", "address", "show", "scope", "global"))
	for _, d := range []struct {
		name  string
		spoil func()
		drift string // that watchers of the network hear of
	}{
		{"link deleted", func() { n.run(ctx, "ip", "link", "delete", link) }, "there is no link"},
		{"link taken from its bridge", func() { n.run(ctx, "ip", "link", "set", link, "nomaster") }, "is not a port of"},
		{"link down", func() { n.run(ctx, "ip", "link", "set", link, "down") }, "is down"},
		{"address removed", func() { n.inGateway(ctx, "ip", "address", "delete", gateway4+"/24", "dev", "eth0") }, "address 10.77.0.2/24 is missing"},
		{"firewall flushed", func() { n.inGateway(ctx, "nft", "flush", "ruleset") }, "firewall: there is no table"},
		{"bus killed", func() { n.killProcess("dbus-daemon") }, ""},
		{"gateway killed", func() { n.killProcess("ganesha.nfsd") }, ""},
		{"gateway stopped", func() { n.signalProcess("ganesha.nfsd", syscall.SIGSTOP) }, ""},
		{"namespace file removed", func() {
			n.must(syscall.Unmount("/run/netns/cw-blue", syscall.MNT_DETACH))
			n.must(os.Remove("/run/netns/cw-blue"))
		}, "there is no namespace"},
	} {
		t.Run(d.name, func(t *testing.T) {
			n := n.within(t)
			// An answer that goes with its namespace, of which nobody tells the
			// client, has to be missed before grace ends.
			timing := nfs41.Quick()
			timing.Reply = o.Grace / 3
			c, err := nfs41.Dial(ctx, nfs41.Options{Address: gateway4 + ":2049", Owner: t.Name(), NetNS: n.client.NetNS, Timing: timing})
			n.must(err)
			s := scribble(ctx, t, c, "/docs/scribe")
			s.more(ctx, 10)
			drifts := n.drifts(ctx, "blue")
			begin := time.Now()
			d.spoil()
			s.more(ctx, 20)
			until(ctx, t, "it is not repaired", func() (bool, error) {
				host := n.state(ctx).Diff(settled)
				if host != "" {
					return false, errors.New(host)
				}
				rules, err := n.tryInGateway(ctx, "nft", "--terse", "list", "ruleset")
				if err != nil || rules != firewall {
					return false, errors.Join(err, errors.New("the firewall is "+rules))
				}
				now, err := n.tryInGateway(ctx, "ip", "-brief", "address", "show", "scope", "global")
				if err != nil || addresses(now) != before {
					return false, errors.Join(err, errors.New("the addresses are "+now))
				}
				return true, nil
			})
			// What was there is reached anew, too.
			again := dialAs(ctx, t, n.client, gateway6, t.Name())
			if data, err := again.ReadFile(ctx, "/docs/hello"); err != nil || string(data) != "from docs\n" {
				t.Errorf("hello reads %q, %v", data, err)
			}
			closeClient(ctx, t, again)
			s.more(ctx, 5)
			lines, longest := s.finish(ctx, filepath.Join(dir, "scribe"))
			t.Logf("as it was after %s; %d lines, the slowest took %s; %+v", time.Since(begin).Round(time.Millisecond), lines, longest.Round(time.Millisecond), c.Stats())
			n.must(c.Remove(ctx, "/docs/scribe"))
			closeClient(ctx, t, c)
			told := drifts()
			if d.drift == "" && len(told) > 0 || d.drift != "" && !strings.Contains(strings.Join(told, "\n"), d.drift) {
				t.Errorf("watchers heard of the drift %q, want %q", told, d.drift)
			}
		})
	}
	n.deleteExport(ctx, "docs")
	n.deleteNetwork(ctx, "blue")
	n.finish(ctx)
}

// TestUnmounted takes mounts away behind the agent's back. They come again at
// once. Of a view a client does not notice; of a share's own mount what it had
// open is stale, and it opens it anew.
func TestUnmounted(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 6*time.Minute)
	dir := w.share(t, "docs")
	n := w.started(ctx, t, lab.AgentOptions{Resync: 2 * time.Second})
	n.putNetwork(ctx, blueNetwork())
	n.putExport(ctx, exported("docs", "docs"))
	settled, gateway := n.state(ctx), n.gateway(ctx, "blue")
	c := dial(ctx, t, n.client, gateway4)
	s := scribble(ctx, t, c, "/docs/scribe")
	s.more(ctx, 5)
	n.must(syscall.Unmount(filepath.Join(n.RunDir, "exports/blue/docs"), syscall.MNT_DETACH))
	n.settles(ctx, settled)
	s.more(ctx, 20)
	s.finish(ctx, filepath.Join(dir, "scribe"))
	n.must(c.Remove(ctx, "/docs/scribe"))
	for _, at := range []string{"exports/blue/docs", n.one(ctx, "mount mounts/")} {
		n.must(syscall.Unmount(filepath.Join(n.RunDir, at), syscall.MNT_DETACH))
		n.settles(ctx, settled)
		until(ctx, t, "the export does not come again", func() (bool, error) {
			data, err := c.ReadFile(ctx, "/docs/hello")
			return string(data) == "from docs\n", err
		})
	}
	if now := n.gateway(ctx, "blue"); now.GetPid() != gateway.GetPid() {
		t.Errorf("the gateway is %v, was %v", now, gateway)
	}
	closeClient(ctx, t, c)
	n.deleteExport(ctx, "docs")
	n.deleteNetwork(ctx, "blue")
	n.finish(ctx)
}

// TestShareVanishes deletes a share at the backend under its export, and kills
// the gateway. The export says that it is degraded, the other one is served, and
// a share that is made anew is served without anybody's call.
func TestShareVanishes(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 6*time.Minute)
	w.share(t, "docs")
	gone := filepath.Join(w.pool.Dir, "gone")
	n := w.started(ctx, t, lab.AgentOptions{Resync: 2 * time.Second})
	n.putNetwork(ctx, blueNetwork())
	n.must(os.Mkdir(gone, 0o755))
	t.Cleanup(func() { _ = os.RemoveAll(gone) })
	n.putExport(ctx, exported("gone", "gone"))
	n.putExport(ctx, exported("docs", "docs"))
	n.must(os.Remove(gone))
	status := func(id string) *nodev1.Status {
		r, err := n.exports.Get(ctx, &nodev1.GetExportRequest{Id: id})
		n.must(err)
		return r.GetExport().GetStatus()
	}
	degraded := func() {
		t.Helper()
		until(ctx, t, "the export is not degraded", func() (bool, error) {
			s := status("gone")
			return s.GetPhase() == nodev1.Phase_PHASE_DEGRADED && s.GetReason() == "share_gone", errors.New(s.String())
		})
	}
	degraded()
	n.killProcess("ganesha.nfsd")
	c := dial(ctx, t, n.client, gateway4)
	data, err := c.ReadFile(ctx, "/docs/hello")
	if err != nil || string(data) != "from docs\n" {
		t.Errorf("the other export reads %q, %v", data, err)
	}
	until(ctx, t, "the other export is not ready", func() (bool, error) {
		return status("docs").GetPhase() == nodev1.Phase_PHASE_READY, nil
	})
	degraded()
	n.must(os.Mkdir(gone, 0o755))
	n.must(os.WriteFile(filepath.Join(gone, "hello"), []byte("back\n"), 0o644))
	until(ctx, t, "the share that came back is not served", func() (bool, error) {
		data, err := c.ReadFile(ctx, "/gone/hello")
		return string(data) == "back\n" && status("gone").GetPhase() == nodev1.Phase_PHASE_READY, err
	})
	closeClient(ctx, t, c)
	n.deleteExport(ctx, "gone")
	n.deleteExport(ctx, "docs")
	n.deleteNetwork(ctx, "blue")
	n.finish(ctx)
}

// one line of the host's state that begins so, without that.
func (n *node) one(ctx context.Context, kind string) string {
	n.t.Helper()
	var found []string
	for _, line := range n.state(ctx) {
		if strings.HasPrefix(line, kind) {
			found = append(found, line)
		}
	}
	if len(found) != 1 {
		n.t.Fatalf("%d lines begin with %q: %q", len(found), kind, found)
	}
	_, name, _ := strings.Cut(found[0], " ")
	return name
}

func (n *node) run(ctx context.Context, argv ...string) {
	n.t.Helper()
	if out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput(); err != nil {
		n.t.Fatalf("%q: %v: %s", argv, err, out)
	}
}

// inGateway runs a program in the network's namespace.
func (n *node) inGateway(ctx context.Context, argv ...string) string {
	n.t.Helper()
	out, err := n.tryInGateway(ctx, argv...)
	n.must(err)
	return out
}

func (n *node) tryInGateway(ctx context.Context, argv ...string) (string, error) {
	gateway := lab.Client{NetNS: "/run/netns/cw-blue"}
	out, err := gateway.Command(ctx, argv...).CombinedOutput()
	return string(out), err
}

func (n *node) killProcess(name string) { n.signalProcess(name, syscall.SIGKILL) }

// signalProcess of the agent's, known by its name.
func (n *node) signalProcess(name string, s syscall.Signal) {
	n.t.Helper()
	found := 0
	for _, pid := range pidsBelow(n.RunDir) {
		if programOf(pid) == name {
			found++
			n.must(syscall.Kill(pid, s))
		}
	}
	if found == 0 {
		n.t.Fatalf("no %s runs", name)
	}
}

// drifts begins to watch a network, and returns what ends that and says what
// was told of its drift since.
func (n *node) drifts(ctx context.Context, network string) func() []string {
	n.t.Helper()
	ctx, stop := context.WithCancel(ctx)
	stream, err := n.nodes.Watch(ctx, &nodev1.WatchRequest{})
	n.must(err)
	var before int64
	for {
		e, err := stream.Recv()
		n.must(err)
		if w := e.GetNetwork(); w.GetId() == network {
			before = w.GetDrift().GetCount()
		}
		if e.GetType() == nodev1.WatchResponse_TYPE_SYNCED {
			break
		}
	}
	ended := make(chan []string)
	go func() {
		var told []string
		for {
			e, err := stream.Recv()
			if err != nil {
				ended <- told
				return
			}
			if w := e.GetNetwork(); w.GetId() == network && w.GetDrift().GetCount() > before {
				before = w.GetDrift().GetCount()
				told = append(told, strings.Join(w.GetDrift().GetWhat(), "; "))
			}
		}
	}()
	return func() []string {
		stop()
		return <-ended
	}
}
