package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/causeway-project/causeway/drivers"
	"github.com/causeway-project/causeway/ganesha"
	"github.com/causeway-project/causeway/netns"
)

// The reasons, in errors and in statuses. docs/troubleshooting.md has one line
// for each.
const (
	// Of requests.
	BadID           Reason = "bad_id"
	BadTag          Reason = "bad_tag"
	BadInstance     Reason = "bad_instance"
	BadMountPath    Reason = "bad_mount_path"
	BadSource       Reason = "bad_source"
	BadPlug         Reason = "bad_plug"
	BadBridge       Reason = "bad_bridge"
	BadDevice       Reason = "bad_device"
	BadVLAN         Reason = "bad_vlan"
	BadVXLAN        Reason = "bad_vxlan"
	BadAddress      Reason = "bad_address"
	BadRoute        Reason = "bad_route"
	BadMTU          Reason = "bad_mtu"
	BadMAC          Reason = "bad_mac"
	BadPseudo       Reason = "bad_pseudo_path"
	BadRule         Reason = "bad_access_rule"
	BadMetadata     Reason = "bad_metadata"
	RuleConflict    Reason = "access_rule_conflict"
	RuleForEveryone Reason = "access_rule_for_everyone"
	TooManyRules    Reason = "too_many_access_rules"
	NoKerberos      Reason = "kerberos_missing"
	BadCount        Reason = "bad_count"
	BadNFSVersion   Reason = "bad_nfs_version"
	UnknownDriver   Reason = "unknown_backend_kind"

	// Of ids.
	UnknownID        Reason = "unknown_id"
	OtherSettings    Reason = "other_settings"
	BeingRemoved     Reason = "being_removed"
	ChangedMeanwhile Reason = "changed_meanwhile"
	Withdrawn        Reason = "withdrawn"
	UnknownRule      Reason = "unknown_access_rule"
	UnknownNetwork   Reason = "unknown_network"
	NetworkInUse     Reason = "network_in_use"
	AddressTaken     Reason = "address_taken"
	PlugTaken        Reason = "plug_taken"
	PseudoTaken      Reason = "pseudo_path_taken"
	TagTaken         Reason = "tag_taken"
	NoExportIDs      Reason = "export_ids_exhausted"

	// Of the world.
	NoBridge           Reason = "bridge_missing"
	NoDevice           Reason = "device_unusable"
	NoVLANs            Reason = "vlan_filtering_off"
	NoNamespace        Reason = "namespace_missing"
	PlugUnsupported    Reason = "plug_unsupported"
	AddressInUse       Reason = "address_in_use"
	NoNFSVersion       Reason = "nfs_version_unsupported"
	NFS3PartsDown      Reason = "nfs3_parts_down"
	ShareNotFound      Reason = "share_not_found"
	ShareGone          Reason = "share_gone"
	ShareAccess        Reason = "backend_refused"
	BackendAway        Reason = "backend_unreachable"
	BackendFull        Reason = "backend_exhausted"
	MountBusy          Reason = "mount_busy"
	InstanceNotFound   Reason = "instance_not_found"
	InstanceOff        Reason = "instance_off"
	NoSharedMemory     Reason = "no_shared_memory"
	NoFreePort         Reason = "no_free_port"
	NoVirtiofsd        Reason = "no_virtiofsd"
	DaemonEnded        Reason = "virtiofsd_ended"
	LibvirtUnavailable Reason = "libvirt_unavailable"
	GuestBusy          Reason = "guest_busy"
	GuestAgentAbsent   Reason = "guest_agent_absent"
	GuestRefused       Reason = "guest_refused"
	GatewayDown        Reason = "gateway_down"
	GatewayCrashes     Reason = "gateway_keeps_ending"
	GatewayStuck       Reason = "gateway_stuck"
	GatewayBlocked     Reason = "gateway_blocked"
	HandlesUnprotected Reason = "file_handles_unprotected"
	GatewayMemory      Reason = "gateway_memory_limit"
	GatewayTasks       Reason = "gateway_tasks_limit"
	ExportRefused      Reason = "export_refused"
	RuleRefused        Reason = "access_rule_refused"
	RuleExpired        Reason = "access_rule_expired" // also of requests
	PathUnusable       Reason = "path_unusable"

	// Of the agent.
	NotInSync     Reason = "not_in_sync"
	LedgerFull    Reason = "ledger_full"
	LedgerFailed  Reason = "ledger_failed"
	RecordDamaged Reason = "record_damaged"
	StepTimeout   Reason = "step_timeout"
	CallTimeout   Reason = "deadline"
	WatchOverrun  Reason = "watch_overrun"
	Waiting       Reason = "waiting"
	StepFailed    Reason = "step_failed"
)

// classify gives an error of the parts that do the work its kind and reason. A
// backend's "permission denied" is not the caller's.
func classify(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	for _, c := range []struct {
		is      error
		kind    Kind
		reason  Reason
		message string
	}{
		{drivers.ErrNotFound, NotFound, ShareNotFound, "the share is not there: create it, or correct the source"},
		{drivers.ErrSource, Invalid, BadSource, "the source cannot be used: correct it"},
		{drivers.ErrAccess, Precondition, ShareAccess, "the backend refused the credentials: check them at the backend"},
		{drivers.ErrUnreachable, Unavailable, BackendAway, "the backend does not answer: it will be tried again"},
		{drivers.ErrBusy, Busy, MountBusy, "the mount is in use: it will be tried again"},
		{drivers.ErrExhausted, Exhausted, BackendFull, "the backend has no room: free some"},
		{netns.ErrNoBridge, Precondition, NoBridge, "the bridge is not on this host: create it, or name another"},
		{netns.ErrNoDevice, Precondition, NoDevice, "the device cannot carry the network: cure it, or name another"},
		{netns.ErrMTU, Invalid, BadMTU, "give a smaller MTU, or 0 for the device's"},
		{netns.ErrNoVLANs, Precondition, NoVLANs, "the bridge mixes VLANs: turn its filtering on, or leave the tag out"},
		{netns.ErrTaken, Precondition, PlugTaken, "somebody else has it: free it, or name another"},
		{netns.ErrNoNamespace, Precondition, NoNamespace, "whoever provides the namespace and its interface must do so first"},
		{netns.ErrUnsupported, Precondition, PlugUnsupported, "this host lacks what the plug needs"},
		{netns.ErrAddressInUse, Precondition, AddressInUse, "another machine on the network has the address: choose another"},
		{ganesha.ErrUnprotected, Precondition, HandlesUnprotected, "clients could forge file handles: install causeway-handles.so beside causeway-launch, for the Ganesha that is installed"},
		{ganesha.ErrVersion, Precondition, NoNFSVersion, "this host cannot serve that version of NFS: leave it out, or cure it"},
		{ganesha.ErrRefused, Precondition, ExportRefused, "Ganesha refused the export: see its log in the gateway's run directory"},
		{ganesha.ErrPath, Precondition, PathUnusable, "the share's file system cannot be exported over NFS"},
		{ganesha.ErrBlocked, Unavailable, GatewayBlocked, "the gateway's clients wait for a backend that does not answer: it is left alone, and goes on when the backend does"},
		{ganesha.ErrNotRunning, Unavailable, GatewayDown, "the gateway does not answer: it is being started again"},
		{context.DeadlineExceeded, Unavailable, StepTimeout, "a step did not end in time: it will be tried again"},
		{fs.ErrPermission, Internal, StepFailed, "a step was not permitted: does the agent run as root?"},
	} {
		if errors.Is(err, c.is) {
			return &Error{Kind: c.kind, Reason: c.reason, Message: c.message, Err: err}
		}
	}
	return &Error{Kind: Internal, Reason: StepFailed, Message: "a step failed: it will be tried again", Err: err}
}

// ledgerError is a failure to write an intent down. Nothing was changed.
func ledgerError(err error) *Error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return &Error{Kind: Exhausted, Reason: LedgerFull,
			Message: "the file system of the state directory is full and nothing was changed: free some space and repeat the call", Err: err}
	}
	return &Error{Kind: Unavailable, Reason: LedgerFailed,
		Message: "the intent could not be written to the state directory and nothing was changed", Err: err}
}

// keptError is a failure to remove a record of which nothing is left on the host.
func keptError(err error) *Error {
	return &Error{Kind: Unavailable, Reason: LedgerFailed,
		Message: "nothing is left on the host, and the record could not be removed from the state directory: it will be tried again", Err: err}
}

// permanent tells an error that only the caller or an operator can change from
// one that trying again may.
func (e *Error) permanent() bool {
	switch e.Kind {
	case Invalid, NotFound, Conflict, Precondition, Denied:
		return true
	}
	return false
}

func invalid(reason Reason, format string, args ...any) *Error {
	return &Error{Kind: Invalid, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

func precondition(reason Reason, format string, args ...any) *Error {
	return &Error{Kind: Precondition, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

func unknownID(kind, id string) *Error {
	return &Error{Kind: NotFound, Reason: UnknownID, Metadata: map[string]string{"id": id},
		Message: fmt.Sprintf("there is no %s %q: list them to see which there are", kind, id)}
}
