package rulebook

import (
	"net/netip"
	"testing"
	"time"

	"github.com/causeway-project/causeway/agent/access"
	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/ganesha"
)

func TestState(t *testing.T) {
	now := time.Now()
	r := access.Intent{ID: "r", Client: netip.MustParsePrefix("10.0.0.0/8"), Level: access.LevelRW, Squash: access.SquashRoot}
	old := r
	old.Level = access.LevelRO
	gone := r
	gone.ExpiresAt = now
	waits := model.Status{Phase: model.Pending, Reason: fault.GatewayDown}
	has := func(r access.Intent) Book { return Book{active: map[string]ganesha.Rule{"r": r.Ganesha()}} }
	no := Book{refused: map[string]refused{"r": {r.Ganesha(), "why"}}}
	for name, c := range map[string]struct {
		rule     access.Intent
		status   model.Status
		book     Book
		removing bool
		want     access.State
		reason   fault.Reason
	}{
		"on its way":           {r, model.Status{Phase: model.Working}, Book{}, false, access.Applying, ""},
		"on its way to less":   {old, model.Status{Phase: model.Working}, has(r), false, access.Applying, ""},
		"no gateway":           {r, waits, Book{}, false, access.Queued, fault.GatewayDown},
		"in force":             {r, model.Status{Phase: model.Ready}, has(r), false, access.Active, ""},
		"in force, others not": {r, model.Status{Phase: model.Working}, has(r), false, access.Active, ""},
		"refused":              {r, model.Status{Phase: model.Degraded}, no, false, access.Refused, fault.RuleRefused},
		"mended":               {old, model.Status{Phase: model.Working}, no, false, access.Applying, ""},
		"expired":              {gone, model.Status{Phase: model.Ready}, Book{}, false, access.Denying, fault.RuleExpired},
		"expired, still there": {gone, model.Status{Phase: model.Working}, has(gone), false, access.Denying, fault.RuleExpired},
		"export goes":          {r, model.Status{Phase: model.Removing}, has(r), true, access.Denying, ""},
	} {
		of := &intent.Record{Removing: c.removing, Export: &intent.Export{}}
		if got, reason, _ := c.book.state(c.rule, of, c.status, now); got != c.want || reason != c.reason {
			t.Errorf("%s: %s %s, want %s %s", name, got, reason, c.want, c.reason)
		}
	}
}
