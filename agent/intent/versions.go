package intent

import (
	"fmt"
	"time"

	"github.com/causeway-project/causeway/agent/reconcile"
)

// What is found on the host. Most things have settings that never change in
// place, and names that say which they are: those are just there.
var (
	Here    = reconcile.Version{Identity: "here"}
	Drifted = reconcile.Version{Identity: "here", Settings: "drifted"} // to be put right in place
	Former  = reconcile.Version{Identity: "former"}                    // made for what its object is no more
	Deleted = reconcile.Version{Identity: "deleted"}                   // a mount of a share that was deleted and made anew since
)

// WithSettings is a thing that is there, with settings that change in place.
func WithSettings(s string) reconcile.Version {
	v := Here
	v.Settings = s
	return v
}

// WithTag is a device that is there.
func WithTag(tag string) reconcile.Version { return reconcile.Version{Identity: "tag " + tag} }

// Version is what a key of a record should be at a time.
func (r *Record) Version(k reconcile.Key, now time.Time) reconcile.Version {
	switch k.Kind {
	case reconcile.Device, reconcile.Definition:
		return WithTag(r.Attachment.Tag)
	case reconcile.Gateway:
		return WithSettings(r.Network.GatewaySettings())
	case reconcile.Export:
		return WithSettings(fmt.Sprint(r.Export.ServedRules(now)))
	}
	return Here
}
