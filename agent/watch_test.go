package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/model"
)

func TestWatch(t *testing.T) {
	h := newHost(t)
	a := h.boot(shortDir(t))
	if _, err := a.PutNetwork(t.Context(), blue()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events := make(chan model.Event, 100)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := a.Watch(ctx, func(e model.Event) error { events <- e; return nil }); err != nil {
			t.Error(err)
		}
	})
	first, synced := <-events, <-events
	if first.Network == nil || first.Network.Status.Phase != model.Ready || !synced.Synced {
		t.Fatalf("began with %+v, %+v", first, synced)
	}
	if _, err := a.PutExport(t.Context(), docs()); err != nil {
		t.Fatal(err)
	}
	if err := a.DeleteExport(t.Context(), "docs"); err != nil {
		t.Fatal(err)
	}
	var phases []model.Phase
	for e := range events {
		if e.Export == nil {
			continue
		}
		if phases = append(phases, e.Export.Status.Phase); e.Deleted {
			break
		}
	}
	for _, p := range []model.Phase{model.Working, model.Ready, model.Removing} {
		if !slices.Contains(phases, p) {
			t.Errorf("phases %v lack %s", phases, p)
		}
	}
	cancel()
	wg.Wait()
}

func TestSlowWatcherIsEnded(t *testing.T) {
	h := newHost(t)
	a := h.boot(shortDir(t))
	block := make(chan struct{})
	ended := make(chan error)
	go func() {
		ended <- a.Watch(t.Context(), func(model.Event) error { <-block; return nil })
	}()
	for i := range 1024 { // more than it may be behind, with each network's changes
		n := blue()
		n.ID = fmt.Sprint("n", i)
		n.Addresses = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77, byte(i / 200), byte(i%200 + 2)}), 16)}
		if _, err := a.PutNetwork(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	close(block)
	reasonOf(t, <-ended, fault.Busy, fault.WatchOverrun)
}
