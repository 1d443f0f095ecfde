package intent

import (
	"encoding/json"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-project/causeway/agent/ledger"
	"github.com/causeway-project/causeway/agent/model"
)

func TestNFSVersionsOfRecord(t *testing.T) {
	for _, test := range []struct {
		given, stored, told []model.NFSVersion
		settings            string
	}{
		{nil, nil, []model.NFSVersion{model.NFS41, model.NFS42}, ""},
		{[]model.NFSVersion{model.NFS42, model.NFS41}, nil, []model.NFSVersion{model.NFS41, model.NFS42}, ""},
		{[]model.NFSVersion{model.NFS42}, []model.NFSVersion{model.NFS42}, []model.NFSVersion{model.NFS42}, "nfs 4.2"},
		{[]model.NFSVersion{model.NFS41, model.NFS3}, []model.NFSVersion{model.NFS3, model.NFS41}, []model.NFSVersion{model.NFS3, model.NFS41}, "nfs 3, nfs 4.1"},
	} {
		body, err := json.Marshal(&Record{Generation: 1, Network: &Network{NFSVersions: versionsOf(test.given)}})
		if err != nil {
			t.Fatal(err)
		}
		r, err := Decode(ledger.Record{Kind: model.KindNetwork, ID: "n", Body: body})
		if err != nil {
			t.Fatal(err)
		}
		n := r.Network
		if !slices.Equal(n.NFSVersions, test.stored) || !slices.Equal(n.Versions(), test.told) || n.GatewaySettings() != test.settings {
			t.Errorf("%v: stored %v, told %v, settings %q", test.given, n.NFSVersions, n.Versions(), n.GatewaySettings())
		}
	}
}

// TestChangedTo: whatever is wanted while a network is on its way, what was
// made is remembered until it is gone, and nothing else.
func TestChangedTo(t *testing.T) {
	intent := func(bridge string) Network {
		return Network{Plug: PlugOf(model.Plug{Kind: model.PlugBridge, Bridge: bridge}), Namespace: "cw-blue", HostLink: "cw1", LinkMAC: "02:00:00:00:00:01"}
	}
	first := &Record{Generation: 1, Network: new(intent("br-blue"))}
	second := first.ChangedTo(intent("br-red"))
	third := second.ChangedTo(intent("br-green"))
	for i, r := range []*Record{second, third, third.ChangedTo(intent("br-blue"))} {
		if r.Network.Former != first.Network || r.Generation != int64(i+2) {
			t.Errorf("%d: %+v, former %+v", i, r, r.Network.Former)
		}
	}
	// The peers of a VXLAN are told to it as it is.
	tunnel := func(peers ...string) Network {
		p := model.Plug{Kind: model.PlugVXLAN, VXLAN: 42, Device: "eth1", Local: netip.MustParseAddr("192.0.2.1")}
		for _, a := range peers {
			p.Peers = append(p.Peers, netip.MustParseAddr(a))
		}
		return Network{Plug: PlugOf(p)}
	}
	before := &Record{Generation: 1, Network: new(tunnel("192.0.2.2"))}
	if r := before.ChangedTo(tunnel("192.0.2.2", "192.0.2.3")); r.Network.Former != nil || len(r.Network.Peers) != 2 {
		t.Errorf("with another peer: %+v", r.Network)
	}
	// Names that an earlier version chose stay with what stays, as in JSON.
	var old Record
	if err := json.Unmarshal([]byte(`{"generation":3,"network":{"bridge":"br-blue","addresses":["10.77.0.2/24"],`+
		`"namespace":"cw-old","host_link":"cwold","link_mac":"02:00:00:00:00:09"}}`), &old); err != nil {
		t.Fatal(err)
	}
	want := intent("br-blue")
	want.MTU = 1400
	got := old.ChangedTo(want).Network
	if diff := cmp.Diff([]string{"cw-old", "cwold", "02:00:00:00:00:09"}, []string{got.Namespace, got.HostLink, got.LinkMAC}); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}
