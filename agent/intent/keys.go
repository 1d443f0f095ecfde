package intent

import "github.com/causeway-project/causeway/agent/reconcile"

// Keys lists what a record makes on the host, needs before users.
func (r *Record) Keys(id string) []reconcile.Key {
	switch {
	case r.Network != nil:
		return []reconcile.Key{{Kind: reconcile.Namespace, Name: id}, {Kind: reconcile.Gateway, Name: id}}
	case r.Export != nil:
		return []reconcile.Key{{Kind: reconcile.Mount, Name: r.Export.Mount}, {Kind: reconcile.View, Name: id}, {Kind: reconcile.Export, Name: id}}
	default:
		keys := []reconcile.Key{{Kind: reconcile.Mount, Name: r.Attachment.Mount}, {Kind: reconcile.Daemon, Name: id}, {Kind: reconcile.Device, Name: id}}
		if r.Attachment.MountAt != "" {
			keys = append(keys, reconcile.Key{Kind: reconcile.GuestMount, Name: id})
		}
		return append(keys, reconcile.Key{Kind: reconcile.Definition, Name: id})
	}
}

// Needs says what a key of a record stands on.
func (r *Record) Needs(k reconcile.Key, id string) []reconcile.Key {
	switch k.Kind {
	case reconcile.Gateway:
		return []reconcile.Key{{Kind: reconcile.Namespace, Name: id}}
	case reconcile.View, reconcile.Daemon:
		return []reconcile.Key{{Kind: reconcile.Mount, Name: r.MountName()}}
	case reconcile.Export:
		return []reconcile.Key{{Kind: reconcile.View, Name: id}, {Kind: reconcile.Gateway, Name: r.Export.Network}}
	case reconcile.Device:
		return []reconcile.Key{{Kind: reconcile.Daemon, Name: id}}
	case reconcile.GuestMount:
		return []reconcile.Key{{Kind: reconcile.Device, Name: id}}
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
	return []reconcile.Key{{Kind: reconcile.Device, Name: k.Name}}
}

// Outlives says the loss of what does not harm a key. Ganesha reaches an
// export's files through its file system's anchor, so that clients do not
// notice when somebody takes its view away, which is made again from the same
// mount. One that finds the mount gone too may show another file system then.
func Outlives(k reconcile.Key) []reconcile.Key {
	if k.Kind != reconcile.Export {
		return nil
	}
	return []reconcile.Key{{Kind: reconcile.View, Name: k.Name}}
}
