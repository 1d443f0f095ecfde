package agent

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/causeway-project/causeway/agent/access"
	"github.com/causeway-project/causeway/agent/engine"
	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/refusal"
	"github.com/causeway-project/causeway/agent/word"
	"github.com/causeway-project/causeway/agent/writers"
	"github.com/causeway-project/causeway/drivers"
)

// PutRule adds one access rule to an export, or replaces the one with its id,
// and returns when clients see it so. Callers that put rules of their own at
// the same time lose nothing of each other's.
func (a *Agent) PutRule(ctx context.Context, export string, r access.Rule) (access.Rule, error) {
	if err := access.Check(r); err != nil {
		return access.Rule{}, err
	}
	var id string
	err := a.editRules(ctx, export, func(rules []access.Intent, now time.Time) (next []access.Intent, err error) {
		next, id, err = access.Put(rules, r, now)
		return next, err
	})
	if err != nil {
		return access.Rule{}, err
	}
	return a.Rule(ctx, export, id)
}

// DeleteRule takes one access rule from an export, and returns when clients
// see it so. An unknown rule is success, an unknown export is not.
func (a *Agent) DeleteRule(ctx context.Context, export, id string) error {
	if err := word.CheckGivenID("access rule", id); err != nil {
		return err
	}
	return a.editRules(ctx, export, func(rules []access.Intent, _ time.Time) ([]access.Intent, error) {
		return slices.DeleteFunc(slices.Clone(rules), func(r access.Intent) bool { return r.ID == id }), nil
	})
}

// editRules changes the rules of an export that is there, and waits.
func (a *Agent) editRules(ctx context.Context, export string, change func([]access.Intent, time.Time) ([]access.Intent, error)) error {
	if err := a.Ready(); err != nil {
		return err
	}
	ctx, cancel := a.Within(ctx)
	defer cancel()
	key := model.ExportKey(export)
	_, err := a.Edit(ctx, key, drivers.Secret{}, func(all engine.Intents, old *intent.Record) (*intent.Record, error) {
		if old == nil {
			return nil, refusal.UnknownID(key)
		}
		if old.Removing {
			return nil, refusal.BeingRemoved(key)
		}
		rules, err := change(old.Export.Rules, time.Now())
		if err != nil {
			return nil, err
		}
		next := old.WithRules(rules)
		return next, writers.Admit(all.All(), writers.Change{Key: key, Old: old, Next: next, Now: time.Now()})
	})
	if err != nil {
		return err
	}
	return a.Await(ctx, key, engine.Wait{})
}

// Rule returns one of an export's.
func (a *Agent) Rule(ctx context.Context, export, id string) (access.Rule, error) {
	rules, err := a.Rules(ctx, export)
	if err != nil {
		return access.Rule{}, err
	}
	for _, r := range rules {
		if r.ID == id {
			return r, nil
		}
	}
	return access.Rule{}, &fault.Error{Kind: fault.NotFound, Reason: fault.UnknownRule, Metadata: map[string]string{"id": export, "rule": id},
		Message: fmt.Sprintf("export %s has no access rule %s: list them to see which there are", export, word.Quote(id))}
}

// Rules lists an export's, in the order in which they match.
func (a *Agent) Rules(ctx context.Context, export string) ([]access.Rule, error) {
	e, err := a.Export(ctx, export)
	return e.Rules, err
}

// RecoverRules makes the gateway have an export's rules and no other, whatever
// it has and says that it has, and returns when that was read back.
func (a *Agent) RecoverRules(ctx context.Context, export string) (model.Export, error) {
	if err := a.Ready(); err != nil {
		return model.Export{}, err
	}
	ctx, cancel := a.Within(ctx)
	defer cancel()
	key := model.ExportKey(export)
	if err := a.ResetRules(key); err != nil {
		return model.Export{}, err
	}
	if err := a.Await(ctx, key, engine.Wait{}); err != nil {
		return model.Export{}, err
	}
	return a.Export(ctx, export)
}
