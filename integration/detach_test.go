package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/integration/lab"
	"github.com/causeway-project/causeway/integration/wait"
)

// mounted attaches docs to the guest and has it mounted at /mnt/docs.
func (n *node) mounted(ctx context.Context) *nodev1.Attachment {
	n.t.Helper()
	a := attached("docs-vm1", "docs")
	a.MountAt = "/mnt/docs"
	if got := n.attach(ctx, a); got.GetGuest() != nodev1.GuestState_GUEST_STATE_MOUNTED {
		n.t.Fatalf("guest is %v: %v", got.GetGuest(), got.GetStatus())
	}
	return a
}

func (n *node) forced(ctx context.Context, id string) error {
	_, err := n.attachments.Detach(ctx, &nodev1.DetachRequest{Id: id, Force: true})
	return err
}

// gone waits until an attachment is.
func (n *node) gone(ctx context.Context, id string) {
	n.t.Helper()
	until(ctx, n.t, id+" gone", func() (bool, error) {
		_, err := n.attachments.Get(ctx, &nodev1.GetAttachmentRequest{Id: id})
		r, _, _ := refusalOf(err)
		return r.code == codes.NotFound, nil
	})
}

// TestDetachFromBusyGuest: all goes on working, and it is told who uses the
// share; there is a way back, and one past the guest.
func TestDetachFromBusyGuest(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 6*time.Minute)
	w.share(t, "docs")
	n := w.started(ctx, t, lab.AgentOptions{})
	a := n.mounted(ctx)
	pid := n.in(ctx, "(cd /mnt/docs && exec sleep 4242) >/dev/null 2>&1 & echo $!")

	_, err := n.attachments.Detach(ctx, &nodev1.DetachRequest{Id: a.GetId()})
	if r, _, message := refusalOf(err); r != (refusal{codes.FailedPrecondition, "guest_busy"}) || !strings.Contains(message, pid+" (sleep)") {
		t.Errorf("detach: %v", err)
	}
	got := n.attachment(ctx, a.GetId())
	if got.GetStatus().GetPhase() != nodev1.Phase_PHASE_DEGRADED || got.GetStatus().GetReason() != "guest_busy" || got.GetGuest() != nodev1.GuestState_GUEST_STATE_MOUNTED ||
		len(got.GetHolders()) != 1 || strconv.FormatInt(got.GetHolders()[0].GetPid(), 10) != pid || got.GetHolders()[0].GetCommand() != "sleep" {
		t.Errorf("attachment is %v, want it busy, held by sleep %s, and mounted", got, pid)
	}
	if out, err := n.Must(ctx, "attachment", "show", a.GetId()); err != nil || !strings.Contains(out, pid+" sleep") {
		t.Errorf("the command line shows\n%s", out)
	}
	n.in(ctx, "cat /mnt/docs/hello")

	if got := n.attach(ctx, a); got.GetStatus().GetPhase() != nodev1.Phase_PHASE_READY || len(got.GetHolders()) != 0 {
		t.Errorf("called off, it is %v", got)
	}
	n.in(ctx, "cat /mnt/docs/hello")

	n.must(n.forced(ctx, a.GetId()))
	if out, err := n.guest.Shell(ctx, "ls /proc/"+pid+"/cwd/"); err == nil {
		t.Errorf("who held it still reads %q", out)
	}
	n.in(ctx, "kill "+pid)
	n.finish(ctx)
}

// panics returns when the guest's kernel has, and it stays so.
func (n *node) panics(ctx context.Context) error {
	n.in(ctx, "echo 0 >/proc/sys/kernel/panic")
	n.soon(ctx, "echo c >/proc/sysrq-trigger")
	return wait.For(ctx, func() (bool, error) {
		log := n.guest.Log()
		return strings.Contains(log, "end Kernel panic"), errors.New(log)
	})
}

// TestForceAgainstGuestsThatDoNotAnswer: the instance's access ends within a
// bound, and nothing is left when the guest goes on.
func TestForceAgainstGuestsThatDoNotAnswer(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 6*time.Minute)
	w.share(t, "docs")
	n := w.started(ctx, t, lab.AgentOptions{})
	qemu := func(s syscall.Signal) error {
		text, err := os.ReadFile(filepath.Join("/run/libvirt/qemu", n.guest.Name+".pid"))
		if err != nil {
			return err
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			return err
		}
		return syscall.Kill(pid, s)
	}
	reset := func() error { n.virsh(ctx, "reset", n.guest.UUID); return nil }
	boots := func() error {
		// The reset ends what was asked of the guest before; only then it boots.
		return errors.Join(reset(), wait.For(ctx, func() (bool, error) {
			a := n.attachment(ctx, "docs-vm1")
			return a.GetGuest() != nodev1.GuestState_GUEST_STATE_MOUNTED, errors.New(a.String())
		}))
	}
	for _, hang := range []struct {
		name      string
		stop, go_ func() error
		late      bool // it is on its way, and may be there in time
	}{
		{name: "suspended", stop: n.guest.Suspend, go_: n.guest.Resume},
		{name: "QEMU stopped", stop: func() error { return qemu(syscall.SIGSTOP) }, go_: func() error { return qemu(syscall.SIGCONT) }},
		{name: "panicked", stop: func() error { return n.panics(ctx) }, go_: reset},
		// Firmware, then a kernel without its drivers.
		{name: "booting", stop: boots, go_: func() error { return n.guest.WaitAgent(ctx) }, late: true},
	} {
		a := n.mounted(ctx)
		n.must(hang.stop())
		short, cancel := context.WithTimeout(ctx, time.Second)
		_, err := n.attachments.Detach(short, &nodev1.DetachRequest{Id: a.GetId()})
		cancel()
		if r, _, _ := refusalOf(err); r.code != codes.DeadlineExceeded && !(err == nil && hang.late) {
			t.Errorf("%s: detach within a second: %v", hang.name, err)
		}
		begin := time.Now()
		err = n.forced(ctx, a.GetId())
		t.Logf("%s: forced after %s: %v", hang.name, time.Since(begin).Round(time.Millisecond), err)
		if err == nil && hang.late {
			n.must(hang.go_())
			n.gone(ctx, a.GetId())
			continue
		}
		if r, _, _ := refusalOf(err); r != (refusal{codes.FailedPrecondition, "needs_reset"}) {
			t.Errorf("%s: forced: %v", hang.name, err)
		}
		if got := n.attachment(ctx, a.GetId()); !got.GetRemovalForced() || got.GetStatus().GetReason() != "needs_reset" {
			t.Errorf("%s: attachment is %v", hang.name, got)
		}
		until(ctx, t, "neither mount nor virtiofsd of the share", func() (bool, error) {
			left := n.state(ctx).Diff(n.before)
			return !strings.Contains(left, "mount") && !strings.Contains(left, "virtiofsd"), errors.New(left)
		})
		n.must(hang.go_())
		n.gone(ctx, a.GetId())
		n.must(n.guest.WaitAgent(ctx))
	}
	// The guest is as good as before.
	n.mounted(ctx)
	n.in(ctx, "cat /mnt/docs/hello")
	n.detach(ctx, "docs-vm1")
	n.finish(ctx)
}

// TestGuestStateIsTrue: what the guest does by itself is seen, whether or not
// the agent was there.
func TestGuestStateIsTrue(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 6*time.Minute)
	w.share(t, "docs")
	n := w.started(ctx, t, lab.AgentOptions{})
	a := n.mounted(ctx)
	state := func(want nodev1.GuestState) {
		t.Helper()
		until(ctx, t, want.String(), func() (bool, error) { return n.attachment(ctx, a.GetId()).GetGuest() == want, nil })
	}
	mounts := func() string { t.Helper(); return n.in(ctx, "grep -c virtiofs /proc/mounts || true") }

	n.in(ctx, "umount /mnt/docs")
	until(ctx, t, "mounted again", func() (bool, error) { return mounts() == "1", nil })

	n.kill()
	n.start(ctx)
	state(nodev1.GuestState_GUEST_STATE_MOUNTED)
	if got := mounts(); got != "1" {
		t.Errorf("after a restart of the agent the guest has %s mounts", got)
	}

	// An agent that hangs, and goes on by itself.
	n.in(ctx, "(sleep 1; killall -STOP qemu-ga; sleep 25; killall -CONT qemu-ga) >/dev/null 2>&1 &")
	state(nodev1.GuestState_GUEST_STATE_UNKNOWN)
	if got := n.attachment(ctx, a.GetId()); got.GetStatus().GetPhase() != nodev1.Phase_PHASE_READY || got.GetGuestNote() == "" {
		t.Errorf("with a hung guest agent it is %v", got)
	}
	state(nodev1.GuestState_GUEST_STATE_MOUNTED)
	n.must(n.guest.WaitAgent(ctx))

	n.must(n.guest.Reset(ctx))
	state(nodev1.GuestState_GUEST_STATE_MOUNTED)
	n.in(ctx, "cat /mnt/docs/hello")
	n.detach(ctx, a.GetId())
	n.finish(ctx)
}

// TestCallersWhoChangeTheirMind attach and detach with little time, so that each
// call meets what the one before has begun: afterwards an attach is an attach.
func TestCallersWhoChangeTheirMind(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 6*time.Minute)
	w.share(t, "docs")
	n := w.started(ctx, t, lab.AgentOptions{})
	var all []*nodev1.Attachment
	for i := range 3 {
		a := attached(fmt.Sprintf("docs-%d", i), "docs")
		a.ReadOnly = true
		if i > 0 { // the other's device comes and goes faster
			a.MountAt = "/mnt/" + a.GetId()
		}
		all = append(all, a)
	}
	hurry, cancel := context.WithTimeout(ctx, 6*time.Second)
	defer cancel()
	var callers sync.WaitGroup
	for i, a := range all {
		random := rand.New(rand.NewPCG(1, uint64(i)))
		callers.Go(func() {
			for hurry.Err() == nil {
				ctx, cancel := context.WithTimeout(hurry, time.Duration(100+random.IntN(2000))*time.Millisecond)
				if random.IntN(3) > 0 {
					_, _ = n.attachments.Attach(ctx, &nodev1.AttachRequest{Attachment: a})
				} else {
					_, _ = n.attachments.Detach(ctx, &nodev1.DetachRequest{Id: a.GetId()})
				}
				cancel()
				pause(hurry, 10*time.Millisecond)
			}
		})
	}
	callers.Wait()
	for _, a := range all {
		var answer *nodev1.AttachResponse
		until(ctx, t, a.GetId(), func() (ok bool, err error) {
			answer, err = n.attachments.Attach(ctx, &nodev1.AttachRequest{Attachment: a})
			return err == nil, err
		})
		if s := answer.GetAttachment().GetStatus(); s.GetPhase() != nodev1.Phase_PHASE_READY {
			t.Errorf("%s is attached, and %v", a.GetId(), s)
		}
		if a.GetMountAt() != "" {
			n.reads(ctx, a)
		}
	}
	for _, a := range all {
		n.detach(ctx, a.GetId())
	}
	n.finish(ctx)
}
