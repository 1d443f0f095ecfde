package agent

import (
	"slices"
	"strings"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/word"
	"github.com/causeway-project/causeway/ganesha"
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

// versionsIntent is what the ledger holds: sorted, and nothing where a network
// has what every network has by default.
func versionsIntent(versions []NFSVersion) []NFSVersion {
	versions = slices.Sorted(slices.Values(versions))
	if slices.Equal(versions, defaultNFSVersions()) {
		return nil
	}
	return versions
}

func defaultNFSVersions() []NFSVersion {
	var versions []NFSVersion
	for _, v := range ganesha.DefaultVersions() {
		versions = append(versions, NFSVersion(v))
	}
	return versions
}

// nfsVersions are those that the network serves.
func (n *networkIntent) nfsVersions() []NFSVersion {
	if len(n.NFSVersions) == 0 {
		return defaultNFSVersions()
	}
	return slices.Clone(n.NFSVersions)
}

// served says it in the terms of the part that serves them.
func (n *networkIntent) served() ganesha.Versions {
	var versions ganesha.Versions
	for _, v := range n.NFSVersions {
		versions = append(versions, ganesha.Version(v))
	}
	return versions
}

// gatewaySettings names what of a network is rendered into its gateway's
// configuration: one that was started with another name is started anew, once,
// and its clients reclaim. What every network has by default is "": gateways of
// earlier agents have no name, and an upgrade is to restart none.
func (n *networkIntent) gatewaySettings() string {
	var words []string
	for _, v := range n.NFSVersions {
		words = append(words, "nfs "+string(v))
	}
	return strings.Join(words, ", ")
}

// checkServed says whether this host has what a network's versions need.
func (a *Agent) checkServed(n *networkIntent) error {
	if a.o.CheckVersions == nil {
		return nil
	}
	if err := a.o.CheckVersions(n.served()); err != nil {
		return classify(err)
	}
	return nil
}
