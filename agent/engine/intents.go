package engine

import (
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/ganesha"
)

// Intents are the records of all objects, as they are or are about to be. They may
// be used only within the call that they were handed to, which holds the lock.
type Intents struct{ eng *Engine }

// Intents hands them to look.
func (eng *Engine) Intents(look func(Intents)) {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	look(Intents{eng})
}

// Of is the record of an object, or nil.
func (in Intents) Of(key model.Key) *intent.Record {
	if o := in.eng.objects[key]; o != nil {
		return o.intent()
	}
	return nil
}

// All ranges over them.
func (in Intents) All() iter.Seq2[model.Key, *intent.Record] {
	return func(yield func(model.Key, *intent.Record) bool) {
		for key, o := range in.eng.objects {
			if r := o.intent(); r != nil && !yield(key, r) {
				return
			}
		}
	}
}

// Taken names the export of a network whose pseudo path is in the way of the
// given one.
func (in Intents) Taken(network, pseudo string) (id string, is bool) {
	return in.eng.exports.Taken(network, pseudo)
}

// FreeExportID gives the smallest free id of a gateway. While an export's
// record cannot be read nobody knows which is free.
func (in Intents) FreeExportID(network string) (uint16, error) {
	if damaged := in.eng.damagedOf(model.KindExport); len(damaged) > 0 {
		return 0, &fault.Error{
			Kind: fault.Precondition, Reason: fault.RecordDamaged,
			Message: fmt.Sprintf("ledger files of exports are damaged (%s), so no export id is safe to give out: restore or remove them, and restart the agent", strings.Join(damaged, ", ")),
		}
	}
	if id, ok := in.eng.exports.FreeID(network); ok {
		return id, nil
	}
	return 0, &fault.Error{Kind: fault.Exhausted, Reason: fault.NoExportIDs, Message: fmt.Sprintf("the gateway has %d exports: use another network", ganesha.MaxExportID)}
}

// unused refuses a network that exports use. Nothing else is used.
func (in Intents) unused(key model.Key) error {
	if key.Kind != model.KindNetwork {
		return nil
	}
	var users []string
	for id := range in.eng.exports.Of(key.ID) {
		users = append(users, id)
	}
	if len(users) == 0 {
		return nil
	}
	slices.Sort(users)
	shown := users[:min(len(users), 10)]
	return &fault.Error{
		Kind: fault.Precondition, Reason: fault.NetworkInUse, Metadata: map[string]string{"exports": strings.Join(shown, ",")},
		Message: fmt.Sprintf("network %s is used by %d exports (%s): delete them first", key.ID, len(users), strings.Join(shown, ", ")),
	}
}
