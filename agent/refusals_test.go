package agent

import (
	"errors"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-project/causeway/agent/access"
	"github.com/causeway-project/causeway/agent/device"
	"github.com/causeway-project/causeway/agent/engine"
	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/word"
	"github.com/causeway-project/causeway/drivers"
	"github.com/causeway-project/causeway/integration/wait"
)

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
		{"unknown cache", attach(func(at *model.Attachment) { at.Settings.Cache = "none,source=/etc" }), fault.Invalid, fault.BadSettings},
		{"cache that virtiofsd lacks", attach(func(at *model.Attachment) { at.Settings.Cache = device.CacheMetadata }), fault.Precondition, fault.DaemonUnable},
		{"queue of an odd size", attach(func(at *model.Attachment) { at.Settings.QueueSize = 1000 }), fault.Invalid, fault.BadSettings},
		{"access control lists without xattr", attach(func(at *model.Attachment) { at.Settings.PosixACL, at.Settings.Xattr = device.On, device.Off }), fault.Invalid, fault.BadSettings},
		{"squash to root", attach(func(at *model.Attachment) { at.IDs = device.IDs{Policy: device.Squash, GID: 1} }), fault.Invalid, fault.BadIDs},
		{"squash that virtiofsd lacks", attach(func(at *model.Attachment) { at.IDs = device.IDs{Policy: device.Squash, UID: 1, GID: 1} }), fault.Precondition, fault.DaemonUnable},
		{"ids that do not have the share's owner", attach(func(at *model.Attachment) {
			r := []device.Range{{Host: 100000, Count: 9}}
			at.IDs = device.IDs{Policy: device.Map, UIDs: r, GIDs: r}
		}), fault.Precondition, fault.OwnerUnmapped},
		{"other cache", attach(func(at *model.Attachment) { *at = docsVM1(); at.Settings.Cache = device.CacheNever }), fault.Conflict, fault.OtherSettings},
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
			wait.Equal(t, "nothing half-made", before, h.String)
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

func TestRequestsWaitForSync(t *testing.T) {
	h := newHost(t)
	registry, err := drivers.NewRegistry(h)
	if err != nil {
		t.Fatal(err)
	}
	dir := shortDir(t)
	a, err := New(Options{Options: engine.Options{StateDir: dir + "/s", RunDir: dir + "/r", Drivers: registry, Logger: discard}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = a.Attach(t.Context(), docsVM1())
	reasonOf(t, err, fault.Unavailable, fault.NotInSync)
	reasonOf(t, a.DeleteNetwork(t.Context(), "blue"), fault.Unavailable, fault.NotInSync)
}
