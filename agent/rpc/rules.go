package rpc

import (
	"context"
	"errors"
	"net/netip"

	"github.com/causeway-project/causeway/agent/access"
	nodev1 "github.com/causeway-project/causeway/api/node/v1"
)

func (s exports) PutRule(ctx context.Context, r *nodev1.PutRuleRequest) (*nodev1.PutRuleResponse, error) {
	if err := checkNeeds(need{"export", r.GetExport()}); err != nil {
		return nil, err
	}
	if r.GetRule() == nil {
		return nil, required("rule")
	}
	want, err := ruleFrom(r.GetRule(), "rule")
	if err != nil {
		return nil, err
	}
	got, err := s.agent.PutRule(ctx, r.GetExport(), want)
	if err != nil {
		return nil, err
	}
	return &nodev1.PutRuleResponse{Rule: ruleTo(got)}, nil
}

func (s exports) DeleteRule(ctx context.Context, r *nodev1.DeleteRuleRequest) (*nodev1.DeleteRuleResponse, error) {
	if err := checkNeeds(need{"export", r.GetExport()}, need{"id", r.GetId()}); err != nil {
		return nil, err
	}
	if err := s.agent.DeleteRule(ctx, r.GetExport(), r.GetId()); err != nil {
		return nil, err
	}
	return &nodev1.DeleteRuleResponse{}, nil
}

func (s exports) GetRule(ctx context.Context, r *nodev1.GetRuleRequest) (*nodev1.GetRuleResponse, error) {
	if err := checkNeeds(need{"export", r.GetExport()}, need{"id", r.GetId()}); err != nil {
		return nil, err
	}
	got, err := s.agent.Rule(ctx, r.GetExport(), r.GetId())
	if err != nil {
		return nil, err
	}
	return &nodev1.GetRuleResponse{Rule: ruleTo(got)}, nil
}

func (s exports) ListRules(ctx context.Context, r *nodev1.ListRulesRequest) (*nodev1.ListRulesResponse, error) {
	if err := checkNeeds(need{"export", r.GetExport()}); err != nil {
		return nil, err
	}
	got, err := s.agent.Rules(ctx, r.GetExport())
	if err != nil {
		return nil, err
	}
	return &nodev1.ListRulesResponse{Rules: each(got, ruleTo)}, nil
}

func (s exports) RecoverRules(ctx context.Context, r *nodev1.RecoverRulesRequest) (*nodev1.RecoverRulesResponse, error) {
	if err := checkNeeds(need{"export", r.GetExport()}); err != nil {
		return nil, err
	}
	got, err := s.agent.RecoverRules(ctx, r.GetExport())
	if err != nil {
		return nil, err
	}
	return &nodev1.RecoverRulesResponse{Export: exportTo(got)}, nil
}

func ruleFrom(r *nodev1.AccessRule, field string) (access.Rule, error) {
	if r.GetClient() == "" {
		return access.Rule{}, required(field + ".client")
	}
	client, err := prefix(r.GetClient())
	if err != nil {
		return access.Rule{}, malformed(field+".client",
			"%q is neither an address nor a prefix; write it like 10.77.0.7 or 10.77.0.0/24", r.GetClient())
	}
	rule := access.Rule{
		ID: r.GetId(), Client: client, Everyone: r.GetAllowEveryone(), AnonUID: access.Anonymous, AnonGID: access.Anonymous,
		Priority: r.GetPriority(), Metadata: r.GetMetadata(),
	}
	switch r.GetLevel() {
	case nodev1.Level_LEVEL_RO:
		rule.Level = access.LevelRO
	case nodev1.Level_LEVEL_RW:
		rule.Level = access.LevelRW
	case nodev1.Level_LEVEL_UNSPECIFIED:
		return access.Rule{}, required(field + ".level")
	default:
		return access.Rule{}, malformed(field+".level", "%d is no level; use LEVEL_RO or LEVEL_RW", r.GetLevel())
	}
	switch r.GetSquash() {
	case nodev1.Squash_SQUASH_UNSPECIFIED, nodev1.Squash_SQUASH_ROOT:
		rule.Squash = access.SquashRoot
	case nodev1.Squash_SQUASH_NONE:
		rule.Squash = access.SquashNone
	case nodev1.Squash_SQUASH_ROOT_ID:
		rule.Squash = access.SquashRootID
	case nodev1.Squash_SQUASH_ALL:
		rule.Squash = access.SquashAll
	default:
		return access.Rule{}, malformed(field+".squash", "%d is no squash; use one of the enum Squash", r.GetSquash())
	}
	if r.AnonymousUid != nil {
		rule.AnonUID = r.GetAnonymousUid()
	}
	if r.AnonymousGid != nil {
		rule.AnonGID = r.GetAnonymousGid()
	}
	if r.ExpiresAt != nil {
		if err := r.ExpiresAt.CheckValid(); err != nil || r.ExpiresAt.AsTime().IsZero() { // which would be never
			return access.Rule{}, malformed(field+".expires_at", "it is no time from the year 1 to 9999; correct it")
		}
		rule.ExpiresAt = r.ExpiresAt.AsTime()
	}
	for _, s := range r.GetSec() {
		word, known := secs[s]
		if !known {
			return access.Rule{}, malformed(field+".sec", "%d is no security flavour; use one of the enum Sec", s)
		}
		rule.Sec = append(rule.Sec, word)
	}
	return rule, nil
}

var secs = map[nodev1.Sec]access.Sec{
	nodev1.Sec_SEC_SYS: access.SecSys, nodev1.Sec_SEC_KRB5: access.SecKrb5, nodev1.Sec_SEC_KRB5I: access.SecKrb5i, nodev1.Sec_SEC_KRB5P: access.SecKrb5p,
}

var ruleStates = map[access.State]nodev1.RuleState{
	access.Queued: nodev1.RuleState_RULE_STATE_QUEUED, access.Applying: nodev1.RuleState_RULE_STATE_APPLYING,
	access.Active: nodev1.RuleState_RULE_STATE_ACTIVE, access.Denying: nodev1.RuleState_RULE_STATE_DENYING,
	access.Refused: nodev1.RuleState_RULE_STATE_ERROR,
}

// prefix takes an address as the prefix of its full length.
func prefix(s string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	if a.Zone() != "" { // a prefix has none: it would be lost
		return netip.Prefix{}, errors.New("address has a zone")
	}
	return a.Prefix(a.BitLen())
}

func ruleTo(r access.Rule) *nodev1.AccessRule {
	to := &nodev1.AccessRule{
		Client: r.Client.String(), Id: r.ID, Priority: r.Priority, AllowEveryone: r.Everyone,
		ExpiresAt: timeTo(r.ExpiresAt), CreatedAt: timeTo(r.CreatedAt),
		State: ruleStates[r.State], Reason: string(r.Reason), Message: text(r.Message),
	}
	if r.Squash != access.SquashNone {
		to.AnonymousUid, to.AnonymousGid = &r.AnonUID, &r.AnonGID
	}
	if len(r.Metadata) > 0 {
		to.Metadata = make(map[string]string, len(r.Metadata))
		for k, v := range r.Metadata {
			to.Metadata[text(k)] = text(v)
		}
	}
	for _, s := range r.Sec {
		for flavour, word := range secs {
			if word == s {
				to.Sec = append(to.Sec, flavour)
			}
		}
	}
	switch r.Level {
	case access.LevelRO:
		to.Level = nodev1.Level_LEVEL_RO
	case access.LevelRW:
		to.Level = nodev1.Level_LEVEL_RW
	}
	switch r.Squash {
	case access.SquashNone:
		to.Squash = nodev1.Squash_SQUASH_NONE
	case access.SquashRoot:
		to.Squash = nodev1.Squash_SQUASH_ROOT
	case access.SquashRootID:
		to.Squash = nodev1.Squash_SQUASH_ROOT_ID
	case access.SquashAll:
		to.Squash = nodev1.Squash_SQUASH_ALL
	}
	return to
}
