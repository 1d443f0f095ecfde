package integration

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/integration/lab"
	"github.com/causeway-project/causeway/integration/needs"
)

// TestPreflightCures begins with a domain that lacks everything, and does what
// the preflight says until it has nothing to say: each command is run as it is
// printed.
func TestPreflightCures(t *testing.T) {
	w := theWorld(t)
	if _, err := exec.LookPath("virt-xml"); err != nil {
		t.Fatalf("%v: make deps", err)
	}
	ctx := limited(t, 8*time.Minute)
	w.share(t, "cures")
	n := w.started(ctx, t, lab.AgentOptions{})
	guest, err := w.libvirt.Define(ctx, lab.GuestOptions{Name: "bare", NoSharedMemory: true, NoAgent: true, Ports: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := guest.Close(); err != nil {
			t.Error(err)
		}
	})
	at := &nodev1.Attachment{Instance: "bare", Tag: "cures", MountAt: "/mnt/cures", Connection: local("cures")}
	// look returns the verdicts that are not pass, and all by name.
	look := func() ([]string, map[string]*nodev1.Check) {
		t.Helper()
		resp, err := n.attachments.Preflight(ctx, &nodev1.PreflightAttachmentRequest{Attachment: at})
		if err != nil {
			t.Fatal(err)
		}
		var bad []string
		all := map[string]*nodev1.Check{}
		for _, k := range resp.GetChecks() {
			all[k.GetName()] = k
			// This machine may have too few open files, which has a test of its own.
			if k.GetVerdict() != nodev1.Verdict_VERDICT_PASS && k.GetName() != "open-files" {
				bad = append(bad, strings.TrimSpace(k.GetName()+" "+k.GetReason()))
			}
		}
		return bad, all
	}
	want := func(lines ...string) map[string]*nodev1.Check {
		t.Helper()
		bad, all := look()
		if d := cmp.Diff(lines, bad); d != "" {
			t.Fatalf("verdicts (-want +got):\n%s\n%v", d, all)
		}
		return all
	}
	run := func(command string) {
		t.Helper()
		if out, err := exec.CommandContext(ctx, "sh", "-c", command).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
	}
	off := func() { // its system has not started, and does not hear the power button
		t.Helper()
		if err := guest.Destroy(); err != nil {
			t.Fatal(err)
		}
	}
	ports := func(all map[string]*nodev1.Check, count string) {
		t.Helper()
		if got := all["ports"].GetMessage(); !strings.HasPrefix(got, count+" PCIe root ports are free") {
			t.Errorf("ports: %s, want %s", got, count)
		}
	}

	all := want("instance instance_off", "shared-memory no_shared_memory", "ports")
	run(all["shared-memory"].GetFix())
	run(all["ports"].GetFix())
	all = want("instance instance_off")
	run(all["instance"].GetFix())
	all = want("guest-agent")
	ports(all, "5")
	run(all["guest-agent"].GetFix())
	off()
	run("virsh start bare")
	all = want("guest-agent")
	if strings.Contains(all["guest-agent"].GetMessage(), "no channel") {
		t.Errorf("guest-agent: %s", all["guest-agent"].GetMessage())
	}

	// What passes, attaches; and what is full, says so.
	var ids []string
	for i := range 4 { // the channel's controller took a port
		a := &nodev1.Attachment{Id: fmt.Sprintf("cures-%d", i), Instance: "bare", Tag: fmt.Sprintf("t%d", i), Connection: local("cures"), ReadOnly: true}
		n.attach(ctx, a)
		ids = append(ids, a.GetId())
	}
	at.Tag = "t0"
	bad, all := look()
	for _, line := range []string{"tag tag_taken", "ports no_free_port", "share-twice"} {
		if !slices.Contains(bad, line) {
			t.Errorf("no line %s among %q", line, bad)
		}
	}
	_, err = n.attachments.Attach(ctx, &nodev1.AttachRequest{Attachment: &nodev1.Attachment{Id: "more", Instance: "bare", Tag: "new", Connection: local("cures")}})
	if got, _, message := refusalOf(err); got != (refusal{codes.FailedPrecondition, "no_free_port"}) {
		t.Errorf("attached to a full instance: %v: %s", got, message)
	}
	off()
	for _, id := range ids {
		n.detach(ctx, id)
	}
	run(strings.TrimSuffix(all["ports"].GetFix(), " && virsh shutdown bare"))
	run("virsh start bare")
	at.Tag = "cures"
	ports(want("guest-agent"), "8")
	off()
	n.finish(ctx)
}

// TestAppArmorNeedsARule asks the program that writes AppArmor's rules for each
// instance: none lets QEMU connect to our socket. It needs no AppArmor for that.
func TestAppArmorNeedsARule(t *testing.T) {
	const helper, uuid = "/usr/lib/libvirt/virt-aa-helper", "6b3c8bb4-0a34-4b8b-9d3e-3b1b5c1e8f10"
	_, err := os.Stat(helper)
	needs.Met(t, err)
	c := exec.CommandContext(t.Context(), helper, "--create", "--dryrun", "--uuid", "libvirt-"+uuid)
	c.Stdin = strings.NewReader(`<domain type='qemu'><name>vm1</name><uuid>` + uuid + `</uuid><memory unit='MiB'>64</memory>
<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking><os><type arch='x86_64' machine='q35'>hvm</type></os>
<devices><filesystem type='mount'><driver type='virtiofs'/><source socket='/run/causeway/virtiofs/docs/sock'/><target dir='docs'/></filesystem></devices></domain>`)
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.Contains(string(out), "/vm1.log") {
		t.Errorf("no rules at all:\n%s", out)
	}
	if strings.Contains(string(out), "causeway") {
		t.Errorf("libvirt allows the socket by itself, so that packaging/apparmor-libvirt-qemu is needless:\n%s", out)
	}
}
