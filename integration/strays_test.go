package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/causeway-project/causeway/agent/crashpoint"
	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/integration/lab"
	"github.com/causeway-project/causeway/integration/wait"
)

// TestStrays leaves in QEMU what a libvirtd leaves there that is killed while it
// plugs a device in. The agent takes it out, whatever it is asked to do next.
func TestStrays(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 5*time.Minute)
	programs, err := lab.Build(ctx, lab.BuildOptions{CrashPoints: true})
	if err != nil {
		t.Fatal(err)
	}
	w.share(t, "docs")
	n := w.started(ctx, t, lab.AgentOptions{Programs: programs})
	none := n.qemuHas(ctx)
	const own = "chr-vu-ua-cw-docs-vm1 ua-cw-docs-vm1"

	// serves says that the guest has its share by one device, and takes it away.
	serves := func(n *node) {
		n.t.Helper()
		guestReads(ctx, n)
		if got := n.qemuHas(ctx); got != own {
			n.t.Errorf("QEMU has %q, want %q", got, own)
		}
		n.detach(ctx, "docs-vm1")
		n.nothingLeft(ctx, none)
	}
	for _, c := range []struct {
		name  string
		leave func(n *node)
	}{
		{"device", func(n *node) { n.leaveChardev(ctx, "docs-vm1", n.socket("docs-vm1")); n.leaveDevice(ctx, "docs-vm1") }},
		{"chardev alone", func(n *node) { n.leaveChardev(ctx, "docs-vm1", n.socket("docs-vm1")) }},
	} {
		t.Run(c.name+", attached", func(t *testing.T) {
			n := n.within(t)
			n.dieBeforeDevice(ctx)
			c.leave(n)
			n.must(errors.Join(n.libvirt.Kill(), n.libvirt.Start(ctx)))
			n.start(ctx)
			n.attach(ctx, docsVM1())
			n.tookOut(ctx, 1)
			serves(n)
		})
		t.Run(c.name+", deleted", func(t *testing.T) {
			n := n.within(t)
			n.dieBeforeDevice(ctx)
			c.leave(n)
			n.must(n.libvirt.Kill())
			n.start(ctx)
			// It is taken for done when libvirt is back.
			brief, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			if _, err := n.attachments.Detach(brief, &nodev1.DetachRequest{Id: "docs-vm1"}); err == nil {
				t.Error("it was deleted without libvirt")
			}
			n.must(n.libvirt.Start(ctx))
			n.gone(ctx, "docs-vm1")
			n.tookOut(ctx, 1)
			n.nothingLeft(ctx, none)
		})
	}
	t.Run("device, deleted while the guest sleeps", func(t *testing.T) {
		n := n.within(t)
		n.dieBeforeDevice(ctx)
		n.leaveChardev(ctx, "docs-vm1", n.socket("docs-vm1"))
		n.leaveDevice(ctx, "docs-vm1")
		n.must(n.guest.Suspend())
		n.start(ctx)
		_, err := n.attachments.Detach(ctx, &nodev1.DetachRequest{Id: "docs-vm1"})
		if r, _, message := refusalOf(err); r != (refusal{codes.FailedPrecondition, "guest_busy"}) {
			t.Errorf("detach: %v: %s", r, message)
		}
		if got := n.qemuHas(ctx); got != own {
			t.Errorf("QEMU has %q, want %q", got, own)
		}
		n.must(n.forced(ctx, "docs-vm1"))
		n.must(n.guest.Resume())
		// What is left has no virtiofsd, and is not in the way.
		n.attach(ctx, docsVM1())
		serves(n)
	})
	t.Run("of nobody, in the port of another", func(t *testing.T) {
		n := n.within(t)
		n.restart(ctx)
		n.leaveChardev(ctx, "lost", n.virtiofsdByHand(ctx))
		n.leaveDevice(ctx, "lost")
		n.attach(ctx, docsVM1())
		n.tookOut(ctx, 1)
		serves(n)
	})
	n.finish(ctx)
}

// dieBeforeDevice has the agent die when virtiofsd listens and nothing was asked
// of libvirt.
func (n *node) dieBeforeDevice(ctx context.Context) {
	n.t.Helper()
	n.kill()
	n.must(n.Launch(string(crashpoint.At(crashpoint.StepBegin, "device", "create"))))
	n.must(n.WaitInSync(ctx))
	if _, err := n.attachments.Attach(ctx, &nodev1.AttachRequest{Attachment: docsVM1()}); err == nil {
		n.t.Error("attached by an agent that is dead")
	}
	n.must(n.WaitKilled(ctx))
}

func (n *node) restart(ctx context.Context) {
	n.t.Helper()
	n.must(n.Restart(ctx))
}

// socket of an attachment's virtiofsd.
func (n *node) socket(id string) string { return filepath.Join(n.RunDir, "virtiofs", id, "sock") }

// virtiofsdByHand returns its socket. It ends when QEMU lets go of it.
func (n *node) virtiofsdByHand(ctx context.Context) string {
	n.t.Helper()
	dir, err := lab.TempDir()
	n.must(err)
	n.must(os.Chmod(dir, 0o711))
	socket := filepath.Join(dir, "sock")
	cmd := exec.CommandContext(ctx, "/usr/lib/qemu/virtiofsd", "-f", "--socket-path="+socket, "-o", "source="+dir)
	n.must(cmd.Start())
	n.t.Cleanup(func() {
		if err := errors.Join(cmd.Wait(), os.RemoveAll(dir)); err != nil {
			n.t.Error(err)
		}
	})
	until(ctx, n.t, "virtiofsd listens", func() (bool, error) {
		_, err := os.Stat(socket)
		return err == nil, err
	})
	return socket
}

// leaveChardev does the first half of what libvirt does for an attach.
func (n *node) leaveChardev(ctx context.Context, id, socket string) {
	n.t.Helper()
	u, err := user.Lookup("libvirt-qemu")
	n.must(err)
	uid, err := strconv.Atoi(u.Uid)
	n.must(err)
	n.must(os.Lchown(socket, uid, -1))
	n.qemu(ctx, nil, "chardev-add", map[string]any{"id": "chr-vu-ua-cw-" + id, "backend": map[string]any{"type": "socket", "data": map[string]any{
		"server": false, "addr": map[string]any{"type": "unix", "data": map[string]any{"path": socket}},
	}}})
}

// leaveDevice does the other half, in the port that libvirt takes next.
func (n *node) leaveDevice(ctx context.Context, id string) {
	n.t.Helper()
	xml := n.virsh(ctx, "dumpxml", n.guest.UUID)
	for _, port := range regexp.MustCompile(`<controller type='pci' index='(\d+)' model='pcie-root-port'>`).FindAllStringSubmatch(xml, -1) {
		index, err := strconv.Atoi(port[1])
		n.must(err)
		if strings.Contains(xml, fmt.Sprintf("<address type='pci' domain='0x0000' bus='0x%02x'", index)) {
			continue
		}
		n.qemu(ctx, nil, "device_add", map[string]any{
			"driver": "vhost-user-fs-pci", "id": "ua-cw-" + id, "chardev": "chr-vu-ua-cw-" + id, "tag": id,
			"queue-size": 1024, "bus": fmt.Sprintf("pci.%d", index), "addr": "0x0",
		})
		return
	}
	n.t.Fatal("no free port")
}

// qemu has the guest's QEMU execute a command.
func (n *node) qemu(ctx context.Context, into any, verb string, arguments map[string]any) {
	n.t.Helper()
	command, err := json.Marshal(map[string]any{"execute": verb, "arguments": arguments})
	n.must(err)
	text := n.virsh(ctx, "qemu-monitor-command", n.guest.UUID, string(command))
	var answer struct{ Return, Error json.RawMessage }
	n.must(json.Unmarshal([]byte(text), &answer))
	if answer.Error != nil {
		n.t.Fatalf("%s: %s", command, answer.Error)
	}
	if into != nil {
		n.must(json.Unmarshal(answer.Return, into))
	}
}

// qemuHas lists the virtiofs devices and their chardevs, whatever libvirt knows.
func (n *node) qemuHas(ctx context.Context) string {
	n.t.Helper()
	var devices []struct{ Name, Type string }
	n.qemu(ctx, &devices, "qom-list", map[string]any{"path": "/machine/peripheral"})
	var chardevs []struct{ Label string }
	n.qemu(ctx, &chardevs, "query-chardev", map[string]any{})
	var all []string
	for _, d := range devices {
		if strings.Contains(d.Type, "vhost-user-fs") {
			all = append(all, d.Name)
		}
	}
	for _, c := range chardevs {
		if strings.HasPrefix(c.Label, "chr-vu-") {
			all = append(all, c.Label)
		}
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// tookOut fails the test unless this agent took out so many strays.
func (n *node) tookOut(ctx context.Context, want int) {
	n.t.Helper()
	if line := fmt.Sprintf("\ncauseway_stray_devices_total %d\n", want); !strings.Contains(scrape(ctx, n.t, n), line) {
		n.t.Errorf("the metrics are without %q", strings.TrimSpace(line))
	}
}

// nothingLeft of any share, in the guest or in QEMU.
func (n *node) nothingLeft(ctx context.Context, want string) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, wait.Long)
	defer cancel()
	until(ctx, n.t, "something is left", func() (bool, error) {
		// 26 is virtiofs among the devices of virtio (virtio 1.2, 5).
		seen, err := n.guest.Shell(ctx, "grep -l 0x001a /sys/bus/virtio/devices/*/device || true")
		got := n.qemuHas(ctx)
		return err == nil && seen == "" && got == want, errors.Join(err, fmt.Errorf("QEMU has %q, the guest %q", got, seen))
	})
}
