package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/integration/wait"
	"github.com/causeway-project/causeway/netns"
)

// plugged says how the network blue is on the host, and whether its gateway
// serves and has the records of its clients.
func (h *host) plugged() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	n, there := h.namespaces["cw-blue"]
	if !there {
		return "nowhere"
	}
	s := h.gateways["blue"]
	words := fmt.Sprint(bridgeOf(n), " ", n.Addresses)
	if s != nil && s.done != nil {
		words += " serves"
	}
	if s != nil && s.records {
		words += " knows"
	}
	if s != nil {
		for id, e := range s.exports {
			words += fmt.Sprintf(" %d:%s", id, e.Pseudo)
		}
	}
	return words
}

func blueAt(bridge string, addresses ...string) model.Network {
	n := model.Network{ID: "blue", Plug: bridgePlug(bridge)}
	for _, a := range addresses {
		n.Addresses = append(n.Addresses, prefix(a))
	}
	return n
}

// served is a host with a network, an export and a client, and its agent.
func served(t *testing.T) (*host, *node) {
	t.Helper()
	h := newHost(t)
	a := h.boot(shortDir(t))
	if _, err := a.PutNetwork(t.Context(), blue()); err != nil {
		t.Fatal(err)
	}
	if _, err := a.PutExport(t.Context(), docs()); err != nil {
		t.Fatal(err)
	}
	// The export may serve a moment before its network is said to be ready again
	// with the gateway that came with it.
	wait.Until(t, "its network is ready", func() bool {
		n, err := a.Network(t.Context(), "blue")
		return err == nil && n.Status.Phase == model.Ready
	})
	h.log = nil
	return h, a
}

// TestUpdateInPlace: what can change under a gateway does.
func TestUpdateInPlace(t *testing.T) {
	h, a := served(t)
	ctx := t.Context()
	n := blueAt("br-blue", "10.77.0.3/24")
	n.MTU = 1400
	for range 2 { // the second confirms the first
		got, err := a.UpdateNetwork(ctx, n, 0)
		if err != nil {
			t.Fatal(err)
		}
		if s := got.Status; s.Phase != model.Ready || s.Generation != 2 || s.ObservedGeneration != 2 {
			t.Errorf("status is %+v", s)
		}
	}
	if want := "br-blue [10.77.0.3/24] serves knows 1:/docs"; h.plugged() != want {
		t.Errorf("blue is %s, want %s", h.plugged(), want)
	}
	if want := []string{"ensure cw-blue"}; !slices.Equal(h.log, want) {
		t.Errorf("host was told %q, want %q", h.log, want)
	}
	e, err := a.Export(ctx, "docs")
	if err != nil || !slices.Equal(e.Locations, []string{"10.77.0.3:/docs"}) {
		t.Errorf("locations are %q, %v", e.Locations, err)
	}
	// What the agent answers may be sent back, the MAC that it chose included.
	now, err := a.Network(ctx, "blue")
	if err != nil {
		t.Fatal(err)
	}
	if now, err = a.UpdateNetwork(ctx, now, now.Status.Generation); err != nil || now.Status.Generation != 2 {
		t.Errorf("as answered: %+v, %v", now.Status, err)
	}
	if _, err := a.PutNetwork(ctx, n); err != nil {
		t.Errorf("put as updated: %v", err)
	}
}

// TestReplug: the old gateway is gone before the new one is made, and it is the
// same for its clients.
func TestReplug(t *testing.T) {
	h, a := served(t)
	ctx := t.Context()
	before, err := os.ReadFile(filepath.Join(a.at.Ledger(), "export/docs.json"))
	if err != nil {
		t.Fatal(err)
	}
	var phases []string
	watching, stop := context.WithCancel(ctx)
	watched := make(chan error, 1)
	synced := make(chan struct{})
	go func() {
		watched <- a.Watch(watching, func(e model.Event) error {
			if e.Synced {
				close(synced)
			}
			if n := e.Network; n != nil {
				phases = append(phases, fmt.Sprintf("%s %d/%d", n.Status.Phase, n.Status.ObservedGeneration, n.Status.Generation))
			}
			return nil
		})
	}()
	<-synced
	if _, err := a.UpdateNetwork(ctx, blueAt("br-red", "10.77.0.2/24"), 1); err != nil {
		t.Fatal(err)
	}
	if want := []string{"stop blue", "remove cw-blue", "ensure cw-blue", "start blue"}; !slices.Equal(h.log, want) {
		t.Errorf("host was told %q, want %q", h.log, want)
	}
	if want := "br-red [10.77.0.2/24] serves knows 1:/docs"; h.plugged() != want {
		t.Errorf("blue is %s, want %s", h.plugged(), want)
	}
	after, err := os.ReadFile(filepath.Join(a.at.Ledger(), "export/docs.json"))
	if err != nil || string(after) != string(before) {
		t.Errorf("export's record was %s and is %s, %v", before, after, err)
	}
	if r, err := os.ReadFile(filepath.Join(a.at.Ledger(), "network/blue.json")); err != nil || strings.Contains(string(r), "former") {
		t.Errorf("record is %s, %v", r, err)
	}
	stop()
	if err := <-watched; err != nil {
		t.Error(err)
	}
	if got := slices.Compact(phases); !slices.Contains(got, "working 1/2") || slices.Contains(got[1:], "ready 1/1") {
		t.Errorf("watched %q", got)
	}
}

// TestUpdateRefusals: each is refused with its reason, and afterwards all is as
// before, though some have to be tried to be known.
func TestUpdateRefusals(t *testing.T) {
	h, a := served(t)
	ctx := t.Context()
	red := model.Network{ID: "red", Plug: bridgePlug("br-red"), Addresses: []netip.Prefix{prefix("10.77.0.4/24")}}
	if _, err := a.PutNetwork(ctx, red); err != nil {
		t.Fatal(err)
	}
	redAt := func(address string) model.Network {
		n := red
		n.Addresses = []netip.Prefix{prefix(address)}
		return n
	}
	want := h.plugged()
	for _, c := range []struct {
		name   string
		n      model.Network
		seen   int64
		kind   fault.Kind
		reason fault.Reason
	}{
		{"unknown", model.Network{ID: "green", Plug: bridgePlug("br-red"), Addresses: red.Addresses}, 0, fault.NotFound, fault.UnknownID},
		{"seen another", blueAt("br-blue", "10.77.0.9/24"), 7, fault.Busy, fault.ChangedMeanwhile},
		{"no address", blueAt("br-blue"), 0, fault.Invalid, fault.BadAddress},
		{"bridge missing", blueAt("br-none", "10.77.0.2/24"), 0, fault.Precondition, fault.NoBridge},
		{"another network's address", blueAt("br-red", "10.77.0.4/24"), 0, fault.Precondition, fault.AddressTaken},
		{"another machine's address, in place", redAt("10.77.0.66/24"), 0, fault.Precondition, fault.AddressInUse},
		{"another machine's address, elsewhere", blueAt("br-red", "10.77.0.66/24"), 0, fault.Precondition, fault.AddressInUse},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := a.UpdateNetwork(ctx, c.n, c.seen)
			reasonOf(t, err, c.kind, c.reason)
			if got := h.plugged(); got != want {
				t.Errorf("blue is %s, want %s", got, want)
			}
			h.mu.Lock()
			got := fmt.Sprint(h.namespaces["cw-red"].Addresses)
			h.mu.Unlock()
			if got != "[10.77.0.4/24]" {
				t.Errorf("red has the addresses %s", got)
			}
			for _, id := range []string{"blue", "red"} {
				n, err := a.Network(ctx, id)
				if err != nil || n.Status.Phase != model.Ready || n.Status.ObservedGeneration != n.Status.Generation {
					t.Errorf("%s is %+v, %v", id, n.Status, err)
				}
			}
		})
	}
}

// moves is what may happen to a network that serves, and what is then there.
func moves(ctx context.Context, a *Agent) (verbs []func() error, want []string) {
	update := func(n model.Network) func() error {
		return func() error { _, err := a.UpdateNetwork(ctx, n, 0); return err }
	}
	return []func() error{
			func() error { _, err := a.PutNetwork(ctx, blue()); return err },
			func() error { _, err := a.PutExport(ctx, docs()); return err },
			update(blueAt("br-blue", "10.77.0.3/24")),
			update(blueAt("br-red", "10.77.0.3/24")),
			update(blueAt("br-blue", "10.77.0.2/24")),
			func() error { return a.DeleteExport(ctx, "docs") },
			update(blueAt("br-red", "10.77.0.5/24")),
			func() error { return a.DeleteNetwork(ctx, "blue") },
		}, []string{
			"br-blue [10.77.0.2/24 fd77::2/64]",
			"br-blue [10.77.0.2/24 fd77::2/64] serves knows 1:/docs",
			"br-blue [10.77.0.3/24] serves knows 1:/docs",
			"br-red [10.77.0.3/24] serves knows 1:/docs",
			"br-blue [10.77.0.2/24] serves knows 1:/docs",
			"br-blue [10.77.0.2/24]",
			"br-red [10.77.0.5/24]",
			"nowhere",
		}
}

// TestMoveFailsEverywhere fails each call that changes the host, once.
func TestMoveFailsEverywhere(t *testing.T) {
	for failAt := 1; ; failAt++ {
		h := newHost(t)
		h.failAt = failAt
		a := h.boot(shortDir(t))
		verbs, want := moves(t.Context(), a.Agent)
		for i, verb := range verbs {
			if err := verb(); err != nil {
				t.Fatalf("call %d failed, verb %d: %v", failAt, i, err)
			}
			wait.Equal(t, fmt.Sprintf("call %d failed, verb %d", failAt, i), want[i], h.plugged)
		}
		a.stop()
		if !h.failed {
			t.Logf("%d calls", failAt-1)
			return
		}
	}
}

// TestMoveDiesEverywhere ends the agent at each call that changes the host, and
// goes on with a new one. A gateway that has exports never forgets its clients.
func TestMoveDiesEverywhere(t *testing.T) {
	for dieAt := 1; ; dieAt++ {
		h, dir := newHost(t), shortDir(t)
		ctx, die := context.WithCancel(t.Context())
		h.onCall = func(n int) {
			if n == dieAt {
				h.failAt = n // the call itself does not happen
				die()
			}
		}
		a := h.boot(dir)
		verbs, want := moves(ctx, a.Agent)
		i := 0
		for ; i < len(verbs) && verbs[i]() == nil; i++ {
			wait.Until(t, fmt.Sprintf("dies at %d, verb %d: %s", dieAt, i, want[i]), func() bool { return h.plugged() == want[i] || ctx.Err() != nil })
			if ctx.Err() != nil {
				break
			}
		}
		a.stop()
		die()
		if !h.failed {
			t.Logf("%d calls", dieAt-1)
			return
		}
		a = h.boot(dir)
		// By itself first: the caller may be gone for good.
		if n, err := a.Network(t.Context(), "blue"); err == nil && i < len(want)-1 {
			wait.Until(t, fmt.Sprintf("died at %d in verb %d: %+v", dieAt, i, n.Status), func() bool {
				n, err := a.Network(t.Context(), "blue")
				return err == nil && n.Status.Phase == model.Ready
			})
		}
		verbs, _ = moves(t.Context(), a.Agent)
		for ; i < len(verbs); i++ {
			if err := verbs[i](); err != nil {
				t.Fatalf("died at %d, verb %d: %v", dieAt, i, err)
			}
			wait.Equal(t, fmt.Sprintf("died at %d, verb %d", dieAt, i), want[i], h.plugged)
		}
		a.stop()
	}
}

// TestDeletedOnTheMove: a network that is deleted while it moves leaves nothing,
// wherever the agent was killed.
func TestDeletedOnTheMove(t *testing.T) {
	for dieAt := 1; ; dieAt++ {
		h, a := served(t)
		ctx, die := context.WithCancel(t.Context())
		h.mu.Lock()
		dieAt := h.calls + dieAt
		h.onCall = func(n int) {
			if n == dieAt {
				h.failAt = n
				die()
			}
		}
		h.mu.Unlock()
		_, err := a.UpdateNetwork(ctx, blueAt("br-red", "10.77.0.2/24"), 0)
		die()
		a.stop()
		if err == nil {
			t.Logf("%d calls", h.calls)
			return
		}
		a = h.boot(filepath.Dir(a.o.StateDir))
		if err := errors.Join(a.DeleteExport(t.Context(), "docs"), a.DeleteNetwork(t.Context(), "blue")); err != nil {
			t.Fatalf("died at %d: %v", dieAt, err)
		}
		wait.Equal(t, "nothing is left", "", h.String)
		a.stop()
	}
}

// TestReplugToProvided: the namespace may have another name.
func TestReplugToProvided(t *testing.T) {
	h, a := served(t)
	provided := model.Plug{Kind: model.PlugNone, Namespace: "cni-7", Interface: "eth0"}
	for _, c := range []struct {
		plug  model.Plug
		netns string
		mac   string
	}{{provided, "cni-7", ""}, {bridgePlug("br-red"), "cw-blue", intent.NetworkOf(blue(), "host").LinkMAC}} {
		n, err := a.Network(t.Context(), "blue")
		if err != nil {
			t.Fatal(err)
		}
		n.Plug = c.plug
		got, err := a.UpdateNetwork(t.Context(), n, 0)
		if err != nil || got.MAC != c.mac {
			t.Errorf("to %+v: MAC is %q, %v", c.plug, got.MAC, err)
		}
		h.mu.Lock()
		if names := slices.Collect(maps.Keys(h.namespaces)); !slices.Equal(names, []string{c.netns}) || h.gateways["blue"].place.NetNS != netns.Path(c.netns) {
			t.Errorf("to %+v: there are %q, and the gateway is in %s", c.plug, names, h.gateways["blue"].place.NetNS)
		}
		h.mu.Unlock()
	}
}

// TestRefusedAndKilled: with nobody left to take the change back it stands, the
// old addresses stay too, and the same call is refused again.
func TestRefusedAndKilled(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	a := h.boot(dir)
	ctx := t.Context()
	if _, err := a.PutNetwork(ctx, blueAt("br-red", "10.77.0.3/24")); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithCancel(ctx)
	cancel() // the caller has gone, and hears of nothing
	_, err := a.UpdateNetwork(short, blueAt("br-red", "10.77.0.66/24"), 0)
	if e := (*fault.Error)(nil); !errors.As(err, &e) || e.Kind != fault.Deadline && e.Reason != fault.AddressInUse {
		t.Fatalf("error is %v", err)
	}
	a.stop()
	a = h.boot(dir)
	_, err = a.UpdateNetwork(ctx, blueAt("br-red", "10.77.0.66/24"), 0)
	reasonOf(t, err, fault.Precondition, fault.AddressInUse)
	if want := "br-red [10.77.0.3/24]"; h.plugged() != want {
		t.Errorf("blue is %s, want %s", h.plugged(), want)
	}
	if _, err := a.UpdateNetwork(ctx, blueAt("br-red", "10.77.0.3/24"), 0); err != nil {
		t.Error(err)
	}
}

// TestOtherSettings: a gateway that was started with other settings than its
// network's is replaced, once, and forgets nobody.
func TestOtherSettings(t *testing.T) {
	h, a := served(t)
	a.stop()
	h.mu.Lock()
	h.gateways["blue"].settings = "of another start"
	h.mu.Unlock()
	a = h.boot(filepath.Dir(a.o.StateDir))
	wait.Until(t, "it serves as wanted", func() bool {
		n, err := a.Network(t.Context(), "blue")
		return err == nil && n.Status.Phase == model.Ready && n.Gateway.PID == 44
	})
	if want := "br-blue [10.77.0.2/24 fd77::2/64] serves knows 1:/docs"; h.plugged() != want {
		t.Errorf("blue is %s, want %s", h.plugged(), want)
	}
	if want := []string{"start blue"}; !slices.Equal(h.log, want) {
		t.Errorf("host was told %q, want %q", h.log, want)
	}
}

// TestReboot: a gateway that starts on an empty host has its exports from its
// first moment, or clients that come to reclaim hear that their files are gone.
func TestReboot(t *testing.T) {
	_, a := served(t)
	if _, err := a.PutExport(t.Context(), model.Export{ID: "music", Network: "blue", Connection: share("music"), Rules: docs().Rules}); err != nil {
		t.Fatal(err)
	}
	a.stop()
	if err := os.RemoveAll(a.o.RunDir); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		h := newHost(t)
		a = h.boot(filepath.Dir(a.o.StateDir))
		wait.Until(t, "all is ready", func() bool {
			for _, id := range []string{"docs", "music"} {
				if e, err := a.Export(t.Context(), id); err != nil || e.Status.Phase != model.Ready {
					return false
				}
			}
			return true
		})
		a.stop()
		if s := h.gateways["blue"]; s.first != 2 || s.pid != 1 {
			t.Errorf("start %d of the gateway had %d exports: %q", s.pid, s.first, h.log)
		}
		if err := os.RemoveAll(a.o.RunDir); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRebootWithoutShare: a share that cannot be mounted does not keep the
// others from being served.
func TestRebootWithoutShare(t *testing.T) {
	_, a := served(t)
	if _, err := a.PutExport(t.Context(), model.Export{ID: "music", Network: "blue", Connection: share("music"), Rules: docs().Rules}); err != nil {
		t.Fatal(err)
	}
	a.stop()
	if err := os.RemoveAll(a.o.RunDir); err != nil {
		t.Fatal(err)
	}
	h := newHost(t)
	delete(h.shares, "music")
	a = h.boot(filepath.Dir(a.o.StateDir))
	wait.Until(t, "docs is ready", func() bool {
		e, err := a.Export(t.Context(), "docs")
		return err == nil && e.Status.Phase == model.Ready
	})
	a.stop()
	if s := h.gateways["blue"]; s.first != 1 {
		t.Errorf("the gateway began with %d exports: %q", s.first, h.log)
	}
}
