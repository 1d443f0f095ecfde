package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-project/causeway/agent/access"
	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/ganesha"
	"github.com/causeway-project/causeway/integration/wait"
)

// lets is a rule that squashes root, as most do.
func lets(client string, level access.Level) access.Rule {
	return access.Rule{Client: prefix(client), Level: level, Squash: access.SquashRoot, AnonUID: access.Anonymous, AnonGID: access.Anonymous}
}

// docsUp boots an agent with the export docs, without rules.
func docsUp(t *testing.T, h *host, dir string) *node {
	t.Helper()
	a := h.boot(dir)
	if _, err := a.PutNetwork(t.Context(), blue()); err != nil {
		t.Fatal(err)
	}
	e := docs()
	e.Rules = nil
	if _, err := a.PutExport(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	return a
}

// served lists what the gateway has, in its order.
func (h *host) served() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var rules []string
	for _, r := range h.gateways["blue"].exports[1].Rules {
		rules = append(rules, fmt.Sprint(r.Client, " ", r.Level))
	}
	return strings.Join(rules, ", ")
}

// states lists an export's rules and how far each has come.
func (a *node) states(t *testing.T) string {
	t.Helper()
	rules, err := a.Rules(t.Context(), "docs")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, r := range rules {
		all = append(all, strings.TrimSpace(fmt.Sprint(r.ID, " ", r.State, " ", r.Reason)))
	}
	return strings.Join(all, ", ")
}

// TestRecordsWithoutIDs: the records of an agent that knew no ids are read,
// and the same set of rules is the same still.
func TestRecordsWithoutIDs(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	a := h.boot(dir)
	ctx := t.Context()
	for _, verb := range life(ctx, a.Agent)[:2] {
		if err := verb(); err != nil {
			t.Fatal(err)
		}
	}
	before := h.String()
	a.stop()
	file := filepath.Join(dir, "state", "ledger", "export", "docs.json")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var old map[string]any
	if err := json.Unmarshal(data, &old); err != nil {
		t.Fatal(err)
	}
	for _, r := range old["body"].(map[string]any)["export"].(map[string]any)["rules"].([]any) {
		for _, key := range []string{"id", "created_at"} {
			if r.(map[string]any)[key] == nil {
				t.Errorf("a rule has no %s: %v", key, r)
			}
			delete(r.(map[string]any), key)
		}
	}
	if data, err = json.Marshal(old); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	a = h.boot(dir)
	if damaged := a.Damaged(); len(damaged) > 0 {
		t.Fatalf("damaged: %v\n%s", damaged, data)
	}
	first := a.states(t)
	if strings.Count(first, "r-") != 2 {
		t.Errorf("rules are %s", first)
	}
	e, err := a.PutExport(ctx, docs())
	if err != nil || e.Status.Generation != 1 {
		t.Errorf("the same rules again: generation %d, %v", e.Status.Generation, err)
	}
	a.stop()
	a = h.boot(dir)
	if got := a.states(t); got != first {
		t.Errorf("after a start rules are %s, before %s", got, first)
	}
	if diff := cmp.Diff(before, h.String()); diff != "" {
		t.Errorf("host (-want +got):\n%s", diff)
	}
}

func TestPutRule(t *testing.T) {
	h := newHost(t)
	a := docsUp(t, h, shortDir(t))
	ctx := t.Context()
	put := func(r access.Rule) access.Rule {
		t.Helper()
		got, err := a.PutRule(ctx, "docs", r)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	net := lets("10.77.0.0/24", access.LevelRO)
	chosen := put(net)
	if again := put(net); again.ID != chosen.ID || !again.CreatedAt.Equal(chosen.CreatedAt) || again.State != access.Active {
		t.Errorf("put again is %+v, first it was %+v", again, chosen)
	}
	one := lets("10.77.0.5/32", access.LevelRW)
	one.ID, one.Metadata = "one", map[string]string{"ticket": "7"}
	made := put(one)
	if got, want := h.served(), "10.77.0.5/32 rw, 10.77.0.0/24 ro"; got != want {
		t.Errorf("served %s, want %s", got, want)
	}
	// What is said of the rule changes, and then what it allows.
	one.Metadata = map[string]string{"ticket": "8"}
	if got := put(one); !got.CreatedAt.Equal(made.CreatedAt) || !maps.Equal(got.Metadata, one.Metadata) {
		t.Errorf("with other metadata: %+v, was %+v", got, made)
	}
	one.Level = access.LevelRO
	if got := put(one); !got.CreatedAt.After(made.CreatedAt) {
		t.Errorf("with another level: %+v, was %+v", got, made)
	}
	one.Priority = 7
	put(one)
	if got, want := h.served(), "10.77.0.0/24 ro, 10.77.0.5/32 ro"; got != want {
		t.Errorf("served %s, want %s", got, want)
	}

	// The set: what stays the same keeps id and age.
	e := docs()
	e.Rules = []access.Rule{net, lets("fd77::/64", access.LevelRW)}
	set, err := a.PutExport(ctx, e)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range set.Rules {
		if same := r.ID == chosen.ID; same != (r.Client == net.Client) || same && !r.CreatedAt.Equal(chosen.CreatedAt) {
			t.Errorf("in the set: %+v", r)
		}
	}
	// What was answered, sent again.
	e.Rules = set.Rules
	if again, err := a.PutExport(ctx, e); err != nil || again.Status.Generation != set.Status.Generation {
		t.Errorf("sent again: generation %d, was %d, %v", again.Status.Generation, set.Status.Generation, err)
	}
	for range 2 {
		if err := a.DeleteRule(ctx, "docs", chosen.ID); err != nil {
			t.Error(err)
		}
	}
	if got, want := h.served(), "fd77::/64 rw"; got != want {
		t.Errorf("served %s, want %s", got, want)
	}
}

// TestRuleConflicts are refused with both ids, and change nothing.
func TestRuleConflicts(t *testing.T) {
	h := newHost(t)
	a := docsUp(t, h, shortDir(t))
	ctx := t.Context()
	named := func(id, client string, change func(*access.Rule)) access.Rule {
		r := lets(client, access.LevelRO)
		r.ID = id
		change(&r)
		return r
	}
	as := func(*access.Rule) {}
	if _, err := a.PutRule(ctx, "docs", named("have", "10.77.0.0/24", as)); err != nil {
		t.Fatal(err)
	}
	rw := func(r *access.Rule) { r.Level = access.LevelRW }
	wide := lets("0.0.0.0/0", access.LevelRO)
	bulky := map[string]string{}
	for i := range 17 {
		bulky[fmt.Sprint("k", i)] = "v"
	}
	before := h.String()
	for _, c := range []struct {
		name   string
		rule   access.Rule
		reason fault.Reason
		has    string
	}{
		{"another level", named("new", "10.77.0.0/24", rw), fault.RuleConflict, "have and new"},
		{"another squash", named("new", "10.77.0.0/24", func(r *access.Rule) { r.Squash = access.SquashAll }), fault.RuleConflict, "contradict"},
		{"the same", named("new", "10.77.0.0/24", as), fault.RuleConflict, "say the same"},
		{"another level, unnamed", named("", "10.77.0.0/24", rw), fault.RuleConflict, "have and r-"},
		{"everyone", wide, fault.RuleForEveryone, "allow_everyone"},
		{"expired", named("new", "10.1.0.0/16", func(r *access.Rule) { r.ExpiresAt = time.Now().Add(-time.Second) }), fault.RuleExpired, "later time"},
		{"have, expired", named("have", "10.77.0.0/24", func(r *access.Rule) { r.ExpiresAt = time.Now().Add(-time.Second) }), fault.RuleExpired, "later time"},
		{"squashed to root", named("new", "10.1.0.0/16", func(r *access.Rule) { r.AnonGID = 1<<32 - 1 }), fault.BadRule, "choose another"},
		{"nobody squashed", named("new", "10.1.0.0/16", func(r *access.Rule) { r.Squash, r.AnonUID = access.SquashNone, 7 }), fault.BadRule, "squash root or all"},
		{"no client has it", named("new", "0.0.0.0/32", as), fault.BadRule, "no client"},
		{"kerberos", named("new", "10.1.0.0/16", func(r *access.Rule) { r.Sec = []access.Sec{access.SecSys, access.SecKrb5i} }), fault.NoKerberos, "use sys"},
		{"flavour", named("new", "10.1.0.0/16", func(r *access.Rule) { r.Sec = []access.Sec{"lipkey"} }), fault.BadRule, "krb5p"},
		{"id", named("a b", "10.1.0.0/16", as), fault.BadID, "use 1 to 63"},
		{"key of metadata", named("new", "10.1.0.0/16", func(r *access.Rule) { r.Metadata = map[string]string{"a b": ""} }), fault.BadMetadata, "for a key"},
		{"value of metadata", named("new", "10.1.0.0/16", func(r *access.Rule) { r.Metadata = map[string]string{"a": "\n"} }), fault.BadMetadata, "printable"},
		{"much metadata", named("new", "10.1.0.0/16", func(r *access.Rule) { r.Metadata = map[string]string{"a": strings.Repeat("x", 1024)} }), fault.BadMetadata, "at most"},
		{"many metadata", named("new", "10.1.0.0/16", func(r *access.Rule) { r.Metadata = bulky }), fault.BadMetadata, "at most"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, one := a.PutRule(ctx, "docs", c.rule)
			e := docs()
			e.Rules = []access.Rule{named("have", "10.77.0.0/24", as), c.rule}
			if c.rule.ID == "have" {
				e.Rules = e.Rules[1:]
			}
			_, set := a.PutExport(ctx, e)
			for verb, err := range map[string]error{"PutRule": one, "PutExport": set} {
				var is *fault.Error
				if !errors.As(err, &is) || is.Reason != c.reason || !strings.Contains(is.Message, c.has) {
					t.Errorf("%s: %v, want %s with %q", verb, err, c.reason, c.has)
				}
			}
			if diff := cmp.Diff(before, h.String()); diff != "" {
				t.Errorf("host (-want +got):\n%s", diff)
			}
		})
	}
	e := docs()
	e.Rules = []access.Rule{named("twin", "10.1.0.0/16", as), named("twin", "10.2.0.0/16", as)}
	if _, err := a.PutExport(ctx, e); fault.AsError(err).Reason != fault.RuleConflict {
		t.Errorf("one id twice: %v", err)
	}
	for name, err := range map[string]error{
		"put into nothing":      second(a.PutRule(ctx, "none", lets("10.1.0.0/16", access.LevelRO))),
		"delete from nothing":   a.DeleteRule(ctx, "none", "x"),
		"recover nothing":       second(a.RecoverRules(ctx, "none")),
		"list of nothing":       second(a.Rules(ctx, "none")),
		"rule that there isn't": second(a.Rule(ctx, "docs", "none")),
	} {
		if e := fault.AsError(err); e.Kind != fault.NotFound {
			t.Errorf("%s: %v", name, err)
		}
	}
	wide.Everyone = true
	if _, err := a.PutRule(ctx, "docs", wide); err != nil {
		t.Errorf("everyone, said: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestTooManyRules(t *testing.T) {
	h := newHost(t)
	a := docsUp(t, h, shortDir(t))
	e := docs()
	e.Rules = nil
	for i := range access.Most {
		e.Rules = append(e.Rules, lets(fmt.Sprintf("10.%d.%d.0/24", i/250, i%250), access.LevelRW))
	}
	if _, err := a.PutExport(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if _, err := a.PutRule(t.Context(), "docs", lets("10.77.0.0/24", access.LevelRO)); fault.AsError(err).Reason != fault.TooManyRules {
		t.Errorf("one more: %v", err)
	}
	e.Rules = append(e.Rules, lets("10.77.0.0/24", access.LevelRO))
	if _, err := a.PutExport(t.Context(), e); fault.AsError(err).Reason != fault.TooManyRules {
		t.Errorf("all at once: %v", err)
	}
}

// TestRulesAtOnce: callers that change rules of one export at the same time
// lose nothing of each other's.
func TestRulesAtOnce(t *testing.T) {
	const callers = 30
	h, dir := newHost(t), shortDir(t)
	a := docsUp(t, h, dir)
	for _, r := range []string{"10.1.0.0/16", "10.2.0.0/16"} {
		rule := lets(r, access.LevelRO)
		rule.ID = "gone-" + strings.ReplaceAll(r, "/", "-")
		if _, err := a.PutRule(t.Context(), "docs", rule); err != nil {
			t.Fatal(err)
		}
	}
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			var err error
			if i < 2 {
				err = a.DeleteRule(t.Context(), "docs", fmt.Sprintf("gone-10.%d.0.0-16", i+1))
			} else {
				_, err = a.PutRule(t.Context(), "docs", lets(fmt.Sprintf("10.77.%d.0/24", i), access.LevelRW))
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if got := strings.Count(h.served(), "/24 rw"); got != callers-2 || strings.Contains(h.served(), "/16") {
		t.Errorf("served %s", h.served())
	}
	a.stop()
	if got := h.boot(dir).states(t); strings.Count(got, " active") != callers-2 {
		t.Errorf("after a start: %s", got)
	}
}

// TestRuleExpires at its time, and also where no agent ran then.
func TestRuleExpires(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	a := docsUp(t, h, dir)
	ctx := t.Context()
	put := func(id, client string, left time.Duration) {
		t.Helper()
		r := lets(client, access.LevelRW)
		r.ID = id
		if left > 0 {
			r.ExpiresAt = time.Now().Add(left)
		}
		if _, err := a.PutRule(ctx, "docs", r); err != nil {
			t.Fatal(err)
		}
	}
	put("for-ever", "10.77.0.0/24", 0)
	put("soon", "10.77.0.5/32", 300*time.Millisecond)
	wait.Equal(t, "expired", "10.77.0.0/24 rw", h.served)
	wait.Until(t, "shown", func() bool {
		return a.states(t) == "soon denying access_rule_expired, for-ever active"
	})
	put("soon", "10.77.0.5/32", time.Hour) // again, for longer
	if got, want := a.states(t), "soon active, for-ever active"; got != want {
		t.Errorf("renewed: %s, want %s", got, want)
	}

	put("away", "10.77.0.6/32", time.Second)
	until := time.Now().Add(time.Second)
	a.stop()
	stopped := h.served()
	wait.Until(t, "the time of expiry", func() bool { return time.Now().After(until) })
	if got := h.served(); got != stopped {
		t.Errorf("without an agent the rules became %s, from %s", got, stopped)
	}
	a = h.boot(dir)
	if got := h.served(); strings.Contains(got, "10.77.0.6/32") {
		t.Errorf("in sync, and served %s", got)
	}

	// A day later it is seen no more, and then goes with the next change.
	a.stop()
	file := filepath.Join(dir, "state", "ledger", "export", "docs.json")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	data = regexp.MustCompile(`"expires_at": "[^T]*`).ReplaceAll(data, []byte(time.Now().UTC().Add(-50*time.Hour).Format(`"expires_at": "2006-01-02`)))
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	a = h.boot(dir)
	if got, want := a.states(t), "for-ever active"; got != want {
		t.Errorf("two days later: %s, want %s", got, want)
	}
	put("new", "10.77.0.7/32", 0)
	if data, err = os.ReadFile(file); err != nil || strings.Contains(string(data), "expires_at") {
		t.Errorf("the record: %v\n%s", err, data)
	}
}

// TestRefusedRule: one bad rule does not hurt the others, and says so.
func TestRefusedRule(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	h.refuses = map[netip.Prefix]bool{prefix("10.66.0.0/16"): true}
	a := docsUp(t, h, dir)
	ctx := t.Context()
	bad := lets("10.66.0.0/16", access.LevelRW)
	bad.ID = "bad"
	e := docs()
	e.Rules = []access.Rule{bad, lets("10.77.0.0/24", access.LevelRW)}
	e.Rules[1].ID = "good"
	check := func() {
		t.Helper()
		if got, want := a.states(t), "good active, bad error access_rule_refused"; got != want {
			t.Errorf("rules are %s, want %s", got, want)
		}
		got, err := a.Export(ctx, "docs")
		if err != nil || got.Status.Phase != model.Degraded || got.Status.Reason != fault.RuleRefused || !strings.Contains(got.Status.Message, "bad") {
			t.Errorf("status %+v, %v", got.Status, err)
		}
	}
	if _, err := a.PutExport(ctx, e); err != nil {
		t.Fatal(err)
	}
	check()
	a.stop()
	a = h.boot(dir)
	wait.Until(t, "seen", func() bool {
		return !strings.Contains(a.states(t), "applying") && !strings.Contains(a.states(t), "queued")
	})
	check()
	if err := a.DeleteRule(ctx, "docs", "bad"); err != nil {
		t.Fatal(err)
	}
	if got, err := a.Export(ctx, "docs"); err != nil || got.Status.Phase != model.Ready {
		t.Errorf("without it: %+v, %v", got.Status, err)
	}
}

// TestRulesDrift: what somebody else did to a gateway's rules is undone at the
// next look, and at once when asked.
func TestRulesDrift(t *testing.T) {
	h := newHost(t)
	h.resync = 50 * time.Millisecond
	a := docsUp(t, h, shortDir(t))
	ctx := t.Context()
	if _, err := a.PutRule(ctx, "docs", lets("10.77.0.0/24", access.LevelRO)); err != nil {
		t.Fatal(err)
	}
	want := h.served()
	tamper := func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		s := h.gateways["blue"]
		e := s.exports[1]
		e.Rules = []ganesha.Rule{{Client: prefix("10.0.0.0/8"), Level: ganesha.ReadWrite}}
		s.exports[1] = e
	}
	tamper()
	e, err := a.RecoverRules(ctx, "docs")
	if err != nil || h.served() != want || e.Status.Phase != model.Ready {
		t.Errorf("served %s, want %s; %+v, %v", h.served(), want, e.Status, err)
	}
	count := func() int {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(slices.DeleteFunc(slices.Clone(h.log), func(l string) bool { return l != "recover export 1" }))
	}
	recoveries := count()
	if _, err := a.RecoverRules(ctx, "docs"); err != nil || count() != recoveries+1 {
		t.Errorf("nothing to recover: %v, %d calls", err, count())
	}
	drift := metric(t, a, "causeway_access_rule_drift_total")
	tamper()
	wait.Equal(t, "undone", want, h.served)
	if got := metric(t, a, "causeway_access_rule_drift_total"); got != drift+1 {
		t.Errorf("drift counted is %v, was %v", got, drift)
	}
}
