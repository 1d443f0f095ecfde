package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/statistics"
	"github.com/causeway-project/causeway/ganesha"
)

func TestGatewayStatistics(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	a := published(t, h, dir)
	got, err := a.GatewayStatistics(t.Context(), "blue", 2)
	if err != nil || len(got) != 1 || got[0].Err != nil {
		t.Fatalf("%+v, %v", got, err)
	}
	id := got[0].Exports[0].ExportStats.ID
	want := []statistics.Export{{ID: "docs", ExportStats: ganesha.ExportStats{
		ID: id, Read: ganesha.Transfer{Ops: uint64(id), Bytes: 10 * uint64(id), Time: time.Second},
		Write: ganesha.Transfer{Ops: 2 * uint64(id), Errors: uint64(id), Bytes: 20 * uint64(id)},
	}}}
	if d := cmp.Diff(want, got[0].Exports); d != "" || len(got[0].Clients) != 2 || time.Since(got[0].At) > time.Minute {
		t.Errorf("%d clients at %s, exports -want +got:\n%s", len(got[0].Clients), got[0].At, d)
	}
	if _, err := a.GatewayStatistics(t.Context(), "none", 0); fault.AsError(err).Reason != fault.UnknownID {
		t.Errorf("unknown network: %v", err)
	}
	for _, n := range []int{-1, MaxClients + 1} {
		if _, err := a.GatewayStatistics(t.Context(), "", n); fault.AsError(err).Reason != fault.BadCount {
			t.Errorf("%d clients: %v", n, err)
		}
	}
}

// TestScrape: figures are kept between scrapes, and have bounded labels.
func TestScrape(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	a := published(t, h, dir)
	text := `
# HELP causeway_export_bytes_total Bytes read and written.
# TYPE causeway_export_bytes_total counter
causeway_export_bytes_total{export="docs",network="blue",op="read"} 10
causeway_export_bytes_total{export="docs",network="blue",op="write"} 20
`
	for range 3 {
		if err := testutil.CollectAndCompare(a.Collector(), strings.NewReader(text), "causeway_export_bytes_total"); err != nil {
			t.Error(err)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := h.gateways["blue"].asked; n != 1 {
		t.Errorf("asked %d times for three scrapes", n)
	}
}
