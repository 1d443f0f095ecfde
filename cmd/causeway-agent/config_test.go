package main

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestShippedConfigurationIsTheDefaults(t *testing.T) {
	data, err := os.ReadFile("../../packaging/agent.yaml")
	if err != nil {
		t.Fatal(err)
	}
	shipped, err := parseConfig("agent.yaml", data)
	if err != nil {
		t.Fatal(err)
	}
	bare, err := parseConfig("", nil)
	if err != nil {
		t.Fatal(err)
	}
	bare.Launcher = packagedLauncher                              // not the one beside this test's program
	shipped.Socket.AllowUIDs, shipped.Socket.AllowGIDs = nil, nil // [] there, to be seen
	if diff := cmp.Diff(bare, shipped); diff != "" {
		t.Errorf("shipped file (-defaults +shipped):\n%s", diff)
	}
	// And it must show every key.
	places := keys{name: "agent.yaml", lines: map[string]int{}}
	if err := places.read(parseNode(t, data), config{}); err != nil {
		t.Fatal(err)
	}
	for _, key := range everyKey() {
		if _, ok := places.lines[key]; !ok {
			t.Errorf("the shipped file does not show %s", key)
		}
	}
}

func TestConfigKeepsDefaultsBesideWhatIsSet(t *testing.T) {
	c, err := parseConfig("x", []byte(`
run_dir: /tmp/r
socket: {mode: 0600, allow_uids: [7]}
http:
log: {level: debug, format: json}
libvirt: {enabled: false, uri: ""}
local: {pools: {fast: /fast}}
gateway: {grace: 1m, limits: {memory: none, files: 8K}}
supervisor: direct
`))
	if err != nil {
		t.Fatal(err)
	}
	want := defaults()
	want.RunDir = "/tmp/r"
	want.Socket = socketConfig{Path: "/tmp/r/agent.sock", Mode: 0o600, Group: "causeway", AllowUIDs: []uint32{7}}
	want.Log = logConfig{Level: slog.LevelDebug, Format: "json"}
	want.Libvirt = libvirtConfig{}
	want.Local.Pools = map[string]string{"fast": "/fast"}
	want.Gateway.Grace = duration(time.Minute)
	want.Gateway.Limits = limitsConfig{Tasks: 512, Files: 8192}
	want.Supervisor = "direct"
	want.Launcher, want.Keeper = c.Launcher, c.Keeper
	if diff := cmp.Diff(want, c); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
	c, err = parseConfig("x", []byte("local: {pools: {}}\nsocket: {mode: \"0666\"}\n"))
	if err != nil || len(c.Local.Pools) != 0 || c.Socket.Mode != 0o666 {
		t.Errorf("pools %v, mode %s, %v", c.Local.Pools, c.Socket.Mode, err)
	}
}

func TestConfigErrorsNameKeyAndLine(t *testing.T) {
	for text, want := range map[string][]string{
		"stat_dir: /x\n":                                      {"a.yaml:1: stat_dir: unknown key; known here are call_timeout, gateway,"},
		"http:\n  adress: 127.0.0.1:1\n":                      {"a.yaml:2: http.adress: unknown key; known here are address, allow_non_loopback"},
		"# c\n\nx: 1\nhttp: {y: 2}\n":                         {"a.yaml:3: x: unknown key", "a.yaml:4: http.y: unknown key"},
		"http: 127.0.0.1:80\n":                                {"a.yaml:1: http wants keys of its own"},
		"- a\n":                                               {"a.yaml:1: the file wants keys of its own"},
		"resync: 60\n":                                        {"a.yaml", "line 1", `"60" is not a duration like 90s`},
		"socket:\n  mode: rw\n":                               {"a.yaml", "line 2", `"rw" is not a mode like 0660`},
		"socket:\n  mode: 01777\n":                            {"a.yaml:2: socket.mode: 1777 has bits"},
		"socket:\n  allow_uids: [root]\n":                     {"a.yaml", "line 2", "root"},
		"socket: {group: \"\"}\n":                             {"a.yaml:1: socket.group: is empty"},
		"state_dir: var/lib\nrun_dir: /run/\n":                {"a.yaml:1: state_dir:", "a.yaml:2: run_dir:", "clean absolute path"},
		"run_dir: /run/a-very-long-directory-name\n":          {"a.yaml:1: run_dir:", "longer than 29 bytes"},
		"log: {level: loud}\n":                                {"a.yaml", "loud"},
		"log:\n  format: xml\n":                               {`a.yaml:2: log.format: "xml" is neither text nor json`},
		"http:\n  address: 0.0.0.0:9477\n":                    {"a.yaml:2: http.address: 0.0.0.0 is not on loopback", "http.allow_non_loopback"},
		"http: {address: \"[::]:9477\"}\n":                    {"not on loopback"},
		"http: {address: localhost:9477}\n":                   {"numeric"},
		"libvirt: {uri: \"\"}\n":                              {"a.yaml:1: libvirt.uri"},
		"local:\n  pools:\n    p: ../x\n":                     {"a.yaml:3: local.pools.p:"},
		"gateway:\n  lease: 1500ms\n":                         {"a.yaml:2: gateway.lease: 1.5s is less than 2s", "whole seconds"},
		"gateway: {lease: 60s}\n":                             {"gateway.grace: 15s is shorter than the lease of 1m0s"},
		"call_timeout: 1ms\n":                                 {"a.yaml:1: call_timeout: 1ms is less than 1s"},
		"resync: 1s\nresync: 2s\n":                            {"a.yaml", "line 2", "resync"},
		"supervisor: upstart\n":                               {"a.yaml:1: supervisor: \"upstart\" is none of auto, direct and systemd"},
		"gateway: {limits: {memory: 10M}}\n":                  {"gateway.limits.memory: 10M is less than 64M"},
		"gateway: {limits: {tasks: 5}}\n":                     {"gateway.limits.tasks: 5 is less than 128"},
		"gateway: {limits: {files: 1K}}\n":                    {"gateway.limits.files: 1K is less than 4K"},
		"gateway: {limits: {files: none}}\n":                  {"gateway.limits.files: none is more than"},
		"ovs: {command: bin/ovs-vsctl}\n":                     {"a.yaml:1: ovs.command: \"bin/ovs-vsctl\" is neither the name of a program nor an absolute path"},
		"ovs: {database: /run/openvswitch/db.sock}\n":         {"ovs.database: \"/run/openvswitch/db.sock\" is not like unix:/run/openvswitch/db.sock"},
		"virtiofsd: {limits: {memory: 1.5G}}\n":               {"line 1: \"1.5G\" is not an amount like 512, 64K or 1G, nor none"},
		"virtiofsd: {limits: {memory: 0}}\n":                  {"\"0\" is not an amount"},
		"virtiofsd: {limits: {memory: -1}}\n":                 {"\"-1\" is not an amount"},
		"virtiofsd: {limits: {memory: 99999999999G}}\n":       {"is not an amount"},
		"virtiofsd: {limits: {tasks: many}}\n":                {"\"many\" is not an amount"},
		"a: [\n":                                              {"a.yaml", "line"},
		"socket: {path: /" + strings.Repeat("x", 110) + "}\n": {"too long for a unix socket"},
	} {
		_, err := parseConfig("a.yaml", []byte(text))
		if err == nil {
			t.Errorf("%q passes", text)
			continue
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%q: error %q does not have %q", text, err, w)
			}
		}
	}
	if _, err := parseConfig("x", []byte("http: {address: 0.0.0.0:1, allow_non_loopback: true}")); err != nil {
		t.Error(err)
	}
}

func TestCommandLine(t *testing.T) {
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "good.yaml"), filepath.Join(dir, "bad.yaml")
	for path, text := range map[string]string{good: "resync: 30s\n", bad: "resinc: 30s\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		args     []string
		code     int
		out, err string
	}{
		{[]string{"--version"}, exitOK, "causeway-agent ", ""},
		{[]string{"--check-config", "--config", good}, exitOK, "configuration is good", ""},
		{[]string{"--check-config", "--config", bad}, exitConfig, "", bad + ":1: resinc: unknown key"},
		{[]string{"--config", bad}, exitConfig, "", "unknown key"},
		{[]string{"--config", filepath.Join(dir, "none")}, exitConfig, "", "no such file"},
		{[]string{"--bogus"}, exitUsage, "", "bogus"},
		{[]string{"start"}, exitUsage, "", `argument "start"`},
		{[]string{"--help"}, exitOK, "", "-check-config"},
	} {
		var out, errs bytes.Buffer
		if code := run(t.Context(), c.args, &out, &errs); code != c.code {
			t.Errorf("%q: exit %d, want %d", c.args, code, c.code)
		}
		if !strings.Contains(out.String(), c.out) || !strings.Contains(errs.String(), c.err) {
			t.Errorf("%q printed %q and %q", c.args, &out, &errs)
		}
	}
}
