package netns

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/integration/needs"
	"github.com/causeway-project/causeway/integration/wait"
	"github.com/causeway-project/causeway/netns/kernel"
	"github.com/causeway-project/causeway/netns/plug"
)

// newSwitch starts an Open vSwitch of the test's own, with its userspace
// datapath and the bridge br-int; the tenant's machine is on a port with the
// tag 10.
func newSwitch(t *testing.T) *Host {
	t.Helper()
	needs.Root(t)
	h := startSwitch(t)
	vsctl := func(args ...string) {
		t.Helper()
		if _, err := h.plugs.OVS.Run(t.Context(), args...); err != nil {
			t.Fatal(err)
		}
	}
	vsctl("add-br", "br-int", "--", "set", "Bridge", "br-int", "datapath_type=netdev")
	ip(t, "netns add ten")
	t.Cleanup(func() {
		_ = exec.Command("ip", "link", "del", "tenport").Run()
		_ = exec.Command("ip", "netns", "del", "ten").Run()
	})
	ip(t, "link add tenport type veth peer name t0 netns ten")
	ip(t, "link set tenport up")
	vsctl("add-port", "br-int", "tenport", "tag=10")
	at(t, "ten", func() error { return kernel.ComputeChecksums("t0") })
	tenantAddresses(t, "t0")
	return h
}

func startSwitch(t *testing.T) *Host {
	t.Helper()
	needs.Programs(t, "ovsdb-server", "ovs-vswitchd", "ovsdb-tool", "ovs-vsctl")
	dir, err := os.MkdirTemp("", "ovs") // short, for the sockets in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	db := filepath.Join(dir, "conf.db")
	run(t, "ovsdb-tool", "create", db, "/usr/share/openvswitch/vswitch.ovsschema")
	socket := filepath.Join(dir, "db.sock")
	start := func(program string, args ...string) {
		t.Helper()
		cmd := exec.Command(program, append(args, "--no-chdir", "--log-file="+filepath.Join(dir, program+".log"), "-vconsole:off")...)
		cmd.Env = append(os.Environ(), "OVS_RUNDIR="+dir, "OVS_LOGDIR="+dir, "OVS_DBDIR="+dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			for _, l := range []string{"br-int", "br-x", "ovs-netdev"} { // stay after a kill
				_ = exec.Command("ip", "link", "del", l).Run()
			}
		})
	}
	start("ovsdb-server", "--remote=punix:"+socket, "--unixctl="+filepath.Join(dir, "db.ctl"), db)
	wait.Until(t, "ovsdb-server listens", func() bool { _, err := os.Stat(socket); return err == nil })
	h := New(Options{ProbeWait: 100 * time.Millisecond, OVSDB: "unix:" + socket})
	if _, err := h.plugs.OVS.Run(t.Context(), "--no-wait", "init"); err != nil {
		t.Fatal(err)
	}
	start("ovs-vswitchd", "unix:"+socket, "--unixctl="+filepath.Join(dir, "vswitchd.ctl"))
	return h
}

// leaveChecksums has an interface leave the checksums of what it sends to
// others, as "ethtool -K NAME tx on" does.
func leaveChecksums(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	on := struct{ cmd, data uint32 }{unix.ETHTOOL_STXCSUM, 1} // struct ethtool_value
	req := struct {                                           // struct ifreq
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [24 - unsafe.Sizeof(uintptr(0))]byte
	}{data: unsafe.Pointer(&on)}
	copy(req.name[:], name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); errno != 0 {
		return errno
	}
	return nil
}

func TestOVSPort(t *testing.T) {
	h := newSwitch(t)
	n := blue()
	n.Plug = plug.OVS{Bridge: "br-int", InterfaceID: `a"b\c,d=e:f`, VLAN: 11}
	ensure(t, h, n)
	healthy(t, h, n)
	listen(t, "cw-blue", "[::]:2049", "nfs")
	_, err := dial(t, "ten", "tcp", "10.77.0.2:2049", silence)
	noAnswer(t, "another tag", err)

	// A controller's tag is left alone.
	n.Plug = plug.OVS{Bridge: "br-int", InterfaceID: "port-1"}
	if err := h.Ensure(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	if _, err := h.plugs.OVS.Run(t.Context(), "set", "Port", "cwblue", "tag=10"); err != nil {
		t.Fatal(err)
	}
	healthy(t, h, n)
	hears(t, mustDial(t, "ten", "10.77.0.2:2049"), "nfs")
	out, err := h.plugs.OVS.Run(t.Context(), "get", "Interface", "cwblue", "external_ids")
	if err != nil || !strings.Contains(string(out), `iface-id=port-1`) || !strings.Contains(string(out), `attached-mac="02:77:00:00:00:02"`) {
		t.Errorf("external_ids: %s, %v", out, err)
	}
}

// Names reach ovs-vsctl as they are, and never as its options.
func TestOVSNames(t *testing.T) {
	h := newSwitch(t)
	for _, name := range []string{"--db=x", "name=y", `"quoted"`, "none", "true", "17"} {
		n := blue()
		n.Plug = plug.OVS{Bridge: name}
		if err := h.Check(t.Context(), n); !errors.Is(err, plug.ErrNoBridge) {
			t.Errorf("check %q: %v, want ErrNoBridge", name, err)
		}
	}
}

// Without the database, nothing is taken for gone.
func TestOVSDown(t *testing.T) {
	h := New(Options{OVSDB: "unix:" + filepath.Join(t.TempDir(), "none.sock")})
	needs.Programs(t, "ovs-vsctl")
	n := blue()
	n.Plug = plug.OVS{Bridge: "br-int"}
	if err := h.Check(t.Context(), n); !errors.Is(err, plug.ErrUnsupported) || !strings.Contains(err.Error(), "systemctl start openvswitch-switch") {
		t.Errorf("check: %v", err)
	}
	if err := h.Remove(t.Context(), n); !errors.Is(err, plug.ErrUnsupported) {
		t.Errorf("remove: %v, want ErrUnsupported", err)
	}
}
