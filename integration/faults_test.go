package integration

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/integration/lab"
)

// TestCommandLineRefusals sees the same refusals as a person does.
func TestCommandLineRefusals(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 6*time.Minute)
	w.share(t, "docs")
	n := w.started(ctx, t, lab.AgentOptions{})
	must := func(args ...string) {
		t.Helper()
		if _, err := n.Must(ctx, args...); err != nil {
			t.Fatal(err)
		}
	}
	must("network", "create", "blue", "--bridge", "br-blue", "--address", gateway4+"/24")
	must("export", "create", "good", "--network", "blue", "--source", "local:docs", "--allow", "10.77.0.0/24=rw")
	attach := []string{"attachment", "create", "bad", "--source", "local:docs"}
	export := []string{"export", "create", "bad", "--network", "blue", "--source"}
	host := n.state(ctx)
	for _, c := range []struct {
		args   []string
		code   int
		advice string
	}{
		{append(attach, "--instance", "nobody", "--tag", "t"), 3, "virsh list"},
		{append(attach, "--instance", "vm1", "--tag", ""), 2, "set it"},
		{append(attach, "--instance", "vm1", "--tag", strings.Repeat("t", 37)), 2, "use 1 to 36 bytes"},
		{append(export, "local:../docs"), 2, "correct it"},
		{append(export, "local:missing"), 3, "create it, or correct the source"},
		{append(export, "docs"), 2, "local:docs"},
		{append(export, "local:docs", "--allow", "everybody"), 2, "CLIENT"},
		{append(export, "local:docs", "--allow", "10.77.0.0/24=rx"), 2, "ro"},
		{append(export, "local:docs", "--allow", "10.77.0.1/24=rw"), 2, "did you mean"},
		{[]string{"export", "create", "a\";}", "--network", "blue", "--source", "local:docs"}, 2, "use 1 to 63"},
		{[]string{"export", "create", strings.Repeat("a", 10000), "--network", "blue", "--source", "local:docs"}, 2, "shorten it"},
		{[]string{"export", "create", "good", "--network", "blue", "--source", "local:docs", "--read-only"}, 4, "delete it first"},
		{[]string{"export", "show", "nothing"}, 3, "list"},
		{[]string{"network", "create", "bad", "--bridge", "br-none", "--address", "10.77.0.3/24"}, 4, "create it, or name another"},
		{[]string{"network", "create", "bad", "--bridge", "br-blue", "--address", "10.77.0.3"}, 2, "10.77.0.2/24"},
		{[]string{"network", "create", "bad", "--bridge", "br-blue", "--address", client4 + "/24"}, 4, "choose another"},
		{[]string{"network", "delete", "blue"}, 4, "delete them first"},
	} {
		t.Run(short(strings.Join(c.args[:3], " ")), func(t *testing.T) {
			r, err := n.CLI(ctx, c.args...)
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(strings.TrimSpace(r.Stderr), "\n")
			if r.Code != c.code || !strings.Contains(lines[len(lines)-1], c.advice) || r.Stdout != "" {
				t.Errorf("causeway %.100q: exit code %d, want %d; it says %q and %q, want the advice %q", c.args, r.Code, c.code, r.Stdout, r.Stderr, c.advice)
			}
			n.within(t).unchanged(ctx, host)
		})
	}
	must("export", "delete", "good")
	must("network", "delete", "blue")
	n.finish(ctx)
}

// TestStrangeNamesThatAreLegal uses a share and a tag full of other people's
// syntax.
func TestStrangeNamesThatAreLegal(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 6*time.Minute)
	name := `it's "a";{b}%s $(c) <d>&шара#`
	w.share(t, name)
	n := w.started(ctx, t, lab.AgentOptions{})
	n.putNetwork(ctx, blueNetwork())
	n.putExport(ctx, exported("strange", name))
	c := dial(ctx, t, n.client, gateway4)
	if data, err := c.ReadFile(ctx, "/strange/hello"); err != nil || string(data) != "from "+name+"\n" {
		t.Errorf("by NFS: %q, %v", data, err)
	}
	closeClient(ctx, t, c)
	a := attached("strange", name)
	// No #: with one, the guest's busybox would look for a mount helper.
	a.Tag, a.MountAt = `a'"b;{c}<d>&%s$(e)\`, `/mnt/it's "a";$(b) шара`
	if got := n.attach(ctx, a); got.GetGuest() != nodev1.GuestState_GUEST_STATE_MOUNTED {
		t.Errorf("attachment is %v", got)
	}
	out, err := n.guest.Exec(ctx, "cat", a.GetMountAt()+"/hello")
	if n.must(err); out != "from "+name+"\n" {
		t.Errorf("by virtiofs: %q", out)
	}
	n.detach(ctx, "strange")
	n.deleteExport(ctx, "strange")
	n.deleteNetwork(ctx, "blue")
	n.finish(ctx)
}

// TestShareDeletedUnderItsUsers removes a share at the backend.
func TestShareDeletedUnderItsUsers(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 6*time.Minute)
	dir := w.share(t, "docs")
	n := w.started(ctx, t, lab.AgentOptions{Resync: 2 * time.Second})
	n.putNetwork(ctx, blueNetwork())
	n.putExport(ctx, exported("docs", "docs"))
	n.attach(ctx, docsVM1())
	n.must(os.RemoveAll(dir))
	until(ctx, t, "nobody says that the share is gone", func() (bool, error) {
		a, err := n.attachments.Get(ctx, &nodev1.GetAttachmentRequest{Id: "docs-vm1"})
		e, err2 := n.exports.Get(ctx, &nodev1.GetExportRequest{Id: "docs"})
		gone := func(s *nodev1.Status) bool {
			return s.GetPhase() == nodev1.Phase_PHASE_DEGRADED && s.GetReason() == "share_gone"
		}
		return gone(a.GetAttachment().GetStatus()) && gone(e.GetExport().GetStatus()), errors.Join(err, err2)
	})
	n.detach(ctx, "docs-vm1")
	n.deleteExport(ctx, "docs")
	n.deleteNetwork(ctx, "blue")
	n.finish(ctx)
}

// TestLedgerFull fills the file system of the state directory.
func TestLedgerFull(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 6*time.Minute)
	w.share(t, "docs")
	n := w.node(ctx, t, lab.AgentOptions{})
	n.must(syscall.Mount("tmpfs", n.StateDir, "tmpfs", 0, "size=256k"))
	t.Cleanup(func() {
		if err := syscall.Unmount(n.StateDir, 0); err != nil {
			t.Error(err)
		}
	})
	n.start(ctx)
	n.putNetwork(ctx, blueNetwork())
	host := n.state(ctx)
	filler := filepath.Join(n.StateDir, "filler")
	fill(t, filler)
	full := refusal{codes.ResourceExhausted, "ledger_full"}
	n.refuse(ctx, []badCall{
		{"network", bridged("red", "br-blue", "10.77.0.3/24"), full, "free some space and repeat the call"},
		{"export", exported("docs", "docs"), full, "free some space and repeat the call"},
		{"attachment", docsVM1(), full, "free some space and repeat the call"},
	})
	n.unchanged(ctx, host)
	n.must(os.Remove(filler))
	n.putExport(ctx, exported("docs", "docs"))
	n.attach(ctx, docsVM1())
	n.detach(ctx, "docs-vm1")
	n.deleteExport(ctx, "docs")
	n.deleteNetwork(ctx, "blue")
	n.finish(ctx)
}

func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
}

// TestDamagedLedger spoils one file. Its object is lost and named, what it may
// own is left alone, and the rest works.
func TestDamagedLedger(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 6*time.Minute)
	w.share(t, "docs")
	w.share(t, "music")
	n := w.started(ctx, t, lab.AgentOptions{})
	n.putNetwork(ctx, blueNetwork())
	n.putExport(ctx, exported("docs", "docs"))
	n.putExport(ctx, exported("music", "music"))
	host := n.state(ctx)
	n.kill()
	record := filepath.Join(n.StateDir, "ledger", "export", "docs.json")
	good, err := os.ReadFile(record)
	n.must(err)
	n.must(os.WriteFile(record, good[:len(good)/2], 0o600))
	n.start(ctx)
	n.unchanged(ctx, host)
	r, err := n.nodes.Get(ctx, &nodev1.GetNodeRequest{})
	n.must(err)
	if !slices.ContainsFunc(r.GetDamagedRecords(), func(s string) bool { return strings.Contains(s, "docs.json") }) {
		t.Errorf("node names the damaged records %q, want docs.json", r.GetDamagedRecords())
	}
	c := dial(ctx, t, n.client, gateway4)
	for _, path := range []string{"/docs/hello", "/music/hello"} {
		if _, err := c.ReadFile(ctx, path); err != nil {
			t.Error(err)
		}
	}
	damaged := refusal{codes.FailedPrecondition, "record_damaged"}
	n.refuse(ctx, []badCall{
		{"the damaged export", exported("docs", "docs"), damaged, "restart the agent"},
		{"another export", exported("more", "docs"), damaged, "restart the agent"},
	})
	changed := exported("music", "music")
	changed.Rules = changed.Rules[:1]
	n.putExport(ctx, changed)
	n.attach(ctx, attached("docs-vm1", "docs"))
	n.detach(ctx, "docs-vm1")
	if _, err := c.ReadFile(ctx, "/docs/hello"); err != nil {
		t.Error(err)
	}
	closeClient(ctx, t, c)

	n.must(n.Stop())
	n.must(os.WriteFile(record, good, 0o600))
	n.start(ctx)
	n.deleteExport(ctx, "docs")
	n.deleteExport(ctx, "music")
	n.deleteNetwork(ctx, "blue")
	n.finish(ctx)
}

// TestCallerWithoutRights has another user call.
func TestCallerWithoutRights(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 6*time.Minute)
	n := w.started(ctx, t, lab.AgentOptions{})
	program := filepath.Join(n.RunDir, "..", "causeway-cli")
	data, err := os.ReadFile(n.Programs.CLI)
	n.must(err)
	n.must(os.WriteFile(program, data, 0o755))
	t.Cleanup(func() { _ = os.Remove(program) })
	asNobody := func(args ...string) (code int, says string) {
		cmd := exec.CommandContext(ctx, program, append([]string{"--socket", n.Socket}, args...)...)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return cmd.ProcessState.ExitCode(), string(out)
	}
	for _, mode := range []fs.FileMode{0o660, 0o666} {
		n.must(os.Chmod(n.Socket, mode))
		for _, args := range [][]string{
			{"network", "create", "blue", "--bridge", "br-blue", "--address", gateway4 + "/24"},
			{"network", "list"}, {"node", "show"}, {"network", "watch"},
		} {
			if code, says := asNobody(args...); code != 6 {
				t.Errorf("socket of mode %v: %q: exit code %d, want 6: %s", mode, args, code, says)
			}
		}
		n.unchanged(ctx, n.before)
	}
	n.finish(ctx)
}
