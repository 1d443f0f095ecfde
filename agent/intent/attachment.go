package intent

import (
	"github.com/causeway-project/causeway/agent/device"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/move"
)

// An Attachment is one in the ledger.
type Attachment struct {
	Instance     string     `json:"instance"` // as the caller said
	InstanceUUID string     `json:"instance_uuid"`
	Connection   Connection `json:"connection"`
	Tag          string     `json:"tag"`
	ReadOnly     bool       `json:"read_only,omitempty"`
	MountAt      string     `json:"mount_at,omitempty"`

	// As resolved when it was made, so that another configuration changes no
	// device that is there. Records of agents without settings have none: they
	// are device.Builtin. Limits that were left open are the host's at each start.
	Settings device.Settings `json:"settings,omitzero"`
	IDs      device.IDs      `json:"ids,omitzero"`
	Forced   bool            `json:"forced,omitempty"`

	Mount string `json:"mount"` // name of the share's mount
	Alias string `json:"alias"` // of the libvirt device

	Move *move.Move `json:"move,omitempty"` // while the instance is on its way
}

// AttachmentOf is what is noted of a new attachment to the instance of a UUID.
func AttachmentOf(at model.Attachment, uuid string) *Attachment {
	c := ConnectionOf(at.Connection)
	to := &Attachment{
		Instance: at.Instance, InstanceUUID: uuid, Connection: c, Tag: at.Tag, ReadOnly: at.ReadOnly, MountAt: at.MountAt,
		Settings: at.Settings, IDs: at.IDs, Forced: at.Forced,
		Mount: c.MountName(), Alias: Alias(at.ID),
	}
	if at.ReadOnly {
		to.Mount += "-ro" // a mount of its own: the host, not the guest, keeps it from writing
	}
	return to
}

// Differs names the first setting in which an attachment differs from what o
// asks for; none is "". Settings that o leaves open may be any.
func (at *Attachment) Differs(o *Attachment) string {
	switch {
	case at.InstanceUUID != o.InstanceUUID:
		return "instance"
	case !at.Connection.equal(o.Connection):
		return "source"
	case at.Tag != o.Tag:
		return "tag"
	case at.ReadOnly != o.ReadOnly:
		return "read-only setting"
	case at.MountAt != o.MountAt:
		return "mount path"
	case !at.IDs.Equal(o.IDs):
		return "id policy"
	}
	return at.Settings.Or(device.Builtin()).Differs(o.Settings)
}

// WithMove is the next generation of an attachment's record, with another part
// in a move, or none.
func (r *Record) WithMove(m *move.Move) *Record {
	n := r.Next()
	at := *r.Attachment
	at.Move = m
	n.Attachment = &at
	return n
}

// Released says whether an attachment gave its instance up for a move.
func (r *Record) Released() bool { return r.Attachment != nil && r.Attachment.Move.Is(move.Source) }
