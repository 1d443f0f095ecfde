package integration

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-project/causeway/integration/lab"
)

// A systemdHost is a host whose process 1 is systemd, with the agent installed
// as the packages do it.
type systemdHost struct {
	*lab.Systemd
	t *testing.T
}

// The units of the test's network.
const (
	agentUnit   = "causeway-agent.service"
	gatewayUnit = "causeway-gateway-my-net_1.service"
	busUnit     = "causeway-bus-my-net_1.service"
	rpcbindUnit = "causeway-rpcbind-my-net_1.service"
	statdUnit   = "causeway-statd-my-net_1.service"
)

func (w *world) systemdHost(ctx context.Context, t *testing.T) *systemdHost {
	t.Helper()
	s, err := lab.StartSystemd(ctx)
	if err != nil {
		t.Fatal(err)
	}
	h := &systemdHost{Systemd: s, t: t}
	t.Cleanup(func() {
		if t.Failed() {
			out, err := h.Run(context.WithoutCancel(ctx), "journalctl", "-b", "--no-pager", "-n", "60", "-u", "causeway-*")
			t.Log(out, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	programs := filepath.Dir(w.programs.Agent)
	h.install("/usr/sbin/causeway-agent", w.programs.Agent, 0o755)
	h.install("/usr/libexec/causeway/causeway-launch", w.programs.Launch, 0o755)
	h.install("/usr/libexec/causeway/causeway-keeper", w.programs.Keep, 0o755)
	h.install("/usr/libexec/causeway/causeway-preload.so", filepath.Join(programs, "causeway-preload.so"), 0o644)
	h.install("/etc/systemd/system/"+agentUnit, "../packaging/"+agentUnit, 0o644)
	h.configure(w, "")
	h.must("systemctl", "daemon-reload")
	return h
}

func (h *systemdHost) install(to, from string, mode os.FileMode) {
	h.t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		h.t.Fatal(err)
	}
	h.write(to, data, mode)
}

func (h *systemdHost) write(to string, data []byte, mode os.FileMode) {
	h.t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(h.Path(to)), 0o755), os.WriteFile(h.Path(to), data, mode)); err != nil {
		h.t.Fatal(err)
	}
}

// configure the agent; more is added to the file.
func (h *systemdHost) configure(w *world, more string) {
	h.t.Helper()
	h.write("/etc/causeway/agent.yaml", fmt.Appendf(nil, `
socket: {group: root}
http: {address: ""}
libvirt: {enabled: false}
local: {pools: {default: %s}}
gateway: {lease: 4s, grace: 6s, limits: {memory: 300M, tasks: 300, files: 5000}}
%s`, w.pool.Dir, more), 0o644)
}

func (h *systemdHost) must(argv ...string) string {
	h.t.Helper()
	out, err := h.Run(h.t.Context(), argv...)
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

// causeway runs the command line.
func (h *systemdHost) causeway(w *world, args ...string) string {
	h.t.Helper()
	return h.must(append([]string{w.programs.CLI}, args...)...)
}

// show properties of a unit.
func (h *systemdHost) show(unit string, properties ...string) map[string]string {
	h.t.Helper()
	m := map[string]string{}
	for line := range strings.Lines(h.must("systemctl", "show", "-p", strings.Join(properties, ","), unit)) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		m[k] = v
	}
	return m
}

// main is the pid of a unit's process, as it is there; 0 where it does not run.
func (h *systemdHost) main(unit string) int {
	h.t.Helper()
	pid, err := strconv.Atoi(h.show(unit, "MainPID")["MainPID"])
	if err != nil {
		h.t.Fatal(err)
	}
	return pid
}

func (h *systemdHost) kill(pid int) {
	h.t.Helper()
	h.must("kill", "-KILL", strconv.Itoa(pid))
}

// proc is a file of a process there.
func (h *systemdHost) proc(pid int, name string) string {
	h.t.Helper()
	data, err := os.ReadFile(h.Path(fmt.Sprintf("/proc/%d/%s", pid, name)))
	if err != nil {
		h.t.Fatal(err)
	}
	return string(data)
}

// stays says that a gateway was not touched by what.
func (h *systemdHost) stays(gateway int, what string) {
	h.t.Helper()
	if pid := h.main(gatewayUnit); pid != gateway {
		h.t.Errorf("%s: the gateway was %d and is %d", what, gateway, pid)
	}
}

// TestSystemd runs the agent as its unit does under a real systemd, and looks
// at what becomes of gateways there.
func TestSystemd(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 6*time.Minute)
	w.share(t, "docs")
	bridge := w.bridge(ctx, t, "br-unit")
	client := bridge.plug(ctx, t, "c-unit", client4+"/24")
	h := w.systemdHost(ctx, t)

	h.must("systemctl", "start", agentUnit)
	if got := h.show(agentUnit, "Type", "ActiveState", "StatusText", "NRestarts"); got["Type"] != "notify" || got["ActiveState"] != "active" {
		t.Errorf("the agent's unit is %v", got)
	}
	if node := h.causeway(w, "node", "show"); !strings.Contains(node, "supervisor") {
		t.Errorf("the node says %s", node)
	}
	h.causeway(w, "network", "create", "my-net_1", "--bridge", "br-unit", "--address", gateway4+"/24", "--nfs-version", "3", "--nfs-version", "4.1", "--nfs-version", "4.2")
	h.causeway(w, "export", "create", "docs", "--network", "my-net_1", "--source", "local:docs", "--allow", client4+"=rw")
	serves := func(when string) {
		t.Helper()
		c := dial(ctx, t, client, gateway4)
		if got, err := listing(ctx, c, "/docs"); err != nil || got != "hello" {
			t.Errorf("%s the client sees %q, %v", when, got, err)
		}
		closeClient(ctx, t, c)
	}
	serves("at first")

	first := h.main(gatewayUnit)
	t.Run("unit", func(t *testing.T) {
		h.t = t
		defer func() { h.t = t }()
		h.unit(first)
	})
	h.t = t
	t.Run("process", func(t *testing.T) {
		h.t = t
		h.process(first)
	})
	h.t = t

	// The agent's own unit.
	agent := h.main(agentUnit)
	h.kill(agent)
	until(ctx, t, "the agent is started again", func() (bool, error) {
		got := h.show(agentUnit, "MainPID", "ActiveState")
		return got["ActiveState"] == "active" && got["MainPID"] != strconv.Itoa(agent) && got["MainPID"] != "0", nil
	})
	h.stays(first, "the agent was killed")
	if got := h.causeway(w, "gateway", "show", "my-net_1"); !strings.Contains(got, strconv.Itoa(first)) {
		t.Errorf("the gateway was not adopted: %s", got)
	}
	h.must("systemctl", "restart", agentUnit)
	h.must("systemctl", "daemon-reload")
	h.must("systemctl", "daemon-reexec")
	h.stays(first, "the agent and systemd were restarted")
	h.must("systemctl", "kill", "--signal=KILL", agentUnit) // all of its control group
	h.stays(first, "the agent's control group was killed")
	h.must("systemctl", "stop", agentUnit)
	serves("while the agent is stopped")
	h.stays(first, "the agent was stopped")
	h.must("systemctl", "start", agentUnit)

	second := h.replaced(ctx, first)
	serves("after the gateway was killed")
	for _, unit := range []string{busUnit, rpcbindUnit, statdUnit} {
		until(ctx, t, unit+" is there again", func() (bool, error) { // rpc.statd comes last
			got := h.show(unit, "ActiveState", "Slice")
			return got["ActiveState"] == "active" && got["Slice"] == "causeway-gateways.slice", fmt.Errorf("it is %v", got)
		})
	}

	// Another supervisor leaves what runs alone, and starts what comes next.
	h.configure(w, "supervisor: direct\nresync: 1s\n")
	h.must("systemctl", "restart", agentUnit)
	h.stays(second, "the supervisor was changed")
	h.kill(h.main(rpcbindUnit))
	h.kill(second)
	const group = "/causeway/gateways/gateway-my-net_1"
	third := 0
	until(ctx, t, "the agent starts the gateway itself", func() (bool, error) {
		out, err := h.Run(ctx, "cat", h.group("memory", group)+"/cgroup.procs")
		if err == nil {
			third, err = strconv.Atoi(out)
		}
		return err == nil, err
	})
	if pid := h.main(gatewayUnit); pid != 0 {
		t.Errorf("there still is a unit, with process %d", pid)
	}
	serves("from another supervisor")
	h.process(third)
	h.limits(group)
	// The kernel kills the largest, which is not the gateway this time.
	if out, err := h.Run(ctx, "sh", "-c", "echo $$ >"+h.group("memory", group)+"/cgroup.procs; exec tail /dev/zero"); err == nil {
		t.Errorf("what takes all memory ended well: %s", out)
	}
	until(ctx, t, "the network does not tell of the limit", func() (bool, error) {
		out, err := h.Run(ctx, w.programs.CLI, "network", "show", "my-net_1")
		return strings.Contains(out, "gateway_memory_limit"), err
	})
	h.configure(w, "")
	h.must("systemctl", "restart", agentUnit)
	serves("after the supervisor was changed back")

	h.causeway(w, "export", "delete", "docs")
	h.causeway(w, "network", "delete", "my-net_1")
	if left := h.must("systemctl", "list-units", "--all", "--plain", "--no-legend", "--type=service", "causeway-*"); !strings.HasPrefix(left, agentUnit) || strings.Contains(left, "\n") {
		t.Errorf("units are left:\n%s", left)
	}
	if failed := h.must("systemctl", "--failed", "--plain", "--no-legend"); failed != "" {
		t.Errorf("units have failed:\n%s", failed)
	}
	if left, err := os.ReadDir(h.Path(h.group("memory", filepath.Dir(group)))); err != nil || slices.ContainsFunc(left, fs.DirEntry.IsDir) {
		t.Errorf("control groups are left: %v, %v", left, err)
	}
	h.must("systemctl", "stop", agentUnit)
}

// unit looks at a gateway's unit as an operator would.
func (h *systemdHost) unit(gateway int) {
	h.t.Helper()
	group := "/causeway.slice/causeway-gateways.slice/" + gatewayUnit
	want := map[string]string{
		"MainPID": strconv.Itoa(gateway), "Slice": "causeway-gateways.slice", "ControlGroup": group,
		"MemoryMax": "314572800", "TasksMax": "300", "LimitNOFILE": "5000", "LimitNOFILESoft": "5000",
		"NetworkNamespacePath": "/run/netns/cw-my-net_1", "NoNewPrivileges": "yes", "Restart": "no", "KillMode": "control-group",
		"CollectMode": "inactive-or-failed", "NRestarts": "0", "Result": "success",
	}
	var properties []string
	for k := range want {
		properties = append(properties, k)
	}
	if d := cmp.Diff(want, h.show(gatewayUnit, properties...)); d != "" {
		h.t.Error(d)
	}
	h.limits(group)
	now := h.show(gatewayUnit, "TasksCurrent", "MemoryCurrent")
	h.t.Logf("it has %s tasks and %s bytes", now["TasksCurrent"], now["MemoryCurrent"])
}

// group is where a control group is, by its path in the hierarchies.
func (h *systemdHost) group(controller, path string) string {
	if _, err := os.Stat(h.Path("/sys/fs/cgroup/cgroup.controllers")); err == nil {
		return "/sys/fs/cgroup" + path
	}
	return "/sys/fs/cgroup/" + controller + path
}

// limits of a gateway's control group, as the kernel has them.
func (h *systemdHost) limits(path string) {
	h.t.Helper()
	for _, file := range []struct {
		name, want string
		others     string // in version 2
	}{
		{h.group("memory", path) + "/memory.limit_in_bytes", "314572800\n", h.group("memory", path) + "/memory.max"},
		{h.group("pids", path) + "/pids.max", "300\n", ""},
	} {
		got, err := os.ReadFile(h.Path(file.name))
		if errors.Is(err, fs.ErrNotExist) {
			got, err = os.ReadFile(h.Path(file.others))
		}
		if err != nil || string(got) != file.want {
			h.t.Errorf("%s is %q, %v; want %q", file.name, got, err, file.want)
		}
	}
}

// process looks at what a gateway may: exactly its seven capabilities, nothing
// to gain, nothing to write to, no other tenant's tree, and its limits.
func (h *systemdHost) process(gateway int) {
	h.t.Helper()
	status := h.proc(gateway, "status")
	for _, line := range []string{
		"CapInh:\t0000000000000000", "CapPrm:\t00000000000000df", "CapEff:\t00000000000000df", "CapBnd:\t00000000000000df", "CapAmb:\t0000000000000000",
		"NoNewPrivs:\t1", "Seccomp:\t2",
	} {
		if !strings.Contains(status, line+"\n") {
			h.t.Errorf("no %q in its status:\n%s", line, status)
		}
	}
	if limits := h.proc(gateway, "limits"); !strings.Contains(strings.Join(strings.Fields(limits), " "), "Max open files 5000 5000 files") {
		h.t.Errorf("its limits are\n%s", limits)
	}
	for _, kind := range []string{"net", "mnt", "pid"} {
		own, err := os.Readlink(h.Path(fmt.Sprintf("/proc/%d/ns/%s", gateway, kind)))
		host, hostErr := os.Readlink(h.Path("/proc/1/ns/" + kind))
		if err != nil || hostErr != nil || own == host {
			h.t.Errorf("namespace %s is %s, that of the host %s: %v, %v", kind, own, host, err, hostErr)
		}
	}
	shares := 0
	for line := range strings.Lines(h.proc(gateway, "mountinfo")) {
		f := strings.Fields(line)
		where, options := f[4], f[5]
		switch {
		case where == "/" && !strings.HasPrefix(options, "ro"):
			h.t.Errorf("its root can be written: %s", line)
		case strings.HasPrefix(where, "/run/causeway/exports/my-net_1/"), strings.HasPrefix(where, "/run/causeway/views/my-net_1/"):
			shares++
		case strings.HasPrefix(options, "rw") && where != "/tmp" && where != "/dev/null" &&
			where != "/run/causeway/gateways/my-net_1/var" && where != "/var/lib/causeway/gateways/my-net_1":
			h.t.Errorf("it can write to %s", line)
		}
	}
	if shares == 0 {
		h.t.Errorf("it sees no share:\n%s", h.proc(gateway, "mountinfo"))
	}
}

// replaced kills a gateway and returns the next, which is a unit again.
func (h *systemdHost) replaced(ctx context.Context, gateway int) int {
	h.t.Helper()
	h.kill(gateway)
	begin := time.Now()
	next := 0
	until(ctx, h.t, "the gateway is not started again", func() (bool, error) {
		// While it is being started it is the launcher.
		got := h.show(gatewayUnit, "MainPID", "ActiveState")
		var err error
		next, err = strconv.Atoi(got["MainPID"])
		return got["ActiveState"] == "active" && next != gateway, err
	})
	h.t.Logf("the gateway's next unit was there after %s", time.Since(begin).Round(time.Millisecond))
	return next
}
