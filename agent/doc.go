// Package agent is the node's core: the verbs that callers have, and the
// reconciling that makes this host agree with what they asked for. It knows no
// gRPC, no libvirt and no netlink.
//
// A call becomes a record, and records become steps:
//
//	a verb           attachments.go, networks.go, moves.go, exports.go, rules.go
//	  |              refuses what cannot be, with nothing written
//	  v
//	edit             edit.go: into the ledger first, then into memory (object.go)
//	  | wakes
//	  v
//	a group's worker group.go: looks (world.go), plans (package reconcile), takes
//	  |              steps (steps.go), and looks again until none is due
//	  v
//	publish          status.go: whoever awaits the object (edit.go) or watches
//	                 (watch.go) hears of it
//
// What is known of gateways beside their steps is noted in gateways.go, and
// health.go asks each whether it still serves. What can be said without an Agent
// has packages of its own: model and access are what callers say and hear, intent
// is what the ledger says of it, tree where things lie on the host, parts what the
// agent needs of the packages that do the work.
package agent
