package virtiofs

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A silence is a guest agent that did not answer. libvirt would let each
// question to it wait for agentSeconds, and there are few places for such
// waits: a handful of hung guests would take them all.
type silence struct {
	times int       // in a row
	until time.Time // it is not asked again before
}

// How long a silent agent is left alone, if no event says that it is back.
const (
	minSilence = time.Second
	maxSilence = 30 * time.Second
)

// askAgent has an instance's guest agent answer one question. Questions to one
// agent wait for each other here, not in one of the few places that libvirtd
// has for all: it would serve them one after the other too.
func (h *Host) askAgent(ctx context.Context, uuid, question string) (string, error) {
	leave, err := h.lock(ctx, "agent of "+uuid)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrGuestAgent, err)
	}
	if h.isSilent(uuid) {
		leave()
		return "", fmt.Errorf("%w: it did not a moment ago", ErrGuestAgent)
	}
	text, err := callThen(ctx, h, h.asks, func(v hypervisor) (string, error) {
		text, err := v.agent(uuid, question, agentSeconds)
		h.heard(uuid, err)
		return text, err
	}, leave)
	return text, err
}

func (h *Host) isSilent(uuid string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Now().Before(h.silent[uuid].until)
}

// heard notes whether an agent answered, be it with a refusal.
func (h *Host) heard(uuid string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !errors.Is(explain(err), ErrGuestAgent) {
		delete(h.silent, uuid)
		return
	}
	s := h.silent[uuid]
	s.until = time.Now().Add(min(minSilence<<min(s.times, 10), maxSilence))
	s.times++
	h.silent[uuid] = s
}

// forgetSilence of an instance of which there is news, or of all.
func (h *Host) forgetSilence(uuid string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if uuid == "" {
		clear(h.silent)
	}
	delete(h.silent, uuid)
}
