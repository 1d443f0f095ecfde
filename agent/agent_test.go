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

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-project/causeway/agent/access"
	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/agent/word"
	"github.com/causeway-project/causeway/drivers"
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
	return model.Attachment{ID: "docs-vm1", Instance: "vm1", Connection: share("docs"), Tag: "docs", MountAt: "/mnt/docs"}
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
		eventually(t, fmt.Sprintf("after verb %d the host has\n%s\nand not\n%s", i, want, seen(h, dir)), func() bool { return seen(h, dir) == want })
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
			eventually(t, fmt.Sprintf("call %d failed, verb %d", failAt, i), func() bool { return seen(h, dir) == worlds[i] })
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
			eventually(t, fmt.Sprintf("dies at %d, verb %d", dieAt, i), func() bool { return seen(h, dir) == worlds[i] || ctx.Err() != nil })
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
			eventually(t, fmt.Sprintf("died at %d, verb %d: host has\n%s\nwant\n%s", dieAt, i, seen(h, dir), worlds[i]), func() bool { return seen(h, dir) == worlds[i] })
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

func reasonOf(t *testing.T, err error, kind fault.Kind, reason fault.Reason) {
	t.Helper()
	var e *fault.Error
	if !errors.As(err, &e) || e.Kind != kind || e.Reason != reason {
		t.Errorf("error is %#v, want %s %s", err, kind, reason)
		return
	}
	if e.Message == "" || strings.ContainsAny(e.Error(), "\x00\n") || len(e.Error()) > 700 {
		t.Errorf("message of %s is not for a person: %q", reason, e.Error())
	}
}

// TestRefusals: each is refused with its reason, and nothing is on the host or
// in the ledger afterwards that was not there before.
func TestRefusals(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	a := h.boot(dir)
	ctx := t.Context()
	for _, verb := range life(ctx, a.Agent)[:3] {
		if err := verb(); err != nil {
			t.Fatal(err)
		}
	}
	attach := func(change func(*model.Attachment)) func() error {
		return func() error {
			at := model.Attachment{ID: "new", Instance: "vm1", Connection: share("music"), Tag: "music"}
			change(&at)
			_, err := a.Attach(ctx, at)
			return err
		}
	}
	export := func(change func(*model.Export)) func() error {
		return func() error {
			e := model.Export{ID: "new", Network: "blue", Connection: share("music"), Rules: docs().Rules}
			change(&e)
			_, err := a.PutExport(ctx, e)
			return err
		}
	}
	network := func(change func(*model.Network)) func() error {
		return func() error {
			n := model.Network{ID: "red", Plug: bridgePlug("br-red"), Addresses: []netip.Prefix{prefix("10.77.0.2/24")}}
			change(&n)
			_, err := a.PutNetwork(ctx, n)
			return err
		}
	}
	rule := func(change func(*access.Rule)) func() error {
		return export(func(e *model.Export) { e.Rules = slices.Clone(e.Rules); change(&e.Rules[0]) })
	}
	address := func(s string) func() error {
		return network(func(n *model.Network) { n.Addresses = []netip.Prefix{prefix(s)} })
	}
	type refusal struct {
		name   string
		call   func() error
		kind   fault.Kind
		reason fault.Reason
	}
	cases := []refusal{
		{"unknown instance", attach(func(at *model.Attachment) { at.Instance = "nobody" }), fault.NotFound, fault.InstanceNotFound},
		{"instance off", attach(func(at *model.Attachment) { at.Instance = "off" }), fault.Precondition, fault.InstanceOff},
		{"no shared memory", attach(func(at *model.Attachment) { at.Instance = "plain" }), fault.Precondition, fault.NoSharedMemory},
		{"instance with a newline", attach(func(at *model.Attachment) { at.Instance = "vm1\nvm2" }), fault.Invalid, fault.BadInstance},
		{"tag taken", attach(func(at *model.Attachment) { at.Tag = "docs" }), fault.Precondition, fault.TagTaken},
		{"tag empty", attach(func(at *model.Attachment) { at.Tag = "" }), fault.Invalid, fault.BadTag},
		{"tag of 37 bytes", attach(func(at *model.Attachment) { at.Tag = strings.Repeat("x", 37) }), fault.Invalid, fault.BadTag},
		{"tag not printable", attach(func(at *model.Attachment) { at.Tag = "a\x07" }), fault.Invalid, fault.BadTag},
		{"tag in another script", attach(func(at *model.Attachment) { at.Tag = "документ" }), fault.Invalid, fault.BadTag},
		{"tag of a block device", attach(func(at *model.Attachment) { at.Tag = "UUID=x" }), fault.Invalid, fault.BadTag},
		{"relative mount path", attach(func(at *model.Attachment) { at.MountAt = "mnt" }), fault.Invalid, fault.BadMountPath},
		{"mount path that climbs", attach(func(at *model.Attachment) { at.MountAt = "/mnt/../etc" }), fault.Invalid, fault.BadMountPath},
		{"source missing", attach(func(at *model.Attachment) { at.Connection.Source = "none" }), fault.NotFound, fault.ShareNotFound},
		{"source outside", attach(func(at *model.Attachment) { at.Connection.Source = "../x" }), fault.Invalid, fault.BadSource},
		{"unknown driver", attach(func(at *model.Attachment) { at.Connection.Kind = "nfs9" }), fault.Invalid, fault.UnknownDriver},
		{"other settings", attach(func(at *model.Attachment) { at.ID = "docs-vm1" }), fault.Conflict, fault.OtherSettings},
		{"other instance", attach(func(at *model.Attachment) { *at = docsVM1(); at.Instance = "vm2" }), fault.Conflict, fault.OtherSettings},
		{"bad source of an export", export(func(e *model.Export) { e.Connection.Source = "none" }), fault.NotFound, fault.ShareNotFound},
		{"network unknown", export(func(e *model.Export) { e.Network = "green" }), fault.NotFound, fault.UnknownNetwork},
		{"pseudo path taken", export(func(e *model.Export) { e.Pseudo = "/docs" }), fault.Precondition, fault.PseudoTaken},
		{"pseudo path inside", export(func(e *model.Export) { e.Pseudo = "/docs/more" }), fault.Precondition, fault.PseudoTaken},
		{"pseudo path quoting out", export(func(e *model.Export) { e.Pseudo = `/a"; } EXPORT {` }), fault.Invalid, fault.BadPseudo},
		{"pseudo path is the root", export(func(e *model.Export) { e.Pseudo = "/" }), fault.Invalid, fault.BadPseudo},
		{"pseudo path climbs", export(func(e *model.Export) { e.Pseudo = "/a/../b" }), fault.Invalid, fault.BadPseudo},
		{"export with another source", export(func(e *model.Export) { e.ID = "docs"; e.Pseudo = "/docs" }), fault.Conflict, fault.OtherSettings},
		{"rule without client", rule(func(r *access.Rule) { r.Client = netip.Prefix{} }), fault.Invalid, fault.BadRule},
		{"rule with host bits", rule(func(r *access.Rule) { r.Client = prefix("10.77.0.9/24") }), fault.Invalid, fault.BadRule},
		{"rule of an IPv6 prefix that Ganesha misreads", rule(func(r *access.Rule) { r.Client = prefix("fd77::10/124") }), fault.Invalid, fault.BadRule},
		{"rule without level", rule(func(r *access.Rule) { r.Level = "" }), fault.Invalid, fault.BadRule},
		{"rule of unknown squash", rule(func(r *access.Rule) { r.Squash = "some" }), fault.Invalid, fault.BadRule},
		{"two rules for one client", rule(func(r *access.Rule) { r.Client = prefix("10.77.0.5/32") }), fault.Invalid, fault.RuleConflict},
		{"bridge missing", network(func(n *model.Network) { n.Plug = bridgePlug("br-none") }), fault.Precondition, fault.NoBridge},
		{"bridge name that climbs", network(func(n *model.Network) { n.Plug = bridgePlug("../x") }), fault.Invalid, fault.BadBridge},
		{"address on the same bridge", network(func(n *model.Network) { n.Plug = bridgePlug("br-blue") }), fault.Precondition, fault.AddressTaken},
		{"address of a machine on the network", address("10.77.0.66/24"), fault.Precondition, fault.AddressInUse},
		{"no address", network(func(n *model.Network) { n.Addresses = nil }), fault.Invalid, fault.BadAddress},
		{"address twice", network(func(n *model.Network) { n.Addresses = append(n.Addresses, n.Addresses[0]) }), fault.Invalid, fault.BadAddress},
		{"prefix length 0", address("10.77.0.2/0"), fault.Invalid, fault.BadAddress},
		{"the network's own address", address("10.77.0.0/24"), fault.Invalid, fault.BadAddress},
		{"the broadcast address", address("10.77.0.255/24"), fault.Invalid, fault.BadAddress},
		{"multicast", address("224.0.0.1/24"), fault.Invalid, fault.BadAddress},
		{"loopback", address("::1/128"), fault.Invalid, fault.BadAddress},
		{"route off the link", network(func(n *model.Network) {
			n.Routes = []model.Route{{Destination: prefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.78.0.1")}}
		}), fault.Invalid, fault.BadRoute},
		{"small MTU", network(func(n *model.Network) { n.MTU = 1279 }), fault.Invalid, fault.BadMTU},
		{"multicast MAC", network(func(n *model.Network) { n.MAC = "01:00:00:00:00:01" }), fault.Invalid, fault.BadMAC},
		{"network with other settings", network(func(n *model.Network) { n.ID = "blue" }), fault.Conflict, fault.OtherSettings},
		{"network in use", func() error { return a.DeleteNetwork(ctx, "blue") }, fault.Precondition, fault.NetworkInUse},
		{"get of nothing", func() error { _, err := a.Export(ctx, "none"); return err }, fault.NotFound, fault.UnknownID},
	}
	for _, id := range []string{"", `"`, "a;b", "a\nb", "{}", "..", "a..b", "../x", "a/b", "a\x00b", strings.Repeat("x", 64), strings.Repeat("x", 10000), "имя", "-a", " a"} {
		cases = append(cases,
			refusal{"attachment " + word.Quote(id), attach(func(at *model.Attachment) { at.ID = id }), fault.Invalid, fault.BadID},
			refusal{"export " + word.Quote(id), export(func(e *model.Export) { e.ID = id; e.Pseudo = "/x" }), fault.Invalid, fault.BadID},
			refusal{"network " + word.Quote(id), network(func(n *model.Network) { n.ID = id }), fault.Invalid, fault.BadID})
	}
	before, ledger := h.String(), ledgerFiles(dir)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			reasonOf(t, c.call(), c.kind, c.reason)
			eventually(t, "nothing half-made", func() bool { return h.String() == before })
			if d := cmp.Diff(ledger, ledgerFiles(dir)); d != "" {
				t.Errorf("ledger (-before +after):\n%s", d)
			}
		})
	}
}

func ledgerFiles(dir string) []string {
	files, _ := filepath.Glob(filepath.Join(dir, "state/ledger/*/*"))
	return files
}

func TestUnknownIDsAreRemovedAlready(t *testing.T) {
	h := newHost(t)
	a := h.boot(shortDir(t))
	for _, err := range []error{a.Detach(t.Context(), "x"), a.DeleteExport(t.Context(), "x"), a.DeleteNetwork(t.Context(), "x")} {
		if err != nil {
			t.Error(err)
		}
	}
}

// TestReadOnlyExport: the rules say so, since one mount of a file system serves
// all its exports.
func TestReadOnlyExport(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	a := h.boot(dir)
	if _, err := a.PutNetwork(t.Context(), blue()); err != nil {
		t.Fatal(err)
	}
	e := docs()
	e.ReadOnly = true
	if _, err := a.PutExport(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if got := seen(h, dir); strings.Contains(got, " rw ") || !strings.Contains(got, "10.77.0.5/32 ro") {
		t.Errorf("somebody may write:\n%s", got)
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
	eventually(t, "serving again", func() bool { return seen(h, dir) == worlds[1] })
	eventually(t, "one restart counted", func() bool {
		n, err := a.Network(t.Context(), "blue")
		return err == nil && n.Gateway.Restarts == 1 && n.Gateway.Running && n.Gateway.Exports == 1
	})
}

// TestDaemonDies: the device goes first, without the guest being asked to
// unmount, whose task would hang.
func TestDaemonDies(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	a := h.boot(dir)
	if _, err := a.Attach(t.Context(), docsVM1()); err != nil {
		t.Fatal(err)
	}
	before := h.String()
	h.mu.Lock()
	h.log = nil
	h.endDaemon(a.at.Daemon("docs-vm1"))
	h.mu.Unlock()
	want := []string{"detach ua-cw-docs-vm1", "guest unmount docs", "daemon docs-vm1", "attach ua-cw-docs-vm1", "guest mount docs"}
	eventually(t, "repaired", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.log) >= len(want)
	})
	if !slices.Equal(h.log, want) || h.String() != before {
		t.Errorf("did %q, want %q; host:\n%s", h.log, want, h)
	}
}

func TestGuestBusy(t *testing.T) {
	h := newHost(t)
	a := h.boot(shortDir(t))
	if _, err := a.Attach(t.Context(), docsVM1()); err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	h.guestBusy = true
	h.mu.Unlock()
	reasonOf(t, a.Detach(t.Context(), "docs-vm1"), fault.Precondition, fault.GuestBusy)
	at, err := a.Attachment(t.Context(), "docs-vm1")
	if err != nil || at.Status.Phase != model.Degraded || at.Status.Reason != fault.GuestBusy {
		t.Errorf("status %+v, %v", at.Status, err)
	}
	// Another instance gets the share all the same.
	other := docsVM1()
	other.ID, other.Instance = "docs-vm2", "vm2"
	if _, err := a.Attach(t.Context(), other); err != nil {
		t.Error(err)
	}
	_, err = a.Attach(t.Context(), docsVM1())
	reasonOf(t, err, fault.Busy, fault.BeingRemoved)
	h.mu.Lock()
	h.guestBusy = false
	h.mu.Unlock()
	if err := a.Detach(t.Context(), "docs-vm1"); err != nil {
		t.Error(err)
	}
}

func TestInstanceGoesOffAndComesBack(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	a := h.boot(dir)
	if _, err := a.Attach(t.Context(), docsVM1()); err != nil {
		t.Fatal(err)
	}
	before := h.String()
	power := func(on bool) {
		h.mu.Lock()
		i := h.instances["vm1"]
		i.Running, i.Devices = on, nil
		h.guests = map[string]bool{}
		if !on {
			h.endDaemon(a.at.Daemon("docs-vm1"))
		}
		h.mu.Unlock()
		a.InstanceChanged(parts.InstanceEvent{UUID: i.UUID, Rebooted: on})
	}
	power(false)
	eventually(t, "all released", func() bool { return h.String() == "" })
	eventually(t, "pending", func() bool {
		at, _ := a.Attachment(t.Context(), "docs-vm1")
		return at.Status.Phase == model.Pending && at.Status.Reason == fault.InstanceOff
	})
	power(true)
	eventually(t, "attached again", func() bool { return h.String() == before })
}

// TestLibvirtAway: nothing is touched that could not be seen, and the same
// share's export goes on.
func TestLibvirtAway(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	a := h.boot(dir)
	if _, err := a.Attach(t.Context(), docsVM1()); err != nil {
		t.Fatal(err)
	}
	a.stop()
	before := h.String()
	h.libvirtOff = true
	a = h.boot(dir)
	if got := h.String(); got != before {
		t.Errorf("host has\n%s\nwant\n%s", got, before)
	}
	if _, err := a.PutNetwork(t.Context(), blue()); err != nil {
		t.Error(err)
	}
	if _, err := a.PutExport(t.Context(), docs()); err != nil {
		t.Error(err)
	}
	at, err := a.Attachment(t.Context(), "docs-vm1")
	if err != nil || at.Status.Phase != model.Degraded || at.Status.Reason != fault.LibvirtUnavailable {
		t.Errorf("status %+v, %v", at.Status, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	reasonOf(t, a.Detach(ctx, "docs-vm1"), fault.Deadline, fault.CallTimeout)
	h.mu.Lock()
	h.libvirtOff = false
	h.mu.Unlock()
	a.InstanceChanged(parts.InstanceEvent{})
	if err := a.Detach(t.Context(), "docs-vm1"); err != nil {
		t.Error(err)
	}
}

func TestGuestWithoutAgent(t *testing.T) {
	h := newHost(t)
	h.agentless = true
	a := h.boot(shortDir(t))
	at, err := a.Attach(t.Context(), docsVM1())
	if err != nil || at.Status.Phase != model.Degraded || at.Status.Reason != fault.GuestAgentAbsent || at.Guest != model.GuestDeviceOnly {
		t.Errorf("attachment is %+v %s, %v: want the device, and to be told of the mount", at.Status, at.Guest, err)
	}
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
	eventually(t, "repaired in place", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return !h.drift })
	d := <-told
	if d.Count != 1 || d.At.IsZero() || !slices.Equal(d.What, []string{"link is down"}) {
		t.Errorf("watchers were told of %+v", d)
	}
	eventually(t, "ready", func() bool {
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

func TestShareDeletedUnderAnAttachment(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	a := h.boot(dir)
	if _, err := a.Attach(t.Context(), docsVM1()); err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	h.gone[a.at.Mount(intent.ConnectionOf(share("docs")).MountName())] = true
	delete(h.shares, "docs")
	h.mu.Unlock()
	at, err := a.RepairAttachment(t.Context(), "docs-vm1")
	if err != nil || at.Status.Phase != model.Degraded || at.Status.Reason != fault.ShareGone {
		t.Errorf("status %+v, %v", at.Status, err)
	}
	if err := a.Detach(t.Context(), "docs-vm1"); err != nil || h.String() != "" {
		t.Errorf("detach: %v; left:\n%s", err, h)
	}
}

// TestShareDeletedUnderAnExport: the export says so, and is served again when
// the share is there again, without anybody's call.
func TestShareDeletedUnderAnExport(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	a := h.boot(dir)
	if _, err := a.PutNetwork(t.Context(), blue()); err != nil {
		t.Fatal(err)
	}
	if _, err := a.PutExport(t.Context(), docs()); err != nil {
		t.Fatal(err)
	}
	before := h.String()
	look := func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		for key := range a.groups {
			a.wakeLocked(key, lookAgain)
		}
	}
	mount := a.at.Mount(intent.ConnectionOf(share("docs")).MountName())
	h.mu.Lock()
	h.gone[mount] = true
	delete(h.shares, "docs")
	h.mu.Unlock()
	look()
	status := func() model.Status {
		e, err := a.Export(t.Context(), "docs")
		if err != nil {
			t.Fatal(err)
		}
		return e.Status
	}
	eventually(t, "degraded", func() bool { return status().Phase == model.Degraded && status().Reason == fault.ShareGone })
	if now := h.String(); now != before {
		t.Errorf("the host has\n%s\nand had\n%s", now, before)
	}
	h.mu.Lock()
	h.shares["docs"] = true
	h.mu.Unlock()
	look()
	eventually(t, "ready", func() bool { return status().Phase == model.Ready })
	h.mu.Lock()
	gone := h.gone[mount]
	h.mu.Unlock()
	if now := h.String(); now != before || gone {
		t.Errorf("the mount is of the deleted share: %v; the host has\n%s\nand had\n%s", gone, now, before)
	}
	if err := errors.Join(a.DeleteExport(t.Context(), "docs"), a.DeleteNetwork(t.Context(), "blue")); err != nil || h.String() != "" {
		t.Errorf("delete: %v; left:\n%s", err, h)
	}
}

// TestViewTakenAway: it is made again under its export, of which clients have
// files open.
func TestViewTakenAway(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	a := h.boot(dir)
	if _, err := a.PutNetwork(t.Context(), blue()); err != nil {
		t.Fatal(err)
	}
	if _, err := a.PutExport(t.Context(), docs()); err != nil {
		t.Fatal(err)
	}
	before, view := h.String(), a.at.View("blue", "docs")
	h.mu.Lock()
	delete(h.mounted, view)
	puts := len(h.log)
	h.mu.Unlock()
	a.MountsChanged()
	eventually(t, "made again", func() bool { return h.String() == before })
	h.mu.Lock()
	defer h.mu.Unlock()
	if done := h.log[puts:]; !slices.Equal(done, []string{"bind docs"}) {
		t.Errorf("steps %q", done)
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
			at := model.Attachment{ID: fmt.Sprint("a", i), Instance: "vm1", Connection: share(fmt.Sprint("s", i%7)), Tag: fmt.Sprint("t", i), ReadOnly: i%3 == 0}
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
	eventually(t, "the gateway to go with its last export", func() bool { return h.String() == "namespace cw-blue" })
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
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := a.PutExport(ctx, docs())
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

func TestWatch(t *testing.T) {
	h := newHost(t)
	a := h.boot(shortDir(t))
	if _, err := a.PutNetwork(t.Context(), blue()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events := make(chan model.Event, 100)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := a.Watch(ctx, func(e model.Event) error { events <- e; return nil }); err != nil {
			t.Error(err)
		}
	})
	first, synced := <-events, <-events
	if first.Network == nil || first.Network.Status.Phase != model.Ready || !synced.Synced {
		t.Fatalf("began with %+v, %+v", first, synced)
	}
	if _, err := a.PutExport(t.Context(), docs()); err != nil {
		t.Fatal(err)
	}
	if err := a.DeleteExport(t.Context(), "docs"); err != nil {
		t.Fatal(err)
	}
	var phases []model.Phase
	for e := range events {
		if e.Export == nil {
			continue
		}
		if phases = append(phases, e.Export.Status.Phase); e.Deleted {
			break
		}
	}
	for _, p := range []model.Phase{model.Working, model.Ready, model.Removing} {
		if !slices.Contains(phases, p) {
			t.Errorf("phases %v lack %s", phases, p)
		}
	}
	cancel()
	wg.Wait()
}

func TestSlowWatcherIsEnded(t *testing.T) {
	h := newHost(t)
	a := h.boot(shortDir(t))
	block := make(chan struct{})
	ended := make(chan error)
	go func() {
		ended <- a.Watch(t.Context(), func(model.Event) error { <-block; return nil })
	}()
	for i := range watchBuffer {
		n := blue()
		n.ID = fmt.Sprint("n", i)
		n.Addresses = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77, byte(i / 200), byte(i%200 + 2)}), 16)}
		if _, err := a.PutNetwork(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	close(block)
	reasonOf(t, <-ended, fault.Busy, fault.WatchOverrun)
}

func TestRequestsWaitForSync(t *testing.T) {
	h := newHost(t)
	registry, err := drivers.NewRegistry(h)
	if err != nil {
		t.Fatal(err)
	}
	dir := shortDir(t)
	a, err := New(Options{StateDir: dir + "/s", RunDir: dir + "/r", Drivers: registry, Logger: discard})
	if err != nil {
		t.Fatal(err)
	}
	_, err = a.Attach(t.Context(), docsVM1())
	reasonOf(t, err, fault.Unavailable, fault.NotInSync)
	reasonOf(t, a.DeleteNetwork(t.Context(), "blue"), fault.Unavailable, fault.NotInSync)
}
