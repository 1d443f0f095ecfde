package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/causeway-project/causeway/agent/crashpoint"
	"github.com/causeway-project/causeway/agent/reconcile"
	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/integration/lab"
	"github.com/causeway-project/causeway/integration/nfs41"
	"github.com/causeway-project/causeway/integration/wait"
)

// A verb of the kill matrix. Each of its cases begins where setup and before
// lead to, and after leads back to where setup led to.
type verb struct {
	name            string
	setup, teardown func(context.Context, *node)
	before, after   func(context.Context, *node)
	ready           func(context.Context, *node) error // returns when an agent that has begun may be called
	call            func(context.Context, *node) error // required
	check           func(context.Context, *node)       // that it did what it should, besides the state of the host
	maybe           []crashpoint.Point                 // passed in some runs alone; another verb always passes them
}

func docsVM1() *nodev1.Attachment {
	a := attached("docs-vm1", "docs")
	a.MountAt = "/mnt/docs"
	return a
}

func readOnlyDocs() *nodev1.Export {
	e := exported("docs", "docs")
	e.Rules = []*nodev1.AccessRule{rule("10.77.0.0/24", nodev1.Level_LEVEL_RO)}
	return e
}

func verbs() []verb {
	attach := func(ctx context.Context, n *node) error {
		_, err := n.attachments.Attach(ctx, &nodev1.AttachRequest{Attachment: docsVM1(), Force: true})
		return err
	}
	detach := func(ctx context.Context, n *node) error {
		_, err := n.attachments.Detach(ctx, &nodev1.DetachRequest{Id: "docs-vm1"})
		return err
	}
	putNetwork := func(ctx context.Context, n *node) error {
		_, err := n.networks.Put(ctx, &nodev1.PutNetworkRequest{Network: blueNetwork()})
		return err
	}
	update := func(network *nodev1.Network) func(context.Context, *node) error {
		return func(ctx context.Context, n *node) error {
			_, err := n.networks.Update(ctx, &nodev1.UpdateNetworkRequest{Network: network})
			return err
		}
	}
	deleteNetwork := func(ctx context.Context, n *node) error {
		_, err := n.networks.Delete(ctx, &nodev1.DeleteNetworkRequest{Id: "blue"})
		return err
	}
	put := func(e *nodev1.Export) func(context.Context, *node) error {
		return func(ctx context.Context, n *node) error {
			_, err := n.exports.Put(ctx, &nodev1.PutExportRequest{Export: e})
			return err
		}
	}
	deleteExport := func(ctx context.Context, n *node) error {
		_, err := n.exports.Delete(ctx, &nodev1.DeleteExportRequest{Id: "docs"})
		return err
	}
	deleteMusic := func(ctx context.Context, n *node) error {
		_, err := n.exports.Delete(ctx, &nodev1.DeleteExportRequest{Id: "music"})
		return err
	}
	putRule := func(ctx context.Context, n *node) error {
		r := rule("10.77.0.0/24", nodev1.Level_LEVEL_RO)
		r.Id, r.Priority = "first", -1
		_, err := n.exports.PutRule(ctx, &nodev1.PutRuleRequest{Export: "docs", Rule: r})
		return err
	}
	deleteRule := func(ctx context.Context, n *node) error {
		_, err := n.exports.DeleteRule(ctx, &nodev1.DeleteRuleRequest{Export: "docs", Id: "first"})
		return err
	}
	forceDetach := func(ctx context.Context, n *node) error { return n.forced(ctx, "docs-vm1") }
	must := func(calls ...func(context.Context, *node) error) func(context.Context, *node) {
		return func(ctx context.Context, n *node) {
			n.t.Helper()
			for _, call := range calls {
				n.must(call(ctx, n))
			}
		}
	}
	return []verb{
		{name: "network create", call: putNetwork, after: must(deleteNetwork)},
		{name: "network delete", before: must(putNetwork), call: deleteNetwork},
		{name: "network update", setup: must(putNetwork, put(exported("docs", "docs"))), call: update(bridged("blue", "br-blue", gateway4+"/24", later4+"/24")),
			check: servesLater, after: must(update(blueNetwork())), teardown: must(deleteExport, deleteNetwork)},
		{name: "network move", setup: must(cable, putNetwork, put(exported("docs", "docs"))), call: update(bridged("blue", "br-two", gateway4+"/24")),
			check: servesElsewhere, after: must(update(blueNetwork())), teardown: must(deleteExport, deleteNetwork, cut)},
		// Its view may come before or after the gateway that it starts, which
		// takes what is there along.
		{name: "export create", setup: must(putNetwork), call: put(exported("docs", "docs")), check: servesWritable,
			after: must(deleteExport), teardown: must(deleteNetwork), maybe: []crashpoint.Point{
				crashpoint.At(crashpoint.StepBegin, "export", "create"), crashpoint.At(crashpoint.StepEnd, "export", "create"),
				crashpoint.ExportFile, crashpoint.ExportAdded}},
		{name: "further export create", setup: must(putNetwork, put(exported("music", "music"))), call: put(exported("docs", "docs")),
			check: servesBoth, after: must(deleteExport), teardown: must(deleteMusic, deleteNetwork)},
		{name: "export update", setup: must(putNetwork, put(exported("docs", "docs"))), call: put(readOnlyDocs()), check: servesReadOnly,
			after: must(put(exported("docs", "docs"))), teardown: must(deleteExport, deleteNetwork)},
		{name: "export delete", setup: must(putNetwork), before: must(put(exported("docs", "docs"))), call: deleteExport,
			teardown: must(deleteNetwork)},
		{name: "rule create", setup: must(putNetwork, put(exported("docs", "docs"))), call: putRule, check: servesReadOnly,
			after: must(deleteRule), teardown: must(deleteExport, deleteNetwork)},
		{name: "rule delete", setup: must(putNetwork, put(exported("docs", "docs"))), before: must(putRule), call: deleteRule,
			check: servesWritable, teardown: must(deleteExport, deleteNetwork)},
		{name: "attach", call: attach, check: guestReads, after: must(detach)},
		{name: "detach", before: must(attach), ready: guestAsked, call: detach, check: guestIsFree},
		{name: "detach by force", before: must(attach), ready: guestAsked, call: forceDetach, check: guestIsFree},
		{name: "prepare", call: prepareElsewhere, after: must(detach)},
		{name: "release", before: must(attach), ready: guestAsked, call: releaseDocs, check: guestIsFree, after: must(detach)},
		{name: "rollback", before: must(attach, releaseDocs), call: rollbackDocs, check: guestReads, after: must(detach)},
	}
}

// prepareElsewhere is for an instance that this host never saw.
func prepareElsewhere(ctx context.Context, n *node) error {
	a := docsVM1()
	a.Instance = "8c5b4ff3-6d52-4d4c-9bb1-000000000001"
	_, err := n.attachments.Prepare(ctx, &nodev1.PrepareAttachmentRequest{Attachment: a, ExpiresAt: inTenMinutes()})
	return err
}

// guestAsked waits until the agent knows what the guest has mounted. Then a removal
// has a step of its own in the guest; else the device's step has it unmounted.
func guestAsked(ctx context.Context, n *node) error {
	// By a connection of its own: one that finds the agent dead, as it may be by
	// now, does not try again at once.
	conn, err := n.Connect()
	if err != nil {
		return err
	}
	err = wait.For(ctx, func() (bool, error) {
		r, err := nodev1.NewAttachmentsClient(conn).Get(ctx, &nodev1.GetAttachmentRequest{Id: "docs-vm1"})
		a := r.GetAttachment()
		settled := a.GetGuest() == nodev1.GuestState_GUEST_STATE_MOUNTED && a.GetStatus().GetPhase() == nodev1.Phase_PHASE_READY
		return settled || !n.Running(), errors.Join(err, errors.New(r.String()))
	})
	return errors.Join(err, conn.Close())
}

func releaseDocs(ctx context.Context, n *node) error {
	_, err := n.attachments.Release(ctx, &nodev1.ReleaseAttachmentRequest{Id: "docs-vm1", ExpiresAt: inTenMinutes()})
	return err
}

func rollbackDocs(ctx context.Context, n *node) error {
	_, err := n.attachments.Rollback(ctx, &nodev1.RollbackAttachmentRequest{Id: "docs-vm1"})
	return err
}

// cable makes the bridge br-two, from which all on br-blue are reached.
func cable(ctx context.Context, n *node) error {
	n.run(ctx, "ip", "link", "add", "br-two", "type", "bridge")
	n.run(ctx, "ip", "link", "set", "br-two", "up")
	n.run(ctx, "ip", "link", "add", "cable1", "type", "veth", "peer", "name", "cable2")
	n.run(ctx, "ip", "link", "set", "cable1", "master", "br-blue", "up")
	n.run(ctx, "ip", "link", "set", "cable2", "master", "br-two", "up")
	return nil
}

func cut(ctx context.Context, n *node) error {
	n.run(ctx, "ip", "link", "delete", "cable1")
	n.run(ctx, "ip", "link", "delete", "br-two")
	return nil
}

func servesWritable(ctx context.Context, n *node) { serves(ctx, n, gateway4, "docs") }

func servesBoth(ctx context.Context, n *node) { serves(ctx, n, gateway4, "docs music") }

// servesLater has a new address, and nothing else.
func servesLater(ctx context.Context, n *node) {
	n.t.Helper()
	serves(ctx, n, later4, "docs")
	if got := n.inGateway(ctx, "ip", "-brief", "address", "show", "dev", "eth0", "scope", "global"); !strings.Contains(got, gateway4) || !strings.Contains(got, later4) || strings.Contains(got, gateway6) {
		n.t.Errorf("the gateway's addresses are %s", got)
	}
}

func servesElsewhere(ctx context.Context, n *node) {
	n.t.Helper()
	if !n.isPort(ctx, "br-two") {
		n.t.Error("the gateway is no port of br-two")
	}
	serves(ctx, n, gateway4, "docs")
}

// serves looks at the whole gateway, and writes to docs.
func serves(ctx context.Context, n *node, address, want string) {
	n.t.Helper()
	c := dial(ctx, n.t, n.client, address)
	defer closeClient(ctx, n.t, c)
	if got, err := listing(ctx, c, "/"); err != nil || got != want {
		n.t.Errorf("the gateway shows %q, %v; want %q", got, err, want)
	}
	if err := c.WriteFile(ctx, "/docs/new", []byte("new"), 0o644); err != nil {
		n.t.Error(err)
	}
	if err := c.Remove(ctx, "/docs/new"); err != nil {
		n.t.Error(err)
	}
}

func servesReadOnly(ctx context.Context, n *node) {
	n.t.Helper()
	c := dial(ctx, n.t, n.client, gateway4)
	defer closeClient(ctx, n.t, c)
	if data, err := c.ReadFile(ctx, "/docs/hello"); err != nil || string(data) != "from docs\n" {
		n.t.Errorf("hello reads %q, %v", data, err)
	}
	if err := c.WriteFile(ctx, "/docs/new", []byte("new"), 0o644); !errors.Is(err, nfs41.ROFS) {
		n.t.Errorf("write: %v, want %v", err, nfs41.ROFS)
	}
}

func guestReads(ctx context.Context, n *node) {
	n.t.Helper()
	if got := n.in(ctx, "cat /mnt/docs/hello; grep -c /mnt/docs /proc/mounts"); got != "from docs\n1" {
		n.t.Errorf("the guest reads %q, want one mount", got)
	}
}

func guestIsFree(ctx context.Context, n *node) {
	n.t.Helper()
	if got := n.in(ctx, "grep -c virtiofs /proc/mounts || true"); got != "0" {
		n.t.Errorf("the guest has %s virtiofs mounts", got)
	}
}

// TestKillMatrix kills the agent at every crash point that a verb passes, the
// adoption before it included, and at each passing. Which they are is learned
// from an undisturbed run. Then an agent that nobody kills starts over the same
// directories, and the same call has to lead to the same host.
func TestKillMatrix(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 8*time.Minute)
	programs, err := lab.Build(ctx, lab.BuildOptions{CrashPoints: true})
	if err != nil {
		t.Fatal(err)
	}
	w.share(t, "docs")
	w.share(t, "music")
	n := w.hooked(ctx, t, lab.AgentOptions{Programs: programs}) // so that devices come into definitions too
	passed := map[crashpoint.Point]bool{}
	cases := 0
	for _, v := range verbs() {
		t.Run(v.name, func(t *testing.T) {
			n := n.within(t)
			begin := time.Now()
			v.do(ctx, n, v.setup)
			base := n.state(ctx)
			points, want := v.learn(ctx, n, base)
			n.settles(ctx, base)
			for _, p := range points {
				passed[p.point] = true
				t.Run(p.String(), func(t *testing.T) {
					cases++
					v.kill(ctx, n.within(t), p, want)
					n.within(t).settles(ctx, base)
				})
			}
			v.do(ctx, n, v.teardown)
			t.Logf("%d cases in %s", len(points), time.Since(begin).Round(time.Millisecond))
		})
	}
	for _, p := range everyPoint() {
		if !passed[p] {
			t.Errorf("no verb passes %s", p)
		}
	}
	t.Logf("%d cases", cases)
	n.finish(ctx)
}

// within is the same node in a subtest.
func (n *node) within(t *testing.T) *node {
	sub := *n
	sub.t = t
	return &sub
}

func (v verb) do(ctx context.Context, n *node, what func(context.Context, *node)) {
	n.t.Helper()
	if what != nil {
		what(ctx, n)
	}
}

// A passing of a crash point.
type passing struct {
	point crashpoint.Point
	nth   int
}

func (p passing) String() string { return fmt.Sprintf("%s#%d", p.point, p.nth) }

// await what an agent that has begun may yet have to learn.
func (v verb) await(ctx context.Context, n *node) error {
	if v.ready == nil {
		return nil
	}
	return v.ready(ctx, n)
}

// learn runs a verb undisturbed. It returns the points that it passes, and
// the host after it.
func (v verb) learn(ctx context.Context, n *node, base lab.HostState) ([]passing, lab.HostState) {
	n.t.Helper()
	v.do(ctx, n, v.before)
	n.kill()
	trace := filepath.Join(n.t.TempDir(), "trace")
	n.must(os.Setenv("CAUSEWAY_CRASH_LOG", trace))
	defer func() { n.must(os.Unsetenv("CAUSEWAY_CRASH_LOG")) }()
	n.start(ctx)
	n.must(v.await(ctx, n))
	n.must(v.call(ctx, n))
	v.do(ctx, n, v.check)
	want := base
	if v.after == nil { // it takes back what before did
		n.settles(ctx, base)
	} else {
		want = n.state(ctx)
	}
	n.kill()
	text, err := os.ReadFile(trace)
	n.must(err)
	n.must(os.Unsetenv("CAUSEWAY_CRASH_LOG"))
	n.start(ctx)
	v.do(ctx, n, v.after)
	points := slices.DeleteFunc(passings(string(text)), func(p passing) bool {
		return slices.Contains(v.maybe, p.point)
	})
	return points, want
}

func passings(trace string) []passing {
	var ps []passing
	counts := map[crashpoint.Point]int{}
	add := func(p crashpoint.Point) {
		counts[p]++
		ps = append(ps, passing{p, counts[p]})
	}
	for _, line := range strings.Fields(trace) {
		p := crashpoint.Point(line)
		if strings.HasPrefix(line, "launch.") {
			// Each launcher counts for itself, and in its jail it sees no log.
			if counts[p] == 0 && p == crashpoint.LaunchLocked {
				add(crashpoint.LaunchLocked)
				add(crashpoint.LaunchIdentified)
				add(crashpoint.LaunchConfined)
			}
			continue
		}
		add(p)
	}
	return ps
}

// kill is one case.
func (v verb) kill(ctx context.Context, n *node, p passing, want lab.HostState) {
	n.t.Helper()
	v.do(ctx, n, v.before)
	n.kill()
	logged := logSize(n)
	n.must(n.Launch(p.String()))
	// It may die on its way up, while it adopts what is there.
	dying, cancel := context.WithTimeout(ctx, wait.Long)
	defer cancel()
	called := n.WaitInSync(dying)
	if called == nil {
		n.must(v.await(dying, n))
	}
	if called == nil && n.Running() {
		if strings.HasPrefix(string(p.point), "launch.") {
			v.killLauncher(ctx, n, p, logged)
		} else {
			called = v.call(dying, n)
			if err := n.WaitKilled(dying); err != nil {
				n.t.Errorf("armed and not hit, the call ended with %v: %v", called, err)
			}
		}
	}
	if n.Running() {
		n.kill()
	}
	n.start(ctx)
	if err := v.call(ctx, n); err != nil {
		n.t.Fatalf("the same call again: %v", err)
	}
	v.do(ctx, n, v.check)
	n.settles(ctx, want)
	v.do(ctx, n, v.after)
}

// killLauncher lets launchers die until the agent has noticed, and kills the
// agent then.
func (v verb) killLauncher(ctx context.Context, n *node, p passing, logged int64) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, wait.Long)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- v.call(ctx, n) }()
	until(ctx, n.t, "armed and not hit: "+p.String(), func() (bool, error) {
		data, err := os.ReadFile(n.LogFile())
		return err == nil && strings.Contains(string(data[logged:]), "the launcher was killed"), err
	})
	n.kill()
	if err := <-ended; err == nil {
		n.t.Error("the call succeeded although nothing could be launched")
	}
}

func logSize(n *node) int64 {
	info, err := os.Stat(n.LogFile())
	n.must(err)
	return info.Size()
}

// everyPoint lists what some verb has to pass. An export and a network's
// namespace are changed in place, and so is a gateway that is adopted; nothing
// else is.
func everyPoint() []crashpoint.Point {
	points := []crashpoint.Point{
		crashpoint.LedgerPut, crashpoint.LedgerDelete, crashpoint.ProcessForked,
		crashpoint.LaunchLocked, crashpoint.LaunchIdentified, crashpoint.LaunchConfined,
		crashpoint.NetnsCreated, crashpoint.NetnsLink, crashpoint.NetnsAddressed,
		crashpoint.GatewayBus, crashpoint.GatewayStarted, crashpoint.ExportFile, crashpoint.ExportAdded,
		crashpoint.DeviceAttached, crashpoint.DeviceUnplug,
	}
	for _, k := range reconcile.Kinds() {
		changes := []reconcile.Verb{reconcile.Create, reconcile.Remove}
		if slices.Contains([]reconcile.Kind{reconcile.Namespace, reconcile.Gateway, reconcile.Export}, k) {
			changes = append(changes, reconcile.Update)
		}
		for _, c := range changes {
			points = append(points, crashpoint.At(crashpoint.StepBegin, k.String(), string(c)), crashpoint.At(crashpoint.StepEnd, k.String(), string(c)))
		}
	}
	return points
}
