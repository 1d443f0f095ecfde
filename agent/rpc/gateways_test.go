package rpc

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/causeway-project/causeway/agent/statistics"
	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/ganesha"
)

func TestStatisticsTo(t *testing.T) {
	at := time.Unix(1000, 5)
	read, write := ganesha.Transfer{Ops: 1, Errors: 2, Bytes: 3, Time: 4 * time.Second}, ganesha.Transfer{Ops: 5, Errors: 6, Bytes: 7, Time: 8}
	got := statisticsTo(statistics.Gateway{
		Network: "blue", At: at, Err: errors.New("why"),
		Exports: []statistics.Export{{ID: "docs", ExportStats: ganesha.ExportStats{ID: 9, Read: read, Write: write}}},
		Clients: []ganesha.ClientStats{{Address: netip.MustParseAddr("fd77::9"), Seen: at, Read: read, Write: write, Compounds: 10}},
	})
	r := &nodev1.Transfers{Operations: 1, Errors: 2, Bytes: 3, Time: durationpb.New(4 * time.Second)}
	w := &nodev1.Transfers{Operations: 5, Errors: 6, Bytes: 7, Time: durationpb.New(8)}
	want := &nodev1.GatewayStatistics{
		Network: "blue", At: timestamppb.New(at), Error: "why",
		Exports: []*nodev1.ExportStatistics{{Export: "docs", ExportId: 9, Read: r, Write: w}},
		Clients: []*nodev1.ClientStatistics{{Address: "fd77::9", Seen: timestamppb.New(at), Read: r, Write: w, Requests: 10}},
	}
	if d := cmp.Diff(want, got, protocmp.Transform()); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

// TestStatistics: what is asked for reaches the agent.
func TestStatistics(t *testing.T) {
	f := &fake{}
	got, err := gateways{agent: f}.Statistics(t.Context(), &nodev1.GatewayStatisticsRequest{Network: "blue", Clients: 7})
	if err != nil || len(got.GetGateways()) != 1 || got.GetGateways()[0].GetNetwork() != "blue" {
		t.Errorf("%v, %v", got, err)
	}
	if d := cmp.Diff([]string{"GatewayStatistics blue 7"}, f.calls); d != "" {
		t.Errorf("calls, -want +got:\n%s", d)
	}
	f.err = errors.New("no")
	if _, err := (gateways{agent: f}).Statistics(t.Context(), &nodev1.GatewayStatisticsRequest{}); err == nil {
		t.Error("no error")
	}
}

func (f *fake) GatewayStatistics(ctx context.Context, network string, clients int) ([]statistics.Gateway, error) {
	return []statistics.Gateway{{Network: network}}, f.called(ctx, fmt.Sprintf("GatewayStatistics %s %d", network, clients))
}
