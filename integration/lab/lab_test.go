package lab_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/causeway-project/causeway/integration/lab"
	"github.com/causeway-project/causeway/integration/wait"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

// limited is for one whole test; a guest needs 4 s to boot.
func limited(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// A world is what most tests stand in.
type world struct {
	bridge  *lab.Bridge
	pool    *lab.Pool
	libvirt *lab.Libvirt
}

func newWorld(t *testing.T) *world {
	t.Helper()
	ctx := limited(t)
	w := &world{}
	var err error
	if w.bridge, err = lab.NewBridge(ctx, "br-blue"); err != nil {
		t.Fatal(err)
	}
	atEnd(t, func() error { return w.bridge.Close(context.Background()) })
	if w.pool, err = lab.NewPool(ctx, 256); err != nil {
		t.Fatal(err)
	}
	atEnd(t, func() error { return w.pool.Close(context.Background()) })
	if w.libvirt, err = lab.StartLibvirt(ctx); err != nil {
		t.Fatal(err)
	}
	atEnd(t, w.libvirt.Close)
	return w
}

func atEnd(t *testing.T, f func() error) {
	t.Helper()
	t.Cleanup(func() {
		if err := f(); err != nil {
			t.Error(err)
		}
	})
}

// guest boots one on the bridge.
func (w *world) guest(t *testing.T, o lab.GuestOptions) *lab.Guest {
	t.Helper()
	o.Bridge = w.bridge.Name
	g, err := w.libvirt.Boot(limited(t), o)
	if err != nil {
		t.Fatal(err)
	}
	atEnd(t, g.Close)
	return g
}

func TestGuest(t *testing.T) {
	ctx := limited(t)
	w := newWorld(t)
	client, err := w.bridge.NewClient(ctx, "client", netip.MustParsePrefix("10.77.0.9/24"), netip.MustParsePrefix("fd77::9/64"))
	if err != nil {
		t.Fatal(err)
	}
	atEnd(t, func() error { return client.Close(context.Background()) })
	g := w.guest(t, lab.GuestOptions{Name: "vm1", Addresses: []netip.Prefix{
		netip.MustParsePrefix("10.77.0.5/24"), netip.MustParsePrefix("fd77::5/64"),
	}})
	for _, address := range []string{"10.77.0.5", "fd77::5"} {
		if out, err := client.Command(ctx, "busybox", "ping", "-c", "1", "-W", "5", address).CombinedOutput(); err != nil {
			t.Errorf("ping %s: %v: %s", address, err, out)
		}
	}

	out, err := g.Shell(ctx, "echo out; echo err >&2; exit 3")
	exit := (*lab.ExitError)(nil)
	if !errors.As(err, &exit) || exit.Code != 3 || exit.Stderr != "err\n" || out != "out\n" {
		t.Errorf("Shell = %q, %v, want out, and exit status 3 with err", out, err)
	}
	if _, err := g.Exec(ctx, "touch", "/tmp/before"); err != nil {
		t.Fatal(err)
	}

	if err := w.libvirt.Kill(); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := g.Exec(short, "true"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Exec without libvirtd: %v, want it to wait for one", err)
	}
	if err := w.libvirt.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Exec(ctx, "ls", "/tmp/before"); err != nil {
		t.Errorf("after libvirtd's restart: %v", err)
	}

	if err := errors.Join(g.Suspend(), g.Resume()); err != nil {
		t.Error(err)
	}
	if err := g.Reset(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Exec(ctx, "ls", "/tmp/before"); !errors.As(err, &exit) {
		t.Errorf("ls after a reset: %v, want an exit status: memory was lost", err)
	}
	if err := errors.Join(g.Destroy(), g.Destroy()); err != nil {
		t.Error(err)
	}
}

func TestHostState(t *testing.T) {
	ctx := limited(t)
	w := newWorld(t)
	agent, err := lab.NewAgent(lab.AgentOptions{Programs: lab.Installed("/nowhere"), Libvirt: w.libvirt.URI})
	if err != nil {
		t.Fatal(err)
	}
	atEnd(t, agent.Close)
	empty, err := agent.HostState(ctx, w.libvirt)
	if err != nil || len(empty) != 0 {
		t.Fatalf("HostState = %q, %v, want nothing", empty, err)
	}
	for _, step := range []string{
		"ip netns add cw-blue",
		"ip link add cwlink type veth peer name cwpeer",
		"mkdir -p $RUN/mounts/cw-1 $RUN/exports/blue/docs $RUN/gateways/blue $RUN/virtiofs/docs $STATE/ledger/export $STATE/gateways/blue",
		"mount -t tmpfs tmpfs $RUN/mounts/cw-1",
		"mount -o bind,ro $RUN/mounts/cw-1 $RUN/exports/blue/docs",
		"touch $STATE/ledger/export/docs.json",
		"(exec -a virtiofsd tail -f /dev/null $RUN/virtiofs/docs/sock) & echo $! >$STATE/pid",
	} {
		if err := shell(ctx, agent, step); err != nil {
			t.Fatalf("%s: %v", step, err)
		}
	}
	want := lab.HostState{
		"ledger export/docs.json", "link cwlink", "link cwpeer",
		"mount exports/blue/docs ro", "mount mounts/cw-1", "netns cw-blue",
		"process virtiofsd virtiofs/docs",
		"run exports/blue", "run exports/blue/docs", "run gateways/blue", "run mounts/cw-1", "run virtiofs/docs",
		"state gateways/blue",
	}
	var got lab.HostState
	if err := wait.For(ctx, func() (bool, error) { // for the daemon's exec
		var err error
		if got, err = agent.HostState(ctx, w.libvirt); err != nil {
			t.Fatal(err)
		}
		return slices.Contains(got, "process virtiofsd virtiofs/docs"), nil
	}); err != nil {
		t.Error(err)
	}
	if d := got.Diff(want); d != "" {
		t.Errorf("HostState differs:\n%s", d)
	}
	if got.String() != strings.Join(want, "\n") {
		t.Errorf("HostState is not in order:\n%s", got)
	}
	if d := got.Without("run", "process").Diff(want); !strings.HasPrefix(d, "- process") || strings.Contains(d, "+") {
		t.Errorf("Diff without run and process:\n%s", d)
	}
	if err := shell(ctx, agent, "kill $(cat $STATE/pid); umount $RUN/exports/blue/docs $RUN/mounts/cw-1; ip link del cwlink; ip netns del cw-blue"); err != nil {
		t.Error(err)
	}
}

func shell(ctx context.Context, a *lab.Agent, script string) error {
	cmd := exec.CommandContext(ctx, "bash", "-euc", script)
	cmd.Env = append(os.Environ(), "RUN="+a.RunDir, "STATE="+a.StateDir)
	// Not CombinedOutput: what goes to the background would keep the pipe.
	return cmd.Run()
}

func TestCheckLines(t *testing.T) {
	tests := []struct {
		name, text string
		n          int
		ok         bool
	}{
		{"all", "line 1\nline 2\n", 2, true},
		{"none", "", 0, true},
		{"lost", "line 1\nline 3\n", 2, false},
		{"twice", "line 1\nline 1\n", 2, false},
		{"short", "line 1\n", 2, false},
		{"torn", "line 1\nli", 2, false},
		{"more", "line 1\nline 2\n", 1, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := lab.CheckLines(strings.NewReader(tt.text), tt.n); (err == nil) != tt.ok {
				t.Errorf("CheckLines = %v, want ok %v", err, tt.ok)
			}
		})
	}
}
