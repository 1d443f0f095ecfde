package intent

import (
	"maps"

	"github.com/causeway-project/causeway/drivers"
)

// A Connection is one in the ledger, where its secret lies apart.
type Connection struct {
	Kind    string            `json:"kind"`
	Source  string            `json:"source"`
	Options map[string]string `json:"options,omitempty"`
}

func (c Connection) equal(o Connection) bool {
	return c.Kind == o.Kind && c.Source == o.Source && maps.Equal(c.Options, o.Options)
}

// ConnectionOf is the ledger's form of a connection.
func ConnectionOf(c drivers.Connection) Connection {
	return Connection{Kind: c.Kind, Source: c.Source, Options: maps.Clone(c.Options)}
}

// Public is a connection without its secret, which never leaves the agent.
func (c Connection) Public() drivers.Connection {
	return drivers.Connection{Kind: c.Kind, Source: c.Source, Options: maps.Clone(c.Options)}
}
