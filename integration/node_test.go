package integration

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/integration/lab"
	"github.com/causeway-project/causeway/integration/wait"
)

// A node is one agent with fresh directories and its API. When the test ends
// the host has to be as it was before.
type node struct {
	*lab.Agent
	*world
	t *testing.T

	attachments nodev1.AttachmentsClient
	networks    nodev1.NetworksClient
	exports     nodev1.ExportsClient
	nodes       nodev1.NodeClient

	before lab.HostState
}

// quick is for tests in which a gateway dies: the shortest lease that the
// guest's kernel under software emulation keeps up with.
var quick = lab.AgentOptions{Lease: 4 * time.Second, Grace: 6 * time.Second}

// node makes an agent, and does not start it. Pools, programs and libvirt are
// the world's where o has none.
func (w *world) node(ctx context.Context, t *testing.T, o lab.AgentOptions) *node {
	t.Helper()
	if o.Programs == nil {
		o.Programs = w.programs
	}
	if o.Pools == nil {
		o.Pools = map[string]string{"default": w.pool.Dir}
	}
	if o.Libvirt == "" {
		o.Libvirt = w.libvirt.URI
	}
	a, err := lab.NewAgent(o)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := a.Connect()
	if err != nil {
		t.Fatal(err)
	}
	n := &node{
		Agent: a, world: w, t: t,
		attachments: nodev1.NewAttachmentsClient(conn), networks: nodev1.NewNetworksClient(conn),
		exports: nodev1.NewExportsClient(conn), nodes: nodev1.NewNodeClient(conn),
	}
	n.before = n.state(ctx)
	t.Cleanup(func() {
		if t.Failed() {
			keepLog(t, a)
			n.keepKernelLog()
			n.scrub()
		}
		if err := errors.Join(conn.Close(), a.Close()); err != nil {
			t.Error(err)
		}
	})
	return n
}

// started is node and Start.
func (w *world) started(ctx context.Context, t *testing.T, o lab.AgentOptions) *node {
	t.Helper()
	n := w.node(ctx, t, o)
	n.start(ctx)
	return n
}

func (n *node) start(ctx context.Context) {
	n.t.Helper()
	if err := n.Start(ctx); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) kill() {
	n.t.Helper()
	if err := n.Kill(); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) state(ctx context.Context) lab.HostState {
	n.t.Helper()
	s, err := n.HostState(ctx, n.libvirt)
	if err != nil {
		n.t.Fatal(err)
	}
	return s
}

// unchanged fails the test unless the host is as want says.
func (n *node) unchanged(ctx context.Context, want lab.HostState) {
	n.t.Helper()
	if diff := n.state(ctx).Diff(want); diff != "" {
		n.t.Errorf("the host differs:\n%s", diff)
	}
}

// settles waits until the host is as want says: a network's gateway goes only
// after the call that deleted its last export has returned.
func (n *node) settles(ctx context.Context, want lab.HostState) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, wait.Long)
	defer cancel()
	until(ctx, n.t, "the host differs", func() (bool, error) {
		diff := n.state(ctx).Diff(want)
		return diff == "", errors.New(diff)
	})
}

// finish ends the agent, and fails the test unless the host is as before it.
func (n *node) finish(ctx context.Context) {
	n.t.Helper()
	n.settles(ctx, n.before)
	if err := n.Stop(); err != nil {
		n.t.Error(err)
	}
	n.unchanged(ctx, n.before)
}

// until polls, and says what it waited for when the test's time is over.
func until(ctx context.Context, t *testing.T, what string, done func() (bool, error)) {
	t.Helper()
	if err := wait.For(ctx, done); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// keepLog shows the end of the agent's log, without the details.
func keepLog(t *testing.T, a *lab.Agent) {
	f, err := os.Open(a.LogFile())
	if err != nil {
		return // never started
	}
	defer func() { _ = f.Close() }()
	var shown []string
	for s := bufio.NewScanner(f); s.Scan(); {
		if !strings.Contains(s.Text(), "level=DEBUG") {
			shown = append(shown, s.Text())
		}
	}
	t.Logf("agent's log:\n%s", strings.Join(shown[max(0, len(shown)-60):], "\n"))
}

// keepKernelLog shows the end of what the guest's kernel says, if it still does:
// whether a device reached it, nobody else knows.
func (n *node) keepKernelLog() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(n.t.Context()), 10*time.Second)
	defer cancel()
	said, err := n.guest.Shell(ctx, "dmesg | tail -n 40; cat /proc/uptime; grep virtiofs /proc/mounts; ls -l /sys/bus/virtio/devices /sys/bus/virtio/drivers/virtiofs")
	n.t.Logf("the guest's kernel: %v\n%s", err, said)
}

// scrub takes a failed test's remains away, so that the next one begins on a
// clean host. What it cannot, that one will tell.
func (n *node) scrub() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(n.t.Context()), 2*time.Minute)
	defer cancel()
	if n.Running() {
		_ = n.Kill()
	}
	left, err := n.HostState(ctx, n.libvirt)
	if err != nil {
		n.t.Logf("scrub: %v", err)
	}
	n.t.Logf("left on the host:\n%s", left.Diff(n.before))
	for _, line := range left {
		kind, rest, _ := strings.Cut(line, " ")
		name, _, _ := strings.Cut(rest, " ")
		switch kind {
		case "device":
			if name == n.guest.Name {
				_ = n.guest.Destroy()
				alias, _, _ := strings.Cut(strings.TrimPrefix(rest, name+" "), " ")
				_, _ = tryVirsh(ctx, "detach-device-alias", n.guest.UUID, alias, "--config")
			}
		case "netns":
			_ = exec.CommandContext(ctx, "ip", "netns", "delete", name).Run()
		case "link":
			_ = exec.CommandContext(ctx, "ip", "link", "delete", name).Run()
		}
	}
	for _, pid := range pidsBelow(n.RunDir) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	for i := range left {
		if at, isMount := strings.CutPrefix(left[len(left)-1-i], "mount "); isMount {
			path, _, _ := strings.Cut(at, " ")
			_ = syscall.Unmount(filepath.Join(n.RunDir, path), syscall.MNT_DETACH)
		}
	}
	if err := n.guest.Start(ctx); err != nil && !strings.Contains(err.Error(), "already running") {
		n.t.Logf("scrub: %v", err)
	}
}

// pidsBelow finds the processes that name a path below dir, this one aside.
func pidsBelow(dir string) []int {
	var pids []int
	list, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range list {
		data, err := os.ReadFile(file)
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err == nil && pid != os.Getpid() && strings.Contains(string(data), dir+"/") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// programOf a process; empty if it has gone.
func programOf(pid int) string {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil {
		return ""
	}
	program, _, _ := strings.Cut(string(data), "\x00")
	return filepath.Base(program)
}

// The calls, each of which must succeed.

func bridged(id, bridge string, addresses ...string) *nodev1.Network {
	return &nodev1.Network{Id: id, Plug: &nodev1.Network_Bridge{Bridge: &nodev1.BridgePlug{Bridge: bridge}}, Addresses: addresses}
}

// blueNetwork is the usual one.
func blueNetwork() *nodev1.Network {
	return bridged("blue", "br-blue", gateway4+"/24", gateway6+"/64")
}

func local(source string) *nodev1.Connection {
	return &nodev1.Connection{BackendKind: "local", Source: source}
}

func rule(client string, level nodev1.Level) *nodev1.AccessRule {
	return &nodev1.AccessRule{Client: client, Level: level, Squash: nodev1.Squash_SQUASH_NONE}
}

// exported on blue, for everybody there to write.
func exported(id, source string) *nodev1.Export {
	return &nodev1.Export{Id: id, Network: "blue", Connection: local(source), Rules: []*nodev1.AccessRule{
		rule("10.77.0.0/24", nodev1.Level_LEVEL_RW), rule("fd77::/64", nodev1.Level_LEVEL_RW),
	}}
}

// attached to the world's guest, under a tag that is the id.
func attached(id, source string) *nodev1.Attachment {
	return &nodev1.Attachment{Id: id, Instance: "vm1", Connection: local(source), Tag: id}
}

func (n *node) putNetwork(ctx context.Context, network *nodev1.Network) *nodev1.Network {
	n.t.Helper()
	r, err := n.networks.Put(ctx, &nodev1.PutNetworkRequest{Network: network})
	n.must(err)
	return r.GetNetwork()
}

func (n *node) deleteNetwork(ctx context.Context, id string) {
	n.t.Helper()
	_, err := n.networks.Delete(ctx, &nodev1.DeleteNetworkRequest{Id: id})
	n.must(err)
}

func (n *node) putExport(ctx context.Context, export *nodev1.Export) *nodev1.Export {
	n.t.Helper()
	r, err := n.exports.Put(ctx, &nodev1.PutExportRequest{Export: export})
	n.must(err)
	return r.GetExport()
}

func (n *node) deleteExport(ctx context.Context, id string) {
	n.t.Helper()
	_, err := n.exports.Delete(ctx, &nodev1.DeleteExportRequest{Id: id})
	n.must(err)
}

func (n *node) attach(ctx context.Context, a *nodev1.Attachment) *nodev1.Attachment {
	n.t.Helper()
	r, err := n.attachments.Attach(ctx, &nodev1.AttachRequest{Attachment: a, Force: true})
	n.must(err)
	return r.GetAttachment()
}

func (n *node) detach(ctx context.Context, id string) {
	n.t.Helper()
	_, err := n.attachments.Detach(ctx, &nodev1.DetachRequest{Id: id})
	n.must(err)
}

func (n *node) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

// in says what runs in the guest, which must succeed.
func (n *node) in(ctx context.Context, script string) string {
	n.t.Helper()
	out, err := n.guest.Shell(ctx, script)
	n.must(err)
	return strings.TrimSpace(out)
}

// refusal of a call: what a program goes by.
type refusal struct {
	code   codes.Code
	reason string
}

// refusalOf takes an error apart.
func refusalOf(err error) (r refusal, info *errdetails.ErrorInfo, message string) {
	s := status.Convert(err)
	r.code = s.Code()
	for _, d := range s.Details() {
		if i, ok := d.(*errdetails.ErrorInfo); ok {
			r.reason, info = i.GetReason(), i
		}
	}
	return r, info, s.Message()
}

// refused checks that a mount in the guest can be read and not written.
func (n *node) refused(ctx context.Context, what, read, dir string) {
	n.t.Helper()
	n.in(ctx, read)
	for _, write := range []string{"echo >>" + dir + "/a", "touch " + dir + "/new", "rm " + dir + "/a", "mkdir " + dir + "/dir"} {
		if out, err := n.guest.Shell(ctx, write); err == nil {
			n.t.Errorf("%s: %q succeeded: %s", what, write, out)
		}
	}
}
