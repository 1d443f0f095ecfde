// Package intent is what the ledger holds: for each object what was asked for,
// and every name that is made on the host for it. It is pure: it says what two
// intents have to do with each other and what one needs, and touches nothing.
package intent

import (
	"encoding/json"
	"fmt"

	"github.com/causeway-project/causeway/agent/access"
	"github.com/causeway-project/causeway/agent/ledger"
	"github.com/causeway-project/causeway/agent/model"
)

// A Record is one object's intent, as it lies in the ledger. It holds every
// name that is made on the host for it, so that a later version that would
// choose other names still finds what this one made. A record in memory is
// never changed, only replaced.
type Record struct {
	Generation    int64       `json:"generation"`
	Removing      bool        `json:"removing,omitempty"`
	RemovalForced bool        `json:"removal_forced,omitempty"` // the removal does not wait for the guest
	Attachment    *Attachment `json:"attachment,omitempty"`
	Network       *Network    `json:"network,omitempty"`
	Export        *Export     `json:"export,omitempty"`
}

// Group names the dependency group of a record: a share and all that hangs on
// it, or a network and its gateway.
func (r *Record) Group(id string) string {
	if r.Network != nil {
		return NetworkGroup(id)
	}
	return "share/" + r.Connection().share()
}

// NetworkGroup is the group of a network.
func NetworkGroup(id string) string { return "network/" + id }

// Connection is that of an attachment or an export.
func (r *Record) Connection() Connection {
	if r.Attachment != nil {
		return r.Attachment.Connection
	}
	return r.Export.Connection
}

// MountName is the mount that an attachment or an export stands on.
func (r *Record) MountName() string {
	if r.Attachment != nil {
		return r.Attachment.Mount
	}
	return r.Export.Mount
}

// MountReadOnly says whether the share's mount of this record is read-only. An
// export's is not: its rules decide.
func (r *Record) MountReadOnly() bool { return r.Attachment != nil && r.Attachment.ReadOnly }

// Next is a copy of r as the next generation.
func (r *Record) Next() *Record {
	n := *r
	n.Generation++
	return &n
}

// Decode reads a record of the ledger.
func Decode(lr ledger.Record) (*Record, error) {
	var r Record
	if err := json.Unmarshal(lr.Body, &r); err != nil {
		return nil, err
	}
	has := map[string]bool{
		model.KindAttachment: r.Attachment != nil, model.KindNetwork: r.Network != nil, model.KindExport: r.Export != nil,
	}
	for kind, there := range has {
		if there != (kind == lr.Kind) {
			return nil, fmt.Errorf("a record of kind %s must hold one %s", lr.Kind, lr.Kind)
		}
	}
	if r.Generation < 1 {
		return nil, fmt.Errorf("generation %d is below 1", r.Generation)
	}
	if r.Export != nil {
		access.Name(r.Export.Rules)
	}
	return &r, nil
}
