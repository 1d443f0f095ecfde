package integration

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/integration/lab"
)

// hooked starts an agent of which libvirt tells of starts. libvirtd is started
// anew for that, and after the test: guests go on.
func (w *world) hooked(ctx context.Context, t *testing.T, o lab.AgentOptions) *node {
	t.Helper()
	n := w.node(ctx, t, o)
	n.must(w.libvirt.InstallHook(ctx, n.Agent))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := w.libvirt.RemoveHook(ctx); err != nil {
			t.Error(err)
		}
	})
	n.start(ctx)
	return n
}

// virsh is what an operator does, or another program.
func (n *node) virsh(ctx context.Context, args ...string) string {
	n.t.Helper()
	out, err := tryVirsh(ctx, args...)
	if err != nil {
		n.t.Fatal(err)
	}
	return out
}

func tryVirsh(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute) // libvirtd may have to learn anew what QEMU can do
	defer cancel()
	out, err := exec.CommandContext(ctx, "virsh", append([]string{"-q"}, args...)...).CombinedOutput()
	if err != nil {
		return "", errors.New(strings.Join(args, " ") + ": " + string(out))
	}
	return strings.TrimSpace(string(out)), nil
}

// whole waits until host and guest are as they were when the share was attached.
func (n *node) whole(ctx context.Context, settled lab.HostState) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	n.must(n.guest.WaitAgent(ctx))
	until(ctx, n.t, "the host differs", func() (bool, error) {
		diff := n.state(ctx).Diff(settled)
		return diff == "", errors.New(diff)
	})
	until(ctx, n.t, "the attachment is not ready", func() (bool, error) {
		a := n.attachment(ctx, "docs-vm1")
		return a.GetStatus().GetPhase() == nodev1.Phase_PHASE_READY && a.GetGuest() == nodev1.GuestState_GUEST_STATE_MOUNTED &&
			a.GetPersistence() == nodev1.Persistence_PERSISTENCE_PERSISTENT, errors.New(a.String())
	})
	until(ctx, n.t, "the guest does not have it", func() (bool, error) {
		out, err := n.guest.Shell(ctx, "timeout 2 cat /mnt/docs/hello; grep -c /mnt/docs /proc/mounts")
		return out == "from docs\n1\n", err
	})
}

// released waits until an instance that is off holds nothing on the host, and
// its attachment says why it waits.
func (n *node) released(ctx context.Context, reason string) *nodev1.Attachment {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	until(ctx, n.t, "something stays", func() (bool, error) {
		diff := n.state(ctx).Without("run", "ledger", "device").Diff(n.before)
		return diff == "", errors.New(diff)
	})
	var a *nodev1.Attachment
	until(ctx, n.t, "the attachment does not wait", func() (bool, error) {
		a = n.attachment(ctx, "docs-vm1")
		return a.GetStatus().GetPhase() == nodev1.Phase_PHASE_PENDING && a.GetStatus().GetReason() == reason, errors.New(a.String())
	})
	return a
}

// soon has the guest do what leaves nobody to tell of its end.
func (n *node) soon(ctx context.Context, command string) {
	n.t.Helper()
	n.in(ctx, "(sleep 0.2; "+command+") >/dev/null 2>&1 </dev/null &")
}

// isOff waits for the end of the guest's QEMU.
func (n *node) isOff(ctx context.Context) {
	n.t.Helper()
	until(ctx, n.t, "the instance runs", func() (bool, error) {
		state, err := tryVirsh(ctx, "domstate", n.guest.UUID)
		return state == "shut off", errors.Join(err, errors.New(state))
	})
}

// TestInstanceLife is what becomes of an instance that has a share, with libvirt's
// hook in place: the rows of docs/virtiofs.md that name it.
func TestInstanceLife(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 10*time.Minute)
	dir := w.share(t, "docs")
	n := w.hooked(ctx, t, lab.AgentOptions{Resync: 10 * time.Second})
	n.attach(ctx, docsVM1())
	settled := n.state(ctx)
	n.whole(ctx, settled)
	definition := n.virsh(ctx, "dumpxml", "--inactive", "vm1")
	boot := func(n *node) string { return n.in(ctx, "cat /proc/sys/kernel/random/boot_id") }
	for _, c := range []struct {
		name string
		do   func(*node)
	}{
		{"suspend and resume", func(n *node) {
			n.must(n.guest.Suspend())
			if a := n.attachment(ctx, "docs-vm1"); a.GetStatus().GetPhase() != nodev1.Phase_PHASE_READY {
				n.t.Errorf("of a suspended instance: %v", a.GetStatus())
			}
			n.must(n.guest.Resume())
		}},
		{"save, managed save, snapshot of memory, migration", func(n *node) {
			for _, args := range [][]string{
				{"save", "vm1", filepath.Join(t.TempDir(), "saved")}, {"managedsave", "vm1"},
				{"dump", "--live", "vm1", filepath.Join(t.TempDir(), "dump")},
				{"migrate", "--live", "vm1", "qemu:///system", "tcp://127.0.0.1"},
			} {
				if _, err := tryVirsh(ctx, args...); err == nil || !strings.Contains(err.Error(), "non-migratable device") {
					n.t.Errorf("virsh %q: %v, want it refused for the device", args, err)
				}
			}
		}},
		{"reboot inside", func(n *node) {
			before := boot(n)
			n.soon(ctx, "reboot -f")
			until(ctx, n.t, "no reboot", func() (bool, error) {
				ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
				defer cancel()
				now, err := n.guest.Exec(ctx, "cat", "/proc/sys/kernel/random/boot_id")
				return err == nil && strings.TrimSpace(now) != before, err
			})
		}},
		{"poweroff inside, another name, start", func(n *node) {
			n.soon(ctx, "poweroff -f")
			n.isOff(ctx)
			n.released(ctx, "instance_off")
			n.virsh(ctx, "domrename", "vm1", "vm9")
			n.virsh(ctx, "start", "vm9")
			n.must(n.guest.WaitAgent(ctx))
			if a := n.attach(ctx, func() *nodev1.Attachment { a := docsVM1(); a.Instance = "vm9"; return a }()); a.GetInstanceUuid() != n.guest.UUID {
				n.t.Errorf("under the new name: %v", a)
			}
			n.must(n.guest.Destroy())
			n.isOff(ctx)
			n.virsh(ctx, "domrename", "vm9", "vm1")
			n.virsh(ctx, "start", "vm1")
		}},
		{"QEMU killed while the guest writes, start at once", func(n *node) {
			_, err := n.guest.StartWriter(ctx, "/mnt/docs/written", time.Millisecond)
			n.must(err)
			until(ctx, n.t, "nothing is written", func() (bool, error) {
				info, err := os.Stat(filepath.Join(dir, "written"))
				return err == nil && info.Size() > 0, err
			})
			data, err := os.ReadFile("/run/libvirt/qemu/vm1.pid")
			n.must(err)
			pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
			n.must(err)
			n.must(syscall.Kill(pid, syscall.SIGKILL))
			n.isOff(ctx)
			n.virsh(ctx, "start", "vm1")
		}},
		{"redefined without the device while off, agent started beside the start", func(n *node) {
			n.must(n.guest.Destroy())
			n.released(ctx, "instance_off")
			before, rest, _ := strings.Cut(definition, "<filesystem")
			_, after, found := strings.Cut(rest, "</filesystem>")
			if !found {
				n.t.Fatalf("no device in\n%s", definition)
			}
			file := filepath.Join(t.TempDir(), "without.xml")
			n.must(os.WriteFile(file, []byte(before+after), 0o600))
			n.virsh(ctx, "define", file)
			until(ctx, n.t, "the definition has no device", func() (bool, error) {
				return strings.Contains(n.virsh(ctx, "dumpxml", "--inactive", "vm1"), "ua-cw-docs-vm1"), nil
			})
			n.kill()
			started := make(chan error, 1)
			go func() { _, err := tryVirsh(ctx, "start", "vm1"); started <- err }()
			n.start(ctx)
			n.must(<-started)
		}},
		{"undefined while it runs, another of its name, defined again", func(n *node) {
			n.virsh(ctx, "undefine", "vm1")
			until(ctx, n.t, "the attachment is persistent", func() (bool, error) {
				a := n.attachment(ctx, "docs-vm1")
				return a.GetPersistence() == nodev1.Persistence_PERSISTENCE_LIVE_ONLY && strings.Contains(a.GetLiveOnly(), "transient"), nil
			})
			if got := n.in(ctx, "cat /mnt/docs/hello"); got != "from docs" {
				n.t.Errorf("the guest reads %q", got)
			}
			n.virsh(ctx, "destroy", "vm1")
			n.released(ctx, "instance_not_found")
			file := filepath.Join(t.TempDir(), "vm1.xml")
			const another = "0d8f0b2e-6c1d-4a53-9a2b-6f1f6f0a9c11"
			n.must(os.WriteFile(file, []byte(strings.Replace(definition, n.guest.UUID, another, 1)), 0o600))
			n.virsh(ctx, "define", file)
			until(ctx, n.t, "the namesake is not noticed", func() (bool, error) {
				a := n.attachment(ctx, "docs-vm1")
				return strings.Contains(a.GetStatus().GetMessage(), "another has its name, with the UUID "+another), errors.New(a.GetStatus().GetMessage())
			})
			// It has the device of its original, as a clone has.
			if _, err := tryVirsh(ctx, "start", "vm1"); err == nil || !strings.Contains(err.Error(), "none of this instance") {
				n.t.Errorf("the namesake starts: %v", err)
			}
			n.virsh(ctx, "undefine", "vm1")
			n.must(os.WriteFile(file, []byte(definition), 0o600))
			n.virsh(ctx, "define", file)
			n.released(ctx, "instance_off")
			n.virsh(ctx, "start", "vm1")
		}},
	} {
		if !t.Run(c.name, func(t *testing.T) {
			n := n.within(t)
			begin := time.Now()
			c.do(n)
			n.whole(ctx, settled)
			t.Logf("as it was after %s", time.Since(begin).Round(time.Millisecond))
		}) {
			return
		}
	}

	// What cannot be started says what to do, and that works.
	n.must(n.guest.Destroy())
	n.released(ctx, "instance_off")
	n.kill()
	if _, err := tryVirsh(ctx, "start", "vm1"); err == nil || !strings.Contains(err.Error(), "systemctl start causeway-agent") {
		t.Errorf("start without the agent: %v", err)
	}
	n.start(ctx)
	n.must(os.Rename(dir, dir+".away"))
	_, err := tryVirsh(ctx, "start", "vm1")
	n.must(os.Rename(dir+".away", dir))
	if err == nil || !strings.Contains(err.Error(), "'causeway attachment delete docs-vm1'") {
		t.Errorf("start without the share: %v", err)
	}
	n.detach(ctx, "docs-vm1")
	if xml := n.virsh(ctx, "dumpxml", "--inactive", "vm1"); strings.Contains(xml, "ua-cw-") {
		t.Errorf("the definition still has the device:\n%s", xml)
	}
	n.virsh(ctx, "start", "vm1")
	n.must(n.guest.WaitAgent(ctx))
	n.finish(ctx)
}
