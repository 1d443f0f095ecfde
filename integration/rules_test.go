package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/integration/lab"
	"github.com/causeway-project/causeway/integration/nfs41"
)

// TestRules changes the rules of one export under a file that a client holds
// open: one by one, by their expiry, and behind the agent's back.
func TestRules(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 6*time.Minute)
	w.share(t, "docs")
	n := w.started(ctx, t, lab.AgentOptions{Resync: 2 * time.Second})
	n.putNetwork(ctx, blueNetwork())
	closed := exported("docs", "docs")
	closed.Rules = nil
	n.putExport(ctx, closed)
	mine := rule(client4, nodev1.Level_LEVEL_RW)
	mine.Id = "mine"
	n.putRule(ctx, mine)
	c := dial(ctx, t, n.client, gateway4)
	f, err := c.Open(ctx, "/docs/open", nfs41.OpenOptions{Access: nfs41.ReadWrite, Create: nfs41.Unchecked, Mode: 0o644})
	n.must(err)
	write := func() error { _, err := f.WriteAt(ctx, []byte("x"), 0); return err }
	n.must(write())
	// expiring gives the client's rule an end that is soon.
	expiring := func() time.Time {
		t.Helper()
		r := proto.CloneOf(mine)
		at := time.Now().Add(5 * time.Second)
		r.ExpiresAt = timestamppb.New(at)
		n.putRule(ctx, r)
		return at
	}
	expired := func() {
		t.Helper()
		if got := n.rules(ctx); got != "mine=denying" {
			t.Errorf("rules are %s", got)
		}
		n.putRule(ctx, mine)
		if err := write(); err != nil {
			t.Errorf("after the rule was put again: %v", err)
		}
	}

	t.Run("one by one", func(t *testing.T) {
		const callers = 30
		n := n.within(t)
		id := func(i int) string { return fmt.Sprintf("caller-%d", i) }
		together(t, callers, func(i int) error {
			r := rule(fmt.Sprintf("10.77.1.%d", i+1), nodev1.Level_LEVEL_RO)
			r.Id = id(i)
			_, err := n.exports.PutRule(ctx, &nodev1.PutRuleRequest{Export: "docs", Rule: r})
			return err
		})
		if got := strings.Count(n.rules(ctx), "=active"); got != callers+1 {
			t.Errorf("%d rules are active: %s", got, n.rules(ctx))
		}
		together(t, callers, func(i int) error {
			_, err := n.exports.DeleteRule(ctx, &nodev1.DeleteRuleRequest{Export: "docs", Id: id(i)})
			return err
		})
		if got := n.rules(ctx); got != "mine=active" {
			t.Errorf("left are %s", got)
		}
	})
	t.Run("order", func(t *testing.T) {
		n := n.within(t)
		first := rule("10.77.0.0/24", nodev1.Level_LEVEL_RO)
		first.Id, first.Priority = "first", -1
		n.putRule(ctx, first)
		if err := write(); !errors.Is(err, nfs41.ROFS) {
			t.Errorf("by a wide rule that counts first: %v, want ROFS", err)
		}
		first.Priority = 1
		n.putRule(ctx, first)
		if err := write(); err != nil {
			t.Errorf("by the own rule: %v", err)
		}
		_, err := n.exports.DeleteRule(ctx, &nodev1.DeleteRuleRequest{Export: "docs", Id: "first"})
		n.must(err)
	})
	t.Run("expiry", func(t *testing.T) {
		at := expiring()
		until(ctx, t, "the rule lets its client in", func() (bool, error) {
			err := write()
			if err != nil && time.Now().Before(at) {
				t.Errorf("before the rule expired: %v", err)
			}
			return errors.Is(err, nfs41.ACCESS), err
		})
		t.Logf("refused %v after the rule expired", time.Since(at).Round(time.Millisecond))
		until(ctx, t, "the export is not ready", func() (bool, error) { return n.rules(ctx) == "mine=denying", nil })
		expired()
	})
	t.Run("expiry while the agent is dead", func(t *testing.T) {
		n := n.within(t)
		at := expiring()
		n.kill()
		until(ctx, t, "the time has not come", func() (bool, error) { return time.Now().After(at), nil })
		if err := write(); err != nil {
			t.Errorf("who refused the client? %v", err)
		}
		n.start(ctx)
		if err := write(); !errors.Is(err, nfs41.ACCESS) {
			t.Errorf("with the agent in sync: %v, want ACCESS", err)
		}
		expired()
	})
	t.Run("one that cannot be", func(t *testing.T) {
		n := n.within(t)
		n.kill()
		// As if an earlier agent had taken it.
		file := filepath.Join(n.StateDir, "ledger", "export", "docs.json")
		text, err := os.ReadFile(file)
		n.must(err)
		bad := strings.Replace(string(text), `"rules": [`, `"rules": [{"id": "bad", "client": "fd77::/112", "level": "rw", "squash": "root"},`, 1)
		n.must(os.WriteFile(file, []byte(bad), 0o600))
		n.start(ctx)
		until(ctx, t, "the rules are others", func() (bool, error) {
			got := n.rules(ctx)
			return got == "bad=error mine=active", errors.New(got)
		})
		if err := write(); err != nil {
			t.Errorf("by the good rule: %v", err)
		}
		resp, err := n.exports.Get(ctx, &nodev1.GetExportRequest{Id: "docs"})
		n.must(err)
		if s := resp.GetExport().GetStatus(); s.GetPhase() != nodev1.Phase_PHASE_DEGRADED || s.GetReason() != "access_rule_refused" {
			t.Errorf("status %v", s)
		}
		_, err = n.exports.DeleteRule(ctx, &nodev1.DeleteRuleRequest{Export: "docs", Id: "bad"})
		n.must(err)
		if got := n.rules(ctx); got != "mine=active" {
			t.Errorf("left are %s", got)
		}
	})
	t.Run("changed by somebody else", func(t *testing.T) {
		n := n.within(t)
		n.tamper(ctx, "docs")
		if err := write(); !errors.Is(err, nfs41.ROFS) {
			t.Logf("after the rule was changed: %v", err) // a look may have come first
		}
		_, err := n.exports.RecoverRules(ctx, &nodev1.RecoverRulesRequest{Export: "docs"})
		n.must(err)
		if err := write(); err != nil {
			t.Errorf("recovered: %v", err)
		}
		n.tamper(ctx, "docs")
		until(ctx, t, "the rule is as somebody else made it", func() (bool, error) {
			err := write()
			return err == nil, err
		})
	})

	n.must(f.Close(ctx))
	closeClient(ctx, t, c)
	n.deleteExport(ctx, "docs")
	t.Run("document", func(t *testing.T) {
		n := n.within(t)
		_, section, _ := strings.Cut(read(t, "../docs/gateways.md"), "\n## Who may reach an export\n")
		section, _, _ = strings.Cut(section, "\n## ")
		commands := 0
		for line := range strings.SplitSeq(section, "\n") {
			words := strings.Fields(line)
			if len(words) == 0 || words[0] != "causeway" {
				continue
			}
			commands++
			if _, err := n.Must(ctx, words[1:]...); err != nil {
				t.Errorf("%s: %v", line, err)
			}
		}
		if got := n.rules(ctx); commands < 8 || strings.Count(got, "=active") != 2 {
			t.Errorf("after %d commands rules are %s", commands, got)
		}
	})
	n.deleteExport(ctx, "docs")
	n.deleteNetwork(ctx, "blue")
	n.finish(ctx)
}

func (n *node) putRule(ctx context.Context, r *nodev1.AccessRule) *nodev1.AccessRule {
	n.t.Helper()
	resp, err := n.exports.PutRule(ctx, &nodev1.PutRuleRequest{Export: "docs", Rule: r})
	n.must(err)
	return resp.GetRule()
}

// rules of docs in one line.
func (n *node) rules(ctx context.Context) string {
	n.t.Helper()
	resp, err := n.exports.ListRules(ctx, &nodev1.ListRulesRequest{Export: "docs"})
	n.must(err)
	var all []string
	for _, r := range resp.GetRules() {
		all = append(all, r.GetId()+"="+strings.ToLower(strings.TrimPrefix(r.GetState().String(), "RULE_STATE_")))
	}
	return strings.Join(all, " ")
}

// tamper makes all rules of an export on blue read-only in its Ganesha, by
// Ganesha's own bus.
func (n *node) tamper(ctx context.Context, export string) {
	n.t.Helper()
	resp, err := n.exports.Get(ctx, &nodev1.GetExportRequest{Id: export})
	n.must(err)
	id := resp.GetExport().GetExportId()
	conf := filepath.Join(n.RunDir, "gateways", "blue", "conf", "exports")
	text, err := os.ReadFile(filepath.Join(conf, fmt.Sprintf("%d.conf", id)))
	n.must(err)
	changed := strings.ReplaceAll(string(text), "Access_Type = RW", "Access_Type = RO")
	if changed == string(text) {
		n.t.Fatalf("no rule to change in\n%s", text)
	}
	file := filepath.Join(conf, "tampered")
	n.must(os.WriteFile(file, []byte(changed), 0o600))
	conn, err := dbus.Connect("unix:path=" + filepath.Join(n.RunDir, "gateways", "blue", "sock", "bus"))
	n.must(err)
	err = conn.Object("org.ganesha.nfsd", "/org/ganesha/nfsd/ExportMgr").CallWithContext(ctx,
		"org.ganesha.nfsd.exportmgr.UpdateExport", 0, file, fmt.Sprintf("EXPORT(Export_Id=%d)", id)).Err
	n.must(errors.Join(err, conn.Close(), os.Remove(file)))
}

// TestBadRules refuses rules, in a set and alone.
func TestBadRules(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 6*time.Minute)
	w.share(t, "docs")
	n := w.started(ctx, t, lab.AgentOptions{})
	n.putNetwork(ctx, blueNetwork())
	docs := exported("docs", "docs")
	docs.Rules[0].Id = "have"
	n.putExport(ctx, docs)

	invalid := func(reason string) refusal { return refusal{codes.InvalidArgument, reason} }
	bad := func(change func(*nodev1.AccessRule)) *nodev1.AccessRule {
		r := rule("10.77.5.0/24", nodev1.Level_LEVEL_RW)
		r.Id = "bad"
		change(r)
		return r
	}
	client := func(c string) *nodev1.AccessRule {
		return bad(func(r *nodev1.AccessRule) { r.Client = c })
	}
	many := map[string]string{}
	for i := range 17 {
		many[fmt.Sprint("k", i)] = "v"
	}
	var calls []badCall
	for _, c := range []struct {
		name   string
		rule   *nodev1.AccessRule
		want   refusal
		advice string
	}{
		{"no client", client(""), invalid("field_required"), "set it"},
		{"client that is no address", client("everybody"), invalid("field_malformed"), "write it like"},
		{"client with more", client("10.77.0.0/24; Access_Type = RW"), invalid("field_malformed"), "write it like"},
		{"client with bits behind its prefix", client("10.77.0.1/24"), invalid("bad_access_rule"), "did you mean"},
		{"client that nobody is", client("0.0.0.0"), invalid("bad_access_rule"), "for example"},
		{"IPv4 in IPv6", client("::ffff:10.77.0.1"), invalid("bad_access_rule"), "write IPv4 as such"},
		{"IPv6 prefix that Ganesha cannot read", client("fd77::/112"), invalid("bad_access_rule"), "up to /99"},
		{"everyone", client("0.0.0.0/0"), invalid("access_rule_for_everyone"), "or give a prefix"},
		{"everyone, IPv6", client("::/0"), invalid("access_rule_for_everyone"), "or give a prefix"},
		{"no level", bad(func(r *nodev1.AccessRule) { r.Level = 0 }), invalid("field_required"), "set it"},
		{"unknown level", bad(func(r *nodev1.AccessRule) { r.Level = 7 }), invalid("field_malformed"), "use LEVEL_RO"},
		{"unknown squash", bad(func(r *nodev1.AccessRule) { r.Squash = 7 }), invalid("field_malformed"), "use one of the enum Squash"},
		{"unknown flavour", bad(func(r *nodev1.AccessRule) { r.Sec = []nodev1.Sec{7} }), invalid("field_malformed"), "use one of the enum Sec"},
		{"Kerberos", bad(func(r *nodev1.AccessRule) { r.Sec = []nodev1.Sec{nodev1.Sec_SEC_KRB5} }), refusal{codes.FailedPrecondition, "kerberos_missing"}, "use sys"},
		{"another level at one place", bad(func(r *nodev1.AccessRule) { r.Client, r.Level = "10.77.0.0/24", nodev1.Level_LEVEL_RO }), invalid("access_rule_conflict"), "different priorities"},
		{"the same at one place", client("10.77.0.0/24"), invalid("access_rule_conflict"), "different priorities"},
		{"expired", bad(func(r *nodev1.AccessRule) { r.ExpiresAt = timestamppb.New(time.Now().Add(-time.Minute)) }), invalid("access_rule_expired"), "give a later time"},
		{"expires before there were clocks", bad(func(r *nodev1.AccessRule) { r.ExpiresAt = &timestamppb.Timestamp{} }), invalid("access_rule_expired"), "give a later time"},
		{"expires at no time", bad(func(r *nodev1.AccessRule) { r.ExpiresAt = &timestamppb.Timestamp{Seconds: 1 << 60} }), invalid("field_malformed"), "correct it"},
		{"anonymous user and nobody squashed", bad(func(r *nodev1.AccessRule) { r.AnonymousUid = proto.Uint32(7) }), invalid("bad_access_rule"), "squash root or all"},
		{"anonymous group and nobody squashed", bad(func(r *nodev1.AccessRule) { r.AnonymousGid = proto.Uint32(7) }), invalid("bad_access_rule"), "squash root or all"},
		{"anonymous user that stays root", bad(func(r *nodev1.AccessRule) {
			r.Squash, r.AnonymousUid = nodev1.Squash_SQUASH_ALL, proto.Uint32(1<<32-1)
		}), invalid("bad_access_rule"), "choose another"},
		{"anonymous group that stays root", bad(func(r *nodev1.AccessRule) {
			r.Squash, r.AnonymousGid = nodev1.Squash_SQUASH_ALL, proto.Uint32(1<<32-1)
		}), invalid("bad_access_rule"), "choose another"},
		{"key of metadata", bad(func(r *nodev1.AccessRule) { r.Metadata = map[string]string{"a b": "v"} }), invalid("bad_metadata"), "printable text"},
		{"value of metadata", bad(func(r *nodev1.AccessRule) { r.Metadata = map[string]string{"a": "\x1b[31m"} }), invalid("bad_metadata"), "printable text"},
		{"long metadata", bad(func(r *nodev1.AccessRule) { r.Metadata = map[string]string{"a": strings.Repeat("v", 1024)} }), invalid("bad_metadata"), "keep at most"},
		{"longer metadata", bad(func(r *nodev1.AccessRule) { r.Metadata = map[string]string{"a": strings.Repeat("v", 5000)} }), invalid("field_too_long"), "shorten it"},
		{"many metadata", bad(func(r *nodev1.AccessRule) { r.Metadata = many }), invalid("bad_metadata"), "keep at most"},
	} {
		set := exported("docs", "docs")
		set.Rules[0].Id = "have"
		set.Rules = append(set.Rules, c.rule)
		calls = append(calls,
			badCall{c.name, &nodev1.PutRuleRequest{Export: "docs", Rule: c.rule}, c.want, c.advice},
			badCall{c.name + " in a set", set, c.want, c.advice})
	}
	for _, id := range hostile {
		calls = append(calls, badCall{"id " + short(id), &nodev1.PutRuleRequest{Export: "docs", Rule: bad(func(r *nodev1.AccessRule) { r.Id = id })}, hostileID(id), ""})
	}
	twice, crowd := exported("docs", "docs"), exported("docs", "docs")
	twice.Rules[0].Id, twice.Rules[1].Id = "have", "have"
	for i := range 1000 {
		crowd.Rules = append(crowd.Rules, rule(fmt.Sprintf("10.78.%d.%d", i/250, i%250+1), nodev1.Level_LEVEL_RO))
	}
	good := bad(func(*nodev1.AccessRule) {})
	calls = append(calls,
		badCall{"one id twice", twice, invalid("access_rule_conflict"), "give each its own"},
		badCall{"too many", crowd, invalid("too_many_access_rules"), "name prefixes"},
		badCall{"into nothing", &nodev1.PutRuleRequest{Export: "none", Rule: good}, refusal{codes.NotFound, "unknown_id"}, "list them"},
		badCall{"no rule", &nodev1.PutRuleRequest{Export: "docs"}, invalid("field_required"), "set it"},
		badCall{"unknown rule", &nodev1.GetRuleRequest{Export: "docs", Id: "none"}, refusal{codes.NotFound, "unknown_access_rule"}, "list them"})
	n.refuse(ctx, calls)
	n.deleteExport(ctx, "docs")
	n.deleteNetwork(ctx, "blue")
	n.finish(ctx)
}
