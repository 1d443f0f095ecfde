package client

import nodev1 "github.com/causeway-project/causeway/api/node/v1"

// A ShareStatus is what OpenStack Nova knows a share mapping by
// (nova/objects/fields.py, ShareMappingStatus).
type ShareStatus string

// The statuses.
const (
	ShareAttaching ShareStatus = "attaching" // on its way to the instance
	ShareInactive  ShareStatus = "inactive"  // granted; no instance here uses it
	ShareActive    ShareStatus = "active"    // the instance has it
	ShareDetaching ShareStatus = "detaching" // on its way out
	ShareError     ShareStatus = "error"     // the instance cannot use it
)

// ShareStatusOf an attachment. docs/nova.md has this as a table.
func ShareStatusOf(a *nodev1.Attachment) ShareStatus {
	s := a.GetStatus()
	switch s.GetPhase() {
	case nodev1.Phase_PHASE_READY:
		return ShareActive
	case nodev1.Phase_PHASE_REMOVING:
		return ShareDetaching
	case nodev1.Phase_PHASE_FAILED:
		return ShareError
	case nodev1.Phase_PHASE_PENDING:
		switch s.GetReason() {
		case "instance_off", "instance_not_found", "instance_awaited", "released":
			return ShareInactive
		}
	case nodev1.Phase_PHASE_DEGRADED:
		switch s.GetReason() {
		case "guest_busy": // it is being detached, and the guest holds it
			return ShareDetaching
		case "share_gone", "needs_reset", "virtiofsd_ended", "virtiofsd_blocked":
			return ShareError
		}
		return ShareActive
	}
	return ShareAttaching
}
