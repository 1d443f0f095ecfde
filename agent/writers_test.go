package agent

import (
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/causeway-project/causeway/agent/model"
)

// TestUnlockedUsersAreTold: whoever watches an attachment hears of writers that
// come and go beside it, though nobody touched it.
func TestUnlockedUsersAreTold(t *testing.T) {
	h := newHost(t)
	a := h.boot(shortDir(t))
	first, second := docsVM1(), docsVM1()
	second.ID, second.Instance, second.Tag, second.Forced = "docs-vm2", "vm2", "two", true
	if _, err := a.Attach(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	events := make(chan model.Event, 100)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		if err := a.Watch(ctx, func(e model.Event) error { events <- e; return nil }); err != nil {
			t.Error(err)
		}
	})
	told := func(want ...string) {
		t.Helper()
		for e := range events {
			if e.Attachment != nil && e.Attachment.ID == first.ID && slices.Equal(e.Attachment.UnlockedUsers, want) {
				return
			}
		}
	}
	told()
	if _, err := a.Attach(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	told("attachment/docs-vm2")
	if err := a.Detach(t.Context(), second.ID); err != nil {
		t.Fatal(err)
	}
	told()
}
