package engine

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/causeway-project/causeway/agent/device"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/refusal"
)

// Has says whether there is an object of this name, or is about to be.
func (eng *Engine) Has(key model.Key) bool {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	return eng.objects[key] != nil
}

// Attachment returns one.
func (eng *Engine) Attachment(_ context.Context, id string) (model.Attachment, error) {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	o := eng.objects[model.AttachmentKey(id)]
	if o == nil || o.rec == nil {
		return model.Attachment{}, refusal.UnknownID(model.AttachmentKey(id))
	}
	return eng.attachmentLocked(o), nil
}

// Attachments lists those of an instance, by name or UUID, or all, by id.
func (eng *Engine) Attachments(_ context.Context, instance string) ([]model.Attachment, error) {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	var list []model.Attachment
	for _, o := range eng.objects {
		if o.rec == nil || o.rec.Attachment == nil {
			continue
		}
		if at := o.rec.Attachment; instance == "" || at.Instance == instance || at.InstanceUUID == instance {
			list = append(list, eng.attachmentLocked(o))
		}
	}
	slices.SortFunc(list, func(x, y model.Attachment) int { return strings.Compare(x.ID, y.ID) })
	return list, nil
}

func (eng *Engine) attachmentLocked(o *object) model.Attachment {
	at := o.rec.Attachment
	return model.Attachment{
		ID: o.key.ID, Instance: at.Instance, Connection: at.Connection.Public(), Tag: at.Tag, ReadOnly: at.ReadOnly,
		MountAt: at.MountAt, Settings: eng.settingsOf(o.rec), IDs: at.IDs, Forced: at.Forced,
		InstanceUUID: at.InstanceUUID, Guest: o.guestState(), LockScope: eng.lockScope(o.rec), UnlockedUsers: slices.Clone(o.unlocked), Status: o.status,
		Persistence: o.persists, LiveOnly: o.liveOnly, Move: at.Move,
		Holders: o.guest.Holders, GuestNote: o.guest.Note, RemovalForced: o.rec.RemovalForced,
		Usage: o.strain.Usage,
	}
}

// settingsOf an attachment, with limits that its caller left to the host.
func (eng *Engine) settingsOf(r *intent.Record) device.Settings {
	s := r.Attachment.Settings.Or(device.Builtin())
	return s.Or(device.Settings{Memory: eng.o.Settings.Memory, OpenFiles: eng.o.Settings.OpenFiles})
}

func (eng *Engine) lockScope(r *intent.Record) device.Scope {
	d, ok := eng.o.Drivers.Get(r.Connection().Kind)
	return device.ScopeOf(eng.settingsOf(r).Locks, ok && d.Properties().CoherentLocks)
}

// Network returns one.
func (eng *Engine) Network(_ context.Context, id string) (model.Network, error) {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	o := eng.objects[model.NetworkKey(id)]
	if o == nil || o.rec == nil {
		return model.Network{}, refusal.UnknownID(model.NetworkKey(id))
	}
	return eng.networkLocked(o), nil
}

// Networks lists all, by id.
func (eng *Engine) Networks(context.Context) ([]model.Network, error) {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	var list []model.Network
	for _, o := range eng.objects {
		if o.rec != nil && o.rec.Network != nil {
			list = append(list, eng.networkLocked(o))
		}
	}
	slices.SortFunc(list, func(x, y model.Network) int { return strings.Compare(x.ID, y.ID) })
	return list, nil
}

func (eng *Engine) networkLocked(o *object) model.Network {
	r := o.rec.Network
	n := model.Network{
		ID: o.key.ID, Plug: r.Plug.Model(), Addresses: slices.Clone(r.Addresses), MTU: r.MTU, MAC: r.LinkMAC,
		NFSVersions: r.Versions(), Gateway: o.gateway.Told, Status: o.status, Drift: o.drift,
	}
	for _, route := range r.Routes {
		n.Routes = append(n.Routes, model.Route(route))
	}
	for _, e := range eng.exports.Of(o.key.ID) {
		if e.rec != nil {
			n.Gateway.Exports++
		}
	}
	return n
}

// Export returns one.
func (eng *Engine) Export(_ context.Context, id string) (model.Export, error) {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	o := eng.objects[model.ExportKey(id)]
	if o == nil || o.rec == nil {
		return model.Export{}, refusal.UnknownID(model.ExportKey(id))
	}
	return eng.exportLocked(o), nil
}

// Exports lists those of a network, or all, by id.
func (eng *Engine) Exports(_ context.Context, network string) ([]model.Export, error) {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	var list []model.Export
	for of := range eng.exports {
		if network != "" && of != network {
			continue
		}
		for _, o := range eng.exports.Of(of) {
			if o.rec != nil {
				list = append(list, eng.exportLocked(o))
			}
		}
	}
	slices.SortFunc(list, func(x, y model.Export) int { return strings.Compare(x.ID, y.ID) })
	return list, nil
}

func (eng *Engine) exportLocked(o *object) model.Export {
	r := o.rec.Export
	e := model.Export{
		ID: o.key.ID, Network: r.Network, Connection: r.Connection.Public(), Pseudo: r.Pseudo,
		ReadOnly: r.ReadOnly, ExportID: r.ExportID, Status: o.status,
	}
	e.Rules = o.rules.List(o.rec, o.status, time.Now())
	if n := eng.objects[model.NetworkKey(r.Network)]; n != nil && n.rec != nil {
		for _, p := range n.rec.Network.Addresses {
			e.Locations = append(e.Locations, location(p.Addr(), r.Pseudo))
		}
	}
	return e
}

// location is what a client mounts; RFC 5665 and mount.nfs(8) put an IPv6
// address into brackets.
func location(a netip.Addr, pseudo string) string {
	if a.Is6() {
		return "[" + a.String() + "]:" + pseudo
	}
	return a.String() + ":" + pseudo
}
