package virtiofsd

import (
	"math"

	"github.com/causeway-project/causeway/agent/process"
)

// IDs says whose the guest's files are on the share. The zero value is the
// guest's own ids. The others take a file system with idmapped mounts:
// process.ErrNoIDMap.
//
// Of a mount with other ids the daemon, and with it the guest's root, has no
// rights over what belongs to ids that are not in its map, which the kernel
// enforces. For a squash it maps the one owner to itself: the daemon turns every
// guest id into that, and the mount keeps it from touching what is anybody
// else's, as a set-uid program of the host's root that lies in the share.
//
// The daemon has a user namespace of its own then: see keeper.Options.
type IDs struct {
	Squash     bool // all that the guest makes is UID's and GID's
	UID, GID   uint32
	UIDs, GIDs []process.IDRange // ids in the guest and on disk; empty for a squash
}

// maxIDs is all of them: -1 is none.
const maxIDs = math.MaxUint32

func (i IDs) passthrough() bool { return !i.Squash && len(i.UIDs)+len(i.GIDs) == 0 }

// mount under which the daemon sees its source.
func (i IDs) mount(source string) *process.IDMap {
	switch {
	case i.passthrough():
		return nil
	case i.Squash:
		return &process.IDMap{Dir: source, UIDs: []process.IDRange{{Process: i.UID, Disk: i.UID, Count: 1}}, GIDs: []process.IDRange{{Process: i.GID, Disk: i.GID, Count: 1}}}
	}
	return &process.IDMap{Dir: source, UIDs: i.UIDs, GIDs: i.GIDs}
}

// drops is what a daemon with other ids is told to do without: a device node or
// a program with capabilities that a guest makes would work on the host for
// whoever reaches the share there.
func (i IDs) drops() string {
	if i.passthrough() {
		return ""
	}
	return "-mknod:-setfcap"
}
