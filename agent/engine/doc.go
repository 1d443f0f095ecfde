// Package engine keeps the objects of a node, and makes this host agree with what
// was asked for them. It knows no gRPC, no libvirt and no netlink.
//
// A change becomes a record, and records become steps:
//
//	Edit             edit.go: into the ledger first, then into memory (object.go)
//	  | wakes
//	  v
//	a group's worker group.go: looks (world.go), plans (package reconcile), takes
//	  |              steps (steps.go), and looks again until none is due
//	  v
//	publish          status.go: whoever awaits the object (edit.go) or watches
//	                 (watch.go) hears of it
//
// What an instance has a part in is in guests.go, deaths.go, instances.go and
// migration.go. What is known of gateways beside their steps is noted in
// gateways.go, and health.go asks each whether it still serves. What is pure has
// packages of its own: standing judges an object, vitals a gateway, rulebook its
// rules, strain a virtiofsd; and tree is where things lie on the host, parts what
// is needed of the packages that do the work.
package engine
