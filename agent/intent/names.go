package intent

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"

	"github.com/causeway-project/causeway/agent/word"
)

func namespaceName(id string) string { return word.Own + "-" + id }

// linkName fits the kernel's 15 bytes whatever the id.
func linkName(id string) string {
	sum := sha256.Sum256([]byte(id))
	return word.Own + hex.EncodeToString(sum[:6])
}

// linkMAC is locally administered, unicast, and the same for an id on every
// start, so that a re-made link keeps its neighbours.
func linkMAC(id, hostname string) string {
	sum := sha256.Sum256([]byte(hostname + "/" + id))
	return fmt.Sprintf("02:%02x:%02x:%02x:%02x:%02x", sum[0], sum[1], sum[2], sum[3], sum[4])
}

// Alias is that of an attachment's device; libvirt wants "ua-" there.
func Alias(id string) string { return "ua-" + word.Own + "-" + id }

// share is a digest that names the share of a connection on this host.
func (c Connection) share() string {
	h := sha256.New()
	put := func(s string) { fmt.Fprintf(h, "%d:%s,", len(s), s) }
	put(c.Kind)
	put(c.Source)
	for _, k := range slices.Sorted(maps.Keys(c.Options)) {
		put(k)
		put(c.Options[k])
	}
	return hex.EncodeToString(h.Sum(nil)[:10])
}

// MountName names a share's mount.
func (c Connection) MountName() string { return word.Own + "-" + c.share() }
