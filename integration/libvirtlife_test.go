package integration

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/integration/lab"
	"github.com/causeway-project/causeway/integration/wait"
)

// TestLibvirtLife has libvirtd end, hang and come back while shares are attached
// and detached. Nothing is lost, and nothing is there twice.
func TestLibvirtLife(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 8*time.Minute)
	w.share(t, "docs")
	w.share(t, "music")
	n := w.started(ctx, t, lab.AgentOptions{})
	n.attach(ctx, docsVM1())
	settled := n.state(ctx)
	other := attached("other", "music")
	attach := func(ctx context.Context) error {
		_, err := n.attachments.Attach(ctx, &nodev1.AttachRequest{Attachment: other})
		return err
	}
	detach := func(ctx context.Context) error {
		_, err := n.attachments.Detach(ctx, &nodev1.DetachRequest{Id: "other"})
		return err
	}
	again := func(ctx context.Context) error { return errors.Join(n.libvirt.Kill(), n.libvirt.Start(ctx)) }
	for _, c := range []struct {
		name       string
		away, back func(*node) error
	}{
		{"stopped", func(n *node) error { return n.libvirt.Stop() }, func(n *node) error { return n.libvirt.Start(ctx) }},
		{"hung", func(n *node) error { return n.libvirt.Pause() }, func(n *node) error { return n.libvirt.Continue() }},
		{"stopped, the agent killed too", func(n *node) error { return errors.Join(n.libvirt.Stop(), n.Kill(), n.Launch(""), n.WaitInSync(ctx)) },
			func(n *node) error { return n.libvirt.Start(ctx) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := n.within(t)
			n.must(c.away(n))
			brief, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			if got, _, message := refusalOf(attach(brief)); got != (refusal{codes.Unavailable, "libvirt_unavailable"}) {
				t.Errorf("attach: %v: %s", got, message)
			}
			if got, _, message := refusalOf(detach(brief)); got != (refusal{}) && got.code != codes.DeadlineExceeded {
				t.Errorf("detach of what is not there: %v: %s", got, message)
			}
			// What needs no libvirt is answered.
			if _, err := n.attachments.List(ctx, &nodev1.ListAttachmentsRequest{}); err != nil {
				t.Error(err)
			}
			if _, err := n.nodes.Get(ctx, &nodev1.GetNodeRequest{}); err != nil {
				t.Error(err)
			}
			n.scraped(ctx)
			n.must(c.back(n))
			n.settlesWithin(ctx, settled)
			until(ctx, t, "the attachment is not ready", func() (bool, error) {
				a := n.attachment(ctx, "docs-vm1")
				return a.GetStatus().GetPhase() == nodev1.Phase_PHASE_READY, errors.New(a.GetStatus().String())
			})
		})
	}

	// In the middle of calls, which are repeated until they succeed.
	for round := range 3 {
		for _, call := range []func(context.Context) error{attach, detach} {
			record, _ := os.ReadFile(filepath.Join(n.StateDir, "ledger/attachment/other.json"))
			done := make(chan error, 1)
			go func() {
				done <- wait.For(ctx, func() (bool, error) { err := call(ctx); return err == nil, err })
			}()
			if round > 0 { // strike when the call is taken, not before
				until(ctx, t, "the intent is not there", func() (bool, error) {
					now, _ := os.ReadFile(filepath.Join(n.StateDir, "ledger/attachment/other.json"))
					return string(now) != string(record), nil
				})
			}
			n.must(again(ctx))
			if round == 2 {
				n.must(errors.Join(n.Kill(), n.Start(ctx)))
			}
			n.must(<-done)
			devices := 0
			for _, line := range n.state(ctx) {
				if strings.HasPrefix(line, "device vm1 ua-cw-other ") {
					devices++
				}
			}
			if state := n.state(ctx); slices.Contains(state, "ledger attachment/other.json") != (devices == 1) || devices > 1 {
				t.Errorf("round %d: %d devices; the host:\n%v", round, devices, state)
			}
		}
		n.settlesWithin(ctx, settled)
	}
	if got := n.in(ctx, "cat /mnt/docs/hello"); got != "from docs" {
		t.Errorf("the guest reads %q", got)
	}
	n.detach(ctx, "docs-vm1")
	n.finish(ctx)
}

// scraped fails the test unless Prometheus gets its answer.
func (n *node) scraped(ctx context.Context) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, n.HTTP+"/metrics", nil)
	n.must(err)
	answer, err := http.DefaultClient.Do(request)
	n.must(err)
	text, err := io.ReadAll(answer.Body)
	n.must(errors.Join(err, answer.Body.Close()))
	if !strings.Contains(string(text), "causeway_") {
		n.t.Errorf("metrics: %.200q", text)
	}
}

// settlesWithin is for what waits for libvirt's connection too.
func (n *node) settlesWithin(ctx context.Context, want lab.HostState) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	until(ctx, n.t, "the host differs", func() (bool, error) {
		diff := n.state(ctx).Diff(want)
		return diff == "", errors.New(diff)
	})
}

// TestForgottenMemory: what libvirt 9.0 does to an instance without a NUMA cell,
// and what the agent makes of its words.
func TestForgottenMemory(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 6*time.Minute)
	w.share(t, "docs")
	w.share(t, "music")
	g, err := w.libvirt.Define(ctx, lab.GuestOptions{Name: "cellless", NoCell: true, NoAgent: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := g.Start(ctx); err != nil {
		t.Fatal(err)
	}
	n := w.started(ctx, t, lab.AgentOptions{})
	before := attached("before", "docs")
	before.Instance = g.Name
	n.attach(ctx, before)
	settled := n.state(ctx)
	n.must(errors.Join(n.libvirt.Stop(), n.libvirt.Start(ctx)))
	after := attached("after", "music")
	after.Instance = g.Name
	var refused refusal
	var message string
	until(ctx, t, "libvirt is away", func() (bool, error) {
		_, err := n.attachments.Attach(ctx, &nodev1.AttachRequest{Attachment: after})
		refused, _, message = refusalOf(err)
		return refused.code != codes.Unavailable, err
	})
	if refused != (refusal{codes.FailedPrecondition, "no_shared_memory"}) || !strings.Contains(message, "started anew") || !strings.Contains(message, "NUMA cell") || strings.Contains(message, "virError") {
		t.Errorf("attach: %v: %s", refused, message)
	}
	n.settles(ctx, settled)
	n.must(g.Destroy())
	n.detach(ctx, "before")
	n.finish(ctx)
}
