package device

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/word"
)

// IDs says whose the guest's files are on the share.
type IDs struct {
	Policy Policy `json:"policy,omitempty"`

	// With Squash: whose all that the guest makes is.
	UID uint32 `json:"uid,omitempty"`
	GID uint32 `json:"gid,omitempty"`

	// With Map.
	UIDs []Range `json:"uids,omitempty"`
	GIDs []Range `json:"gids,omitempty"`
}

// A Policy is a kind of IDs.
type Policy string

// The policies.
const (
	Passthrough Policy = ""       // the same numbers in the guest and on the share
	Squash      Policy = "squash" // one user and group for all
	Map         Policy = "map"    // other numbers on the share
)

// A Range maps Count ids from Guest on to those from Host on.
type Range struct {
	Guest uint32 `json:"guest"`
	Host  uint32 `json:"host"`
	Count uint32 `json:"count"`
}

func (r Range) String() string { return fmt.Sprintf("%d:%d:%d", r.Guest, r.Host, r.Count) }

// maxRanges of the kernel: UID_GID_MAP_MAX_EXTENTS.
const maxRanges = 340

// Validate refuses what cannot be: BadIDs. Root of the host is nobody's: what a
// guest's root makes with a set-uid bit would make root of whoever runs it on
// the host.
func (p IDs) Validate() error {
	bad := func(format string, args ...any) error { return fault.Invalidf(fault.BadIDs, format, args...) }
	switch p.Policy {
	case Passthrough:
		return nil
	case Squash:
		if p.UID == 0 || p.GID == 0 {
			return bad("squash to %d:%d: a guest may not become root of the host, so give a user and a group other than 0", p.UID, p.GID)
		}
		if p.UID == math.MaxUint32 || p.GID == math.MaxUint32 {
			return bad("squash to %d:%d: %d is no id", p.UID, p.GID, uint32(math.MaxUint32))
		}
		return nil
	case Map:
		for _, of := range []struct {
			what   string
			ranges []Range
		}{{"uids", p.UIDs}, {"gids", p.GIDs}} {
			if err := checkRanges(of.ranges); err != nil {
				return bad("map of %s: %v", of.what, err)
			}
		}
		return nil
	}
	return bad("id policy %s: give passthrough, squash or map", word.Quote(string(p.Policy)))
}

func checkRanges(ranges []Range) error {
	if len(ranges) == 0 || len(ranges) > maxRanges {
		return fmt.Errorf("%d ranges: give 1 to %d", len(ranges), maxRanges)
	}
	for i, r := range ranges {
		switch {
		case r.Count == 0:
			return fmt.Errorf("range %v is empty: give a count", r)
		case uint64(r.Guest)+uint64(r.Count) > math.MaxUint32 || uint64(r.Host)+uint64(r.Count) > math.MaxUint32:
			return fmt.Errorf("range %v goes beyond the last id: give a smaller count", r)
		case r.Host == 0:
			return fmt.Errorf("range %v has root of the host, whom no guest may become: begin at a host id above 0", r)
		}
		for _, o := range ranges[:i] {
			if overlap(r.Guest, o.Guest, r.Count, o.Count) || overlap(r.Host, o.Host, r.Count, o.Count) {
				return fmt.Errorf("ranges %v and %v overlap: an id can be one other alone", o, r)
			}
		}
	}
	return nil
}

func overlap(a, b, na, nb uint32) bool {
	return uint64(a) < uint64(b)+uint64(nb) && uint64(b) < uint64(a)+uint64(na)
}

// Has says whether a user and a group on the share are somebody's in the guest.
func (p IDs) Has(uid, gid uint32) (user, group bool) {
	switch p.Policy {
	case Squash:
		return uid == p.UID, gid == p.GID
	case Map:
		return anyHas(p.UIDs, uid), anyHas(p.GIDs, gid)
	}
	return true, true
}

func anyHas(ranges []Range, host uint32) bool {
	return slices.ContainsFunc(ranges, func(r Range) bool { return overlap(r.Host, host, r.Count, 1) })
}

// Root is whose on the share the guest's root is, or, where that is nobody's,
// the first that the guest has.
func (p IDs) Root() (uid, gid uint32) {
	if p.Policy == Map {
		return rootOf(p.UIDs), rootOf(p.GIDs)
	}
	return p.UID, p.GID
}

func rootOf(ranges []Range) uint32 {
	for _, r := range ranges {
		if r.Guest == 0 {
			return r.Host
		}
	}
	return ranges[0].Host
}

// String is as the command line has it.
func (p IDs) String() string {
	switch p.Policy {
	case Squash:
		return fmt.Sprintf("squash=%d:%d", p.UID, p.GID)
	case Map:
		if slices.Equal(p.UIDs, p.GIDs) {
			return joined("map=", p.UIDs)
		}
		return joined("map-uids=", p.UIDs) + " " + joined("map-gids=", p.GIDs)
	}
	return "passthrough"
}

// shownRanges is enough for a person.
const shownRanges = 3

func joined(word string, ranges []Range) string {
	var all []string
	for _, r := range ranges[:min(len(ranges), shownRanges)] {
		all = append(all, word+r.String())
	}
	if more := len(ranges) - len(all); more > 0 {
		all = append(all, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(all, " ")
}

// Equal tells whether both say the same.
func (p IDs) Equal(o IDs) bool {
	return p.Policy == o.Policy && p.UID == o.UID && p.GID == o.GID && slices.Equal(p.UIDs, o.UIDs) && slices.Equal(p.GIDs, o.GIDs)
}
