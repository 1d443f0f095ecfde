package engine

import (
	"net/netip"
	"testing"
	"time"

	"github.com/causeway-project/causeway/agent/access"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/reconcile"
	"github.com/causeway-project/causeway/agent/retry"
)

// TestExpiryDoesNotWait for the pause after a failure.
func TestExpiryDoesNotWait(t *testing.T) {
	now, k := time.Now(), reconcile.Export.Of("docs")
	f := &retry.Failure{Next: now.Add(time.Hour)}
	g := &group{steps: retry.NewSteps(), passed: now.Add(-time.Minute)}
	g.steps.PutOff(k, f)
	rules := []access.Intent{{ID: "x", Client: netip.MustParsePrefix("10.0.0.0/8"), ExpiresAt: now.Add(-time.Second)}}
	ms := []member{{key: model.ExportKey("docs"), rec: &intent.Record{Export: &intent.Export{Rules: rules}}, at: now}}
	var eng Engine
	eng.expireLocked(g, ms, now)
	if f.Next.After(now) {
		t.Errorf("the next try is at %v, now it is %v", f.Next, now)
	}
	f.Next = now.Add(time.Hour)
	eng.expireLocked(g, ms, now.Add(time.Second))
	if !f.Next.After(now) {
		t.Error("the same expiry counts twice")
	}
}
