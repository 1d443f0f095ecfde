package intent

import "github.com/causeway-project/causeway/agent/reconcile"

// Keys lists what a record makes on the host, needs before users.
func (r *Record) Keys(id string) []reconcile.Key {
	switch {
	case r.Network != nil:
		return []reconcile.Key{reconcile.Namespace.Of(id), reconcile.Gateway.Of(id)}
	case r.Export != nil:
		return []reconcile.Key{reconcile.Mount.Of(r.Export.Mount), reconcile.View.Of(id), reconcile.Export.Of(id)}
	default:
		keys := []reconcile.Key{reconcile.Mount.Of(r.Attachment.Mount), reconcile.Daemon.Of(id), reconcile.Device.Of(id)}
		if r.Attachment.MountAt != "" {
			keys = append(keys, reconcile.GuestMount.Of(id))
		}
		return append(keys, reconcile.Definition.Of(id))
	}
}

// Needs says what a key of a record stands on.
func (r *Record) Needs(k reconcile.Key, id string) []reconcile.Key {
	switch k.Kind {
	case reconcile.Gateway:
		return []reconcile.Key{reconcile.Namespace.Of(id)}
	case reconcile.View, reconcile.Daemon:
		return []reconcile.Key{reconcile.Mount.Of(r.MountName())}
	case reconcile.Export:
		return []reconcile.Key{reconcile.View.Of(id), reconcile.Gateway.Of(r.Export.Network)}
	case reconcile.Device:
		return []reconcile.Key{reconcile.Daemon.Of(id)}
	case reconcile.GuestMount:
		return []reconcile.Key{reconcile.Device.Of(id)}
	}
	return nil
}

// After says what comes before a key that does not stand on it. A device goes into
// the definition when the running instance has taken it, and stays there while
// that one has none.
func After(k reconcile.Key) []reconcile.Key {
	if k.Kind != reconcile.Definition {
		return nil
	}
	return []reconcile.Key{reconcile.Device.Of(k.Name)}
}

// Outlives says the loss of what does not harm a key. Ganesha reaches an
// export's files through its file system's anchor, so that clients do not
// notice when somebody takes its view away, which is made again from the same
// mount. One that finds the mount gone too may show another file system then.
func Outlives(k reconcile.Key) []reconcile.Key {
	if k.Kind != reconcile.Export {
		return nil
	}
	return []reconcile.Key{reconcile.View.Of(k.Name)}
}

// OfLibvirt says whether libvirt has to be asked about a key.
func OfLibvirt(k reconcile.Key) bool {
	return k.Kind == reconcile.Device || k.Kind == reconcile.GuestMount || k.Kind == reconcile.Definition
}

// OfGuest says whether a key waits for a guest, which may take its time.
func OfGuest(k reconcile.Key) bool {
	return k.Kind == reconcile.Device || k.Kind == reconcile.GuestMount
}

// Litters says whether removing a key of a record takes several steps of which
// the first already makes it look gone.
func (r *Record) Litters(k reconcile.Key) bool {
	switch k.Kind {
	case reconcile.Gateway:
		return true
	case reconcile.Mount, reconcile.View, reconcile.Namespace, reconcile.Daemon:
		return r.Removing || r.Released()
	}
	return false
}
