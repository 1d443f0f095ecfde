package agent

import (
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/netns"
	"github.com/causeway-project/causeway/netns/plug"
)

func bridgePlug(name string) model.Plug { return model.Plug{Kind: model.PlugBridge, Bridge: name} }

// bridgeOf is the bridge of a network of the fake host; other plugs have one
// that is always there.
func bridgeOf(n netns.Network) string {
	if p, ok := n.Plug.(plug.Bridge); ok {
		return p.Name
	}
	return "br-blue"
}
