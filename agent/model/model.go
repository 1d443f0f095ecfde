// Package model is what callers of the agent ask for and are told: attachments,
// networks, exports, where each stands, and which of them can never be. It does
// nothing.
package model

import (
	"net/netip"
	"time"

	"github.com/causeway-project/causeway/agent/access"
	"github.com/causeway-project/causeway/agent/device"
	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/move"
	"github.com/causeway-project/causeway/agent/strain"
	"github.com/causeway-project/causeway/drivers"
)

// The kinds of objects, as the ledger, the logs and metrics name them.
const (
	KindAttachment = "attachment"
	KindNetwork    = "network"
	KindExport     = "export"
)

// A Key names one object.
type Key struct {
	Kind string
	ID   string
}

// AttachmentKey, NetworkKey and ExportKey name the object of their kind that
// has an id.
func AttachmentKey(id string) Key { return Key{KindAttachment, id} }

// NetworkKey is explained at AttachmentKey.
func NetworkKey(id string) Key { return Key{KindNetwork, id} }

// ExportKey is explained at AttachmentKey.
func ExportKey(id string) Key { return Key{KindExport, id} }

func (k Key) String() string { return k.Kind + "/" + k.ID }

// A Phase is where an object stands.
type Phase string

// The phases.
const (
	Pending  Phase = "pending"  // waits for something else, which the reason names
	Working  Phase = "working"  // steps are being taken
	Ready    Phase = "ready"    // the host is as wanted
	Degraded Phase = "degraded" // in place, but not as it should be
	Removing Phase = "removing" // on its way out
	Failed   Phase = "failed"   // the last try failed and will be repeated
)

// A Status is what the agent knows of an object.
type Status struct {
	Generation         int64
	ObservedGeneration int64
	Phase              Phase
	Since              time.Time
	Reason             fault.Reason
	Message            string
	Attempts           int
}

// Settled says whether the object serves, as well as may be.
func (s Status) Settled() bool {
	return s.Phase == Ready || s.Phase == Degraded && s.ObservedGeneration == s.Generation
}

// Because adds why.
func (s Status) Because(e *fault.Error, attempts int) Status {
	s.Reason, s.Message, s.Attempts = e.Reason, e.Error(), attempts
	return s
}

// An Attachment is a share that an instance sees as a virtiofs device.
type Attachment struct {
	ID         string
	Instance   string // name or UUID of a libvirt domain
	Connection drivers.Connection
	Tag        string
	ReadOnly   bool
	MountAt    string // absolute path in the guest, or empty
	Settings   device.Settings
	IDs        device.IDs
	Forced     bool // other writers that do not meet its locks are let in

	InstanceUUID  string // resolved by the agent
	Guest         GuestState
	Persistence   Persistence
	LiveOnly      string // why it is, for a person; empty where it is not
	LockScope     device.Scope
	UnlockedUsers []string // other writers that do not meet its locks, "attachment/ID", "export/ID"
	GuestNote     string   // what keeps the agent from knowing or changing the guest's side
	Holders       []Holder // of the mount in the guest, while it holds a removal up
	RemovalForced bool     // a removal with force is under way
	Status        Status
	Usage         strain.Usage // of its virtiofsd, when it was last looked at
	Move          *move.Move   // while the instance is on its way; nil otherwise
}

// A Holder is a process in a guest that uses a mount.
type Holder struct {
	PID     int64
	Command string // the guest's word
}

// A GuestState is what is known of the mount inside the guest.
type GuestState string

// The guest states.
const (
	GuestUnknown    GuestState = "unknown"
	GuestDeviceOnly GuestState = "device-only"
	GuestMounted    GuestState = "mounted"
)

// A Persistence says what becomes of a device at the instance's next start.
type Persistence string

// The persistences.
const (
	PersistenceUnknown Persistence = "unknown"
	LiveOnly           Persistence = "live-only"  // plugged in again when the instance has started
	Persistent         Persistence = "persistent" // in the definition: there when the guest boots
)

// A Start is an instance of which libvirt is about to start the QEMU.
type Start struct {
	Instance string // name
	UUID     string
	Sockets  []string // that its virtiofs devices connect to
	User     string   // that its QEMU is to run as, as libvirt labels it; empty is libvirt's default
}

// A Network is a tenant network on this host.
type Network struct {
	ID        string
	Plug      Plug
	Addresses []netip.Prefix
	Routes    []Route
	MTU       int    // bytes; 0 takes what the plug's bridge or device carries
	MAC       string // empty lets the agent choose

	NFSVersions []NFSVersion // none are 4.1 and 4.2

	Gateway Gateway
	Status  Status
	Drift   Drift
}

// Drift is how a network was found other than wanted since the agent started.
type Drift struct {
	Count int64
	At    time.Time // the last time
	What  []string  // the last time, in words
}

// A PlugKind says how a network reaches this host.
type PlugKind string

// The kinds of plugs. They are also the words of the ledger.
const (
	PlugBridge  PlugKind = "bridge"  // a port of a Linux bridge
	PlugVLAN    PlugKind = "vlan"    // an 802.1Q device
	PlugVXLAN   PlugKind = "vxlan"   // a VXLAN device with a list of peers
	PlugMacvlan PlugKind = "macvlan" // a macvlan
	PlugOVS     PlugKind = "ovs"     // a port of an Open vSwitch bridge
	PlugNone    PlugKind = "none"    // an interface in a namespace, both made by somebody else
)

// A Plug is how a network reaches this host. Its kind says which of the fields
// count; the others are empty.
type Plug struct {
	Kind   PlugKind
	Bridge string // bridge, ovs
	Device string // vlan, vxlan, macvlan: of this host
	VLAN   int    // vlan; bridge and ovs: 0 for no tag

	VXLAN int // vxlan: its id
	Local netip.Addr
	Peers []netip.Addr
	Port  int // vxlan: UDP; 0 for the usual one

	InterfaceID string // ovs: external_ids:iface-id, or empty

	Namespace string // none
	Interface string // none: within the namespace
}

// A Route sends packets for Destination to Via.
type Route struct {
	Destination netip.Prefix
	Via         netip.Addr
}

// A Gateway is what is known of a network's Ganesha.
type Gateway struct {
	Running   bool
	PID       int
	Restarts  int64
	StartedAt time.Time
	Exports   int
	Version   string
}

// An Export is a share published through a network's gateway.
type Export struct {
	ID         string
	Network    string
	Connection drivers.Connection
	Rules      []access.Rule
	Pseudo     string
	ReadOnly   bool

	ExportID  uint16
	Locations []string // "address:/path"
	Status    Status
}

// A Mount is a share, mounted on this host for the objects that use it.
type Mount struct {
	Name     string
	Kind     string
	Source   string
	Path     string
	ReadOnly bool
	Users    []string // "attachment/ID", "export/ID"
	Status   Status
}

// A Node is what this agent says of itself.
type Node struct {
	Hostname   string
	Version    string
	InSync     bool
	StartedAt  time.Time
	Drivers    []drivers.Description
	Mounts     []Mount
	Damaged    []string // ledger files that could not be read
	Subsystems []Subsystem
	Virtiofsd  Virtiofsd
}

// Virtiofsd is the program that new attachments get as their daemon. Its zero
// value is an agent that serves no instances.
type Virtiofsd struct {
	Path      string
	Flavour   string
	Version   string
	Abilities []string
	Message   string // what is wrong, where there is none that can be used
}

// A Verdict is the outcome of a check.
type Verdict string

// The verdicts.
const (
	Pass Verdict = "pass"
	Warn Verdict = "warn"
	Fail Verdict = "fail"
)

// A Subsystem is one part of the agent and whether it can serve.
type Subsystem struct {
	Name    string
	Verdict Verdict
	Message string
}

// A Check is one line of a preflight.
type Check struct {
	Name    string
	Verdict Verdict
	Message string
	Fix     string       // the command that cures it
	Reason  fault.Reason // for which a call would be refused; with Fail, of a preflight of an attachment
}

// An Event is one change that a watcher sees. One of the objects is set, or
// none when Synced.
type Event struct {
	Deleted    bool
	Synced     bool
	Attachment *Attachment
	Network    *Network
	Export     *Export
}

// Name is the object's kind and id, or empty.
func (e Event) Name() string {
	switch {
	case e.Attachment != nil:
		return AttachmentKey(e.Attachment.ID).String()
	case e.Network != nil:
		return NetworkKey(e.Network.ID).String()
	case e.Export != nil:
		return ExportKey(e.Export.ID).String()
	}
	return ""
}
