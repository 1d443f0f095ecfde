package model

import (
	"slices"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/word"
)

// An NFSVersion is one that a network's gateway serves.
type NFSVersion string

// The versions. They are also the words of the ledger.
const (
	NFS3  NFSVersion = "3"
	NFS40 NFSVersion = "4.0"
	NFS41 NFSVersion = "4.1"
	NFS42 NFSVersion = "4.2"
)

var allNFSVersions = []NFSVersion{NFS3, NFS40, NFS41, NFS42}

func checkNFSVersions(versions []NFSVersion) error {
	seen := map[NFSVersion]bool{}
	for _, v := range versions {
		switch {
		case !slices.Contains(allNFSVersions, v):
			return fault.Invalidf(fault.BadNFSVersion, "NFS version %s: give 3, 4.0, 4.1 or 4.2, or none at all for 4.1 and 4.2", word.Quote(string(v)))
		case seen[v]:
			return fault.Invalidf(fault.BadNFSVersion, "NFS version %s is given twice", v)
		}
		seen[v] = true
	}
	return nil
}
