package rpc

import (
	"fmt"
	"net/netip"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/strain"
	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/drivers"
)

func attachmentFrom(a *nodev1.Attachment) (model.Attachment, error) {
	if a == nil {
		return model.Attachment{}, required("attachment")
	}
	err := checkNeeds(
		need{"attachment.id", a.GetId()},
		need{"attachment.tag", a.GetTag()},
	)
	if err != nil {
		return model.Attachment{}, err
	}
	return draftFrom(a)
}

// draftFrom is for a preflight, where neither id nor tag have to be known.
func draftFrom(a *nodev1.Attachment) (model.Attachment, error) {
	if a == nil {
		return model.Attachment{}, required("attachment")
	}
	err := checkNeeds(
		need{"attachment.instance", a.GetInstance()},
		need{"attachment.connection.backend_kind", a.GetConnection().GetBackendKind()},
		need{"attachment.connection.source", a.GetConnection().GetSource()},
	)
	if err != nil {
		return model.Attachment{}, err
	}
	settings, err := settingsFrom(a.GetSettings())
	if err != nil {
		return model.Attachment{}, err
	}
	return model.Attachment{
		ID:         a.GetId(),
		Instance:   a.GetInstance(),
		Connection: connectionFrom(a.GetConnection()),
		Tag:        a.GetTag(),
		ReadOnly:   a.GetReadOnly(),
		MountAt:    a.GetMountAt(),
		Settings:   settings,
		IDs:        idsFrom(a.GetIds()),
	}, nil
}

func attachmentTo(a model.Attachment) *nodev1.Attachment {
	to := &nodev1.Attachment{
		Id:           a.ID,
		Instance:     text(a.Instance),
		Connection:   connectionTo(a.Connection),
		Tag:          text(a.Tag),
		ReadOnly:     a.ReadOnly,
		MountAt:      text(a.MountAt),
		Status:       statusTo(a.Status),
		Usage:        usageTo(a.Usage),
		InstanceUuid: a.InstanceUUID,
		Guest:        guestTo(a.Guest),

		Settings:      settingsTo(a.Settings),
		Ids:           idsTo(a.IDs),
		LockScope:     scopes.to(a.LockScope),
		UnlockedUsers: each(a.UnlockedUsers, text),
		Forced:        a.Forced,
		Persistence:   persistenceTo(a.Persistence),
		LiveOnly:      text(a.LiveOnly),
		Move:          moveTo(a.Move),
		GuestNote:     text(a.GuestNote),
		RemovalForced: a.RemovalForced,
	}
	for _, h := range a.Holders {
		to.Holders = append(to.Holders, &nodev1.Holder{Pid: h.PID, Command: text(h.Command)})
	}
	return to
}

// usageTo leaves out what nobody has looked at: there is always a limit of files.
func usageTo(u strain.Usage) *nodev1.Usage {
	if u == (strain.Usage{}) {
		return nil
	}
	return &nodev1.Usage{OpenFiles: int64(u.Files), OpenFilesLimit: int64(u.FilesLimit), Memory: int64(u.Memory), MemoryLimit: int64(u.MemoryLimit)}
}

func networkFrom(n *nodev1.Network) (model.Network, error) {
	if n == nil {
		return model.Network{}, required("network")
	}
	if err := checkNeeds(need{"network.id", n.GetId()}); err != nil {
		return model.Network{}, err
	}
	plug, err := plugFrom(n)
	if err != nil {
		return model.Network{}, err
	}
	if len(n.GetAddresses()) == 0 {
		return model.Network{}, required("network.addresses")
	}
	to := model.Network{ID: n.GetId(), Plug: plug, MTU: int(n.GetMtu()), MAC: n.GetMac()}
	for i, a := range n.GetAddresses() {
		p, err := netip.ParsePrefix(a)
		if err != nil {
			return model.Network{}, malformed(fmt.Sprintf("network.addresses[%d]", i),
				"%q is not an address with its prefix length; write it like 10.77.0.2/24 or fd77::2/64", a)
		}
		to.Addresses = append(to.Addresses, p)
	}
	for _, v := range n.GetNfsVersions() {
		to.NFSVersions = append(to.NFSVersions, model.NFSVersion(v))
	}
	for i, r := range n.GetRoutes() {
		field := fmt.Sprintf("network.routes[%d]", i)
		destination, err := netip.ParsePrefix(r.GetDestination())
		if err != nil {
			return model.Network{}, malformed(field+".destination",
				"%q is not a prefix; write it like 10.0.0.0/8, or 0.0.0.0/0 for the default route", r.GetDestination())
		}
		via, err := netip.ParseAddr(r.GetVia())
		if err != nil || via.Zone() != "" {
			return model.Network{}, malformed(field+".via", "%q is not an address; write it like 10.77.0.1", r.GetVia())
		}
		to.Routes = append(to.Routes, model.Route{Destination: destination, Via: via})
	}
	return to, nil
}

func networkTo(n model.Network) *nodev1.Network {
	to := &nodev1.Network{
		Id:     n.ID,
		Mtu:    int32(n.MTU),
		Mac:    text(n.MAC),
		Status: statusTo(n.Status),
		Gateway: &nodev1.Gateway{
			Running:   n.Gateway.Running,
			Pid:       int32(n.Gateway.PID),
			Restarts:  n.Gateway.Restarts,
			StartedAt: timeTo(n.Gateway.StartedAt),
			Exports:   int32(n.Gateway.Exports),
			Version:   text(n.Gateway.Version),
		},
	}
	if d := n.Drift; d.Count > 0 {
		to.Drift = &nodev1.Drift{Count: d.Count, At: timeTo(d.At)}
		for _, words := range d.What {
			to.Drift.What = append(to.Drift.What, text(words))
		}
	}
	plugTo(n.Plug, to)
	for _, v := range n.NFSVersions {
		to.NfsVersions = append(to.NfsVersions, string(v))
	}
	for _, a := range n.Addresses {
		to.Addresses = append(to.Addresses, a.String())
	}
	for _, r := range n.Routes {
		to.Routes = append(to.Routes, &nodev1.Route{Destination: r.Destination.String(), Via: r.Via.String()})
	}
	return to
}

func exportFrom(e *nodev1.Export) (model.Export, error) {
	if e == nil {
		return model.Export{}, required("export")
	}
	err := checkNeeds(
		need{"export.id", e.GetId()},
		need{"export.network", e.GetNetwork()},
		need{"export.connection.backend_kind", e.GetConnection().GetBackendKind()},
		need{"export.connection.source", e.GetConnection().GetSource()},
	)
	if err != nil {
		return model.Export{}, err
	}
	to := model.Export{
		ID:         e.GetId(),
		Network:    e.GetNetwork(),
		Connection: connectionFrom(e.GetConnection()),
		Pseudo:     e.GetPseudo(),
		ReadOnly:   e.GetReadOnly(),
	}
	for i, r := range e.GetRules() {
		rule, err := ruleFrom(r, fmt.Sprintf("export.rules[%d]", i))
		if err != nil {
			return model.Export{}, err
		}
		to.Rules = append(to.Rules, rule)
	}
	return to, nil
}

func exportTo(e model.Export) *nodev1.Export {
	return &nodev1.Export{
		Id:         e.ID,
		Network:    e.Network,
		Connection: connectionTo(e.Connection),
		Rules:      each(e.Rules, ruleTo),
		Pseudo:     text(e.Pseudo),
		ReadOnly:   e.ReadOnly,
		Status:     statusTo(e.Status),
		Locations:  each(e.Locations, text),
		ExportId:   int32(e.ExportID),
	}
}

func connectionFrom(c *nodev1.Connection) drivers.Connection {
	return drivers.Connection{
		Kind:    c.GetBackendKind(),
		Source:  c.GetSource(),
		Options: c.GetOptions(),
		Secret:  drivers.NewSecret(c.GetSecret()),
	}
}

// connectionTo leaves the secret out, always.
func connectionTo(c drivers.Connection) *nodev1.Connection {
	to := &nodev1.Connection{BackendKind: text(c.Kind), Source: text(c.Source)}
	if len(c.Options) > 0 {
		to.Options = make(map[string]string, len(c.Options))
		for k, v := range c.Options {
			to.Options[text(k)] = text(v)
		}
	}
	return to
}

func statusTo(s model.Status) *nodev1.Status {
	return &nodev1.Status{
		Generation:         s.Generation,
		ObservedGeneration: s.ObservedGeneration,
		Phase:              phaseTo(s.Phase),
		Since:              timeTo(s.Since),
		Reason:             text(string(s.Reason)),
		Message:            text(s.Message),
		Attempts:           int32(s.Attempts),
	}
}

func phaseTo(p model.Phase) nodev1.Phase {
	switch p {
	case model.Pending:
		return nodev1.Phase_PHASE_PENDING
	case model.Working:
		return nodev1.Phase_PHASE_WORKING
	case model.Ready:
		return nodev1.Phase_PHASE_READY
	case model.Degraded:
		return nodev1.Phase_PHASE_DEGRADED
	case model.Removing:
		return nodev1.Phase_PHASE_REMOVING
	case model.Failed:
		return nodev1.Phase_PHASE_FAILED
	}
	return nodev1.Phase_PHASE_UNSPECIFIED
}

func persistenceTo(p model.Persistence) nodev1.Persistence {
	switch p {
	case model.PersistenceUnknown:
		return nodev1.Persistence_PERSISTENCE_UNKNOWN
	case model.LiveOnly:
		return nodev1.Persistence_PERSISTENCE_LIVE_ONLY
	case model.Persistent:
		return nodev1.Persistence_PERSISTENCE_PERSISTENT
	}
	return nodev1.Persistence_PERSISTENCE_UNSPECIFIED
}

func guestTo(g model.GuestState) nodev1.GuestState {
	switch g {
	case model.GuestUnknown:
		return nodev1.GuestState_GUEST_STATE_UNKNOWN
	case model.GuestDeviceOnly:
		return nodev1.GuestState_GUEST_STATE_DEVICE_ONLY
	case model.GuestMounted:
		return nodev1.GuestState_GUEST_STATE_MOUNTED
	}
	return nodev1.GuestState_GUEST_STATE_UNSPECIFIED
}

func verdictTo(v model.Verdict) nodev1.Verdict {
	switch v {
	case model.Pass:
		return nodev1.Verdict_VERDICT_PASS
	case model.Warn:
		return nodev1.Verdict_VERDICT_WARN
	case model.Fail:
		return nodev1.Verdict_VERDICT_FAIL
	}
	return nodev1.Verdict_VERDICT_UNSPECIFIED
}

func nodeTo(n model.Node) *nodev1.GetNodeResponse {
	return &nodev1.GetNodeResponse{
		Hostname:       text(n.Hostname),
		Version:        text(n.Version),
		InSync:         n.InSync,
		StartedAt:      timeTo(n.StartedAt),
		Drivers:        each(n.Drivers, driverTo),
		Mounts:         each(n.Mounts, mountTo),
		DamagedRecords: each(n.Damaged, text),
		Subsystems:     each(n.Subsystems, subsystemTo),
		Virtiofsd:      virtiofsdTo(n.Virtiofsd),
	}
}

func driverTo(d drivers.Description) *nodev1.Driver {
	return &nodev1.Driver{
		Kind:          d.Kind,
		Abilities:     each(d.Abilities, func(a drivers.Ability) string { return string(a) }),
		StableHandles: d.Properties.StableHandles,
		SharedWrite:   d.Properties.SharedWrite,
		CoherentLocks: d.Properties.CoherentLocks,
	}
}

func mountTo(m model.Mount) *nodev1.Mount {
	return &nodev1.Mount{
		Name:        text(m.Name),
		BackendKind: text(m.Kind),
		Source:      text(m.Source),
		Path:        text(m.Path),
		ReadOnly:    m.ReadOnly,
		Users:       each(m.Users, text),
		Status:      statusTo(m.Status),
	}
}

func subsystemTo(s model.Subsystem) *nodev1.Subsystem {
	return &nodev1.Subsystem{Name: text(s.Name), Verdict: verdictTo(s.Verdict), Message: text(s.Message)}
}

func checkTo(c model.Check) *nodev1.Check {
	return &nodev1.Check{Name: text(c.Name), Verdict: verdictTo(c.Verdict), Message: text(c.Message), Fix: text(c.Fix), Reason: string(c.Reason)}
}

func eventTo(e model.Event) *nodev1.WatchResponse {
	to := &nodev1.WatchResponse{Type: nodev1.WatchResponse_TYPE_PUT}
	switch {
	case e.Synced:
		to.Type = nodev1.WatchResponse_TYPE_SYNCED
		return to
	case e.Deleted:
		to.Type = nodev1.WatchResponse_TYPE_DELETED
	}
	switch {
	case e.Attachment != nil:
		to.Object = &nodev1.WatchResponse_Attachment{Attachment: attachmentTo(*e.Attachment)}
	case e.Network != nil:
		to.Object = &nodev1.WatchResponse_Network{Network: networkTo(*e.Network)}
	case e.Export != nil:
		to.Object = &nodev1.WatchResponse_Export{Export: exportTo(*e.Export)}
	}
	return to
}

func timeTo(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
