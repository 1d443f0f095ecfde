package main

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
)

const startingDomain = `<domain type='kvm' id='-1'><name>vm1</name><uuid>u-1</uuid><devices>
<filesystem type='mount'><driver type='virtiofs'/><source socket='/run/causeway/virtiofs/a/sock'/><target dir='a'/><alias name='ua-cw-a'/></filesystem>
</devices></domain>`

func TestLibvirtHook(t *testing.T) {
	refused := agentError(codes.NotFound, "share_not_found", "the share is gone: 'causeway attachment delete a'")
	for _, c := range []struct {
		name, args, input string
		err               error
		asked, says       string
		code              int
	}{
		{name: "start", args: "vm1 prepare begin -", input: startingDomain, asked: "prepare-start"},
		{name: "refused", args: "vm1 prepare begin -", input: startingDomain, err: refused, asked: "prepare-start", says: "'causeway attachment delete a'", code: exitNotFound},
		{name: "none of ours", args: "vm1 prepare begin -", input: strings.ReplaceAll(startingDomain, "ua-cw-a", "ua-b")},
		{name: "no XML", args: "vm1 prepare begin -", input: "nonsense", says: "parse domain XML"},
		{name: "no arguments"},
		{name: "reconnect", args: "vm1 reconnect begin -", input: startingDomain},
		{name: "release", args: "vm1 release end -", input: startingDomain},
		{name: "an instance like a flag", args: "--help prepare begin -", input: startingDomain, asked: "prepare-start"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFakeAgent()
			f.err = c.err
			socket := "/none"
			if c.asked != "" {
				socket = f.serve(t)
			}
			got := runCLI(t.Context(), socket, c.input, append([]string{"libvirt-hook", "--"}, strings.Fields(c.args)...)...)
			if got.code != c.code || got.out != "" || !strings.Contains(got.err, c.says) || (c.says == "") != (got.err == "") {
				t.Errorf("exit %d, %q, %q, want %d and %q", got.code, got.out, got.err, c.code, c.says)
			}
			if asked := strings.Join(f.asked, "\n"); !strings.HasPrefix(asked, c.asked) || (asked == "") != (c.asked == "") {
				t.Errorf("asked for %q, want %q", asked, c.asked)
			}
		})
	}
}

// TestLibvirtHookWithoutAgent: it says how to start the instance all the same.
func TestLibvirtHookWithoutAgent(t *testing.T) {
	args := []string{"--timeout", "200ms", "libvirt-hook", "--", "vm1", "prepare", "begin", "-"}
	got := runCLI(t.Context(), t.TempDir()+"/none", startingDomain, args...)
	if got.code != exitTryAgain || !strings.Contains(got.err, "systemctl start causeway-agent") || !strings.Contains(got.err, "/run/causeway/virtiofs/a/sock") {
		t.Errorf("exit %d, %q", got.code, got.err)
	}
}
