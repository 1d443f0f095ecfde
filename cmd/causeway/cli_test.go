package main

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"

	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/integration/golden"
)

func TestOutputs(t *testing.T) {
	f := newFakeAgent()
	socket := f.serve(t)
	for name, args := range map[string]string{
		"attachment-list":      "attachment list",
		"attachment-list-none": "attachment list --instance vm9",
		"attachment-show":      "attachments show docs-vm1",
		"attachment-hostile":   "attachment show hostile",
		"network-list":         "network list",
		"network-show":         "network show blue",
		"export-list":          "export list --network blue",
		"export-show":          "export show docs",
		"rule-list":            "rule list docs",
		"rule-show":            "rule show docs r-1a2b3c4d5e",
		"gateway-list":         "gateway list",
		"gateway-show":         "gateway show blue",
		"mount-list":           "mount list",
		"mount-show":           "mount show cw-m1",
		"node-show":            "node show",
		"node-preflight":       "node preflight",
		"attachment-preflight": "attachment preflight --instance vm1 --source local:docs",
	} {
		for _, format := range outputs() {
			got := runCLI(t.Context(), socket, "", append(strings.Fields(args), "-o", format)...)
			if got.code != exitOK || got.err != "" {
				t.Errorf("%s -o %s: exit %d, %q", args, format, got.code, got.err)
			}
			golden.Check(t, name+"."+format, got.out)
			if strings.ContainsFunc(got.out, rawInJSON) {
				t.Errorf("%s -o %s prints what a terminal may act on: %q", args, format, got.out)
			}
			if format == "json" && !json.Valid([]byte(got.out)) {
				t.Errorf("%s: not JSON: %s", args, got.out)
			}
		}
	}
}

func TestGuestSetup(t *testing.T) {
	f := newFakeAgent()
	socket := f.serve(t)
	for _, args := range []string{"attachment show docs-vm1 --guest-setup", "attachment list --instance vm1 --guest-setup"} {
		got := runCLI(t.Context(), socket, "", strings.Fields(args)...)
		if got.code != exitOK || got.err != "" || !strings.HasPrefix(got.out, "#cloud-config\n") || !strings.Contains(got.out, "What=docs\n") {
			t.Errorf("%s: exit %d, %q\n%s", args, got.code, got.err, got.out)
		}
	}
}

func TestJSONIsTheProtos(t *testing.T) {
	f := newFakeAgent()
	socket := f.serve(t)
	for _, want := range f.attachments {
		got := runCLI(t.Context(), socket, "", "attachment", "show", want.GetId(), "-o", "json")
		var back nodev1.Attachment
		if err := protojson.Unmarshal([]byte(got.out), &back); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(want, &back) {
			t.Errorf("%s came back as %v", want, &back)
		}
		for _, r := range got.out {
			if r != '\n' && unprintable(r) {
				t.Errorf("JSON has a raw %U", r)
			}
		}
	}
}

// What is sent, for the examples and for every flag.
// The commands of docs/gateways.md are taken as they stand; what a shell puts
// in for $(...) is a word.
func TestGatewaysDocument(t *testing.T) {
	page, err := os.ReadFile("../../docs/gateways.md")
	if err != nil {
		t.Fatal(err)
	}
	socket := newFakeAgent().serve(t)
	inner := regexp.MustCompile(`"\$\([^)]*\)"`)
	commands := 0
	for _, line := range strings.Split(string(page), "\n") {
		words, ok := strings.CutPrefix(line, "causeway ")
		if !ok {
			continue
		}
		commands++
		args := strings.Fields(inner.ReplaceAllString(words, "word"))
		if strings.HasPrefix(words, "gateway top") { // it goes on until interrupted
			args = append(args, "--rounds", "1", "--interval", "100ms")
		}
		got := runCLI(t.Context(), socket, "", args...)
		if got.code != exitOK || got.err != "" {
			t.Errorf("%s: exit %d, %q", line, got.code, got.err)
		}
	}
	if commands < 8 {
		t.Errorf("%d commands found", commands)
	}
}

func TestRequests(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := newFakeAgent()
	socket := f.serve(t)
	var all bytes.Buffer
	for _, args := range []string{
		"network create blue --bridge br-blue --address 10.77.0.2/24 --address fd77::2/64",
		"network create blue --bridge br-blue --address 10.77.0.2/24 --route 0.0.0.0/0=10.77.0.1 --route ::/0=fd77::1 --mtu 1400 --mac 02:00:00:00:00:01",
		"network create blue --bridge br-blue --vlan 100 --address 10.77.0.2/24",
		"network create blue --vlan-device eth1 --vlan 100 --address 10.77.0.2/24",
		"network create blue --vxlan 42 --vxlan-device eth1 --vxlan-local 192.0.2.1 --vxlan-peer 192.0.2.2 --vxlan-peer 192.0.2.3 --vxlan-port 8472 --address 10.77.0.2/24",
		"network create blue --macvlan eth1 --address 10.77.0.2/24",
		"network create blue --bridge br-blue --address 10.77.0.2/24 --nfs-version 3 --nfs-version 4.2",
		"network create blue --ovs br-int --iface-id port-1 --vlan 7 --address 10.77.0.2/24",
		"network create blue --namespace cni-1 --interface eth0 --address 10.77.0.2/24",
		"export create docs --network blue --source local:docs --allow 10.77.0.0/24=rw",
		"export create docs --network blue --source local:a:b --option pool=fast --option k=v=w --allow 10.77.0.7=rw,squash=none --allow fd77::/64=ro,squash=all,uid=0,gid=100 --allow ::1=rw,squash=root_id --pseudo /x --read-only",
		"attachment create docs-vm1 --instance vm1 --source local:docs --tag docs --mount-at /mnt/docs",
		"attachment create docs-vm1 --instance vm1 --source cephfs:v/docs --tag docs --read-only --secret-file " + secret,
		"attachment create docs-vm1 --instance vm1 --source cephfs:v/docs --tag docs --secret-file -",
		"attachment create docs-vm1 --instance vm1 --source local:docs --tag docs --cache never --xattr --posix-acl=false --locks shared --queue-size 256 --threads 4 --memory 1G --open-files 64K --ids squash=1000:100 --force",
		"attachment create docs-vm1 --instance vm1 --source local:docs --tag docs --ids map=0:100000:65536 --ids map-gids=70000:5:1",
		"attachment create docs-vm1 --instance vm1 --source local:docs --tag docs --ids passthrough",
		"attachment delete docs-vm1 other",
		"attachment repair docs-vm1",
		"attachment move prepare docs-vm1 --instance 8c5b4ff3-6d52-4d4c-9bb1-000000000001 --source local:docs --tag docs --mount-at /mnt/docs --expires 30m",
		"attachment move release docs-vm1 --expires 2030-01-31T18:00:00Z",
		"attachment move finish docs-vm1",
		"attachment move rollback docs-vm1",
		"network update blue --address 10.77.0.3/24 --mtu 1400",
		"network update blue --bridge br-trunk --vlan 100 --no-routes",
		"network update blue --nfs-version 4.1",
		"network update red --route 0.0.0.0/0=10.77.0.1",
		"attachment delete docs-vm1 --force",
		"network delete blue",
		"export delete docs",
		"export create docs --network blue --source local:docs --allow ::/0=ro,everyone",
		"rule create docs --client 10.77.0.0/24 --level rw",
		"rule create docs --id audit --client 10.77.0.9 --level ro --squash all --uid 4711 --gid 0 --sec sys,krb5p --priority -5 --expires 2h --metadata ticket=7 --metadata by=a=b",
		"rule create docs --client ::/0 --everyone --level ro --squash none --expires 2030-01-31T18:00:00Z",
		"rule delete docs audit r-1",
		"rule recover docs",
	} {
		f.asked = nil
		got := runCLI(t.Context(), socket, "from stdin\n", strings.Fields(args)...)
		if got.code != exitOK || got.err != "" {
			t.Errorf("%s: exit %d, %q", args, got.code, got.err)
		}
		if strings.Contains(got.out, "hunter2") {
			t.Errorf("%s: prints the secret: %s", args, got.out)
		}
		all.WriteString("causeway " + strings.ReplaceAll(args, secret, "FILE") + "\n")
		for _, a := range f.asked {
			all.WriteString("  " + a + "\n")
		}
	}
	golden.Check(t, "requests.txt", all.String())
}

func TestUsage(t *testing.T) {
	socket := newFakeAgent().serve(t)
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const export = "export create e --network n --source local:docs --allow "
	var all strings.Builder
	for _, args := range []string{
		"frobnicate",
		"network frobnicate",
		"network create",
		"network create a b --bridge x --address y",
		"network create blue --address 10.0.0.1/24",
		"network update",
		"network update blue",
		"network update blue --vlan 5",
		"network update blue --vxlan-peer 192.0.2.3",
		"network update blue --route 0.0.0.0/0=10.77.0.1 --no-routes",
		"network create blue --bridge b --macvlan eth1 --address 10.0.0.1/24",
		"network create blue --macvlan eth1 --vlan 5 --address 10.0.0.1/24",
		"network create blue --vlan-device eth1 --address 10.0.0.1/24",
		"network create blue --vxlan 7 --vxlan-device eth1 --address 10.0.0.1/24",
		"network create blue --namespace cni-1 --address 10.0.0.1/24",
		"network create blue --bridge b --iface-id x --address 10.0.0.1/24",
		"network create blue --bridge b --address 10.0.0.1/24 --route 10.0.0.1",
		"network create blue --bridge b --address 10.0.0.1/24 --mtu big",
		"network show",
		"network list extra",
		"export create e --network n --source docs",
		"export create e --network n --source :docs",
		"export create e --network n --source local:docs --option novalue",
		"export create e --network n --source local:docs --option a=1 --option a=2",
		export + "10.0.0.0/24",
		export + "10.0.0.0/24=rwx",
		export + "=rw",
		export + "10.0.0.0/24=rw,squash=some",
		export + "10.0.0.0/24=rw,uid=-1",
		export + "10.0.0.0/24=rw,uid=1,uid=2",
		export + "10.0.0.0/24=rw,color=blue",
		"rule create --client 10.0.0.1 --level rw",
		"rule create docs --level rw",
		"rule create docs --client 10.0.0.1",
		"rule create docs --client 10.0.0.1 --level rw --no-wait",
		"rule create docs --client 10.0.0.1 --level rwx",
		"rule create docs --client 10.0.0.1 --level rw --squash some",
		"rule create docs --client 10.0.0.1 --level rw --sec unspecified",
		"rule create docs --client 10.0.0.1 --level rw --uid -1",
		"rule create docs --client 10.0.0.1 --level rw --priority high",
		"rule create docs --client 10.0.0.1 --level rw --expires tomorrow",
		"rule create docs --client 10.0.0.1 --level rw --metadata ticket",
		"rule create docs --client 10.0.0.1 --level rw --metadata a=1 --metadata a=2",
		"rule show docs",
		"rule list",
		"rule delete docs",
		"rule recover",
		"attachment create a --instance i --tag t --source local:docs --secret hunter2",
		"attachment create a --instance i --tag t --source local:docs --secret-file " + empty,
		"attachment create a --instance i --tag t --source local:docs --secret-file " + empty + ".none",
		"attachment create a --instance i --tag t --source local:docs --cache none",
		"attachment create a --instance i --tag t --source local:docs --locks LOCAL",
		"attachment create a --instance i --tag t --source local:docs --memory 0",
		"attachment create a --instance i --tag t --source local:docs --open-files 99999999999G",
		"attachment create a --instance i --tag t --source local:docs --ids squash=1000",
		"attachment create a --instance i --tag t --source local:docs --ids squash=root:root",
		"attachment create a --instance i --tag t --source local:docs --ids squash=1:1 --ids map=0:1:1",
		"attachment create a --instance i --tag t --source local:docs --ids map=0:1",
		"attachment create a --instance i --tag t --source local:docs --ids swap=0:1:2",
		"attachment delete",
		"node show -o xml",
		"node show --timeout 0s",
		"node show --socket agent.sock",
	} {
		got := runCLI(t.Context(), socket, "", strings.Fields(args)...)
		if got.code != exitUsage || got.out != "" {
			t.Errorf("%s: exit %d, printed %q, %q", args, got.code, got.out, got.err)
		}
		if lines := strings.Count(got.err, "\n"); !strings.HasPrefix(got.err, "causeway: ") || lines != 1 {
			t.Errorf("%s: %q", args, got.err)
		}
		all.WriteString(strings.ReplaceAll("$ causeway "+args+"\n"+got.err, empty, "FILE"))
	}
	golden.Check(t, "usage.txt", all.String())
}

func TestErrors(t *testing.T) {
	f := newFakeAgent()
	socket := f.serve(t)
	var all strings.Builder
	for _, c := range []struct {
		err  error
		exit int
		args string
	}{
		{agentError(codes.InvalidArgument, "bad_tag", "tag \x1b[31m is not printable; choose another"), exitUsage, "attachment repair a"},
		{agentError(codes.NotFound, "unknown_id", "no attachment a; see the list"), exitNotFound, "attachment repair a"},
		{agentError(codes.AlreadyExists, "other_settings", "a has other settings; choose another id, or delete it first"), exitConflict, "attachment repair a"},
		{agentError(codes.FailedPrecondition, "instance_off", "instance vm1 is off; start it"), exitConflict, "attachment repair a"},
		{agentError(codes.Aborted, "mount_busy", "mount is busy; try again"), exitTryAgain, "attachment repair a"},
		{agentError(codes.Unavailable, "not_in_sync", "the agent is not in sync yet; try again"), exitTryAgain, "network list"},
		{agentError(codes.DeadlineExceeded, "deadline", "waits for the guest; repeat the call"), exitTryAgain, "attachment repair a"},
		{agentError(codes.PermissionDenied, "caller_not_allowed", "user 7 may not; run as root"), exitNotAllowed, "node show"},
		{agentError(codes.ResourceExhausted, "export_ids_exhausted", "no export ids left; delete exports"), exitFailed, "attachment repair a"},
		{agentError(codes.Internal, "internal", "internal error, a bug: report it"), exitFailed, "node preflight"},
		{agentError(codes.DeadlineExceeded, "deadline", "waits for the bridge: repeat the call"), exitTryAgain, "network create blue --bridge b --address 10.0.0.1/24"},
		{status.Error(codes.DeadlineExceeded, "context deadline exceeded"), exitTryAgain, "network create blue --bridge b --address 10.0.0.1/24"},
		{status.Error(codes.DeadlineExceeded, "context deadline exceeded"), exitTryAgain, "network list"},
		{status.Error(codes.Unavailable, "error reading from server: EOF"), exitTryAgain, "export list"},
		{status.Error(codes.Unimplemented, "unknown method"), exitFailed, "mount list"},
		{status.Error(codes.Unknown, "what?"), exitFailed, "gateway list"},
	} {
		f.err = c.err
		got := runCLI(t.Context(), socket, "", strings.Fields(c.args)...)
		if got.code != c.exit || got.out != "" {
			t.Errorf("%s after %v: exit %d, want %d, printed %q", c.args, c.err, got.code, c.exit, got.out)
		}
		all.WriteString("$ causeway " + c.args + "\n" + got.err)
	}
	f.err = nil
	for _, args := range []string{"mount show nothing", "network show nothing"} {
		got := runCLI(t.Context(), socket, "", strings.Fields(args)...)
		if got.code != exitNotFound {
			t.Errorf("%s: exit %d", args, got.code)
		}
		all.WriteString("$ causeway " + args + "\n" + got.err)
	}
	golden.Check(t, "errors.txt", all.String())
}

func TestPreflightThatFails(t *testing.T) {
	f := newFakeAgent()
	f.checks[1] = &nodev1.Check{Name: "virtiofsd", Verdict: nodev1.Verdict_VERDICT_FAIL, Message: "not found", Fix: "apt install virtiofsd"}
	got := runCLI(t.Context(), f.serve(t), "", "node", "preflight")
	if got.code != exitConflict {
		t.Errorf("exit %d", got.code)
	}
	golden.Check(t, "node-preflight-fails.txt", got.out+got.err)
	got = runCLI(t.Context(), f.serve(t), "", "attachment", "preflight", "--instance", "full", "--source", "local:docs", "--tag", "docs")
	if got.code != exitConflict {
		t.Errorf("exit %d", got.code)
	}
	golden.Check(t, "attachment-preflight-fails.txt", got.out+got.err)
}

func TestNobodyThere(t *testing.T) {
	dir, err := os.MkdirTemp("", "cw-cli-")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	socket := filepath.Join(dir, "s")
	for _, want := range []string{"does not exist; start it with 'systemctl start causeway-agent'", "no agent listens"} {
		got := runCLI(t.Context(), socket, "", "node", "show")
		if got.code != exitTryAgain || !strings.Contains(got.err, want) || !strings.Contains(got.err, socket) {
			t.Errorf("exit %d, %q, want %q", got.code, got.err, want)
		}
		// For the second turn: something that nobody listens at.
		if err := os.WriteFile(socket, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNoWait(t *testing.T) {
	f := newFakeAgent()
	f.slow = true
	socket := f.serve(t)
	create := func(id string) ran {
		return runCLI(t.Context(), socket, "", "export", "create", id, "--network", "blue", "--source", "local:docs", "--no-wait", "--timeout", "400ms")
	}
	if got := create("docs"); got.code != exitOK || !strings.Contains(got.out, "10.77.0.2:/docs") {
		t.Errorf("taken: %+v", got)
	}
	if got := create("lost"); got.code != exitNotFound {
		t.Errorf("not taken: %+v", got)
	}
	rule := func(id string) ran {
		return runCLI(t.Context(), socket, "", "rule", "create", "docs", "--id", id, "--client", "10.77.0.9", "--level", "ro", "--no-wait", "--timeout", "400ms")
	}
	if got := rule("audit"); got.code != exitOK || !strings.Contains(got.out, "audit") {
		t.Errorf("rule taken: %+v", got)
	}
	if got := rule("lost"); got.code != exitNotFound {
		t.Errorf("rule not taken: %+v", got)
	}
	got := runCLI(t.Context(), socket, "", "export", "create", "docs", "--network", "blue", "--source", "local:docs", "--timeout", "50ms")
	if got.code != exitTryAgain || !strings.Contains(got.err, "causeway export delete docs") {
		t.Errorf("waited: %+v", got)
	}
}

func TestInterrupted(t *testing.T) {
	f := newFakeAgent()
	f.slow = true
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	got := runCLI(ctx, f.serve(t), "", "export", "create", "docs", "--network", "blue", "--source", "local:docs")
	if got.code != exitInterrupted || !strings.Contains(got.err, "causeway export delete docs") {
		t.Errorf("%+v", got)
	}
}

// enough is a writer that calls a function at the n-th line.
type enough struct {
	bytes.Buffer
	left int
	call func()
}

func (e *enough) Write(p []byte) (int, error) {
	if e.left -= bytes.Count(p, []byte("\n")); e.left <= 0 {
		e.call()
	}
	return e.Buffer.Write(p)
}

func TestWatch(t *testing.T) {
	f := newFakeAgent()
	put := func(o *nodev1.WatchResponse) *nodev1.WatchResponse {
		o.Type = nodev1.WatchResponse_TYPE_PUT
		return o
	}
	drifted := proto.CloneOf(f.networks[0])
	drifted.Drift = &nodev1.Drift{Count: 1, At: timestamppb.New(noon()), What: []string{"link cw1 is down", "firewall: there is no table inet causeway\x1b"}}
	events := []*nodev1.WatchResponse{
		put(&nodev1.WatchResponse{Object: &nodev1.WatchResponse_Attachment{Attachment: f.attachments[0]}}),
		put(&nodev1.WatchResponse{Object: &nodev1.WatchResponse_Attachment{Attachment: f.attachments[1]}}),
		put(&nodev1.WatchResponse{Object: &nodev1.WatchResponse_Network{Network: f.networks[0]}}),
		{Type: nodev1.WatchResponse_TYPE_SYNCED},
		put(&nodev1.WatchResponse{Object: &nodev1.WatchResponse_Network{Network: drifted}}),
		put(&nodev1.WatchResponse{Object: &nodev1.WatchResponse_Network{Network: drifted}}),
		{Type: nodev1.WatchResponse_TYPE_DELETED, Object: &nodev1.WatchResponse_Export{Export: f.exports[0]}},
		{Type: nodev1.WatchResponse_TYPE_DELETED, Object: &nodev1.WatchResponse_Attachment{Attachment: f.attachments[0]}},
	}
	socket := f.serve(t)
	for _, c := range []struct {
		golden string
		args   string
		lines  int
	}{
		{"watch.txt", "watch", 7 + 1},
		{"watch-attachments.txt", "attachment watch docs-vm1", 2 + 1},
		{"watch.json", "watch -o json", 8 + 1},
		{"watch.yaml", "export watch -o yaml", 30},
	} {
		// Cut off once after an event, which is seen again.
		f.watching(nil, events[:1], events)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		out := &enough{left: c.lines, call: cancel}
		var errs bytes.Buffer
		w := &cli{in: strings.NewReader(""), out: out, errs: &errs, now: noon}
		if code := w.run(ctx, strings.Fields(c.args), "unix://"+socket); code != exitOK {
			t.Errorf("%s: exit %d, %s", c.args, code, &errs)
		}
		cancel()
		golden.Check(t, c.golden, out.String())
	}
	f.watching(agentError(codes.Unavailable, "shutting_down", "the agent stops; watch again"), nil)
	if got := runCLI(t.Context(), socket, "", "watch"); got.code != exitTryAgain || !strings.Contains(got.err, "watch again") {
		t.Errorf("%+v", got)
	}
}

func TestCompletion(t *testing.T) {
	f := newFakeAgent()
	f.attachments[1].Id = "x; reboot\n"
	socket := f.serve(t)
	for args, want := range map[string]string{
		"attachment show ":           "docs-vm1\n:4\n",
		"attachment show docs-vm1 ":  ":4\n",
		"attachment delete a ":       "docs-vm1\n:4\n",
		"export create e --network ": "blue\nred\n:4\n",
		"rule create docs --level ":  "rw\nro\n:4\n",
		"rule list ":                 "docs\n:4\n",
		"rule show docs ":            "r-1a2b3c4d5e\naudit\n:4\n",
		"rule show docs audit ":      ":4\n",
		"rule delete docs audit ":    "r-1a2b3c4d5e\naudit\n:4\n",
		"gateway show ":              "blue\nred\n:4\n",
		"mount show ":                "cw-m1\n:4\n",
		"node show -o ":              "table\njson\nyaml\n:4\n",
	} {
		words := strings.Split(args, " ")
		got := runCLI(t.Context(), socket, "", append([]string{"__complete"}, words...)...)
		if got.code != exitOK || got.out != want {
			t.Errorf("%q: exit %d, %q, want %q (%s)", args, got.code, got.out, want, got.err)
		}
	}
	got := runCLI(t.Context(), socket+".none", "", "__complete", "attachment", "show", "")
	if got.code != exitOK || got.out != ":4\n" {
		t.Errorf("without an agent: %+v", got)
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if got := runCLI(t.Context(), socket, "", "completion", shell); got.code != exitOK || len(got.out) < 1000 {
			t.Errorf("completion %s: exit %d, %d bytes", shell, got.code, len(got.out))
		}
	}
}

func TestHelpShowsEveryNoun(t *testing.T) {
	got := runCLI(t.Context(), "/none", "", "--help")
	for _, noun := range []string{"attachment", "network", "export", "rule", "gateway", "mount", "node", "watch", "completion"} {
		if !strings.Contains(got.out, "\n  "+noun+" ") {
			t.Errorf("help does not show %s:\n%s", noun, got.out)
		}
	}
	if got := runCLI(t.Context(), "/none", "", "network"); got.code != exitOK || !strings.Contains(got.out, "create") {
		t.Errorf("noun alone: %+v", got)
	}
}

func FuzzSafe(f *testing.F) {
	for _, s := range []string{"plain", "\x1b[31m", "\xff\x9b", "a\u202eb", "\U000e0041", "ü 漢", "7", "no", "a: b # c", " x\n\ty ", "\ufeff", "\u2028"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, r := range safe(s) {
			if !unicode.IsPrint(r) {
				t.Errorf("%q became %q, with %U", s, safe(s), r)
			}
		}
		data, err := json.Marshal(map[string]string{"k": s, "k" + s: "v"})
		if err != nil {
			t.Fatal(err)
		}
		var want map[string]string
		if err := json.Unmarshal(data, &want); err != nil {
			t.Fatal(err)
		}
		asYAML, err := toYAML(data)
		if err != nil {
			t.Fatalf("%q: %v", data, err)
		}
		for _, c := range []struct {
			what      string
			text      []byte
			unmarshal func([]byte, any) error
		}{
			{"JSON", escapeJSON(data), json.Unmarshal},
			{"YAML", asYAML, yaml.Unmarshal},
		} {
			var got map[string]string
			if err := c.unmarshal(c.text, &got); err != nil || !maps.Equal(got, want) {
				t.Errorf("%s %q means %q, want %q (%v)", c.what, c.text, got, want, err)
			}
			if bytes.ContainsFunc(c.text, rawInJSON) {
				t.Errorf("%s %q keeps something raw", c.what, c.text)
			}
		}
	})
}
