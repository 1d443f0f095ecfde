package main

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/integration/golden"
)

// gatewayServer has figures that grow by the same with each question, and a
// second between two.
type gatewayServer struct {
	nodev1.UnimplementedGatewaysServer
	*fakeAgent
	mu sync.Mutex
	n  uint64
}

func transfers(ops, bytes uint64, each time.Duration) *nodev1.Transfers {
	return &nodev1.Transfers{Operations: ops, Bytes: bytes, Time: durationpb.New(time.Duration(ops) * each)}
}

func (s *gatewayServer) Statistics(_ context.Context, r *nodev1.GatewayStatisticsRequest) (*nodev1.GatewayStatisticsResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	g := &nodev1.GatewayStatistics{
		Network: "blue", At: timestamppb.New(noon().Add(time.Duration(s.n) * time.Second)),
		Exports: []*nodev1.ExportStatistics{
			{Export: "docs", ExportId: 7, Read: transfers(10*s.n, 4096*s.n, time.Millisecond), Write: transfers(s.n, 3<<20*s.n, 2*time.Millisecond)},
			{Export: "busy", ExportId: 8, Read: transfers(100*s.n, 100*s.n, time.Microsecond), Write: transfers(0, 0, 0)},
			{Export: "odd\x1b[31m", ExportId: 9, Read: transfers(0, 0, 0), Write: transfers(0, 0, 0)},
		},
	}
	if r.GetClients() > 0 {
		g.Clients = []*nodev1.ClientStatistics{{Address: "10.77.0.9", Read: transfers(s.n, s.n, 0), Write: transfers(0, 0, 0), Requests: s.n}}
	}
	return &nodev1.GatewayStatisticsResponse{Gateways: []*nodev1.GatewayStatistics{g, {Network: "red", Error: "no answer"}}}, s.err
}

func TestTop(t *testing.T) {
	for name, args := range map[string]string{
		"top":         "gateway top --rounds 2",
		"top-bytes":   "gateway top blue --rounds 1 --sort bytes --rows 1",
		"top-latency": "gateway top --rounds 1 --sort latency",
		"top-clients": "gateway top --rounds 1 --clients",
	} {
		for _, format := range outputs() {
			socket := newFakeAgent().serve(t)
			got := runCLI(t.Context(), socket, "", append(strings.Fields(args), "--interval", "100ms", "-o", format)...)
			if got.code != exitOK || got.err != "" {
				t.Errorf("%s -o %s: exit %d, %q", args, format, got.code, got.err)
			}
			golden.Check(t, name+"."+format, got.out)
			if strings.ContainsFunc(got.out, rawInJSON) {
				t.Errorf("%s -o %s prints what a terminal may act on: %q", args, format, got.out)
			}
			if format == "json" {
				for line := range strings.Lines(got.out) {
					if !json.Valid([]byte(line)) {
						t.Errorf("%s: a line is no object: %q", args, line)
					}
				}
			}
		}
	}
	for _, args := range []string{"gateway top --sort size", "gateway top --interval 1ms", "gateway top --rounds -1", "gateway top --rows -1", "gateway top a b"} {
		if got := runCLI(t.Context(), "", "", strings.Fields(args)...); got.code != exitUsage {
			t.Errorf("%s: exit %d, want %d; %q", args, got.code, exitUsage, got.err)
		}
	}
}

// TestRateOf: a gateway that began anew does not count backwards.
func TestRateOf(t *testing.T) {
	tests := map[string]struct {
		before, now *nodev1.Transfers
		want        rate
	}{
		"grown":   {transfers(10, 100, time.Second), transfers(14, 300, time.Second), rate{Operations: 2, Bytes: 100, Mean: 1}},
		"new":     {nil, transfers(4, 2, time.Second), rate{Operations: 2, Bytes: 1, Mean: 1}},
		"anew":    {transfers(10, 100, time.Second), transfers(4, 2, time.Second), rate{Operations: 2, Bytes: 1, Mean: 1}},
		"nothing": {nil, nil, rate{}},
	}
	for name, tt := range tests {
		if d := cmp.Diff(tt.want, rateOf(tt.before, tt.now, 2)); d != "" {
			t.Errorf("%s, -want +got:\n%s", name, d)
		}
	}
}
