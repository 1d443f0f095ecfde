package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/causeway-project/causeway/agent/access"
	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/drivers"
	"github.com/causeway-project/causeway/integration/wait"
)

func share(source string) drivers.Connection {
	return drivers.Connection{Kind: "fake", Source: source}
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func blue() model.Network {
	return model.Network{ID: "blue", Plug: bridgePlug("br-blue"), Addresses: []netip.Prefix{prefix("10.77.0.2/24"), prefix("fd77::2/64")}}
}

func docs() model.Export {
	return model.Export{ID: "docs", Network: "blue", Connection: share("docs"), Rules: []access.Rule{
		{Client: prefix("10.77.0.0/24"), Level: access.LevelRO, Squash: access.SquashRoot, AnonUID: access.Anonymous, AnonGID: access.Anonymous},
		{Client: prefix("10.77.0.5/32"), Level: access.LevelRW, Squash: access.SquashNone, AnonUID: access.Anonymous, AnonGID: access.Anonymous},
	}}
}

func docsVM1() model.Attachment {
	return model.Attachment{ID: "docs-vm1", Instance: "vm1", Connection: share("docs"), Tag: "docs", MountAt: "/mnt/docs", Forced: true}
}

// life is every verb once, in an order that works.
func life(ctx context.Context, a *Agent) []func() error {
	put := func(e model.Export) error { _, err := a.PutExport(ctx, e); return err }
	return []func() error{
		func() error { _, err := a.PutNetwork(ctx, blue()); return err },
		func() error { return put(docs()) },
		func() error { _, err := a.Attach(ctx, docsVM1()); return err },
		func() error { e := docs(); e.Rules = e.Rules[:1]; return put(e) },
		func() error { return a.Detach(ctx, "docs-vm1") },
		func() error { return a.DeleteExport(ctx, "docs") },
		func() error { return a.DeleteNetwork(ctx, "blue") },
	}
}

// worlds is what the host has after each verb of life.
var worlds = []string{
	`namespace cw-blue`,
	`export blue 1 /docs [{10.77.0.5/32 rw none 65534 65534 0} {10.77.0.0/24 ro root 65534 65534 0}]
gateway blue
mount blue of itself
mount cw-SHARE of docs
mount docs of view of RUN/mounts/cw-SHARE
namespace cw-blue`,
	`daemon docs-vm1
device ua-cw-docs-vm1 tag docs in vm1
export blue 1 /docs [{10.77.0.5/32 rw none 65534 65534 0} {10.77.0.0/24 ro root 65534 65534 0}]
gateway blue
guest mount uuid-vm1 /mnt/docs
mount blue of itself
mount cw-SHARE of docs
mount docs of view of RUN/mounts/cw-SHARE
namespace cw-blue`,
	`daemon docs-vm1
device ua-cw-docs-vm1 tag docs in vm1
export blue 1 /docs [{10.77.0.0/24 ro root 65534 65534 0}]
gateway blue
guest mount uuid-vm1 /mnt/docs
mount blue of itself
mount cw-SHARE of docs
mount docs of view of RUN/mounts/cw-SHARE
namespace cw-blue`,
	`export blue 1 /docs [{10.77.0.0/24 ro root 65534 65534 0}]
gateway blue
mount blue of itself
mount cw-SHARE of docs
mount docs of view of RUN/mounts/cw-SHARE
namespace cw-blue`,
	`namespace cw-blue`,
	``,
}

func seen(h *host, dir string) string {
	s := strings.ReplaceAll(h.String(), filepath.Join(dir, "r"), "RUN")
	return strings.ReplaceAll(s, intent.ConnectionOf(share("docs")).MountName(), "cw-SHARE")
}

func TestLife(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	a := h.boot(dir)
	for i, verb := range life(t.Context(), a.Agent) {
		for range 2 { // the second call confirms the first
			if err := verb(); err != nil {
				t.Fatalf("verb %d: %v", i, err)
			}
		}
		want := worlds[i]
		wait.Equal(t, fmt.Sprintf("after verb %d", i), want, func() string { return seen(h, dir) })
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "state/ledger/*/*")); len(left) != 0 {
		t.Errorf("left in the ledger: %v", left)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "r/*/*")); len(left) != 0 {
		t.Errorf("left in the run directory: %v", left)
	}
}

// TestFailEverywhere fails each call that changes the host, once. The same
// verb, or waiting, gets there all the same.
func TestFailEverywhere(t *testing.T) {
	for failAt := 1; ; failAt++ {
		h, dir := newHost(t), shortDir(t)
		h.failAt = failAt
		a := h.boot(dir)
		for i, verb := range life(t.Context(), a.Agent) {
			if err := verb(); err != nil {
				t.Fatalf("call %d failed, verb %d: %v", failAt, i, err)
			}
			wait.Equal(t, fmt.Sprintf("call %d failed, verb %d", failAt, i), worlds[i], func() string { return seen(h, dir) })
		}
		a.stop()
		if !h.failed {
			t.Logf("%d calls", failAt-1)
			return
		}
	}
}

// TestDieEverywhere ends the agent at each call that changes the host, and
// goes on with a new one that knows only the ledger and the host.
func TestDieEverywhere(t *testing.T) {
	for dieAt := 1; ; dieAt++ {
		h, dir := newHost(t), shortDir(t)
		died := make(chan struct{})
		h.onCall = func(n int) {
			if n == dieAt {
				close(died)
				h.failAt = n // the call itself does not happen
			}
		}
		n := h.boot(dir)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			select {
			case <-died:
				cancel()
			case <-ctx.Done():
			}
		}()
		i := 0
		for verbs := life(ctx, n.Agent); i < len(verbs); i++ {
			if err := verbs[i](); err != nil {
				break
			}
			wait.Until(t, fmt.Sprintf("dies at %d, verb %d", dieAt, i), func() bool { return seen(h, dir) == worlds[i] || ctx.Err() != nil })
			if ctx.Err() != nil {
				break
			}
		}
		n.stop()
		cancel()
		h.mu.Lock()
		over := !h.failed
		h.mu.Unlock()
		if over {
			t.Logf("%d calls", dieAt-1)
			return
		}
		a := h.boot(dir)
		for verbs := life(t.Context(), a.Agent); i < len(verbs); i++ {
			if err := verbs[i](); err != nil {
				t.Fatalf("died at %d, verb %d: %v", dieAt, i, err)
			}
			wait.Equal(t, fmt.Sprintf("died at %d, verb %d", dieAt, i), worlds[i], func() string { return seen(h, dir) })
		}
		a.stop()
	}
}

// TestRestartTouchesNothing: an agent that starts over a settled host adopts.
func TestRestartTouchesNothing(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	a := h.boot(dir)
	for _, verb := range life(t.Context(), a.Agent)[:3] {
		if err := verb(); err != nil {
			t.Fatal(err)
		}
	}
	a.stop()
	h.log = nil
	a = h.boot(dir)
	at, err := a.Attach(t.Context(), docsVM1())
	if err != nil || at.Status.Phase != model.Ready || at.Guest != model.GuestMounted {
		t.Errorf("attachment is %+v, %v", at.Status, err)
	}
	if e, err := a.PutExport(t.Context(), docs()); err != nil || e.Status.Phase != model.Ready {
		t.Errorf("export is %+v, %v", e.Status, err)
	}
	// The guest's mount cannot be seen from here; mounting again is harmless.
	if want := []string{"guest mount docs"}; !slices.Equal(h.log, want) {
		t.Errorf("a restart did %q, want %q", h.log, want)
	}
}

func TestGatewayDies(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	a := h.boot(dir)
	for _, verb := range life(t.Context(), a.Agent)[:2] {
		if err := verb(); err != nil {
			t.Fatal(err)
		}
	}
	h.gateways["blue"].kill()
	wait.Equal(t, "serving again", worlds[1], func() string { return seen(h, dir) })
	wait.Until(t, "one restart counted", func() bool {
		n, err := a.Network(t.Context(), "blue")
		return err == nil && n.Gateway.Restarts == 1 && n.Gateway.Running && n.Gateway.Exports == 1
	})
}

func TestDrift(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	a := h.boot(dir)
	made, err := a.PutNetwork(t.Context(), blue())
	if err != nil || made.Drift.Count != 0 {
		t.Fatalf("%+v, %v: what is made has not drifted", made.Drift, err)
	}
	told := make(chan model.Drift, 100)
	watching, stop := context.WithCancel(t.Context())
	watched := make(chan error)
	go func() {
		watched <- a.Watch(watching, func(e model.Event) error {
			if e.Network != nil {
				told <- e.Network.Drift
			}
			return nil
		})
	}()
	<-told // as it is
	h.mu.Lock()
	h.drift = true
	h.mu.Unlock()
	a.NetworksChanged()
	wait.Until(t, "repaired in place", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return !h.drift })
	d := <-told
	if d.Count != 1 || d.At.IsZero() || !slices.Equal(d.What, []string{"link is down"}) {
		t.Errorf("watchers were told of %+v", d)
	}
	wait.Until(t, "ready", func() bool {
		n, err := a.Network(t.Context(), "blue")
		return err == nil && n.Status.Phase == model.Ready && n.Drift.Count == 1
	})
	n := blue()
	n.MTU = 9000
	if n, err = a.UpdateNetwork(t.Context(), n, 0); err != nil || n.Drift.Count != 1 {
		t.Errorf("after a change: %+v, %v; what somebody asked for is no drift", n.Drift, err)
	}
	stop()
	if err := <-watched; err != nil {
		t.Error(err)
	}
	if slices.Contains(h.log, "remove cw-blue") {
		t.Errorf("did %q: a namespace that drifted is repaired, not made anew", h.log)
	}
}

func TestDamagedRecordOwnsWhatItMayOwn(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	a := h.boot(dir)
	other := docsVM1()
	other.ID, other.Instance = "docs-vm2", "vm2"
	for _, at := range []model.Attachment{docsVM1(), other} {
		if _, err := a.Attach(t.Context(), at); err != nil {
			t.Fatal(err)
		}
	}
	a.stop()
	path := filepath.Join(dir, "state/ledger/attachment/docs-vm1.json")
	// Not JSON, and JSON that is no attachment.
	odd := filepath.Join(dir, "state/ledger/attachment/odd.json")
	for file, text := range map[string]string{path: "{", odd: `{"format":1,"kind":"attachment","id":"odd","body":{"generation":1}}`} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a = h.boot(dir)
	n, err := a.Node(t.Context())
	if all := strings.Join(n.Damaged, "\n"); err != nil || len(n.Damaged) != 2 || !strings.Contains(all, path) || !strings.Contains(all, odd) {
		t.Errorf("damaged: %q, %v", n.Damaged, err)
	}
	if err := a.Detach(t.Context(), "docs-vm2"); err != nil {
		t.Fatal(err)
	}
	got := h.String()
	for _, want := range []string{"daemon docs-vm1", "device ua-cw-docs-vm1", "mount cw-"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is gone, which the damaged record may own; host:\n%s", want, got)
		}
	}
	_, err = a.Attach(t.Context(), docsVM1())
	reasonOf(t, err, fault.Precondition, fault.RecordDamaged)
	other.Tag = "docs"
	other.Instance = "vm1"
	_, err = a.Attach(t.Context(), other)
	reasonOf(t, err, fault.Precondition, fault.TagTaken)
}

func TestFiftyAtOnce(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	h.instances["vm1"].FreePorts = 100
	a := h.boot(dir)
	ctx := t.Context()
	if _, err := a.PutNetwork(ctx, blue()); err != nil {
		t.Fatal(err)
	}
	for i := range 7 {
		h.shares[fmt.Sprint("s", i)] = true
	}
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			if i%2 == 0 {
				e := docs()
				e.ID, e.Connection = fmt.Sprint("e", i), share(fmt.Sprint("s", i%7))
				if _, err := a.PutExport(ctx, e); err != nil {
					t.Errorf("export %d: %v", i, err)
				}
				return
			}
			at := model.Attachment{ID: fmt.Sprint("a", i), Instance: "vm1", Connection: share(fmt.Sprint("s", i%7)), Tag: fmt.Sprint("t", i), ReadOnly: i%3 == 0, Forced: true}
			if _, err := a.Attach(ctx, at); err != nil {
				t.Errorf("attach %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	exports, _ := a.Exports(ctx, "")
	ids := map[uint16]bool{}
	for _, e := range exports {
		ids[e.ExportID] = true
	}
	if len(ids) != 25 || !ids[1] || !ids[25] {
		t.Errorf("export ids %v, want 1 to 25", ids)
	}
	for i := range 50 {
		wg.Go(func() {
			if err := errors.Join(a.DeleteExport(ctx, fmt.Sprint("e", i)), a.Detach(ctx, fmt.Sprint("a", i))); err != nil {
				t.Errorf("remove %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	wait.Equal(t, "the gateway to go with its last export", "namespace cw-blue", h.String)
}

// TestStepWithoutEffect: what claims to work and does not is not tried as fast
// as the machine can.
func TestStepWithoutEffect(t *testing.T) {
	h := newHost(t)
	h.idle = true
	a := h.boot(shortDir(t))
	if _, err := a.PutNetwork(t.Context(), blue()); err != nil {
		t.Fatal(err)
	}
	failed := func() bool {
		e, err := a.Export(t.Context(), "docs")
		return err == nil && e.Status.Phase == model.Failed
	}
	_, err := a.PutExport(endsAfter(t, 300*time.Millisecond, failed), docs())
	reasonOf(t, err, fault.Deadline, fault.CallTimeout)
	e, err := a.Export(t.Context(), "docs")
	if err != nil || e.Status.Phase != model.Failed || e.Status.Reason != fault.StepFailed {
		t.Errorf("status %+v, %v", e.Status, err)
	}
	h.mu.Lock()
	calls := h.calls
	h.idle = false
	h.mu.Unlock()
	if calls > 30 {
		t.Errorf("%d calls in 300 ms", calls)
	}
	if _, err := a.PutExport(t.Context(), docs()); err != nil {
		t.Error(err)
	}
}

func TestSameCallTwiceAtOnce(t *testing.T) {
	h := newHost(t)
	a := h.boot(shortDir(t))
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if _, err := a.Attach(t.Context(), docsVM1()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := strings.Count(h.String(), "device"); n != 1 {
		t.Errorf("%d devices", n)
	}
}
