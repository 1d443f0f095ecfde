package agent

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/causeway-project/causeway/agent/access"
	"github.com/causeway-project/causeway/agent/ledger"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/word"
	"github.com/causeway-project/causeway/drivers"
	"github.com/causeway-project/causeway/ganesha"
	"github.com/causeway-project/causeway/netns"
)

// An objectKey names one object of the ledger.
type objectKey struct{ kind, id string }

func (k objectKey) String() string { return k.kind + "/" + k.id }

// A record is one object's intent, as it lies in the ledger. It holds every
// name that is made on the host for it, so that a later version that would
// choose other names still finds what this one made. A record in memory is
// never changed, only replaced.
type record struct {
	Generation int64             `json:"generation"`
	Removing   bool              `json:"removing,omitempty"`
	Attachment *attachmentIntent `json:"attachment,omitempty"`
	Network    *networkIntent    `json:"network,omitempty"`
	Export     *exportIntent     `json:"export,omitempty"`
}

type attachmentIntent struct {
	Instance     string           `json:"instance"` // as the caller said
	InstanceUUID string           `json:"instance_uuid"`
	Connection   connectionIntent `json:"connection"`
	Tag          string           `json:"tag"`
	ReadOnly     bool             `json:"read_only,omitempty"`
	MountAt      string           `json:"mount_at,omitempty"`

	Mount string `json:"mount"` // name of the share's mount
	Alias string `json:"alias"` // of the libvirt device
}

type networkIntent struct {
	plugIntent
	Addresses []netip.Prefix `json:"addresses"`
	Routes    []routeIntent  `json:"routes,omitempty"`
	MTU       int            `json:"mtu,omitempty"`
	MAC       string         `json:"mac,omitempty"` // as the caller said

	NFSVersions []model.NFSVersion `json:"nfs_versions,omitempty"` // see versionsIntent

	Namespace string `json:"namespace"`
	HostLink  string `json:"host_link"`
	LinkMAC   string `json:"link_mac"`

	// Former is what was made before the plug changed, until all of it is gone.
	// While it is there nothing of the present plug has been made.
	Former *networkIntent `json:"former,omitempty"`
}

// differs names the first setting in which two networks differ, as their
// callers said them; none is "".
func (n *networkIntent) differs(o *networkIntent) string {
	switch {
	case !n.plugIntent.equal(o.plugIntent):
		return "plug"
	case !slices.Equal(n.Addresses, o.Addresses):
		return "set of addresses"
	case !slices.Equal(n.Routes, o.Routes):
		return "set of routes"
	case n.MTU != o.MTU:
		return "MTU"
	case n.MAC != o.MAC:
		return "MAC"
	case !slices.Equal(n.NFSVersions, o.NFSVersions):
		return "set of NFS versions"
	}
	return ""
}

// changedTo is the next generation of a network's record. What was made by the
// former plug is remembered until it is gone, and what can stay keeps its names.
func (r *record) changedTo(want networkIntent) *record {
	is := r.Network
	if want.MAC == "" && is.MAC == "" && want.LinkMAC != "" && is.LinkMAC != "" {
		want.LinkMAC = is.LinkMAC
	}
	want.Former = is.Former
	switch {
	case is.Former != nil: // then nothing of what is has been made
	case is.sameMake(want.plugIntent):
		want.Namespace, want.HostLink = is.Namespace, is.HostLink
	default:
		want.Former = is
	}
	next := r.next()
	next.Network = &want
	return next
}

// A plugIntent is a Plug. Records of agents that knew bridges alone have no
// kind: they say bridge.
type plugIntent struct {
	Kind        model.PlugKind `json:"plug,omitempty"`
	Bridge      string         `json:"bridge,omitempty"`
	Device      string         `json:"device,omitempty"`
	VLAN        int            `json:"vlan,omitempty"`
	VXLAN       int            `json:"vxlan,omitempty"`
	Local       netip.Addr     `json:"local,omitzero"`
	Peers       []netip.Addr   `json:"peers,omitempty"`
	Port        int            `json:"port,omitempty"`
	InterfaceID string         `json:"interface_id,omitempty"`
	Provided    string         `json:"provided,omitempty"` // the namespace, as the caller said
	Interface   string         `json:"interface,omitempty"`
}

func (p plugIntent) kind() model.PlugKind {
	if p.Kind == "" {
		return model.PlugBridge
	}
	return p.Kind
}

func (p plugIntent) plug() model.Plug {
	return model.Plug{
		Kind: p.kind(), Bridge: p.Bridge, Device: p.Device, VLAN: p.VLAN,
		VXLAN: p.VXLAN, Local: p.Local, Peers: slices.Clone(p.Peers), Port: p.Port,
		InterfaceID: p.InterfaceID, Namespace: p.Provided, Interface: p.Interface,
	}
}

func plugIntentOf(p model.Plug) plugIntent {
	return plugIntent{
		Kind: p.Kind, Bridge: p.Bridge, Device: p.Device, VLAN: p.VLAN,
		VXLAN: p.VXLAN, Local: p.Local, Peers: slices.Clone(p.Peers), Port: p.Port,
		InterfaceID: p.InterfaceID, Provided: p.Namespace, Interface: p.Interface,
	}
}

func (p plugIntent) equal(o plugIntent) bool {
	if !slices.Equal(p.Peers, o.Peers) {
		return false
	}
	p.Kind, o.Kind, p.Peers, o.Peers = p.kind(), o.kind(), nil, nil
	return reflect.DeepEqual(p, o)
}

// sameMake reports whether one plug can become the other in place, so that the
// namespace and the gateway in it stay.
func (p plugIntent) sameMake(o plugIntent) bool {
	if p.kind() == model.PlugVXLAN {
		p.Peers, o.Peers = nil, nil
	}
	return p.equal(o)
}

// segment names what two networks of one host share when they meet on the
// wire: there no address can be both's.
func (p plugIntent) segment() string {
	switch p.kind() {
	case model.PlugVXLAN:
		return fmt.Sprintf("vxlan %d port %d", p.VXLAN, cmp.Or(p.Port, netns.VXLANPort))
	case model.PlugNone:
		return "namespace " + p.Provided
	}
	return fmt.Sprintf("%s %s%s vlan %d", p.kind(), p.Bridge, p.Device, p.VLAN)
}

// single reports whether a host can have a segment once.
func (p plugIntent) single() bool {
	switch p.kind() {
	case model.PlugVLAN, model.PlugVXLAN, model.PlugNone:
		return true
	}
	return false
}

// of says it to the package that makes it.
func (p plugIntent) of(id string) netns.Plug {
	switch p.kind() {
	case model.PlugVLAN:
		return netns.VLAN{Device: p.Device, ID: p.VLAN}
	case model.PlugVXLAN:
		return netns.VXLAN{ID: p.VXLAN, Device: p.Device, Local: p.Local, Peers: p.Peers, Port: p.Port}
	case model.PlugMacvlan:
		return netns.Macvlan{Device: p.Device}
	case model.PlugOVS:
		return netns.OVS{Bridge: p.Bridge, InterfaceID: p.InterfaceID, VLAN: p.VLAN}
	case model.PlugNone:
		return netns.Provided{Interface: p.Interface, Owner: id}
	}
	return netns.Bridge{Name: p.Bridge, VLAN: p.VLAN}
}

type routeIntent struct {
	Destination netip.Prefix `json:"destination"`
	Via         netip.Addr   `json:"via"`
}

type exportIntent struct {
	Network    string           `json:"network"`
	Connection connectionIntent `json:"connection"`
	Rules      []access.Intent  `json:"rules"`
	Pseudo     string           `json:"pseudo"`
	ReadOnly   bool             `json:"read_only,omitempty"`

	Mount    string `json:"mount"`
	ExportID uint16 `json:"export_id"`
	FSID     uint64 `json:"fsid,string"`
}

type connectionIntent struct {
	Kind    string            `json:"kind"`
	Source  string            `json:"source"`
	Options map[string]string `json:"options,omitempty"`
}

func (c connectionIntent) equal(o connectionIntent) bool {
	return c.Kind == o.Kind && c.Source == o.Source && maps.Equal(c.Options, o.Options)
}

func intentOf(c drivers.Connection) connectionIntent {
	return connectionIntent{Kind: c.Kind, Source: c.Source, Options: maps.Clone(c.Options)}
}

// share is a digest that names the share of a connection on this host.
func (c connectionIntent) share() string {
	h := sha256.New()
	put := func(s string) { fmt.Fprintf(h, "%d:%s,", len(s), s) }
	put(c.Kind)
	put(c.Source)
	for _, k := range slices.Sorted(maps.Keys(c.Options)) {
		put(k)
		put(c.Options[k])
	}
	return hex.EncodeToString(h.Sum(nil)[:10])
}

// mountName names a share's mount. Read-only attachments have a mount of their
// own: the host, not the guest, keeps them from writing.
func (c connectionIntent) mountName(readOnly bool) string {
	if readOnly {
		return word.Own + "-" + c.share() + "-ro"
	}
	return word.Own + "-" + c.share()
}

func namespaceName(id string) string { return word.Own + "-" + id }

// linkName fits the kernel's 15 bytes whatever the id.
func linkName(id string) string {
	sum := sha256.Sum256([]byte(id))
	return word.Own + hex.EncodeToString(sum[:6])
}

// linkMAC is locally administered, unicast, and the same for an id on every
// start, so that a re-made link keeps its neighbours.
func linkMAC(id, hostname string) string {
	sum := sha256.Sum256([]byte(hostname + "/" + id))
	return fmt.Sprintf("02:%02x:%02x:%02x:%02x:%02x", sum[0], sum[1], sum[2], sum[3], sum[4])
}

// aliasPrefix begins a device's alias; libvirt wants "ua-" there.
const aliasPrefix = "ua-cw-"

// A layout says where things lie on this host.
type layout struct{ state, run string }

func (l layout) ledger() string                 { return filepath.Join(l.state, "ledger") }
func (l layout) mounts() string                 { return filepath.Join(l.run, "mounts") }
func (l layout) mount(name string) string       { return filepath.Join(l.run, "mounts", name) }
func (l layout) gatewayRun(net string) string   { return filepath.Join(l.run, "gateways", net) }
func (l layout) gatewayState(net string) string { return filepath.Join(l.state, "gateways", net) }
func (l layout) exports(net string) string      { return filepath.Join(l.run, "exports", net) }
func (l layout) view(net, export string) string { return filepath.Join(l.run, "exports", net, export) }
func (l layout) daemon(attachment string) string {
	return filepath.Join(l.run, "virtiofs", attachment)
}
func (l layout) socket(attachment string) string {
	return filepath.Join(l.daemon(attachment), "sock")
}

// group names the dependency group of a record: a share and all that hangs on
// it, or a network and its gateway.
func (r *record) group(id string) string {
	if r.Network != nil {
		return networkGroup(id)
	}
	return "share/" + r.connection().share()
}

func networkGroup(id string) string { return "network/" + id }

func (r *record) connection() connectionIntent {
	if r.Attachment != nil {
		return r.Attachment.Connection
	}
	return r.Export.Connection
}

func (r *record) mountName() string {
	if r.Attachment != nil {
		return r.Attachment.Mount
	}
	return r.Export.Mount
}

// mountReadOnly says whether the share's mount of this record is read-only. An
// export's is not: its rules decide.
func (r *record) mountReadOnly() bool { return r.Attachment != nil && r.Attachment.ReadOnly }

// next is a copy of r as the next generation.
func (r *record) next() *record {
	n := *r
	n.Generation++
	return &n
}

// decode reads a record of the ledger.
func decode(lr ledger.Record) (*record, error) {
	var r record
	if err := json.Unmarshal(lr.Body, &r); err != nil {
		return nil, err
	}
	has := map[string]bool{
		model.KindAttachment: r.Attachment != nil, model.KindNetwork: r.Network != nil, model.KindExport: r.Export != nil,
	}
	for kind, there := range has {
		if there != (kind == lr.Kind) {
			return nil, fmt.Errorf("a record of kind %s must hold one %s", lr.Kind, lr.Kind)
		}
	}
	if r.Generation < 1 {
		return nil, fmt.Errorf("generation %d is below 1", r.Generation)
	}
	if r.Export != nil {
		access.Name(r.Export.Rules)
	}
	return &r, nil
}

// versionsIntent is what the ledger holds: sorted, and nothing where a network
// has what every network has by default.
func versionsIntent(versions []model.NFSVersion) []model.NFSVersion {
	versions = slices.Sorted(slices.Values(versions))
	if slices.Equal(versions, defaultNFSVersions()) {
		return nil
	}
	return versions
}

func defaultNFSVersions() []model.NFSVersion {
	var versions []model.NFSVersion
	for _, v := range ganesha.DefaultVersions() {
		versions = append(versions, model.NFSVersion(v))
	}
	return versions
}

// nfsVersions are those that the network serves.
func (n *networkIntent) nfsVersions() []model.NFSVersion {
	if len(n.NFSVersions) == 0 {
		return defaultNFSVersions()
	}
	return slices.Clone(n.NFSVersions)
}

// served says it in the terms of the part that serves them.
func (n *networkIntent) served() ganesha.Versions {
	var versions ganesha.Versions
	for _, v := range n.NFSVersions {
		versions = append(versions, ganesha.Version(v))
	}
	return versions
}

// gatewaySettings names what of a network is rendered into its gateway's
// configuration: one that was started with another name is started anew, once,
// and its clients reclaim. What every network has by default is "": gateways of
// earlier agents have no name, and an upgrade is to restart none.
func (n *networkIntent) gatewaySettings() string {
	var words []string
	for _, v := range n.NFSVersions {
		words = append(words, "nfs "+string(v))
	}
	return strings.Join(words, ", ")
}
