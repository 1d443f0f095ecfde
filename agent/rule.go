package agent

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/word"
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
	State     RuleState
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

// A RuleState says how far a rule has come.
type RuleState string

// The states of a rule.
const (
	RuleQueued   RuleState = "queued"   // waits for its export, which the reason tells
	RuleApplying RuleState = "applying" // the gateway is being told
	RuleActive   RuleState = "active"   // the gateway has it
	RuleDenying  RuleState = "denying"  // it has expired, or its export goes: it lets nobody in, or soon will not
	RuleError    RuleState = "error"    // the gateway does not take it, and its clients are let in by no other rule
)

// Anonymous is the user and group that squashed users become by default.
const Anonymous = 65534

// Limits of an export's rules.
const (
	mostRules         = 1000
	mostMetadata      = 16 // of one rule
	mostMetadataBytes = 1024
)

// staleAfter is how long an expired rule stays to be seen.
const staleAfter = 24 * time.Hour

// A ruleIntent is a Rule, as it lies in the ledger. Records of agents before
// these had client, level, squash and anonymous ids alone.
type ruleIntent struct {
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

func ruleIntentOf(r Rule) ruleIntent {
	i := ruleIntent{
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

func (r ruleIntent) rule() Rule {
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
func (r ruleIntent) access() string {
	return fmt.Sprint(r.Client, " ", r.Priority, " ", r.Level, " ", r.Squash, " ", r.AnonUID, " ", r.AnonGID, " ", r.Sec)
}

func (r ruleIntent) equal(o ruleIntent) bool {
	return r.ID == o.ID && r.access() == o.access() && r.ExpiresAt.Equal(o.ExpiresAt) && maps.Equal(r.Metadata, o.Metadata)
}

func (r ruleIntent) expired(now time.Time) bool {
	return !r.ExpiresAt.IsZero() && !r.ExpiresAt.After(now)
}

// choose gives a rule the id that such a rule has on every host and start.
func (r *ruleIntent) choose(taken map[string]bool) {
	sum := sha256.Sum256([]byte(r.access()))
	name := "r-" + hex.EncodeToString(sum[:5])
	r.ID = name
	for n := 2; taken[r.ID]; n++ {
		r.ID = fmt.Sprintf("%s-%d", name, n)
	}
}

// nameRules names the rules of a record of an agent that knew no ids.
func nameRules(rules []ruleIntent) {
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

// of says it to the package that makes it.
func (r ruleIntent) of() ganesha.Rule {
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

// orderRules puts rules into the order in which they match: Ganesha takes the
// first, not the best.
func orderRules(rules []ruleIntent) []ruleIntent {
	rules = slices.Clone(rules)
	slices.SortStableFunc(rules, func(a, b ruleIntent) int {
		return cmp.Or(
			cmp.Compare(a.Priority, b.Priority),
			cmp.Compare(b.Client.Bits(), a.Client.Bits()),
			a.CreatedAt.Compare(b.CreatedAt),
			// Of the rest no two match one client.
			a.Client.Addr().Compare(b.Client.Addr()),
			cmp.Compare(a.ID, b.ID))
	})
	return rules
}

// inForce lists the rules that the gateway should have, in its order.
func inForce(rules []ruleIntent, now time.Time) []ruleIntent {
	return slices.DeleteFunc(orderRules(rules), func(r ruleIntent) bool { return r.expired(now) })
}

// listed lists the rules that are to be seen, in the order in which they match.
func listed(rules []ruleIntent, now time.Time) []ruleIntent {
	return slices.DeleteFunc(orderRules(rules), func(r ruleIntent) bool { return r.expired(now.Add(-staleAfter)) })
}

// nextExpiry is the first after now, or zero.
func nextExpiry(rules []ruleIntent, now time.Time) time.Time {
	var next time.Time
	for _, r := range rules {
		if r.ExpiresAt.After(now) && (next.IsZero() || r.ExpiresAt.Before(next)) {
			next = r.ExpiresAt
		}
	}
	return next
}

// checkRules refuses rules that could never be, whatever else there is.
func checkRules(rules []Rule) error {
	if len(rules) > mostRules {
		return tooManyRules(len(rules))
	}
	ids := map[string]bool{}
	for _, r := range rules {
		if err := checkRule(r); err != nil {
			return err
		}
		if r.ID != "" && ids[r.ID] {
			return fault.Invalidf(fault.RuleConflict, "two access rules have the id %s: give each its own", word.Quote(r.ID))
		}
		ids[r.ID] = true
	}
	return nil
}

func tooManyRules(n int) error {
	return fault.Invalidf(fault.TooManyRules, "%d access rules: an export takes at most %d, so name prefixes rather than single clients", n, mostRules)
}

func checkRule(r Rule) error {
	if r.ID != "" {
		if err := word.CheckID("access rule", r.ID); err != nil {
			return err
		}
	}
	if err := checkClient(r); err != nil {
		return err
	}
	if r.Level != LevelRO && r.Level != LevelRW {
		return fault.Invalidf(fault.BadRule, "access rule for %v: level %s must be ro or rw", r.Client, word.Quote(string(r.Level)))
	}
	if !slices.Contains([]Squash{SquashNone, SquashRoot, SquashRootID, SquashAll}, r.Squash) {
		return fault.Invalidf(fault.BadRule, "access rule for %v: squash %s must be none, root, root_id or all", r.Client, word.Quote(string(r.Squash)))
	}
	if r.Squash == SquashNone && (r.AnonUID != Anonymous || r.AnonGID != Anonymous) {
		return fault.Invalidf(fault.BadRule, "access rule for %v: squash none maps nobody, so leave the anonymous user and group out, or squash root or all", r.Client)
	}
	for _, s := range r.Sec {
		switch s {
		case SecSys:
		case SecKrb5, SecKrb5i, SecKrb5p:
			return &fault.Error{Kind: fault.Precondition, Reason: fault.NoKerberos,
				Message: fmt.Sprintf("access rule for %v: security flavour %s wants Kerberos, and this agent's gateways have no keytab: use sys", r.Client, s)}
		default:
			return fault.Invalidf(fault.BadRule, "access rule for %v: security flavour %s must be sys, krb5, krb5i or krb5p", r.Client, word.Quote(string(s)))
		}
	}
	return checkMetadata(r)
}

func checkClient(r Rule) error {
	a := r.Client.Addr()
	switch {
	case !r.Client.IsValid():
		return fault.Invalidf(fault.BadRule, "an access rule has no client: give an address or prefix, for example 10.77.0.0/24")
	case a.Is4In6() || a.Zone() != "":
		return fault.Invalidf(fault.BadRule, "access rule for %v: write IPv4 as such, and no zone", r.Client)
	case r.Client != r.Client.Masked():
		return fault.Invalidf(fault.BadRule, "access rule for %v has bits behind its prefix: did you mean %v or %v?", r.Client, r.Client.Masked(), a)
	case a.Is6() && r.Client.Bits() >= 100 && r.Client.Bits() < 128:
		// Ganesha reads two digits of an IPv6 prefix length.
		return fault.Invalidf(fault.BadRule, "access rule for %v: Ganesha takes IPv6 prefixes up to /99, and single addresses", r.Client)
	case r.Client.IsSingleIP() && (a.IsUnspecified() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255})):
		return fault.Invalidf(fault.BadRule, "access rule for %v: no client has this address: give an address or prefix, for example 10.77.0.0/24", r.Client)
	case r.Client.Bits() == 0 && !r.Everyone:
		return fault.Invalidf(fault.RuleForEveryone, "access rule for %v lets everyone in: say so with allow_everyone (--everyone), or give a prefix", r.Client)
	}
	return nil
}

func checkMetadata(r Rule) error {
	size := 0
	for k, v := range r.Metadata {
		if !word.IsID(k) || !word.Printable(v) {
			return fault.Invalidf(fault.BadMetadata, "access rule for %v: metadata %s: use 1 to 63 of A-Z a-z 0-9 . _ - for a key, and printable text for its value", r.Client, word.Quote(k))
		}
		size += len(k) + len(v)
	}
	if len(r.Metadata) > mostMetadata || size > mostMetadataBytes {
		return fault.Invalidf(fault.BadMetadata, "access rule for %v has %d metadata of %d bytes: keep at most %d, of %d bytes together",
			r.Client, len(r.Metadata), size, mostMetadata, mostMetadataBytes)
	}
	return nil
}

// replaceRules makes a set of rules the next one. What stays the same keeps
// its id and its age.
func replaceRules(old []ruleIntent, rules []Rule, now time.Time) ([]ruleIntent, error) {
	taken := map[string]bool{}
	for _, r := range rules {
		taken[r.ID] = r.ID != ""
	}
	var next []ruleIntent
	for _, r := range rules {
		i, err := succeed(old, r, taken, now)
		if err != nil {
			return nil, err
		}
		taken[i.ID] = true
		next = append(next, i)
	}
	return next, checkPlaces(next, now)
}

// putRule puts one rule into a set, in the place of the one with its id.
func putRule(old []ruleIntent, r Rule, now time.Time) (next []ruleIntent, id string, err error) {
	old = listed(old, now)
	taken := map[string]bool{}
	for _, o := range old {
		taken[o.ID] = r.ID == "" && o.access() != ruleIntentOf(r).access()
	}
	i, err := succeed(old, r, taken, now)
	if err != nil {
		return nil, "", err
	}
	next = slices.DeleteFunc(old, func(o ruleIntent) bool { return o.ID == i.ID })
	next = append(next, i)
	if len(next) > mostRules {
		return nil, "", tooManyRules(len(next))
	}
	return next, i.ID, checkPlaces(next, now)
}

// succeed is a rule as the successor of what there was. One without an id is
// the one that is the same, where there is one.
func succeed(old []ruleIntent, r Rule, taken map[string]bool, now time.Time) (ruleIntent, error) {
	i := ruleIntentOf(r)
	same := slices.IndexFunc(old, func(o ruleIntent) bool {
		return o.access() == i.access() && (i.ID == o.ID || i.ID == "" && !taken[o.ID])
	})
	switch {
	case same >= 0:
		i.ID, i.CreatedAt = old[same].ID, old[same].CreatedAt
	case i.ID == "":
		i.choose(taken)
		fallthrough
	default:
		i.CreatedAt = now.UTC().Round(0)
	}
	if i.expired(now) && (same < 0 || !old[same].ExpiresAt.Equal(i.ExpiresAt)) {
		return i, fault.Invalidf(fault.RuleExpired, "access rule %s for %v would have expired at %s, and it is %s: give a later time, or none",
			i.ID, i.Client, i.ExpiresAt.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return i, nil
}

// checkPlaces refuses two rules of which only chance would say which counts.
func checkPlaces(rules []ruleIntent, now time.Time) error {
	type place struct {
		client   netip.Prefix
		priority int32
	}
	seen := map[place]ruleIntent{}
	for _, r := range rules {
		if r.expired(now) {
			continue
		}
		at := place{r.Client, r.Priority}
		other, twice := seen[at]
		if !twice {
			seen[at] = r
			continue
		}
		how := "contradict each other"
		if a, b := other, r; a.access() == b.access() {
			how = "say the same"
		}
		ids := []string{other.ID, r.ID}
		return &fault.Error{Kind: fault.Invalid, Reason: fault.RuleConflict, Metadata: map[string]string{"rules": strings.Join(ids, " ")},
			Message: fmt.Sprintf("access rules %s and %s are both for %v at priority %d and %s: keep one, or give them different priorities",
				other.ID, r.ID, r.Client, r.Priority, how)}
	}
	return nil
}
