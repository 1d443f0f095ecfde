package preflight

import (
	"fmt"

	"github.com/causeway-project/causeway/agent/fault"
)

// Of the three times three bits of a mode.
const (
	ownerReads = 0o500
	groupReads = 0o050
	othersRead = 0o005
)

// owner is the verdict on whose the share's directory is, for a guest that has
// other ids there. Of what belongs to a user or a group that no id of the mount
// stands for, the kernel lets nobody write (inode_permission, HAS_UNMAPPED_ID),
// whatever its mode says, and the guest's root has no power over it.
func (f Facts) owner() Finding {
	const name = "share-owner"
	o, ids := *f.Share.Owner, f.Want.IDs
	user, group := ids.Has(o.UID, o.GID)
	if user && group {
		return pass(name, "%d:%d, who is somebody in the guest", o.UID, o.GID)
	}
	reads := o.Mode&othersRead == othersRead || user && o.Mode&ownerReads == ownerReads || group && o.Mode&groupReads == groupReads
	if f.Want.ReadOnly && reads {
		return pass(name, "%d:%d, which the guest sees as 65534 where it is not in its ids, and may read", o.UID, o.GID)
	}
	uid, gid := ids.Root()
	if user {
		uid = o.UID
	}
	if group {
		gid = o.GID
	}
	chown := fmt.Sprintf("chown %d:%d %s", uid, gid, shell(o.Path))
	why, otherwise := "read", ""
	switch {
	case reads:
		why, otherwise = "write", ", or attach it read-only"
	case f.Want.ReadOnly:
		otherwise = fmt.Sprintf(", or chmod o+rx %s", shell(o.Path))
	}
	return fail(name, chown, fault.Preconditionf(fault.OwnerUnmapped,
		"the directory of share %s belongs to %d:%d (mode %04o), which is not in the ids of the guest (%v), so that nobody there could %s it: %s%s",
		f.Share.Name, o.UID, o.GID, o.Mode, ids, why, chown, otherwise))
}
