package device

import (
	"fmt"
	"slices"
	"strings"

	"github.com/causeway-project/causeway/agent/fault"
)

// An Ability is a word for something that not every virtiofsd can do. A node
// tells callers those of its own.
type Ability string

// The abilities that attachments ask for; for caches there is one each,
// "cache_" and the cache.
const (
	CanXattr       Ability = "xattr"
	CanPosixACL    Ability = "posix_acl"
	CanSharedLocks Ability = "shared_locks"
	CanThreads     Ability = "threads"
	CanSquash      Ability = "squash_ids"
	CanMap         Ability = "map_ids"
)

// Needs lists what a virtiofsd has to be able to do for an attachment.
func Needs(s Settings, ids IDs) []Ability {
	need := []Ability{Ability("cache_" + string(s.Or(Builtin()).Cache))}
	for _, n := range []struct {
		asked bool
		needs Ability
	}{
		{s.Xattr == On, CanXattr},
		{s.PosixACL == On, CanPosixACL},
		{s.Locks == LocksShared, CanSharedLocks},
		{s.Threads > 1, CanThreads},
		{ids.Policy == Squash, CanSquash},
		{ids.Policy == Map, CanMap},
	} {
		if n.asked {
			need = append(need, n.needs)
		}
	}
	return need
}

// Fits refuses what no virtiofsd does together: BadSettings.
func Fits(s Settings, ids IDs) *fault.Error {
	if ids.Policy == Squash && s.PosixACL == On {
		return fault.Invalidf(fault.BadSettings, "posix_acl with squashed ids: the lists name ids that are not on the share, so turn posix_acl off")
	}
	return nil
}

// A Program is a virtiofsd as errors name it.
type Program struct {
	Flavour   string
	Version   string
	Abilities []string
}

// Check refuses what the program lacks: DaemonUnable.
func (p Program) Check(needs []Ability) *fault.Error {
	var lacks []string
	for _, n := range needs {
		if !slices.Contains(p.Abilities, string(n)) {
			lacks = append(lacks, string(n))
		}
	}
	if len(lacks) == 0 {
		return nil
	}
	return &fault.Error{
		Kind: fault.Precondition, Reason: fault.DaemonUnable,
		Metadata: map[string]string{"flavour": p.Flavour, "version": p.Version, "lacks": strings.Join(lacks, ",")},
		Message: fmt.Sprintf("this host's virtiofsd (flavour %s, version %s) lacks %s: it has %s, so ask for something else, or use a host with another one",
			p.Flavour, p.Version, strings.Join(lacks, ", "), strings.Join(p.Abilities, ", ")),
	}
}
