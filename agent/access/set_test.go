package access

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestOrder(t *testing.T) {
	now := time.Now()
	rule := func(id, client string, priority int32, age time.Duration) Intent {
		return Intent{ID: id, Client: netip.MustParsePrefix(client), Priority: priority, CreatedAt: now.Add(-age)}
	}
	want := []Intent{
		rule("first", "0.0.0.0/0", -1, 0),
		rule("narrow", "10.0.0.1/32", 0, 0),
		rule("old", "10.2.0.0/16", 0, time.Hour),
		rule("young", "10.1.0.0/16", 0, time.Minute),
		rule("wide", "10.0.0.0/8", 0, time.Hour),
		rule("last", "10.0.0.1/32", 1, time.Hour),
	}
	mixed := []Intent{want[5], want[3], want[0], want[4], want[1], want[2]}
	if diff := cmp.Diff(fmt.Sprint(want), fmt.Sprint(Order(mixed))); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}
