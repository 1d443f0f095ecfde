package firewall

import (
	"fmt"
	"os"
	"reflect"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
)

// Write replaces the tables of a namespace in one transaction: there is no
// instant without them. An owner is written on the first rules.
func Write(ns *os.File, d Door) error {
	c, err := nftables.New(nftables.WithNetNSFd(int(ns.Fd())))
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	policy := nftables.ChainPolicyDrop
	set := uint32(0)
	for _, want := range tables(d) {
		t := &nftables.Table{Name: tableName, Family: want.family}
		c.AddTable(t) // so that there is one to delete
		c.DelTable(t)
		c.AddTable(t)
		for _, s := range want.sets {
			// Its number in this transaction. The library would count in a
			// variable that all callers share, without a lock (0.3.0).
			set++
			s.Table, s.ID = t, set
			if err := c.AddSet(s, nil); err != nil {
				return fmt.Errorf("write firewall: set %s: %w", s.Name, err)
			}
		}
		for _, ch := range want.chains {
			made := &nftables.Chain{Name: ch.name, Table: t}
			if ch.hook != nil {
				made.Hooknum, made.Policy = ch.hook, &policy
				made.Priority, made.Type = nftables.ChainPriorityFilter, nftables.ChainTypeFilter
			}
			c.AddChain(made)
			for i, exprs := range ch.rules {
				one := &nftables.Rule{Table: t, Chain: made, Exprs: exprs}
				if i == 0 && d.Owner != "" {
					one.UserData = userdata.AppendString(nil, userdata.TypeComment, ownerComment+d.Owner)
				}
				c.AddRule(one)
			}
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("write firewall: %w", err)
	}
	return nil
}

// ownerComment begins the comment that names who wrote the tables.
const ownerComment = "causeway network "

// Owner reads who wrote the table of a namespace, if it is there: "" where
// nobody is named.
func Owner(ns *os.File) (owner string, there bool, err error) {
	c, err := nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(int(ns.Fd())))
	if err != nil {
		return "", false, fmt.Errorf("open nftables: %w", err)
	}
	defer c.CloseLasting()
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return "", false, fmt.Errorf("read firewall: %w", err)
	}
	for _, ch := range chains {
		if ch.Table.Name != tableName {
			continue
		}
		there = true
		rules, err := c.GetRules(ch.Table, ch)
		if err != nil {
			return "", false, fmt.Errorf("read firewall: %w", err)
		}
		for _, r := range rules {
			words, _ := userdata.GetString(r.UserData, userdata.TypeComment)
			if o, ok := strings.CutPrefix(words, ownerComment); ok {
				owner = o
			}
		}
	}
	return owner, there, nil
}

// Delete removes the tables of a namespace.
func Delete(ns *os.File) error {
	c, err := nftables.New(nftables.WithNetNSFd(int(ns.Fd())))
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	for _, family := range []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyARP} {
		t := &nftables.Table{Name: tableName, Family: family}
		c.AddTable(t) // so that there is one to delete
		c.DelTable(t)
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("remove firewall: %w", err)
	}
	return nil
}

// Drift compares the tables of a namespace with the wanted ones, expression by
// expression, and says in words what differs. It is not for a locked thread:
// the library waits in the runtime's poller, and each wait would be two changes
// of thread (measured: 1.6 ms instead of 0.4).
func Drift(ns *os.File, d Door) ([]string, error) {
	c, err := nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(int(ns.Fd())))
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	defer c.CloseLasting()
	var drift []string
	for _, want := range tables(d) {
		words, err := compare(c, want)
		if err != nil {
			return nil, fmt.Errorf("read firewall: %w", err)
		}
		for _, words := range words {
			drift = append(drift, "firewall: "+words)
		}
	}
	return drift, nil
}

func (t table) name() string {
	if t.family == nftables.TableFamilyARP {
		return "table arp " + tableName
	}
	return "table inet " + tableName
}

func compare(c *nftables.Conn, want table) ([]string, error) {
	all, err := c.ListTablesOfFamily(want.family)
	if err != nil {
		return nil, err
	}
	var t *nftables.Table
	for _, one := range all {
		if one.Name == tableName {
			t = one
		}
	}
	switch {
	case t == nil:
		return []string{"there is no " + want.name()}, nil
	case t.Flags != 0:
		return []string{want.name() + " is dormant"}, nil
	}
	sets, err := c.GetSets(t)
	if err != nil {
		return nil, err
	}
	var drift []string
	for _, s := range want.sets {
		found := false
		for _, have := range sets {
			found = found || have.Name == s.Name && have.KeyType.Bytes == s.KeyType.Bytes &&
				have.Dynamic && have.Timeout == s.Timeout && have.Size == s.Size
		}
		if !found {
			drift = append(drift, "set "+s.Name+" of "+want.name()+" is missing or of another kind")
		}
	}
	chains, err := c.ListChainsOfTableFamily(want.family)
	if err != nil {
		return nil, err
	}
	have := make(map[string]*nftables.Chain)
	for _, ch := range chains {
		if ch.Table.Name == tableName {
			have[ch.Name] = ch
		}
	}
	for _, ch := range want.chains {
		words := "chain " + ch.name
		if want.family == nftables.TableFamilyARP {
			words = "arp " + words
		}
		is := have[ch.name]
		delete(have, ch.name)
		if !ch.same(is) {
			drift = append(drift, words+" is missing or of another kind")
			continue
		}
		rules, err := c.GetRules(t, is)
		if err != nil {
			return nil, err
		}
		got := make([][]expr.Any, len(rules))
		for i, r := range rules {
			got[i] = r.Exprs
		}
		if len(got) != len(ch.rules) || len(got) != 0 && !reflect.DeepEqual(got, ch.rules) {
			drift = append(drift, "the rules of "+words+" were altered")
		}
	}
	for name := range have {
		drift = append(drift, "chain "+name+" is not ours")
	}
	return drift, nil
}

// same compares all but the rules.
func (ch chain) same(have *nftables.Chain) bool {
	switch {
	case have == nil:
		return false
	case ch.hook == nil:
		return have.Hooknum == nil
	}
	return have.Type == nftables.ChainTypeFilter && is(have.Hooknum, *ch.hook) &&
		is(have.Priority, *nftables.ChainPriorityFilter) && is(have.Policy, nftables.ChainPolicyDrop)
}

func is[T comparable](p *T, v T) bool { return p != nil && *p == v }
