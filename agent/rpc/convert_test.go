package rpc

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/causeway-project/causeway/agent/access"
	"github.com/causeway-project/causeway/agent/device"
	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/model"
	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/drivers"
)

func compare(t *testing.T, what string, want, got any) {
	t.Helper()
	options := cmp.Options{
		protocmp.Transform(),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b drivers.Secret) bool { return string(a.Reveal()) == string(b.Reveal()) }),
	}
	if diff := cmp.Diff(want, got, options); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestTranslateAttachment(t *testing.T) {
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	got, err := attachmentFrom(&nodev1.Attachment{
		Id: "a", Instance: "vm1", Tag: "docs", ReadOnly: true, MountAt: "/mnt",
		Connection:   &nodev1.Connection{BackendKind: "local", Source: "docs", Options: map[string]string{"k": "v"}, Secret: []byte("s")},
		InstanceUuid: "ignored", Guest: nodev1.GuestState_GUEST_STATE_MOUNTED, Status: &nodev1.Status{Generation: 9},
		Settings: someSettings(), Ids: someIDs(), LockScope: nodev1.LockScope_LOCK_SCOPE_SHARE, UnlockedUsers: []string{"ignored"}, Forced: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	want := model.Attachment{
		ID: "a", Instance: "vm1", Tag: "docs", ReadOnly: true, MountAt: "/mnt",
		Connection: drivers.Connection{Kind: "local", Source: "docs", Options: map[string]string{"k": "v"}, Secret: drivers.NewSecret([]byte("s"))},
		Settings: device.Settings{Cache: device.CacheMetadata, Xattr: device.On, PosixACL: device.Off, Locks: device.LocksShared,
			QueueSize: 256, Threads: 4, Memory: 1 << 30, OpenFiles: 1 << 20},
		IDs: device.IDs{Policy: device.Map, UIDs: []device.Range{{Guest: 0, Host: 100000, Count: 65536}}, GIDs: []device.Range{{Guest: 1, Host: 2, Count: 3}}},
	}
	compare(t, "to the agent", want, got)

	want.InstanceUUID, want.Guest = "u", model.GuestDeviceOnly
	want.LockScope, want.UnlockedUsers, want.Forced = device.ScopeGuest, []string{"export/e\xff"}, true
	want.Persistence, want.LiveOnly = model.LiveOnly, "transient"
	want.Status = model.Status{Generation: 2, ObservedGeneration: 1, Phase: model.Failed, Since: since, Reason: "r", Message: "bad \xff", Attempts: 3}
	compare(t, "to the caller", &nodev1.Attachment{
		Id: "a", Instance: "vm1", Tag: "docs", ReadOnly: true, MountAt: "/mnt",
		Connection:   &nodev1.Connection{BackendKind: "local", Source: "docs", Options: map[string]string{"k": "v"}},
		InstanceUuid: "u", Guest: nodev1.GuestState_GUEST_STATE_DEVICE_ONLY,
		Persistence: nodev1.Persistence_PERSISTENCE_LIVE_ONLY, LiveOnly: "transient",
		Status: &nodev1.Status{Generation: 2, ObservedGeneration: 1, Phase: nodev1.Phase_PHASE_FAILED,
			Since: timestamppb.New(since), Reason: "r", Message: "bad \uFFFD", Attempts: 3},
		Settings: someSettings(), Ids: someIDs(), LockScope: nodev1.LockScope_LOCK_SCOPE_GUEST, UnlockedUsers: []string{"export/e\uFFFD"}, Forced: true,
	}, attachmentTo(want))

	squash := device.IDs{Policy: device.Squash, UID: 1000, GID: 100}
	compare(t, "squash", squash, idsFrom(idsTo(squash)))
	compare(t, "passthrough", device.IDs{}, idsFrom(idsTo(device.IDs{})))
	for _, s := range []*nodev1.DeviceSettings{{Cache: 99}, {Locks: -1}} {
		if _, err := settingsFrom(s); err == nil {
			t.Errorf("%v was taken", s)
		}
	}
}

func someSettings() *nodev1.DeviceSettings {
	return &nodev1.DeviceSettings{
		Cache: nodev1.Cache_CACHE_METADATA, Xattr: proto.Bool(true), PosixAcl: proto.Bool(false), Locks: nodev1.Locks_LOCKS_SHARED,
		QueueSize: 256, Threads: 4, Memory: 1 << 30, OpenFiles: 1 << 20,
	}
}

func someIDs() *nodev1.IdPolicy {
	return &nodev1.IdPolicy{Policy: &nodev1.IdPolicy_Map{Map: &nodev1.IdMap{
		Uids: []*nodev1.IdRange{{Host: 100000, Count: 65536}}, Gids: []*nodev1.IdRange{{Guest: 1, Host: 2, Count: 3}},
	}}}
}

func TestTranslateNetwork(t *testing.T) {
	in := &nodev1.Network{
		Id: "n", Plug: &nodev1.Network_Bridge{Bridge: &nodev1.BridgePlug{Bridge: "br0"}},
		Addresses: []string{"10.77.0.2/24", "fd77::2/64"},
		Routes:    []*nodev1.Route{{Destination: "0.0.0.0/0", Via: "10.77.0.1"}},
		Mtu:       1400, Mac: "02:00:00:00:00:01", NfsVersions: []string{"3", "4.2"},
	}
	got, err := networkFrom(in)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, "to the agent", model.Network{
		ID: "n", Plug: model.Plug{Kind: model.PlugBridge, Bridge: "br0"},
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.77.0.2/24"), netip.MustParsePrefix("fd77::2/64")},
		Routes:    []model.Route{{Destination: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.77.0.1")}},
		MTU:       1400, MAC: "02:00:00:00:00:01", NFSVersions: []model.NFSVersion{model.NFS3, model.NFS42},
	}, got)
	got.Gateway = model.Gateway{Running: true, PID: 7, Restarts: 2, Exports: 3, Version: "4.3"}
	back := proto.CloneOf(in)
	back.Status = &nodev1.Status{}
	back.Gateway = &nodev1.Gateway{Running: true, Pid: 7, Restarts: 2, Exports: 3, Version: "4.3"}
	compare(t, "to the caller", back, networkTo(got))
}

func TestTranslateExport(t *testing.T) {
	in := &nodev1.Export{
		Id: "e", Network: "n", Connection: &nodev1.Connection{BackendKind: "local", Source: "docs"}, Pseudo: "/d", ReadOnly: true,
		Rules: []*nodev1.AccessRule{
			{Client: "10.0.0.7", Level: nodev1.Level_LEVEL_RO},
			{Client: "10.0.0.0/24", Level: nodev1.Level_LEVEL_RW, Squash: nodev1.Squash_SQUASH_ALL, AnonymousUid: proto.Uint32(0), AnonymousGid: proto.Uint32(5)},
			{Client: "fd77::/64", Level: nodev1.Level_LEVEL_RW, Squash: nodev1.Squash_SQUASH_NONE},
			{Client: "fd77::1", Level: nodev1.Level_LEVEL_RW, Squash: nodev1.Squash_SQUASH_ROOT_ID},
			{Id: "r", Client: "::/0", AllowEveryone: true, Level: nodev1.Level_LEVEL_RO, Sec: []nodev1.Sec{nodev1.Sec_SEC_SYS, nodev1.Sec_SEC_KRB5P},
				Priority: -7, ExpiresAt: &timestamppb.Timestamp{Seconds: 1e9, Nanos: 5}, Metadata: map[string]string{"ticket": "7"}},
		},
	}
	got, err := exportFrom(in)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, "to the agent", model.Export{
		ID: "e", Network: "n", Connection: drivers.Connection{Kind: "local", Source: "docs"}, Pseudo: "/d", ReadOnly: true,
		Rules: []access.Rule{
			{Client: netip.MustParsePrefix("10.0.0.7/32"), Level: access.LevelRO, Squash: access.SquashRoot, AnonUID: 65534, AnonGID: 65534},
			{Client: netip.MustParsePrefix("10.0.0.0/24"), Level: access.LevelRW, Squash: access.SquashAll, AnonUID: 0, AnonGID: 5},
			{Client: netip.MustParsePrefix("fd77::/64"), Level: access.LevelRW, Squash: access.SquashNone, AnonUID: 65534, AnonGID: 65534},
			{Client: netip.MustParsePrefix("fd77::1/128"), Level: access.LevelRW, Squash: access.SquashRootID, AnonUID: 65534, AnonGID: 65534},
			{ID: "r", Client: netip.MustParsePrefix("::/0"), Everyone: true, Level: access.LevelRO, Squash: access.SquashRoot, AnonUID: 65534, AnonGID: 65534,
				Sec: []access.Sec{access.SecSys, access.SecKrb5p}, Priority: -7, ExpiresAt: time.Unix(1e9, 5).UTC(), Metadata: map[string]string{"ticket": "7"}},
		},
	}, got)

	got.ExportID, got.Locations = 65535, []string{"10.77.0.2:/d"}
	out := exportTo(got)
	if out.GetExportId() != 65535 || len(out.GetLocations()) != 1 || len(out.GetRules()) != 5 {
		t.Errorf("to the caller: %v", out)
	}
	again, err := exportFrom(out)
	if err != nil {
		t.Fatal(err)
	}
	again.ExportID, again.Locations = got.ExportID, got.Locations
	compare(t, "what was answered, sent again", got, again)
}

func TestEveryEnumIsTranslated(t *testing.T) {
	phases := []model.Phase{model.Pending, model.Working, model.Ready, model.Degraded, model.Removing, model.Failed}
	for _, p := range phases {
		if got := phaseTo(p).String(); got != "PHASE_"+strings.ToUpper(string(p)) {
			t.Errorf("phase %s is %s", p, got)
		}
	}
	if len(phases) != len(nodev1.Phase_name)-1 {
		t.Error("a phase is missing here")
	}
	for _, v := range []model.Verdict{model.Pass, model.Warn, model.Fail} {
		if got := verdictTo(v).String(); got != "VERDICT_"+strings.ToUpper(string(v)) {
			t.Errorf("verdict %s is %s", v, got)
		}
	}
	for _, g := range []model.GuestState{model.GuestUnknown, model.GuestDeviceOnly, model.GuestMounted} {
		if got := guestTo(g).String(); got != "GUEST_STATE_"+strings.ToUpper(strings.ReplaceAll(string(g), "-", "_")) {
			t.Errorf("guest state %s is %s", g, got)
		}
	}
	for _, p := range []model.Persistence{model.PersistenceUnknown, model.LiveOnly, model.Persistent} {
		if got := persistenceTo(p).String(); got != "PERSISTENCE_"+strings.ToUpper(strings.ReplaceAll(string(p), "-", "_")) {
			t.Errorf("persistence %s is %s", p, got)
		}
	}
	for state, v := range ruleStates {
		if v.String() != "RULE_STATE_"+strings.ToUpper(string(state)) {
			t.Errorf("rule state %s is %s", state, v)
		}
	}
	if len(ruleStates) != len(nodev1.RuleState_name)-1 || len(secs) != len(nodev1.Sec_name)-1 {
		t.Error("a rule state or security flavour is missing")
	}
	if phaseTo("x")+nodev1.Phase(verdictTo("x"))+nodev1.Phase(guestTo("x"))+nodev1.Phase(persistenceTo("x")) != 0 {
		t.Error("an unknown word is not unspecified")
	}
}

func TestNodeIsTranslated(t *testing.T) {
	got := nodeTo(model.Node{
		Hostname: "h", Version: "v", InSync: true,
		Drivers:    []drivers.Description{{Kind: "local", Properties: drivers.Properties{StableHandles: true}, Abilities: []drivers.Ability{drivers.CanProbe}}},
		Mounts:     []model.Mount{{Name: "m", Kind: "local", Source: "docs", Path: "/run/m", ReadOnly: true, Users: []string{"export/e"}}},
		Damaged:    []string{"f\xff"},
		Subsystems: []model.Subsystem{{Name: "libvirt", Verdict: model.Warn, Message: "away"}},
	})
	compare(t, "node", &nodev1.GetNodeResponse{
		Hostname: "h", Version: "v", InSync: true,
		Drivers:        []*nodev1.Driver{{Kind: "local", StableHandles: true, Abilities: []string{"probe"}}},
		Mounts:         []*nodev1.Mount{{Name: "m", BackendKind: "local", Source: "docs", Path: "/run/m", ReadOnly: true, Users: []string{"export/e"}, Status: &nodev1.Status{}}},
		DamagedRecords: []string{"f\uFFFD"},
		Subsystems:     []*nodev1.Subsystem{{Name: "libvirt", Verdict: nodev1.Verdict_VERDICT_WARN, Message: "away"}},
	}, got)
}

func TestShape(t *testing.T) {
	attachment := func(change func(*nodev1.Attachment)) proto.Message {
		a := &nodev1.Attachment{Id: "a", Instance: "i", Tag: "t", Connection: &nodev1.Connection{BackendKind: "local", Source: "s"}}
		change(a)
		return &nodev1.AttachRequest{Attachment: a}
	}
	network := func(change func(*nodev1.Network)) proto.Message {
		n := &nodev1.Network{Id: "n", Plug: &nodev1.Network_Bridge{Bridge: &nodev1.BridgePlug{Bridge: "b"}}, Addresses: []string{"10.0.0.1/24"}}
		change(n)
		return &nodev1.PutNetworkRequest{Network: n}
	}
	export := func(r *nodev1.AccessRule) proto.Message {
		return &nodev1.PutExportRequest{Export: &nodev1.Export{Id: "e", Network: "n",
			Connection: &nodev1.Connection{BackendKind: "local", Source: "s"}, Rules: []*nodev1.AccessRule{r}}}
	}
	long := strings.Repeat("x", maxString+1)
	for _, c := range []struct {
		request proto.Message
		reason  fault.Reason
		field   string
	}{
		{&nodev1.AttachRequest{}, FieldRequired, "attachment"},
		{attachment(func(a *nodev1.Attachment) { a.Id = "" }), FieldRequired, "attachment.id"},
		{attachment(func(a *nodev1.Attachment) { a.Instance = "" }), FieldRequired, "attachment.instance"},
		{attachment(func(a *nodev1.Attachment) { a.Tag = "" }), FieldRequired, "attachment.tag"},
		{attachment(func(a *nodev1.Attachment) { a.Connection = nil }), FieldRequired, "attachment.connection.backend_kind"},
		{attachment(func(a *nodev1.Attachment) { a.Connection.Source = "" }), FieldRequired, "attachment.connection.source"},
		{attachment(func(a *nodev1.Attachment) { a.Id = long }), FieldTooLong, "attachment.id"},
		{attachment(func(a *nodev1.Attachment) { a.Connection.Options = map[string]string{"k": long} }), FieldTooLong, "attachment.connection.options"},
		{attachment(func(a *nodev1.Attachment) { a.Connection.Options = map[string]string{long: "v"} }), FieldTooLong, "attachment.connection.options"},
		{attachment(func(a *nodev1.Attachment) { a.Connection.Secret = make([]byte, maxBytes+1) }), FieldTooLong, "attachment.connection.secret"},
		{&nodev1.DetachRequest{}, FieldRequired, "id"},
		{&nodev1.DetachRequest{Id: long}, FieldTooLong, "id"},
		{&nodev1.ListAttachmentsRequest{Instance: long}, FieldTooLong, "instance"},
		{&nodev1.PutNetworkRequest{}, FieldRequired, "network"},
		{network(func(n *nodev1.Network) { n.Plug = nil }), FieldRequired, "network.plug"},
		{network(func(n *nodev1.Network) { n.Plug = &nodev1.Network_Bridge{} }), FieldRequired, "network.bridge.bridge"},
		{network(func(n *nodev1.Network) { n.GetBridge().Vlan = proto.Int32(0) }), FieldMalformed, "network.bridge.vlan"},
		{network(func(n *nodev1.Network) { n.Plug = &nodev1.Network_Vlan{} }), FieldRequired, "network.vlan.device"},
		{network(func(n *nodev1.Network) { n.Plug = &nodev1.Network_Macvlan{} }), FieldRequired, "network.macvlan.device"},
		{network(func(n *nodev1.Network) { n.Plug = &nodev1.Network_Ovs{} }), FieldRequired, "network.ovs.bridge"},
		{network(func(n *nodev1.Network) { n.Plug = &nodev1.Network_None{} }), FieldRequired, "network.none.namespace"},
		{network(func(n *nodev1.Network) { n.Plug = &nodev1.Network_Vxlan{} }), FieldRequired, "network.vxlan.device"},
		{network(func(n *nodev1.Network) {
			n.Plug = &nodev1.Network_Vxlan{Vxlan: &nodev1.VxlanPlug{Device: "d", Local: "192.0.2.1"}}
		}), FieldRequired, "network.vxlan.peers"},
		{network(func(n *nodev1.Network) {
			n.Plug = &nodev1.Network_Vxlan{Vxlan: &nodev1.VxlanPlug{Device: "d", Local: "192.0.2.1", Peers: []string{"192.0.2.2", "x"}}}
		}), FieldMalformed, "network.vxlan.peers[1]"},
		{network(func(n *nodev1.Network) { n.Addresses = nil }), FieldRequired, "network.addresses"},
		{network(func(n *nodev1.Network) { n.Addresses = make([]string, maxItems+1) }), FieldTooLong, "network.addresses"},
		{network(func(n *nodev1.Network) { n.Addresses = []string{"10.0.0.1/24", "10.0.0.2"} }), FieldMalformed, "network.addresses[1]"},
		{network(func(n *nodev1.Network) { n.Addresses = []string{"10.0.0.1/33"} }), FieldMalformed, "network.addresses[0]"},
		{network(func(n *nodev1.Network) { n.Routes = []*nodev1.Route{{Destination: "default", Via: "10.0.0.2"}} }), FieldMalformed, "network.routes[0].destination"},
		{network(func(n *nodev1.Network) { n.Routes = []*nodev1.Route{{Destination: "::/0", Via: "fe80::1%eth0"}} }), FieldMalformed, "network.routes[0].via"},
		{&nodev1.PutExportRequest{}, FieldRequired, "export"},
		{export(&nodev1.AccessRule{Level: nodev1.Level_LEVEL_RO}), FieldRequired, "export.rules[0].client"},
		{export(&nodev1.AccessRule{Client: "10.0.0.0/24"}), FieldRequired, "export.rules[0].level"},
		{export(&nodev1.AccessRule{Client: "10.0.0.0/24", Level: 9}), FieldMalformed, "export.rules[0].level"},
		{export(&nodev1.AccessRule{Client: "10.0.0.0/24", Level: 1, Squash: 9}), FieldMalformed, "export.rules[0].squash"},
		{export(&nodev1.AccessRule{Client: "everybody\n", Level: 1}), FieldMalformed, "export.rules[0].client"},
		{export(&nodev1.AccessRule{Client: "fe80::1%lo", Level: 1}), FieldMalformed, "export.rules[0].client"},
		{export(&nodev1.AccessRule{Client: "10.0.0.0/24", Level: 1, Sec: []nodev1.Sec{1, 0}}), FieldMalformed, "export.rules[0].sec"},
		{export(&nodev1.AccessRule{Client: "10.0.0.0/24", Level: 1, ExpiresAt: &timestamppb.Timestamp{Seconds: 1 << 60}}), FieldMalformed, "export.rules[0].expires_at"},
		{export(&nodev1.AccessRule{Client: "10.0.0.0/24", Level: 1, ExpiresAt: timestamppb.New(time.Time{})}), FieldMalformed, "export.rules[0].expires_at"},
		{&nodev1.PutRuleRequest{Rule: &nodev1.AccessRule{}}, FieldRequired, "export"},
		{&nodev1.PutRuleRequest{Export: "e"}, FieldRequired, "rule"},
		{&nodev1.PutRuleRequest{Export: "e", Rule: &nodev1.AccessRule{Level: 1}}, FieldRequired, "rule.client"},
		{&nodev1.PutRuleRequest{Export: "e", Rule: &nodev1.AccessRule{Metadata: map[string]string{"k": long}}}, FieldTooLong, "rule.metadata"},
		{&nodev1.DeleteRuleRequest{Export: "e"}, FieldRequired, "id"},
		{export(&nodev1.AccessRule{Client: long, Level: 1}), FieldTooLong, "export.rules[0].client"},
	} {
		f := &fake{}
		err := checkSizes(c.request)
		if err == nil {
			err = handle(t, f, c.request)
		}
		var e *fault.Error
		if !errors.As(err, &e) || e.Kind != fault.Invalid || e.Reason != c.reason || e.Metadata["field"] != c.field {
			t.Errorf("%T, %s of %s: %v, %+v", c.request, c.reason, c.field, err, e)
		}
		if len(f.calls) > 0 {
			t.Errorf("%T, %s of %s: the agent was called", c.request, c.reason, c.field)
		}
	}
}

func handle(t *testing.T, f *fake, request proto.Message) (err error) {
	t.Helper()
	switch r := request.(type) {
	case *nodev1.AttachRequest:
		_, err = attachments{agent: f}.Attach(t.Context(), r)
	case *nodev1.DetachRequest:
		_, err = attachments{agent: f}.Detach(t.Context(), r)
	case *nodev1.PutNetworkRequest:
		_, err = networks{agent: f}.Put(t.Context(), r)
	case *nodev1.PutExportRequest:
		_, err = exports{agent: f}.Put(t.Context(), r)
	case *nodev1.PutRuleRequest:
		_, err = exports{agent: f}.PutRule(t.Context(), r)
	case *nodev1.DeleteRuleRequest:
		_, err = exports{agent: f}.DeleteRule(t.Context(), r)
	default:
		t.Fatalf("no handler for %T", r)
	}
	return err
}
