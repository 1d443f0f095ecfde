package agent

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/integration/wait"
)

// published boots an agent with one share that is exported.
func published(t *testing.T, h *host, dir string) *node {
	t.Helper()
	a := h.boot(dir)
	for _, verb := range life(t.Context(), a.Agent)[:2] {
		if err := verb(); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

// phases collects what a watcher hears of a network.
func phases(t *testing.T, a *node, network string) func() string {
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	var heard []string
	synced, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		_ = a.Watch(ctx, func(e model.Event) error {
			mu.Lock()
			defer mu.Unlock()
			switch {
			case e.Synced:
				close(synced)
			case e.Network != nil && e.Network.ID == network:
				now := strings.TrimSpace(string(e.Network.Status.Phase) + " " + string(e.Network.Status.Reason))
				if len(heard) == 0 || heard[len(heard)-1] != now {
					heard = append(heard, now)
				}
			}
			return nil
		})
	}()
	<-synced
	t.Cleanup(func() { cancel(); <-ended })
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		return strings.Join(heard, ", ")
	}
}

func phaseOf(t *testing.T, a *node, network string) model.Status {
	t.Helper()
	n, err := a.Network(t.Context(), network)
	if err != nil {
		t.Fatal(err)
	}
	return n.Status
}

// TestGatewayHangs: a gateway that runs and does not answer is replaced, and
// everybody who watches is told why.
func TestGatewayHangs(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	a := published(t, h, dir)
	heard := phases(t, a, "blue")
	g := h.gateways["blue"]
	h.mu.Lock()
	g.hung = true
	h.mu.Unlock()
	wait.Until(t, "one restart counted", func() bool {
		n, err := a.Network(t.Context(), "blue")
		return err == nil && n.Gateway.Restarts == 1 && n.Gateway.Running && n.Status.Phase == model.Ready
	})
	wait.Equal(t, "serving again", worlds[1], func() string { return seen(h, dir) })
	wait.Until(t, "told", func() bool { return strings.Contains(heard(), "degraded gateway_stuck, ready") })
	if got := metric(t, a, "causeway_gateway_stuck_total"); got != 1 {
		t.Errorf("stuck gateways counted: %v", got)
	}
}

// TestGatewayBlocked: one that waits for a backend is left alone, says so, and
// is ready when the backend answers.
func TestGatewayBlocked(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	a := published(t, h, dir)
	g := h.gateways["blue"]
	h.mu.Lock()
	g.hung, g.blocked = true, true
	h.mu.Unlock()
	wait.Until(t, "degraded", func() bool {
		s := phaseOf(t, a, "blue")
		return s.Phase == model.Degraded && s.Reason == fault.GatewayBlocked
	})
	h.mu.Lock()
	g.hung, g.blocked = false, false
	h.mu.Unlock()
	wait.Equal(t, "ready", model.Ready, func() model.Phase { return phaseOf(t, a, "blue").Phase })
	wait.Equal(t, "serving still", worlds[1], func() string { return seen(h, dir) })
	n, err := a.Network(t.Context(), "blue")
	if err != nil || n.Gateway.Restarts != 0 {
		t.Errorf("%d restarts, %v; want none", n.Gateway.Restarts, err)
	}
}

// TestGatewayMute: D-Bus alone may be silent for a while.
func TestGatewayMute(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	a := published(t, h, dir)
	g := h.gateways["blue"]
	h.mu.Lock()
	g.mute = true
	h.mu.Unlock()
	wait.Until(t, "replaced", func() bool {
		n, err := a.Network(t.Context(), "blue")
		return err == nil && n.Gateway.Restarts == 1
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	if g.probes <= 2 {
		t.Errorf("replaced after %d silent probes, want more than 2", g.probes)
	}
}

// TestGatewayKeepsEnding: a crash loop is slowed down and shown, with the end
// of the log.
func TestGatewayKeepsEnding(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	a := published(t, h, dir)
	g := h.gateways["blue"]
	for restarts := int64(1); restarts <= 4; restarts++ {
		g.kill()
		wait.Until(t, "started again", func() bool {
			n, err := a.Network(t.Context(), "blue")
			return err == nil && n.Gateway.Restarts == restarts && n.Gateway.Running
		})
	}
	wait.Equal(t, "serving again", worlds[1], func() string { return seen(h, dir) })
	wait.Equal(t, "degraded", model.Degraded, func() model.Phase { return phaseOf(t, a, "blue").Phase })
	if s := phaseOf(t, a, "blue"); s.Reason != fault.GatewayCrashes || !strings.Contains(s.Message, "it fell over") {
		t.Errorf("the network is %+v, want degraded with the log's end", s)
	}
}

// TestGatewayReachesLimits: that is the reason, whether it ends or goes on, and
// whether the count is known before the next one runs.
func TestGatewayReachesLimits(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	a := published(t, h, dir)
	g := h.gateways["blue"]
	count := func(kills, refused uint64) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.kills, g.refused = kills, refused
	}
	reason := func(want fault.Reason) {
		t.Helper()
		wait.Until(t, string(want), func() bool {
			s := phaseOf(t, a, "blue")
			return s.Phase == model.Degraded && s.Reason == want
		})
	}
	count(0, 3)
	a.NetworksChanged()
	reason(fault.GatewayTasks)
	count(1, 0)
	g.kill()
	reason(fault.GatewayMemory)
	for restarts := int64(2); restarts <= 4; restarts++ {
		count(uint64(restarts), 0)
		g.kill()
		wait.Until(t, "started again", func() bool {
			n, err := a.Network(t.Context(), "blue")
			return err == nil && n.Gateway.Restarts == restarts && n.Gateway.Running
		})
	}
	reason(fault.GatewayMemory) // and not that it keeps ending
	for limit, want := range map[string]float64{"memory": 4, "tasks": 3} {
		if got := metric(t, a, "causeway_gateway_limits_reached_total", limit); got != want {
			t.Errorf("%s reached %v times, want %v", limit, got, want)
		}
	}
	// Another agent does not blame what runs for what was before it.
	a.stop()
	a = h.boot(dir)
	wait.Equal(t, "ready", model.Ready, func() model.Phase { return phaseOf(t, a, "blue").Phase })
	if got := metric(t, a, "causeway_gateway_limits_reached_total", "memory"); got != 0 {
		t.Errorf("the next agent counts %v", got)
	}
}
