package ovs

import "testing"

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"data":[["br-int","netdev",["set",[["uuid","a"],["uuid","b"]]]]],"headings":["name","datapath_type","ports"]}
{"data":[[["uuid","b"],10,["set",[]],["set",[]]]],"headings":["_uuid","tag","trunks","vlan_mode"]}
{"data":[[["map",[["iface-id","p"]]],3,["set",[]]]],"headings":["external_ids","ofport","error"]}`))
	f.Fuzz(func(t *testing.T, out []byte) {
		_, _, _ = parse(out)
	})
}

func TestParse(t *testing.T) {
	b, there, err := parse([]byte(`{"data":[["br-int","netdev",["set",[["uuid","a"],["uuid","b"]]]]],"headings":["name","datapath_type","ports"]}
{"data":[[["uuid","b"],10,["set",[]],["set",[]]]],"headings":["_uuid","tag","trunks","vlan_mode"]}
{"data":[[["map",[["iface-id","p"]]],3,["set",[]]]],"headings":["external_ids","ofport","error"]}`))
	if err != nil || !there || !b.Userspace || b.Port == nil {
		t.Fatalf("%+v, %t, %v", b, there, err)
	}
	if p := b.Port; !p.Here || p.Tag != 10 || p.Trunks || p.IDs["iface-id"] != "p" || p.Number != 3 || p.Fault != "" {
		t.Errorf("port %+v", *p)
	}
}
