package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/integration/wait"
)

const vm3 = "8c5b4ff3-6d52-4d4c-9bb1-000000000003"

func docsVM3() model.Attachment {
	at := docsVM1()
	at.ID, at.Instance = "docs-vm3", vm3
	return at
}

// sees changes the fake libvirt's view of vm3, as an event of libvirt's tells:
// nil is that it knows none. One that goes on running keeps what was plugged in.
func sees(h *host, a *Agent, i *parts.Instance) error {
	h.mu.Lock()
	was := h.instances["vm3"]
	delete(h.instances, "vm3")
	if i != nil {
		is := *i
		is.UUID, is.Name, is.SharedMemory, is.FreePorts = vm3, "vm3", true, 4
		if is.Running && is.Devices == nil && was != nil && was.Running {
			is.Devices = was.Devices
		}
		h.instances["vm3"] = &is
	}
	h.mu.Unlock()
	a.InstanceChanged(parts.InstanceEvent{UUID: vm3})
	return nil
}

const (
	movingGround = "daemon docs-vm3\nmount cw-SHARE of docs"
	movingAll    = "daemon docs-vm3\ndevice ua-cw-docs-vm3 tag docs in vm3\nguest mount " + vm3 + " /mnt/docs\nmount cw-SHARE of docs"
)

// A step of a move, and what is on the host when it is done.
type moveStep struct {
	do   func(context.Context, *host, *Agent) error
	want string
}

func inAnHour() time.Time { return time.Now().Add(time.Hour) }

func migrations() map[string][]moveStep {
	running := &parts.Instance{Running: true}
	attach := moveStep{func(ctx context.Context, h *host, a *Agent) error { _, err := a.Attach(ctx, docsVM3()); return err }, movingAll}
	detach := moveStep{func(ctx context.Context, h *host, a *Agent) error { return a.Detach(ctx, "docs-vm3") }, ""}
	prepare := moveStep{func(ctx context.Context, h *host, a *Agent) error {
		_, err := a.Prepare(ctx, docsVM3(), inAnHour())
		return err
	}, movingGround}
	release := moveStep{func(ctx context.Context, h *host, a *Agent) error {
		_, err := a.Release(ctx, "docs-vm3", inAnHour())
		return err
	}, ""}
	rollback := moveStep{func(ctx context.Context, h *host, a *Agent) error { _, err := a.Rollback(ctx, "docs-vm3"); return err }, movingAll}
	finish := moveStep{func(ctx context.Context, h *host, a *Agent) error { _, err := a.Finish(ctx, "docs-vm3"); return err }, movingAll}
	see := func(i *parts.Instance, want string) moveStep {
		return moveStep{func(_ context.Context, h *host, a *Agent) error { return sees(h, a, i) }, want}
	}
	passing := see(&parts.Instance{Running: true, Migrating: true}, movingGround)
	return map[string][]moveStep{
		"destination":                    {prepare, passing, see(running, movingAll), finish, detach},
		"destination, migration fails":   {prepare, passing, see(nil, movingGround), detach},
		"source":                         {see(running, ""), attach, release, see(nil, ""), detach},
		"source, migration fails":        {see(running, ""), attach, release, rollback, detach},
		"source of one that stays there": {see(running, ""), attach, release, see(&parts.Instance{Migrated: true}, ""), detach},
	}
}

// TestMigrations takes each move undisturbed, then with each call that changes the
// host failing, then with the agent dying there and another going on.
func TestMigrations(t *testing.T) {
	for name, steps := range migrations() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for at := 1; ; at++ {
				failed := moveFails(t, steps, at)
				died := moveDies(t, steps, at)
				if !failed && !died {
					t.Logf("%d calls", at-1)
					return
				}
			}
		})
	}
}

func moveFails(t *testing.T, steps []moveStep, at int) bool {
	h, dir := newHost(t), shortDir(t)
	h.failAt = at
	a := h.boot(dir)
	defer a.stop()
	for i, s := range steps {
		if err := s.do(t.Context(), h, a.Agent); err != nil {
			t.Fatalf("call %d failed, step %d: %v", at, i, err)
		}
		wait.Equal(t, fmt.Sprintf("call %d failed, step %d", at, i), s.want, func() string { return seen(h, dir) })
	}
	nothingLeft(t, dir)
	return h.failed
}

func moveDies(t *testing.T, steps []moveStep, at int) bool {
	h, dir := newHost(t), shortDir(t)
	died := make(chan struct{})
	h.onCall = func(n int) {
		if n == at {
			close(died)
			h.failAt = n // the call itself does not happen
		}
	}
	a := h.boot(dir)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		select {
		case <-died:
			cancel()
		case <-ctx.Done():
		}
	}()
	i := 0
	for ; i < len(steps); i++ {
		if err := steps[i].do(ctx, h, a.Agent); err != nil {
			break
		}
		wait.Until(t, fmt.Sprintf("dies at %d, step %d", at, i), func() bool { return seen(h, dir) == steps[i].want || ctx.Err() != nil })
		if ctx.Err() != nil {
			break
		}
	}
	a.stop()
	h.mu.Lock()
	over := !h.failed
	h.mu.Unlock()
	if over {
		return false
	}
	a = h.boot(dir)
	for ; i < len(steps); i++ {
		if err := steps[i].do(t.Context(), h, a.Agent); err != nil {
			t.Fatalf("died at %d, step %d: %v", at, i, err)
		}
		wait.Equal(t, fmt.Sprintf("died at %d, step %d", at, i), steps[i].want, func() string { return seen(h, dir) })
	}
	a.stop()
	nothingLeft(t, dir)
	return true
}

func nothingLeft(t *testing.T, dir string) {
	t.Helper()
	for _, pattern := range []string{"state/ledger/*/*", "r/*/*"} {
		if left, _ := filepath.Glob(filepath.Join(dir, pattern)); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
	}
}

// TestMoveExpires: without a caller each side ends the move by itself, also
// where nobody was there when its time was over.
func TestMoveExpires(t *testing.T) {
	running := &parts.Instance{Running: true}
	for _, c := range []struct {
		name    string
		prepare bool
		there   *parts.Instance // when its time is over
		want    string
		kept    bool
	}{
		{"destination, instance never came", true, nil, "", false},
		{"destination, instance is defined there", true, &parts.Instance{}, "", false},
		{"destination, instance is just coming", true, &parts.Instance{Running: true, Migrating: true}, movingGround, true},
		{"source, instance stayed", false, running, movingAll, true},
		{"source, instance left", false, nil, "", false},
		{"source, instance left and is defined still", false, &parts.Instance{Migrated: true}, "", false},
		{"source, instance was switched off", false, &parts.Instance{}, "", true},
		{"source, instance is just leaving", false, &parts.Instance{Running: true, Migrating: true}, "", true},
	} {
		for _, restarts := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, restarts %v", c.name, restarts), func(t *testing.T) {
				t.Parallel()
				h, dir := newHost(t), shortDir(t)
				a := h.boot(dir)
				soon := time.Now().Add(time.Second)
				var err error
				if c.prepare {
					_, err = a.Prepare(t.Context(), docsVM3(), soon)
				} else {
					must(t, sees(h, a.Agent, running))
					if _, err = a.Attach(t.Context(), docsVM3()); err == nil {
						soon = time.Now().Add(time.Second)
						_, err = a.Release(t.Context(), "docs-vm3", soon)
					}
				}
				must(t, err)
				must(t, sees(h, a.Agent, c.there))
				if restarts {
					a.stop()
					wait.Until(t, "time is over", func() bool { return time.Now().After(soon) })
					a = h.boot(dir)
				}
				defer a.stop()
				wait.Until(t, "ends as it should", func() bool {
					at, err := a.Attachment(t.Context(), "docs-vm3")
					gone := err != nil
					return time.Now().After(soon) && seen(h, dir) == c.want && gone != c.kept && (gone || at.Status.Phase != model.Working)
				})
			})
		}
	}
}

// TestMigratesWithShare: the device of an instance that is migrated with it is
// not touched, neither on its way nor when it has arrived.
func TestMigratesWithShare(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	a := h.boot(dir)
	if _, err := a.Prepare(t.Context(), docsVM3(), inAnHour()); err != nil {
		t.Fatal(err)
	}
	device := parts.Device{Instance: vm3, Alias: "ua-cw-docs-vm3", Tag: "docs", Socket: a.at.Socket("docs-vm3"), QueueSize: 1024}
	h.mu.Lock()
	h.log = nil
	h.mu.Unlock()
	must(t, sees(h, a.Agent, &parts.Instance{Running: true, Migrating: true, Devices: []parts.Device{device}}))
	if _, err := a.RepairAttachment(t.Context(), "docs-vm3"); err != nil {
		t.Fatal(err)
	}
	must(t, sees(h, a.Agent, &parts.Instance{Running: true, Devices: []parts.Device{device}}))
	at, err := a.Finish(t.Context(), "docs-vm3")
	if err != nil || at.Status.Phase != model.Ready {
		t.Errorf("finished: %+v, %v", at.Status, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	// What is mounted may be mounted.
	if want := []string{"guest mount docs"}; !slices.Equal(h.log, want) {
		t.Errorf("did %q, want %q", h.log, want)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestMoveStatusesAndRefusals(t *testing.T) {
	h := newHost(t)
	a := h.boot(shortDir(t))
	ctx := t.Context()
	_, err := a.Prepare(ctx, docsVM1(), inAnHour())
	reasonOf(t, err, fault.Invalid, fault.BadInstance)
	_, err = a.Prepare(ctx, docsVM3(), time.Time{})
	reasonOf(t, err, fault.Invalid, fault.BadExpiry)
	lost := docsVM3()
	lost.Connection = share("nothing")
	_, err = a.Prepare(ctx, lost, inAnHour())
	reasonOf(t, err, fault.NotFound, fault.ShareNotFound)
	for _, call := range []func() error{
		func() error { _, err := a.Finish(ctx, "docs-vm3"); return err },
		func() error { _, err := a.Rollback(ctx, "docs-vm3"); return err },
		func() error { _, err := a.Release(ctx, "docs-vm3", inAnHour()); return err },
	} {
		reasonOf(t, call(), fault.NotFound, fault.UnknownID)
	}
	must(t, sees(h, a.Agent, &parts.Instance{Running: true}))
	_, err = a.Prepare(ctx, docsVM3(), inAnHour())
	reasonOf(t, err, fault.Precondition, fault.InstanceHere)
	must(t, sees(h, a.Agent, nil))

	// The destination.
	at, err := a.Prepare(ctx, docsVM3(), inAnHour())
	if err != nil || at.Status.Phase != model.Pending || at.Status.Reason != fault.InstanceAwaited || at.Move == nil {
		t.Errorf("prepared: %+v, %v", at, err)
	}
	later := inAnHour().Add(time.Hour)
	if at, err = a.Prepare(ctx, docsVM3(), later); err != nil || !at.Move.ExpiresAt.Equal(later) {
		t.Errorf("prolonged: %+v, %v", at.Move, err)
	}
	_, err = a.Release(ctx, "docs-vm3", inAnHour())
	reasonOf(t, err, fault.Precondition, fault.InstanceAwaited)
	_, err = a.Rollback(ctx, "docs-vm3")
	reasonOf(t, err, fault.Precondition, fault.InstanceAwaited)
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	_, err = a.Finish(short, "docs-vm3")
	reasonOf(t, err, fault.Deadline, fault.CallTimeout)
	_, err = a.Attach(short, docsVM3())
	reasonOf(t, err, fault.Deadline, fault.CallTimeout)
	cancel()
	if _, err := a.RepairAttachment(ctx, "docs-vm3"); err != nil {
		t.Error(err)
	}
	must(t, sees(h, a.Agent, &parts.Instance{Running: true}))
	if at, err = a.Finish(ctx, "docs-vm3"); err != nil || at.Status.Phase != model.Ready || at.Move != nil {
		t.Errorf("finished: %+v, %v", at, err)
	}
	if at, err = a.Prepare(ctx, docsVM3(), inAnHour()); err != nil || at.Status.Phase != model.Ready || at.Move != nil {
		t.Errorf("prepared once more after the arrival: %+v, %v", at, err)
	}

	// The source.
	if at, err = a.Rollback(ctx, "docs-vm3"); err != nil || at.Status.Phase != model.Ready {
		t.Errorf("rolled back what was not released: %+v, %v", at, err)
	}
	h.mu.Lock()
	h.guestBusy = true
	h.mu.Unlock()
	_, err = a.Release(ctx, "docs-vm3", inAnHour())
	reasonOf(t, err, fault.Precondition, fault.GuestBusy)
	if at, err = a.Attachment(ctx, "docs-vm3"); err != nil || at.Status.Phase != model.Degraded || at.Status.Reason != fault.GuestBusy {
		t.Errorf("busy: %+v, %v", at.Status, err)
	}
	h.mu.Lock()
	h.guestBusy = false
	h.mu.Unlock()
	at, err = a.Release(ctx, "docs-vm3", inAnHour())
	if err != nil || at.Status.Phase != model.Pending || at.Status.Reason != fault.Released {
		t.Errorf("released: %+v, %v", at.Status, err)
	}
	for _, call := range []func() error{
		func() error { _, err := a.Attach(ctx, docsVM3()); return err },
		func() error { _, err := a.Prepare(ctx, docsVM3(), inAnHour()); return err },
		func() error { _, err := a.Finish(ctx, "docs-vm3"); return err },
	} {
		reasonOf(t, call(), fault.Precondition, fault.Released)
	}
	must(t, sees(h, a.Agent, nil))
	_, err = a.Rollback(ctx, "docs-vm3")
	reasonOf(t, err, fault.Precondition, fault.InstanceNotFound)
	h.mu.Lock()
	h.libvirtOff = true
	h.mu.Unlock()
	_, err = a.Rollback(ctx, "docs-vm3")
	reasonOf(t, err, fault.Unavailable, fault.LibvirtUnavailable)
	h.mu.Lock()
	h.libvirtOff = false
	h.mu.Unlock()
	must(t, a.Detach(ctx, "docs-vm3"))
	if _, err := a.Attachment(ctx, "docs-vm3"); !errors.As(err, new(*fault.Error)) {
		t.Errorf("it is still there: %v", err)
	}
}
