package access

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/causeway-project/causeway/agent/fault"
)

// MayWrite tells whether a rule in force at a time lets a client write.
func MayWrite(rules []Intent, now time.Time) bool {
	return slices.ContainsFunc(rules, func(r Intent) bool { return r.Level == LevelRW && !r.Expired(now) })
}

// Order puts rules into the order in which they match: Ganesha takes the
// first, not the best.
func Order(rules []Intent) []Intent {
	rules = slices.Clone(rules)
	slices.SortStableFunc(rules, func(a, b Intent) int {
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

// InForce lists the rules that the gateway should have, in its order.
func InForce(rules []Intent, now time.Time) []Intent {
	return slices.DeleteFunc(Order(rules), func(r Intent) bool { return r.Expired(now) })
}

// Listed lists the rules that are to be seen, in the order in which they match.
func Listed(rules []Intent, now time.Time) []Intent {
	return slices.DeleteFunc(Order(rules), func(r Intent) bool { return r.Expired(now.Add(-staleAfter)) })
}

// NextExpiry is the first after now, or zero.
func NextExpiry(rules []Intent, now time.Time) time.Time {
	var next time.Time
	for _, r := range rules {
		if r.ExpiresAt.After(now) && (next.IsZero() || r.ExpiresAt.Before(next)) {
			next = r.ExpiresAt
		}
	}
	return next
}

// Replace makes a set of rules the next one. What stays the same keeps
// its id and its age.
func Replace(old []Intent, rules []Rule, now time.Time) ([]Intent, error) {
	taken := map[string]bool{}
	for _, r := range rules {
		taken[r.ID] = r.ID != ""
	}
	var next []Intent
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

// Put puts one rule into a set, in the place of the one with its id.
func Put(old []Intent, r Rule, now time.Time) (next []Intent, id string, err error) {
	old = Listed(old, now)
	taken := map[string]bool{}
	for _, o := range old {
		taken[o.ID] = r.ID == "" && o.access() != IntentOf(r).access()
	}
	i, err := succeed(old, r, taken, now)
	if err != nil {
		return nil, "", err
	}
	next = slices.DeleteFunc(old, func(o Intent) bool { return o.ID == i.ID })
	next = append(next, i)
	if len(next) > Most {
		return nil, "", tooManyRules(len(next))
	}
	return next, i.ID, checkPlaces(next, now)
}

// succeed is a rule as the successor of what there was. One without an id is
// the one that is the same, where there is one.
func succeed(old []Intent, r Rule, taken map[string]bool, now time.Time) (Intent, error) {
	i := IntentOf(r)
	same := slices.IndexFunc(old, func(o Intent) bool {
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
	if i.Expired(now) && (same < 0 || !old[same].ExpiresAt.Equal(i.ExpiresAt)) {
		return i, fault.Invalidf(fault.RuleExpired, "access rule %s for %v would have expired at %s, and it is %s: give a later time, or none",
			i.ID, i.Client, i.ExpiresAt.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return i, nil
}

// checkPlaces refuses two rules of which only chance would say which counts.
func checkPlaces(rules []Intent, now time.Time) error {
	type place struct {
		client   netip.Prefix
		priority int32
	}
	seen := map[place]Intent{}
	for _, r := range rules {
		if r.Expired(now) {
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
