package engine

import (
	"context"

	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/drivers"
)

// TellExports tells the watchers where a network's exports are now.
func (eng *Engine) TellExports(network string) {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	for _, o := range eng.exports.Of(network) {
		eng.tellLocked(o, false)
	}
}

// leave removes what was made by the plug that a network had before, and then
// notes that it is gone: until that is written, nothing is made by the new one.
// The gateway has been stopped.
func (eng *Engine) leave(ctx context.Context, m member) error {
	former := m.rec.Network.Former
	if err := eng.o.Namespaces.Remove(ctx, former.ForHost(m.key.ID)); err != nil {
		return err
	}
	_, err := eng.Edit(ctx, m.key, drivers.Secret{}, func(_ Intents, old *intent.Record) (*intent.Record, error) {
		if old == nil || old.Network.Former != former {
			return old, nil
		}
		left, network := *old, *old.Network
		network.Former = nil
		left.Network = &network
		return &left, nil
	})
	return err
}
