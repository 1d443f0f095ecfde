// Package packaging holds what a distribution's package puts on a host; its
// tests hold the files against what they must not do.
package packaging

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/causeway-project/causeway/integration/needs"
)

const service = "causeway-agent.service"

// options of a unit, by section and key; a key may come more than once.
func options(t *testing.T, name string) map[string][]string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{}
	section := ""
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		switch {
		case line == "", strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "["):
			section = strings.Trim(line, "[]")
		default:
			key, value, ok := strings.Cut(line, "=")
			if !ok || section == "" {
				t.Fatalf("%s: line %q is no assignment in a section", name, line)
			}
			all[section+"."+key] = append(all[section+"."+key], value)
		}
	}
	return all
}

// namespacing are the options of systemd.exec(5) that give a unit a mount
// namespace of its own, in systemd 252 to 258.
func namespacing() []string {
	return []string{
		"BindPaths", "BindReadOnlyPaths", "DynamicUser", "ExecPaths", "ExtensionDirectories", "ExtensionImages",
		"ImportCredential", "InaccessiblePaths", "IPCNamespacePath", "LoadCredential", "LoadCredentialEncrypted", "LogNamespace",
		"MountAPIVFS", "MountFlags", "MountImages", "NoExecPaths", "PAMName", "PrivateBPF", "PrivateDevices", "PrivateIPC", "PrivateMounts",
		"PrivateNetwork", "PrivatePIDs", "PrivateTmp", "PrivateUsers", "ProcSubset", "ProtectControlGroups", "ProtectHome",
		"ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables", "ProtectProc",
		"ProtectSystem", "ReadOnlyPaths", "ReadWritePaths", "RootDirectory", "RootEphemeral", "RootImage", "RootMStack",
		"SetCredential", "SetCredentialEncrypted", "TemporaryFileSystem", "JoinsNamespaceOf", "NetworkNamespacePath",
	}
}

func TestServiceSharesTheHostsMounts(t *testing.T) {
	all := options(t, service)
	for _, key := range namespacing() {
		if v, there := all["Service."+key]; there {
			t.Errorf("%s=%s gives the agent mounts that the host does not see", key, v)
		}
		if v, there := all["Unit."+key]; there {
			t.Errorf("%s=%s gives the agent another unit's mounts", key, v)
		}
	}
	for _, key := range []string{"RestrictSUIDSGID", "RestrictNamespaces", "SystemCallFilter", "MemoryDenyWriteExecute"} {
		if v, there := all["Service."+key]; there {
			t.Errorf("%s=%s is inherited by the file servers, which need what it forbids", key, v)
		}
	}
}

func TestServiceLeavesTheDataPathAlone(t *testing.T) {
	all := options(t, service)
	for key, want := range map[string]string{
		"Service.Type":                     "notify",
		"Service.NotifyAccess":             "main",
		"Service.Restart":                  "always",
		"Service.RestartPreventExitStatus": "78",
		"Service.KillMode":                 "process",
		"Service.OOMPolicy":                "continue",
		"Service.RuntimeDirectory":         "causeway",
		"Service.RuntimeDirectoryPreserve": "yes",
		"Service.StateDirectory":           "causeway",
		"Service.NoNewPrivileges":          "yes",
		"Service.TasksMax":                 "infinity",
		"Unit.StartLimitIntervalSec":       "0",
	} {
		if got := all[key]; !slices.Equal(got, []string{want}) {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	for _, key := range []string{"MemoryMax", "MemoryHigh", "PIDFile", "User"} {
		if v, there := all["Service."+key]; there {
			t.Errorf("%s=%s would bind every file server of the host", key, v)
		}
	}
	if len(all["Service.WatchdogSec"]) != 1 {
		t.Error("no watchdog")
	}
}

// TestUnitsParse asks systemd itself. It wants the program to be there, so a
// copy of the unit names another one.
func TestUnitsParse(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	needs.Met(t, err)
	dir := t.TempDir()
	for _, name := range []string{service, "causeway-agent.socket"} {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		data = bytes.ReplaceAll(data, []byte("/usr/sbin/causeway-agent"), []byte("/bin/true"))
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", "--recursive-errors=no",
		filepath.Join(dir, service), filepath.Join(dir, "causeway-agent.socket"))
	cmd.Env = append(os.Environ(), "SYSTEMD_LOG_LEVEL=warning")
	said, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	// verify speaks of other units of this machine too.
	for line := range strings.Lines(string(said)) {
		if strings.Contains(line, "causeway") {
			t.Errorf("systemd-analyze: %s", line)
		}
	}
	if err != nil && !t.Failed() {
		t.Errorf("systemd-analyze: %v\n%s", err, said)
	}
}

func TestEveryPathIsMadeOnce(t *testing.T) {
	for _, name := range []string{"causeway.sysusers", "causeway.tmpfiles"} {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for line := range strings.Lines(string(data)) {
			fields := strings.Fields(line)
			if len(fields) == 0 || fields[0] == "#" {
				continue
			}
			if len(fields) < 3 || seen[fields[1]] {
				t.Errorf("%s: line %q", name, line)
			}
			seen[fields[1]] = true
		}
	}
}

// The kernel takes the three thresholds as they are, and makes little sense of
// them in another order.
func TestNeighbourThresholdsGrow(t *testing.T) {
	data, err := os.ReadFile("causeway.sysctl")
	if err != nil {
		t.Fatal(err)
	}
	last := map[string]int{}
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		var family string
		var which, value int
		if _, err := fmt.Sscanf(strings.ReplaceAll(line, ".", " "), "net %4s neigh default gc_thresh%d = %d", &family, &which, &value); err != nil || value <= last[family] {
			t.Errorf("line %q: %v", line, err)
		}
		last[family] = value
	}
	if last["ipv4"] == 0 || last["ipv4"] != last["ipv6"] {
		t.Errorf("the tables are of %v, want one size for both", last)
	}
}

// TestHook runs the hook as libvirt does, of which nothing comes back but an
// exit code: what it prints would be another domain.
func TestHook(t *testing.T) {
	info, err := os.Stat("libvirt-hook")
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm()&0o111 != 0o111 {
		t.Errorf("its mode is %v: libvirt passes over what is not executable", info.Mode())
	}
	data, err := os.ReadFile("libvirt-hook")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "causeway")
	if err := os.WriteFile(program, []byte("#!/bin/sh\nfor a; do echo \"[$a]\" >&2; done\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(t.TempDir(), "hook")
	if err := os.WriteFile(script, bytes.ReplaceAll(data, []byte("/usr/bin/causeway"), []byte(program)), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), script, "--vm 1", "prepare", "begin", "-")
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil || out.Len() > 0 {
		t.Errorf("%v, it prints %q", err, &out)
	}
	if want := "[libvirt-hook]\n[--]\n[--vm 1]\n[prepare]\n[begin]\n[-]\n"; !strings.HasSuffix(said.String(), want) {
		t.Errorf("it runs %q, want %q at the end", &said, want)
	}
}
