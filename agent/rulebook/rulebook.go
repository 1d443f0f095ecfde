// Package rulebook keeps what is known of an export's access rules in its gateway:
// which it serves, and which it refuses. It is pure.
package rulebook

import (
	"maps"
	"slices"
	"time"

	"github.com/causeway-project/causeway/agent/access"
	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/ganesha"
)

// A Book is that of one export. The zero one has seen nothing.
type Book struct {
	active  map[string]ganesha.Rule // by id: those that it was last seen to have
	refused map[string]refused      // by id: those that it does not take
}

type refused struct {
	rule ganesha.Rule
	why  string
}

// News is what a look has brought, for the log.
type News struct {
	Drifted bool // it had others than it was last seen to have, and nobody here changed them
	Refused []Refusal
	Expired []string // ids of rules that were served and are not any more
}

// A Refusal is a rule that the gateway does not take.
type Refusal struct {
	Rule string // id
	Err  error
}

// Note takes in what a look at the gateway said of an export. Its record may be
// another by now: who asks compares.
func (b *Book) Note(e *intent.Export, now time.Time, sight ganesha.Sight) (news News) {
	was := *b
	*b = Book{}
	rules := access.InForce(e.Rules, now)
	news.Drifted = sight.Match == ganesha.Differs && was.active != nil && was.holds(e, rules)
	if sight.Match != ganesha.Same {
		return news
	}
	b.active, b.refused = map[string]ganesha.Rule{}, map[string]refused{}
	for _, no := range sight.Refused {
		i := rules[no.Rule]
		b.refused[i.ID] = refused{e.Served(i), no.Err.Error()}
		if was.refused[i.ID] != b.refused[i.ID] {
			news.Refused = append(news.Refused, Refusal{i.ID, no.Err})
		}
	}
	for _, i := range rules {
		if _, no := b.refused[i.ID]; !no {
			b.active[i.ID] = e.Served(i)
		}
	}
	for _, i := range e.Rules {
		if _, had := was.active[i.ID]; had && i.Expired(now) {
			news.Expired = append(news.Expired, i.ID)
		}
	}
	return news
}

// holds says whether these are exactly the given rules of an export.
func (b Book) holds(e *intent.Export, rules []access.Intent) bool {
	if len(b.active)+len(b.refused) != len(rules) {
		return false
	}
	for _, i := range rules {
		served := e.Served(i)
		if b.active[i.ID] != served && b.refused[i.ID].rule != served {
			return false
		}
	}
	return true
}

// Failure is why an export whose gateway does not take some of its rules is
// degraded, or nil.
func (b Book) Failure() *fault.Error {
	if len(b.refused) == 0 {
		return nil
	}
	first := slices.Min(slices.Collect(maps.Keys(b.refused)))
	return fault.Preconditionf(fault.RuleRefused, "%d of its access rules are refused by the gateway, one is %s (%s): replace or delete them",
		len(b.refused), first, b.refused[first].why)
}

// List lists the rules of an export's record, which has a status, and how far
// each has come.
func (b Book) List(of *intent.Record, s model.Status, now time.Time) []access.Rule {
	var rules []access.Rule
	for _, i := range access.Listed(of.Export.Rules, now) {
		rule := i.Rule()
		rule.State, rule.Reason, rule.Message = b.state(i, of, s, now)
		rules = append(rules, rule)
	}
	return rules
}

func (b Book) state(i access.Intent, of *intent.Record, s model.Status, now time.Time) (access.State, fault.Reason, string) {
	served := of.Export.Served(i)
	refused, no := b.refused[i.ID]
	active, yes := b.active[i.ID]
	switch {
	case of.Removing:
		return access.Denying, s.Reason, s.Message
	case i.Expired(now) && yes:
		return access.Denying, fault.RuleExpired, "it has expired and is being taken out of the gateway"
	case i.Expired(now):
		return access.Denying, fault.RuleExpired, "it has expired: put it again with a later time, or delete it"
	case no && refused.rule == served:
		return access.Refused, fault.RuleRefused, refused.why
	case yes && active == served:
		return access.Active, "", ""
	case s.Phase == model.Working:
		return access.Applying, "", ""
	}
	return access.Queued, s.Reason, s.Message
}
