package agent

import (
	"context"

	"github.com/causeway-project/causeway/agent/engine"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/drivers"
	"github.com/causeway-project/causeway/ganesha"
)

// driver is what Options.Drivers holds.
type driver = drivers.Bound

// Options of an Agent.
type Options struct {
	engine.Options

	CheckVersions func(ganesha.Versions) error        // whether this host can serve them: ganesha.ErrVersion; nil is yes to all
	Checks        []func(context.Context) model.Check // of Preflight
	Subsystems    func() []model.Subsystem            // what the parts say of themselves; may be nil
	Hostname      string                              // required
	Version       string
}

// An Agent is that of one node: the verbs that callers have, over its engine. What
// there is to read, and events of the host, are the engine's own methods.
type Agent struct {
	*engine.Engine
	o Options
}

// New reads the ledger and makes the directories; it starts nothing. A ledger
// with damaged files is not an error: Node names them.
func New(o Options) (*Agent, error) {
	e, err := engine.New(o.Options)
	if err != nil {
		return nil, err
	}
	return &Agent{e, o}, nil
}
