// Package access is the rules of exports: who may reach one and how, in which
// order rules count, which of them contradict each other, and when they end.
package access

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/ganesha"
)

// A Rule lets the clients of one prefix reach an export. Of several that match
// a client the first counts: that of the lowest priority, of these the one
// with the longest prefix, of these the oldest.
type Rule struct {
	ID        string // unique in the export; empty lets the agent choose
	Client    netip.Prefix
	Everyone  bool // the caller knows that Client is every address there is
	Level     Level
	Squash    Squash
	AnonUID   uint32
	AnonGID   uint32
	Sec       []Sec // how a client may say who it is; none is sys
	Priority  int32
	ExpiresAt time.Time // by this host's clock; zero is never
	Metadata  map[string]string

	CreatedAt time.Time // zero: by an agent that did not note it
	State     State
	Reason    fault.Reason
	Message   string
}

// A Level is what a rule's clients may do.
type Level string

// A Squash says which users are mapped to the anonymous one.
type Squash string

// A Sec is a security flavour of RPC.
type Sec string

// The levels, squashes and flavours. They are also the words of the ledger.
const (
	LevelRO Level = "ro"
	LevelRW Level = "rw"

	SquashNone   Squash = "none"
	SquashRoot   Squash = "root"
	SquashRootID Squash = "root_id"
	SquashAll    Squash = "all"

	SecSys   Sec = "sys"
	SecKrb5  Sec = "krb5"
	SecKrb5i Sec = "krb5i"
	SecKrb5p Sec = "krb5p"
)

// A State says how far a rule has come.
type State string

// The states of a rule.
const (
	Queued   State = "queued"   // waits for its export, which the reason tells
	Applying State = "applying" // the gateway is being told
	Active   State = "active"   // the gateway has it
	Denying  State = "denying"  // it has expired, or its export goes: it lets nobody in, or soon will not
	Refused  State = "error"    // the gateway does not take it, and its clients are let in by no other rule
)

// Anonymous is the user and group that squashed users become by default.
const Anonymous = 65534

// Limits of rules.
const (
	Most              = 1000 // rules of one export
	mostMetadata      = 16   // of one rule
	mostMetadataBytes = 1024
)

// staleAfter is how long an expired rule stays to be seen.
const staleAfter = 24 * time.Hour

// A Intent is a Rule, as it lies in the ledger. Records of agents before
// these had client, level, squash and anonymous ids alone.
type Intent struct {
	ID        string            `json:"id,omitempty"`
	Client    netip.Prefix      `json:"client"`
	Level     Level             `json:"level"`
	Squash    Squash            `json:"squash"`
	AnonUID   uint32            `json:"anonymous_uid"`
	AnonGID   uint32            `json:"anonymous_gid"`
	Sec       []Sec             `json:"sec,omitempty"`
	Priority  int32             `json:"priority,omitempty"`
	ExpiresAt time.Time         `json:"expires_at,omitzero"`
	Metadata  map[string]string `json:"metadata,omitempty"`
	CreatedAt time.Time         `json:"created_at,omitzero"`
}

// IntentOf is the ledger's form of a rule.
func IntentOf(r Rule) Intent {
	i := Intent{
		ID: r.ID, Client: r.Client, Level: r.Level, Squash: r.Squash, AnonUID: r.AnonUID, AnonGID: r.AnonGID,
		Priority: r.Priority, Metadata: maps.Clone(r.Metadata),
	}
	if !r.ExpiresAt.IsZero() {
		i.ExpiresAt = r.ExpiresAt.UTC().Round(0) // without the monotonic clock, which ends with the boot
	}
	if sec := slices.Compact(slices.Sorted(slices.Values(r.Sec))); !slices.Equal(sec, []Sec{SecSys}) {
		i.Sec = sec
	}
	return i
}

// Rule is what its caller said, and since when it is.
func (r Intent) Rule() Rule {
	sec := slices.Clone(r.Sec)
	if len(sec) == 0 {
		sec = []Sec{SecSys}
	}
	return Rule{
		ID: r.ID, Client: r.Client, Everyone: r.Client.Bits() == 0, Level: r.Level, Squash: r.Squash, AnonUID: r.AnonUID, AnonGID: r.AnonGID,
		Sec: sec, Priority: r.Priority, ExpiresAt: r.ExpiresAt, Metadata: maps.Clone(r.Metadata), CreatedAt: r.CreatedAt,
	}
}

// access is what of a rule decides who may do what. Rules alike in it are one
// and the same.
func (r Intent) access() string {
	return fmt.Sprint(r.Client, " ", r.Priority, " ", r.Level, " ", r.Squash, " ", r.AnonUID, " ", r.AnonGID, " ", r.Sec)
}

// Equal says whether two are the same in all but their age.
func (r Intent) Equal(o Intent) bool {
	return r.ID == o.ID && r.access() == o.access() && r.ExpiresAt.Equal(o.ExpiresAt) && maps.Equal(r.Metadata, o.Metadata)
}

// Expired says whether a rule is over at a time.
func (r Intent) Expired(now time.Time) bool {
	return !r.ExpiresAt.IsZero() && !r.ExpiresAt.After(now)
}

// choose gives a rule the id that such a rule has on every host and start.
func (r *Intent) choose(taken map[string]bool) {
	sum := sha256.Sum256([]byte(r.access()))
	name := "r-" + hex.EncodeToString(sum[:5])
	r.ID = name
	for n := 2; taken[r.ID]; n++ {
		r.ID = fmt.Sprintf("%s-%d", name, n)
	}
}

// Name names the rules of a record of an agent that knew no ids.
func Name(rules []Intent) {
	taken := map[string]bool{}
	for _, r := range rules {
		taken[r.ID] = r.ID != ""
	}
	for i := range rules {
		if rules[i].ID == "" {
			rules[i].choose(taken)
			taken[rules[i].ID] = true
		}
	}
}

// Ganesha says it to the package that makes it.
func (r Intent) Ganesha() ganesha.Rule {
	out := ganesha.Rule{Client: r.Client, Level: ganesha.Level(r.Level), Squash: ganesha.Squash(r.Squash), AnonUID: r.AnonUID, AnonGID: r.AnonGID}
	for _, s := range r.Sec {
		switch s {
		case SecSys:
			out.Sec |= ganesha.SecSys
		case SecKrb5:
			out.Sec |= ganesha.SecKrb5
		case SecKrb5i:
			out.Sec |= ganesha.SecKrb5i
		case SecKrb5p:
			out.Sec |= ganesha.SecKrb5p
		}
	}
	return out
}
