// Package agent is the node's verbs: what callers may ask for. Each refuses what
// cannot be, with nothing written, has the rest written down, and waits:
//
//	a verb           attachments.go, migration.go, networks.go, moves.go,
//	  |              exports.go, rules.go; here
//	  v
//	engine           package engine: into the ledger first, then into memory, and
//	  |              then onto the host
//	  v
//	await            the object is as wanted, or never will be
//
// What can be said without an Agent has packages of its own: model and access are
// what callers say and hear, intent is what the ledger says of it.
package agent
