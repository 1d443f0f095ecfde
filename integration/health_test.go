package integration

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/causeway-project/causeway/agent/process"
	nodev1 "github.com/causeway-project/causeway/api/node/v1"
)

// TestGatewayHangs stops a gateway, kills its bus, and kills it again and
// again, under a client that writes. The agent notices each by itself, and the
// client gets its file and lock back.
func TestGatewayHangs(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 6*time.Minute)
	dir := w.share(t, "docs")
	n := w.started(ctx, t, quick)
	n.putNetwork(ctx, blueNetwork())
	n.putExport(ctx, exported("docs", "docs"))
	settled := n.state(ctx)
	c := dial(ctx, t, n.client, gateway4)
	s := scribble(ctx, t, c, "/docs/scribe")
	ends := []struct {
		name   string
		signal func(pid int) error
	}{
		{"stopped", func(pid int) error { return syscall.Kill(pid, syscall.SIGSTOP) }},
		{"bus killed", func(int) error { return syscall.Kill(n.bus("blue"), syscall.SIGKILL) }},
		{"killed", func(pid int) error { return syscall.Kill(pid, syscall.SIGKILL) }},
		{"killed again", func(pid int) error { return syscall.Kill(pid, syscall.SIGKILL) }},
	}
	for i, end := range ends {
		s.more(ctx, 20)
		was := n.gateway(ctx, "blue")
		begin := time.Now()
		n.must(end.signal(int(was.GetPid())))
		until(ctx, t, "the gateway is not replaced", func() (bool, error) {
			g := n.gateway(ctx, "blue")
			return g.GetRunning() && g.GetPid() != was.GetPid(), nil
		})
		t.Logf("%s: another serves after %s", end.name, time.Since(begin).Round(time.Millisecond))
		if g := n.gateway(ctx, "blue"); g.GetRestarts() != int64(i+1) {
			t.Errorf("%s: %d restarts, want %d", end.name, g.GetRestarts(), i+1)
		}
		s.more(ctx, 20)
	}
	r, err := n.networks.Get(ctx, &nodev1.GetNetworkRequest{Id: "blue"})
	n.must(err)
	if st := r.GetNetwork().GetStatus(); st.GetReason() != "gateway_keeps_ending" || !strings.Contains(st.GetMessage(), "NFS SERVER INITIALIZED") {
		t.Errorf("after %d ends in a row the network is %v, want the reason and its log", len(ends), st)
	}
	top, err := n.Must(ctx, "gateway", "top", "blue", "--interval", "600ms", "--rounds", "1", "-o", "json")
	n.must(err)
	var busy struct {
		Export string
		Write  struct {
			Operations float64 `json:"operations_per_second"`
			Mean       float64 `json:"mean_seconds"`
		}
	}
	n.must(json.Unmarshal([]byte(top), &busy))
	if busy.Export != "docs" || busy.Write.Operations < 1 || busy.Write.Mean <= 0 {
		t.Errorf("under a client that writes top says %s", top)
	}
	n.settles(ctx, settled)
	_, longest := s.finish(ctx, filepath.Join(dir, "scribe"))
	t.Logf("the slowest write took %s", longest.Round(time.Millisecond))
	closeClient(ctx, t, c)
	n.deleteExport(ctx, "docs")
	n.deleteNetwork(ctx, "blue")
	n.finish(ctx)
}

// bus is the process of a gateway's bus.
func (n *node) bus(network string) int {
	n.t.Helper()
	p, err := process.Find(filepath.Join(n.RunDir, "gateways", network, "bus"))
	if err != nil || p == nil {
		n.t.Fatalf("bus of %s: %v, %v", network, p, err)
	}
	return p.Identity().PID
}
