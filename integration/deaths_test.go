package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/integration/lab"
)

// running lists the agent's processes of that name.
func (n *node) running(name string) (pids []int) {
	for _, pid := range pidsBelow(n.RunDir) {
		if programOf(pid) == name {
			pids = append(pids, pid)
		}
	}
	return pids
}

// waits begins a read in the guest that virtiofsd, which has been stopped, does
// not answer. The function returned waits until it has ended, and says whether
// it failed.
func (n *node) waits(ctx context.Context, path string) (ended func() bool) {
	n.t.Helper()
	done := make(chan error, 1)
	go func() { // it ends with the guest's task, or with ctx
		_, err := n.guest.Exec(ctx, "cat", path)
		done <- err
	}()
	until(ctx, n.t, "no request in flight", func() (bool, error) {
		out, err := n.guest.Shell(ctx, "cat /proc/[0-9]*/wchan 2>/dev/null || true")
		return strings.Contains(out, "request_wait_answer"), err
	})
	return func() bool {
		var failed *lab.ExitError
		return errors.As(<-done, &failed)
	}
}

// healed waits until attachments are as they should be, with other virtiofsd
// than those of before, and the guest has the share again.
func (n *node) healed(ctx context.Context, before []int, ids ...string) {
	n.t.Helper()
	begin := time.Now()
	for _, id := range ids {
		until(ctx, n.t, id+" is not ready", func() (bool, error) {
			a := n.attachment(ctx, id)
			now := n.running("virtiofsd")
			old := slices.ContainsFunc(before, func(pid int) bool { return slices.Contains(now, pid) })
			return a.GetStatus().GetPhase() == nodev1.Phase_PHASE_READY && a.GetGuest() == nodev1.GuestState_GUEST_STATE_MOUNTED && !old && len(now) > 0,
				errors.New(a.GetStatus().GetMessage())
		})
		until(ctx, n.t, "the guest has not "+id, func() (bool, error) {
			out, err := n.guest.Shell(ctx, "timeout 5 cat /mnt/"+id+"/hello")
			return out == "from docs\n", err
		})
	}
	n.t.Logf("healed after %s", time.Since(begin).Round(time.Millisecond))
}

// becomes waits until an attachment says so.
func (n *node) becomes(ctx context.Context, id string, phase nodev1.Phase, reason string) {
	n.t.Helper()
	until(ctx, n.t, fmt.Sprintf("%s is not %s %s", id, phase, reason), func() (bool, error) {
		s := n.attachment(ctx, id).GetStatus()
		return s.GetPhase() == phase && s.GetReason() == reason, errors.New(s.String())
	})
}

// TestDeaths has virtiofsd die in every way under a guest that uses it.
func TestDeaths(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 8*time.Minute)
	w.share(t, "docs")
	n := w.started(ctx, t, lab.AgentOptions{})
	mounted := func(id string) *nodev1.Attachment {
		a := attached(id, "docs")
		a.MountAt = "/mnt/" + id
		a.ReadOnly = id != "one" // or their locks would not meet
		return a
	}
	n.attach(ctx, mounted("one"))
	for _, c := range []struct {
		name string
		do   func(context.Context, *node)
	}{
		{"request in flight", func(ctx context.Context, n *node) {
			before := n.running("virtiofsd")
			n.signalProcess("virtiofsd", syscall.SIGSTOP)
			ended := n.waits(ctx, "/mnt/one/hello")
			n.killProcess("virtiofsd")
			if !ended() {
				n.t.Error("the guest's task did not fail")
			}
			n.healed(ctx, before, "one")
		}},
		{"stopped, and repaired on demand", func(ctx context.Context, n *node) {
			before := n.running("virtiofsd")
			n.signalProcess("virtiofsd", syscall.SIGSTOP)
			ended := n.waits(ctx, "/mnt/one/hello")
			_, err := n.attachments.Repair(ctx, &nodev1.RepairAttachmentRequest{Id: "one"})
			n.must(err)
			if !ended() {
				n.t.Error("the guest's task did not fail")
			}
			n.healed(ctx, before, "one")
		}},
		{"repair of one that runs", func(ctx context.Context, n *node) {
			before := n.running("virtiofsd")
			_, err := n.attachments.Repair(ctx, &nodev1.RepairAttachmentRequest{Id: "one"})
			n.must(err)
			if now := n.running("virtiofsd"); !slices.Equal(before, now) {
				n.t.Errorf("virtiofsd %v became %v", before, now)
			}
		}},
		{"agent away", func(ctx context.Context, n *node) {
			before := n.running("virtiofsd")
			n.kill()
			n.killProcess("virtiofsd")
			var failed *lab.ExitError
			if out, err := n.guest.Exec(ctx, "cat", "/mnt/one/hello"); !errors.As(err, &failed) {
				n.t.Errorf("the guest reads %q, %v, want an error", out, err)
			}
			n.start(ctx)
			n.healed(ctx, before, "one")
		}},
		{"libvirtd away", func(ctx context.Context, n *node) {
			before := n.running("virtiofsd")
			n.must(n.libvirt.Kill())
			n.killProcess("virtiofsd")
			n.must(n.libvirt.Start(ctx))
			n.healed(ctx, before, "one")
		}},
		{"keeper killed", func(ctx context.Context, n *node) {
			before := n.running("virtiofsd")
			n.killProcess("causeway-keeper")
			n.healed(ctx, before, "one")
		}},
		{"cannot be started again", func(ctx context.Context, n *node) {
			before := n.running("virtiofsd")
			n.must(os.Rename(n.Programs.Keep, n.Programs.Keep+".away"))
			n.killProcess("virtiofsd")
			n.becomes(ctx, "one", nodev1.Phase_PHASE_FAILED, "step_failed")
			n.must(os.Rename(n.Programs.Keep+".away", n.Programs.Keep))
			n.healed(ctx, before, "one")
		}},
		{"ten at once", func(ctx context.Context, n *node) {
			ids := []string{"one"}
			var attaching sync.WaitGroup
			for i := 2; i <= 10; i++ {
				ids = append(ids, fmt.Sprint("more", i))
			}
			errs := make([]error, len(ids))
			for i, id := range ids[1:] {
				attaching.Go(func() {
					_, errs[i] = n.attachments.Attach(ctx, &nodev1.AttachRequest{Attachment: mounted(id)})
				})
			}
			attaching.Wait()
			n.must(errors.Join(errs...))
			before := n.running("virtiofsd")
			n.killProcess("virtiofsd")
			n.healed(ctx, before, ids...)
			for _, id := range ids[2:] {
				n.detach(ctx, id)
			}
		}},
		// With the keeper goes what answers for it, and only a reset helps.
		{"keeper killed with a request in flight", func(ctx context.Context, n *node) {
			n.attach(ctx, mounted("more2")) // it may be there already
			before := n.running("virtiofsd")
			n.signalProcess("virtiofsd", syscall.SIGSTOP)
			held, cancel := context.WithCancel(ctx)
			defer cancel()
			_ = n.waits(held, "/mnt/one/hello")
			n.killProcess("causeway-keeper")
			n.becomes(ctx, "one", nodev1.Phase_PHASE_DEGRADED, "needs_reset")
			_, err := n.attachments.Attach(ctx, &nodev1.AttachRequest{Attachment: mounted("late")})
			if !strings.Contains(fmt.Sprint(err), "virsh reset") {
				n.t.Errorf("Attach to a wedged guest = %v, want what to do", err)
			}
			n.must(n.guest.Reset(ctx))
			n.healed(ctx, before, "one", "more2")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(ctx, 4*time.Minute)
			defer cancel()
			c.do(ctx, n.within(t))
		})
		if t.Failed() {
			return // the guest may be wedged
		}
	}
	n.detach(ctx, "one")
	n.detach(ctx, "more2")
	n.finish(ctx)
}
