package integration

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/integration/lab"
)

// A badCall is refused, with a code and a reason for programs and, at its
// end, what to do for a person. It leaves the host and the ledger as they were.
type badCall struct {
	name    string
	request any // of a put or attach, or the id of a network to delete
	want    refusal
	advice  string // in the last part of the message
}

// call sends the request to the service that it is for.
func (n *node) call(ctx context.Context, request any) (err error) {
	switch r := request.(type) {
	case *nodev1.Attachment:
		_, err = n.attachments.Attach(ctx, &nodev1.AttachRequest{Attachment: r, Force: true})
	case *nodev1.AttachRequest:
		_, err = n.attachments.Attach(ctx, r)
	case *nodev1.PrepareAttachmentRequest:
		_, err = n.attachments.Prepare(ctx, r)
	case *nodev1.FinishAttachmentRequest:
		_, err = n.attachments.Finish(ctx, r)
	case *nodev1.ReleaseAttachmentRequest:
		_, err = n.attachments.Release(ctx, r)
	case *nodev1.RollbackAttachmentRequest:
		_, err = n.attachments.Rollback(ctx, r)
	case *nodev1.Network:
		_, err = n.networks.Put(ctx, &nodev1.PutNetworkRequest{Network: r})
	case *nodev1.UpdateNetworkRequest:
		_, err = n.networks.Update(ctx, r)
	case *nodev1.Export:
		_, err = n.exports.Put(ctx, &nodev1.PutExportRequest{Export: r})
	case *nodev1.PutRuleRequest:
		_, err = n.exports.PutRule(ctx, r)
	case *nodev1.GetRuleRequest:
		_, err = n.exports.GetRule(ctx, r)
	case string:
		_, err = n.networks.Delete(ctx, &nodev1.DeleteNetworkRequest{Id: r})
	}
	return err
}

// refuse makes each call, and looks at the whole host after it.
func (n *node) refuse(ctx context.Context, calls []badCall) {
	n.t.Helper()
	host := n.state(ctx)
	for _, c := range calls {
		n.t.Run(c.name, func(t *testing.T) {
			n := n.within(t)
			got, info, message := refusalOf(n.call(ctx, c.request))
			if got != c.want {
				t.Errorf("got %v, want %v: %s", got, c.want, message)
			}
			if info.GetDomain() != "node.causeway" {
				t.Errorf("domain %q", info.GetDomain())
			}
			if end := message[max(0, len(message)-120):]; !strings.Contains(end, c.advice) {
				t.Errorf("message %q does not end in what to do, which would be %q", message, c.advice)
			}
			if len(message) > 1000 || strings.ContainsFunc(message, func(r rune) bool { return r < ' ' }) {
				t.Errorf("message is unfit to be shown: %q", message)
			}
			n.settles(ctx, host)
		})
	}
}

func withAttachment(change func(*nodev1.Attachment)) *nodev1.Attachment {
	a := attached("bad", "docs")
	change(a)
	return a
}

func withExport(change func(*nodev1.Export)) *nodev1.Export {
	e := exported("bad", "docs")
	change(e)
	return e
}

func withNetwork(change func(*nodev1.Network)) *nodev1.Network {
	n := bridged("bad", "br-blue", "10.77.0.3/24")
	change(n)
	return n
}

// badSources are the same for both who use a share.
func (w *world) badSources(t *testing.T) map[string]refusal {
	t.Helper()
	pool := func(name string) string { return filepath.Join(w.pool.Dir, name) }
	for _, err := range []error{
		os.WriteFile(pool("file"), nil, 0o644),
		os.Symlink("/etc", pool("link-out")), os.Symlink("docs", pool("link-inside")),
		os.Mkdir(pool("mounted"), 0o755), syscall.Mount("tmpfs", pool("mounted"), "tmpfs", 0, ""),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		err := syscall.Unmount(pool("mounted"), 0)
		for _, name := range []string{"file", "link-out", "link-inside", "mounted"} {
			err = errors.Join(err, os.Remove(pool(name)))
		}
		if err != nil {
			t.Error(err)
		}
	})
	bad, missing := refusal{codes.InvalidArgument, "bad_source"}, refusal{codes.NotFound, "share_not_found"}
	return map[string]refusal{
		"../docs": bad, "/etc": bad, "docs/../../etc": bad, "file": bad, "link-out": bad, "link-out/ssh": bad, "link-inside": bad, "mounted": bad,
		"missing": missing, "docs/missing": missing,
		"docs\x00": bad, "docs\n": bad, strings.Repeat("d", 3000): bad, strings.Repeat("d", 10000): {codes.InvalidArgument, "field_too_long"},
	}
}

// TestBadAttachments refuses what cannot be attached.
func TestBadAttachments(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 6*time.Minute)
	w.share(t, "docs")
	w.share(t, "music")
	off, err := w.libvirt.Define(ctx, lab.GuestOptions{Name: "off"})
	if err != nil {
		t.Fatal(err)
	}
	plain, err := w.libvirt.Boot(ctx, lab.GuestOptions{Name: "plain", NoSharedMemory: true, NoAgent: true})
	if err != nil {
		t.Fatal(err)
	}
	full, err := w.libvirt.Boot(ctx, lab.GuestOptions{Name: "full", Ports: 1, NoAgent: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(off.Close(), plain.Close(), full.Close()); err != nil {
			t.Error(err)
		}
	})
	// A file system that has no idmapped mounts.
	ram := t.TempDir()
	if err := errors.Join(syscall.Mount("ram", ram, "ramfs", 0, ""), os.Mkdir(filepath.Join(ram, "share"), 0o755), os.Chown(filepath.Join(ram, "share"), 1, 1)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(ram, 0); err != nil {
			t.Error(err)
		}
	})
	n := w.started(ctx, t, lab.AgentOptions{Pools: map[string]string{"default": w.pool.Dir, "ram": ram}})
	n.attach(ctx, attached("good", "docs"))
	only := attached("only", "docs")
	only.Instance = full.UUID
	n.attach(ctx, only)

	invalid := func(reason string) refusal { return refusal{codes.InvalidArgument, reason} }
	precondition := func(reason string) refusal { return refusal{codes.FailedPrecondition, reason} }
	other := refusal{codes.AlreadyExists, "other_settings"}
	instance := func(name string) *nodev1.Attachment {
		return withAttachment(func(a *nodev1.Attachment) { a.Instance = name })
	}
	tag := func(tag string) *nodev1.Attachment {
		return withAttachment(func(a *nodev1.Attachment) { a.Tag = tag })
	}
	at := func(path string) *nodev1.Attachment {
		return withAttachment(func(a *nodev1.Attachment) { a.MountAt = path })
	}
	again := func(change func(*nodev1.Attachment)) *nodev1.Attachment {
		return withAttachment(func(a *nodev1.Attachment) {
			a.Id, a.Tag = "good", "good"
			change(a)
		})
	}
	calls := []badCall{
		{"unknown instance", instance("nobody"), refusal{codes.NotFound, "instance_not_found"}, "virsh list"},
		{"instance off", instance("off"), precondition("instance_off"), "start it"},
		{"instance without shared memory", instance("plain"), precondition("no_shared_memory"), "memAccess='shared'"},
		{"instance without a port", instance("full"), precondition("no_free_port"), "pcie-root-port"},
		{"no instance", instance(""), invalid("field_required"), "set it"},
		{"long instance", instance(strings.Repeat("i", 300)), invalid("bad_instance"), "give the name or UUID"},
		{"instance with a newline", instance("vm1\nvm2"), invalid("bad_instance"), "give the name or UUID"},
		{"tag taken", tag("good"), precondition("tag_taken"), "choose another"},
		{"no tag", tag(""), invalid("field_required"), "set it"},
		{"tag of 37 bytes", tag(strings.Repeat("t", 37)), invalid("bad_tag"), "use 1 to 36 bytes"},
		{"tag with a space", tag("a tag"), invalid("bad_tag"), "use 1 to 36 bytes"},
		{"tag in another script", tag("共有"), invalid("bad_tag"), "use 1 to 36 bytes"},
		{"tag with NUL", tag("tag\x00"), invalid("bad_tag"), "use 1 to 36 bytes"},
		{"tag with a newline", tag("tag\n"), invalid("bad_tag"), "use 1 to 36 bytes"},
		{"relative mount path", at("mnt"), invalid("bad_mount_path"), "clean absolute path"},
		{"mount path that climbs", at("/mnt/../etc"), invalid("bad_mount_path"), "clean absolute path"},
		{"mount at the root", at("/"), invalid("bad_mount_path"), "clean absolute path"},
		{"mount path with a newline", at("/mnt/a\nb"), invalid("bad_mount_path"), "clean absolute path"},
		{"unknown kind", withAttachment(func(a *nodev1.Attachment) { a.Connection.BackendKind = "floppy" }), invalid("unknown_backend_kind"), "local"},
		{"unknown option", withAttachment(func(a *nodev1.Attachment) { a.Connection.Options = map[string]string{"x": "y"} }), invalid("bad_source"), "correct it"},
		{"other instance", again(func(a *nodev1.Attachment) { a.Instance = "plain" }), precondition("no_shared_memory"), "memAccess='shared'"},
		{"other source", again(func(a *nodev1.Attachment) { a.Connection = local("music") }), other, "delete it first"},
		{"other tag", again(func(a *nodev1.Attachment) { a.Tag = "other" }), other, "delete it first"},
		{"other mode", again(func(a *nodev1.Attachment) { a.ReadOnly = true }), other, "delete it first"},
		{"other mount path", again(func(a *nodev1.Attachment) { a.MountAt = "/mnt/x" }), other, "delete it first"},
	}
	settings := func(s *nodev1.DeviceSettings) *nodev1.Attachment {
		return withAttachment(func(a *nodev1.Attachment) { a.Settings = s })
	}
	squash := func(uid, gid uint32) *nodev1.Attachment {
		return withAttachment(func(a *nodev1.Attachment) {
			a.Ids = &nodev1.IdPolicy{Policy: &nodev1.IdPolicy_Squash{Squash: &nodev1.IdSquash{Uid: uid, Gid: gid}}}
		})
	}
	mapped := func(source, pool string, ranges ...*nodev1.IdRange) *nodev1.Attachment {
		return withAttachment(func(a *nodev1.Attachment) {
			a.Connection = &nodev1.Connection{BackendKind: "local", Source: source, Options: map[string]string{"pool": pool}}
			a.Ids = &nodev1.IdPolicy{Policy: &nodev1.IdPolicy_Map{Map: &nodev1.IdMap{Uids: ranges, Gids: ranges}}}
		})
	}
	node, err := n.nodes.Get(ctx, &nodev1.GetNodeRequest{})
	n.must(err)
	// Each flavour of virtiofsd lacks something.
	unable := squash(1000, 1000)
	if node.GetVirtiofsd().GetFlavour() == "rust" {
		unable = settings(&nodev1.DeviceSettings{Locks: nodev1.Locks_LOCKS_SHARED})
	}
	calls = append(calls, []badCall{
		{"unknown cache", settings(&nodev1.DeviceSettings{Cache: 99}), invalid("field_malformed"), "no value"},
		{"odd queue size", settings(&nodev1.DeviceSettings{QueueSize: 1000}), invalid("bad_device_settings"), "power of two"},
		{"many threads", settings(&nodev1.DeviceSettings{Threads: 100000}), invalid("bad_device_settings"), "give 1 to 256"},
		{"little memory", settings(&nodev1.DeviceSettings{Memory: 1}), invalid("bad_device_settings"), "give at least"},
		{"few files", settings(&nodev1.DeviceSettings{OpenFiles: 1}), invalid("bad_device_settings"), "give at least"},
		{"lists without xattr", settings(&nodev1.DeviceSettings{Xattr: proto.Bool(false), PosixAcl: proto.Bool(true)}), invalid("bad_device_settings"), "turn xattr on"},
		{"squash to root", squash(0, 1000), invalid("bad_id_policy"), "other than 0"},
		{"squash to root's group", squash(1000, 0), invalid("bad_id_policy"), "other than 0"},
		{"map to root", mapped("docs", "default", &nodev1.IdRange{Count: 65536}), invalid("bad_id_policy"), "above 0"},
		{"empty map", mapped("docs", "default"), invalid("bad_id_policy"), "give 1 to 340"},
		{"map that overlaps", mapped("docs", "default", &nodev1.IdRange{Host: 1, Count: 9}, &nodev1.IdRange{Guest: 20, Host: 5, Count: 9}), invalid("bad_id_policy"), "alone"},
		{"map on a file system without", mapped("share", "ram", &nodev1.IdRange{Host: 1, Count: 9}), precondition("id_map_unsupported"), "the id policy passthrough"},
		{"map without the share's owner", mapped("docs", "default", &nodev1.IdRange{Host: 100000, Count: 65536}), precondition("share_owner_unmapped"), "attach it read-only"},
		{"more than virtiofsd can", unable, precondition("virtiofsd_unable"), "ask for something else"},
		{"second writer", &nodev1.AttachRequest{Attachment: attached("bad", "docs")}, precondition("locks_not_shared"), "attach with force"},
		{"other cache", again(func(a *nodev1.Attachment) { a.Settings = &nodev1.DeviceSettings{Cache: nodev1.Cache_CACHE_NEVER} }), other, "delete it first"},
		{"other ids", again(func(a *nodev1.Attachment) {
			a.Ids = mapped("docs", "default", &nodev1.IdRange{Host: 1, Count: 9}).GetIds()
		}), other, "delete it first"},
	}...)
	for source, want := range w.badSources(t) {
		a := withAttachment(func(a *nodev1.Attachment) { a.Connection = local(source) })
		calls = append(calls, badCall{"source " + short(source), a, want, sourceAdvice[want.reason]})
	}
	for _, id := range hostile {
		a := withAttachment(func(a *nodev1.Attachment) { a.Id = id })
		calls = append(calls, badCall{"id " + short(id), a, hostileID(id), ""})
	}
	n.refuse(ctx, calls)
	n.detach(ctx, "only")
	n.detach(ctx, "good")
	n.finish(ctx)
}

var sourceAdvice = map[string]string{"bad_source": "correct", "share_not_found": "create it, or correct the source", "field_too_long": "shorten it"}

// hostile words, none of which may be an id.
var hostile = []string{
	`a"b`, `a'b`, "a;b", "a\nb", "a{b}", "a b", "a/b", `a\b`, "..", "a..b", "../a", "-a", ".a", "a\x00b", "$(reboot)", "`reboot`",
	"%s%n", "<a/>", "шара", "共有", strings.Repeat("a", 64), strings.Repeat("a", 10000),
}

func hostileID(id string) refusal {
	if len(id) > 4096 {
		return refusal{codes.InvalidArgument, "field_too_long"}
	}
	return refusal{codes.InvalidArgument, "bad_id"}
}

func short(s string) string { return s[:min(len(s), 20)] }

// TestBadNetworksAndExports refuses what cannot be plugged or published.
func TestBadNetworksAndExports(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 6*time.Minute)
	w.share(t, "docs")
	w.share(t, "music")
	n := w.started(ctx, t, lab.AgentOptions{})
	n.putNetwork(ctx, blueNetwork())
	n.putNetwork(ctx, bridged("empty", "br-blue", "10.77.0.4/24"))
	n.putExport(ctx, exported("good", "docs"))

	invalid := func(reason string) refusal { return refusal{codes.InvalidArgument, reason} }
	precondition := func(reason string) refusal { return refusal{codes.FailedPrecondition, reason} }
	other := refusal{codes.AlreadyExists, "other_settings"}
	bridge := func(name string) *nodev1.Network { return bridged("bad", name, "10.77.0.3/24") }
	address := func(a string) *nodev1.Network {
		return withNetwork(func(n *nodev1.Network) { n.Addresses = []string{a} })
	}
	route := func(destination, via string) *nodev1.Network {
		return withNetwork(func(n *nodev1.Network) { n.Routes = []*nodev1.Route{{Destination: destination, Via: via}} })
	}
	versions := func(v ...string) *nodev1.Network {
		return withNetwork(func(n *nodev1.Network) { n.NfsVersions = v })
	}
	rules := func(r ...*nodev1.AccessRule) *nodev1.Export {
		return withExport(func(e *nodev1.Export) { e.Rules = r })
	}
	client := func(c string) *nodev1.Export { return rules(rule(c, nodev1.Level_LEVEL_RW)) }
	pseudo := func(p string) *nodev1.Export { return withExport(func(e *nodev1.Export) { e.Pseudo = p }) }
	again := func(change func(*nodev1.Export)) *nodev1.Export {
		return withExport(func(e *nodev1.Export) {
			e.Id = "good"
			change(e)
		})
	}
	onBridge := func(tag int32) *nodev1.Network {
		return withNetwork(func(n *nodev1.Network) {
			n.Plug = &nodev1.Network_Bridge{Bridge: &nodev1.BridgePlug{Bridge: "br-blue", Vlan: &tag}}
		})
	}
	vlan := func(device string, id int32) *nodev1.Network {
		return withNetwork(func(n *nodev1.Network) { n.Plug = &nodev1.Network_Vlan{Vlan: &nodev1.VlanPlug{Device: device, Id: id}} })
	}
	macvlan := func(device string) *nodev1.Network {
		return withNetwork(func(n *nodev1.Network) {
			n.Plug = &nodev1.Network_Macvlan{Macvlan: &nodev1.MacvlanPlug{Device: device}}
		})
	}
	vxlan := func(id int32, device string, peers ...string) *nodev1.Network {
		return withNetwork(func(n *nodev1.Network) {
			n.Plug = &nodev1.Network_Vxlan{Vxlan: &nodev1.VxlanPlug{Id: id, Device: device, Local: "192.0.2.1", Peers: peers}}
		})
	}
	ovs := func(bridge, port string, tag int32) *nodev1.Network {
		return withNetwork(func(n *nodev1.Network) {
			n.Plug = &nodev1.Network_Ovs{Ovs: &nodev1.OvsPlug{Bridge: bridge, InterfaceId: port, Vlan: &tag}}
		})
	}
	provided := func(namespace, link string) *nodev1.Network {
		return withNetwork(func(n *nodev1.Network) {
			n.Plug = &nodev1.Network_None{None: &nodev1.NonePlug{Namespace: namespace, Interface: link}}
		})
	}
	calls := []badCall{
		{"bridge that is not there", bridge("br-none"), precondition("bridge_missing"), "create it, or name another"},
		{"link that is no bridge", bridge("lo"), precondition("bridge_missing"), "name another"},
		{"no bridge", bridge(""), invalid("field_required"), "set it"},
		{"bridge with a semicolon", bridge("br;reboot"), invalid("bad_bridge"), "name of a Linux bridge"},
		{"long bridge", bridge(strings.Repeat("b", 16)), invalid("bad_bridge"), "name of a Linux bridge"},
		{"no address", withNetwork(func(n *nodev1.Network) { n.Addresses = nil }), invalid("field_required"), "set it"},
		{"address without prefix", address("10.77.0.3"), invalid("field_malformed"), "write it like"},
		{"prefix too long", address("10.77.0.3/33"), invalid("field_malformed"), "write it like"},
		{"no number", address("ten/24"), invalid("field_malformed"), "write it like"},
		{"everything", address("10.77.0.3/0"), invalid("bad_address"), "own prefix length"},
		{"the network's own", address("10.77.0.0/24"), invalid("bad_address"), "give a host's"},
		{"broadcast", address("10.77.0.255/24"), invalid("bad_address"), "give a host's"},
		{"loopback", address("127.0.0.1/8"), invalid("bad_address"), "unicast"},
		{"multicast", address("224.0.0.5/24"), invalid("bad_address"), "unicast"},
		{"link-local", address("fe80::3/64"), invalid("bad_address"), "unicast"},
		{"IPv4 in IPv6", address("::ffff:10.77.0.3/120"), invalid("bad_address"), "plain"},
		{"twice", withNetwork(func(n *nodev1.Network) { n.Addresses = []string{"10.77.0.3/24", "10.77.0.3/16"} }), invalid("bad_address"), "twice"},
		{"another machine's", address(client4 + "/24"), precondition("address_in_use"), "choose another"},
		{"another machine's, IPv6", address(client6 + "/64"), precondition("address_in_use"), "choose another"},
		{"another network's", address("10.77.0.4/24"), precondition("address_taken"), "choose another"},
		{"overlapping addresses", withNetwork(func(n *nodev1.Network) { n.Addresses = []string{"10.77.0.3/24", "10.77.1.3/16"} }), invalid("bad_address"), "overlap"},
		{"overlapping addresses, IPv6", withNetwork(func(n *nodev1.Network) { n.Addresses = []string{"fd77::3/64", "fd77::4/48"} }), invalid("bad_address"), "overlap"},
		{"next hop off the link", route("0.0.0.0/0", "192.0.2.1"), invalid("bad_route"), "none of the network's prefixes"},
		{"route that is no prefix", route("default", "10.77.0.1"), invalid("field_malformed"), "write it like"},
		{"MTU", withNetwork(func(n *nodev1.Network) { n.Mtu = 100 }), invalid("bad_mtu"), "give 1280"},
		{"MTU below that of IPv6", withNetwork(func(n *nodev1.Network) { n.Mtu = 1279 }), invalid("bad_mtu"), "give 1280"},
		{"MTU that no frame has", withNetwork(func(n *nodev1.Network) { n.Mtu = 65536 }), invalid("bad_mtu"), "give 1280"},
		{"no plug", withNetwork(func(n *nodev1.Network) { n.Plug = nil }), invalid("field_required"), "set it"},
		{"tag 0 on a bridge", onBridge(0), invalid("field_malformed"), "leave it out"},
		{"tag 4095 on a bridge", onBridge(4095), invalid("bad_vlan"), "give 1 to 4094"},
		{"tag on a bridge that does not filter", onBridge(10), precondition("vlan_filtering_off"), "turn its filtering on"},
		{"VLAN 0", vlan("eth1", 0), invalid("bad_vlan"), "give 1 to 4094"},
		{"VLAN 4095", vlan("eth1", 4095), invalid("bad_vlan"), "give 1 to 4094"},
		{"VLAN on an unknown device", vlan("eth9", 10), precondition("device_unusable"), "name another"},
		{"VLAN on the loopback", vlan("lo", 10), invalid("bad_device"), "network device of the host"},
		{"VLAN on a device with a slash", vlan("../eth1", 10), invalid("bad_device"), "network device of the host"},
		{"macvlan on an unknown device", macvlan("eth9"), precondition("device_unusable"), "name another"},
		{"VXLAN 0", vxlan(0, "br-blue", "192.0.2.2"), invalid("bad_vxlan"), "24 bits"},
		{"VXLAN of more than 24 bits", vxlan(1<<24, "br-blue", "192.0.2.2"), invalid("bad_vxlan"), "24 bits"},
		{"VXLAN on an unknown device", vxlan(42, "eth9", "192.0.2.2"), precondition("device_unusable"), "name another"},
		{"VXLAN from another host's address", vxlan(42, "br-blue", "192.0.2.2"), precondition("device_unusable"), "name another"},
		{"VXLAN without peers", vxlan(42, "br-blue"), invalid("field_required"), "set it"},
		{"VXLAN to itself", vxlan(42, "br-blue", "192.0.2.1"), invalid("bad_vxlan"), ""},
		{"VXLAN to multicast", vxlan(42, "br-blue", "239.0.0.1"), invalid("bad_vxlan"), "unicast"},
		{"VXLAN to another family", vxlan(42, "br-blue", "fd99::1"), invalid("bad_vxlan"), ""},
		{"Open vSwitch's tag 4095", ovs("br-int", "", 4095), invalid("bad_vlan"), "give 1 to 4094"},
		{"Open vSwitch's port with a space", ovs("br-int", "a port", 1), invalid("bad_plug"), "printable ASCII"},
		{"Open vSwitch where there is none", ovs("br-int", "", 1), precondition("plug_unsupported"), ""},
		{"namespace that nobody made", provided("cni-9", "eth0"), precondition("namespace_missing"), "must"},
		{"namespace that is the agent's", provided("cw-empty", "eth0"), invalid("bad_plug"), "the agent's own"},
		{"namespace that climbs", provided("../x", "eth0"), invalid("bad_plug"), "/run/netns"},
		{"provided loopback", provided("cni-9", "lo"), invalid("bad_device"), "within the namespace"},
		{"multicast MAC", withNetwork(func(n *nodev1.Network) { n.Mac = "01:00:5e:00:00:01" }), invalid("bad_mac"), "for example"},
		{"unknown NFS version", versions("4"), invalid("bad_nfs_version"), "give 3, 4.0, 4.1 or 4.2"},
		{"NFS version with syntax", versions("4.1", "3;}"), invalid("bad_nfs_version"), "give 3, 4.0, 4.1 or 4.2"},
		{"empty NFS version", versions(""), invalid("bad_nfs_version"), "give 3, 4.0, 4.1 or 4.2"},
		{"NFS version twice", versions("4.1", "3", "4.1"), invalid("bad_nfs_version"), "given twice"},
		{"same network, other NFS versions", withNetwork(func(n *nodev1.Network) {
			n.Id, n.Addresses, n.NfsVersions = "empty", []string{"10.77.0.4/24"}, []string{"4.0"}
		}), other, "delete it first"},
		{"same network, other bridge", bridged("empty", "br-none", "10.77.0.4/24"), precondition("bridge_missing"), "create it, or name another"},
		{"same network, other address", bridged("empty", "br-blue", "10.77.0.3/24"), other, "delete it first"},
		{"network in use", "blue", precondition("network_in_use"), "(good): delete them first"},

		{"unknown network", withExport(func(e *nodev1.Export) { e.Network = "nowhere" }), refusal{codes.NotFound, "unknown_network"}, "create it first"},
		{"client that is no address", client("everybody"), invalid("field_malformed"), "write it like"},
		{"client with more", client("10.77.0.0/24; Access_Type = RW"), invalid("field_malformed"), "write it like"},
		{"client with bits behind its prefix", client("10.77.0.1/24"), invalid("bad_access_rule"), "did you mean"},
		{"no client", client(""), invalid("field_required"), "set it"},
		{"no level", rules(rule("10.77.0.0/24", nodev1.Level_LEVEL_UNSPECIFIED)), invalid("field_required"), "set it"},
		{"level out of range", rules(rule("10.77.0.0/24", 7)), invalid("field_malformed"), "use LEVEL_RO"},
		{"two rules for one client", rules(rule("10.77.0.1", nodev1.Level_LEVEL_RO), rule("10.77.0.1/32", nodev1.Level_LEVEL_RW)), invalid("access_rule_conflict"), "keep one"},
		{"relative pseudo path", pseudo("docs"), invalid("bad_pseudo_path"), "clean absolute path"},
		{"pseudo path that climbs", pseudo("/a/../b"), invalid("bad_pseudo_path"), "clean absolute path"},
		{"pseudo path with syntax", pseudo(`/a";}EXPORT{`), invalid("bad_pseudo_path"), "clean absolute path"},
		{"pseudo path taken", pseudo("/good"), precondition("pseudo_path_taken"), "choose another"},
		{"pseudo path inside another", pseudo("/good/sub"), precondition("pseudo_path_taken"), "choose another"},
		{"other network", again(func(e *nodev1.Export) { e.Network = "empty" }), other, "delete it first"},
		{"other source", again(func(e *nodev1.Export) { e.Connection = local("music") }), other, "delete it first"},
		{"other pseudo path", again(func(e *nodev1.Export) { e.Pseudo = "/other" }), other, "delete it first"},
	}
	for source, want := range w.badSources(t) {
		e := withExport(func(e *nodev1.Export) { e.Connection = local(source) })
		calls = append(calls, badCall{"source " + short(source), e, want, sourceAdvice[want.reason]})
	}
	for _, id := range hostile {
		calls = append(calls,
			badCall{"export " + short(id), withExport(func(e *nodev1.Export) { e.Id = id }), hostileID(id), ""},
			badCall{"network " + short(id), withNetwork(func(n *nodev1.Network) { n.Id = id }), hostileID(id), ""})
	}
	update := func(to *nodev1.Network, seen int64) *nodev1.UpdateNetworkRequest {
		return &nodev1.UpdateNetworkRequest{Network: to, Generation: seen}
	}
	calls = append(calls, []badCall{
		{"update of nothing", update(bridged("nowhere", "br-blue", "10.77.0.3/24"), 0), refusal{codes.NotFound, "unknown_id"}, "list them"},
		{"update without a network", update(nil, 0), invalid("field_required"), "set it"},
		{"update to no address", update(bridged("empty", "br-blue"), 0), invalid("field_required"), "set it"},
		{"update to a bridge that is not there", update(bridged("empty", "br-none", "10.77.0.4/24"), 0), precondition("bridge_missing"), "create it, or name another"},
		{"update to another network's address", update(bridged("empty", "br-blue", gateway4+"/24"), 0), precondition("address_taken"), "choose another"},
		{"update from another generation", update(bridged("empty", "br-blue", "10.77.0.3/24"), 7), refusal{codes.Aborted, "changed_meanwhile"}, "repeat the change if it still fits"},
	}...)
	n.refuse(ctx, calls)
	n.deleteExport(ctx, "good")
	n.deleteNetwork(ctx, "empty")
	n.deleteNetwork(ctx, "blue")
	n.finish(ctx)
}
