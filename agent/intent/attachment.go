package intent

import "github.com/causeway-project/causeway/agent/model"

// An Attachment is one in the ledger.
type Attachment struct {
	Instance     string     `json:"instance"` // as the caller said
	InstanceUUID string     `json:"instance_uuid"`
	Connection   Connection `json:"connection"`
	Tag          string     `json:"tag"`
	ReadOnly     bool       `json:"read_only,omitempty"`
	MountAt      string     `json:"mount_at,omitempty"`

	Mount string `json:"mount"` // name of the share's mount
	Alias string `json:"alias"` // of the libvirt device
}

// AttachmentOf is what is noted of a new attachment to the instance of a UUID.
func AttachmentOf(at model.Attachment, uuid string) *Attachment {
	c := ConnectionOf(at.Connection)
	to := &Attachment{
		Instance: at.Instance, InstanceUUID: uuid, Connection: c, Tag: at.Tag, ReadOnly: at.ReadOnly, MountAt: at.MountAt,
		Mount: c.MountName(), Alias: Alias(at.ID),
	}
	if at.ReadOnly {
		to.Mount += "-ro" // a mount of its own: the host, not the guest, keeps it from writing
	}
	return to
}

// Differs names the first setting in which two attachments differ, as their
// callers said them; none is "".
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
	}
	return ""
}
