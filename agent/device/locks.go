package device

// A Scope says who meets the locks of a guest's programs.
type Scope string

// The scopes.
const (
	ScopeGuest Scope = "guest" // the guest alone
	ScopeHost  Scope = "host"  // users of the share on this host that do not keep their own
	ScopeShare Scope = "share" // users on other hosts too
)

// ScopeOf is the scope of locks kept there, on a share whose driver makes the
// locks of several hosts coherent or does not.
func ScopeOf(l Locks, across bool) Scope {
	switch {
	case l != LocksShared:
		return ScopeGuest
	case across:
		return ScopeShare
	}
	return ScopeHost
}
