package intent

import (
	"slices"
	"time"

	"github.com/causeway-project/causeway/agent/access"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/ganesha"
)

// An Export is one in the ledger.
type Export struct {
	Network    string          `json:"network"`
	Connection Connection      `json:"connection"`
	Rules      []access.Intent `json:"rules"`
	Pseudo     string          `json:"pseudo"`
	ReadOnly   bool            `json:"read_only,omitempty"`

	Mount    string `json:"mount"`
	ExportID uint16 `json:"export_id"`
	FSID     uint64 `json:"fsid,string"`
}

// ExportOf is what is noted of a new export, but its rules and numbers.
func ExportOf(e model.Export) *Export {
	c := ConnectionOf(e.Connection)
	return &Export{Network: e.Network, Connection: c, Pseudo: e.Pseudo, ReadOnly: e.ReadOnly, Mount: c.MountName()}
}

// Differs names the first setting in which two exports differ, as their callers
// said them, and which cannot be changed; none is "".
func (e *Export) Differs(o *Export) string {
	switch {
	case e.Network != o.Network:
		return "network"
	case !e.Connection.equal(o.Connection):
		return "source"
	case e.Pseudo != o.Pseudo:
		return "pseudo path"
	case e.ReadOnly != o.ReadOnly:
		return "read-only setting"
	}
	return ""
}

// Served is a rule as the gateway should have it.
func (e *Export) Served(i access.Intent) ganesha.Rule {
	r := i.Ganesha()
	if e.ReadOnly {
		// Not by a read-only mount: Ganesha reaches all exports of one file
		// system through one mount of it.
		r.Level = ganesha.ReadOnly
	}
	return r
}

// ServedRules lists what the gateway should have at a time.
func (e *Export) ServedRules(now time.Time) []ganesha.Rule {
	var rules []ganesha.Rule
	for _, i := range access.InForce(e.Rules, now) {
		rules = append(rules, e.Served(i))
	}
	return rules
}

// WithRules is r with other rules, or r itself where they are the same.
func (r *Record) WithRules(rules []access.Intent) *Record {
	if slices.EqualFunc(access.Order(r.Export.Rules), access.Order(rules), access.Intent.Equal) {
		return r
	}
	next := r.Next()
	export := *r.Export
	export.Rules = rules
	next.Export = &export
	return next
}
