package netns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/integration/needs"
	"github.com/causeway-project/causeway/netns/namespace"
	"github.com/causeway-project/causeway/netns/plug"
)

// The tests work on the real kernel, in a network and a mount namespace of
// their own: the test binary starts itself again in new ones.
const privateEnv = "CAUSEWAY_NETNS_TEST_PRIVATE"

func TestMain(m *testing.M) {
	if os.Getuid() != 0 || os.Getenv(privateEnv) != "" {
		if os.Getenv(privateEnv) == "1" {
			if err := makePrivate(); err != nil {
				fmt.Fprintln(os.Stderr, "netns test:", err)
				os.Exit(1)
			}
			os.Setenv(privateEnv, "done")
		}
		if child := os.Getenv(childEnv); child != "" {
			os.Exit(runChild(child))
		}
		os.Exit(m.Run())
	}
	runtime.LockOSThread() // Pdeathsig tells of the end of this thread
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), privateEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL,
	}
	if err := cmd.Run(); err != nil {
		if cmd.ProcessState == nil {
			fmt.Fprintln(os.Stderr, "netns test:", err)
		}
		os.Exit(1)
	}
}

func makePrivate() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	// Of the new network namespace; some tools look there.
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return err
	}
	return exec.Command("ip", "link", "set", "lo", "up").Run()
}

// run runs a command and returns what it says.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// ip runs words as one ip command.
func ip(t *testing.T, words string) string {
	t.Helper()
	return run(t, "ip", strings.Fields(words)...)
}

// in runs words in a named namespace.
func in(t *testing.T, ns, words string) string {
	t.Helper()
	return ip(t, "netns exec "+ns+" "+words)
}

func newBridge(t *testing.T, name string) {
	t.Helper()
	needs.Root(t)
	ip(t, "link add "+name+" type bridge")
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", name).Run() })
	ip(t, "link set "+name+" up")
}

// newTenant puts another machine of the tenant on a bridge: a namespace with
// one interface, t0.
func newTenant(t *testing.T, name, bridge string, addrs ...string) {
	t.Helper()
	ip(t, "netns add "+name)
	t.Cleanup(func() {
		_ = exec.Command("ip", "link", "del", name).Run()
		_ = exec.Command("ip", "netns", "del", name).Run()
	})
	ip(t, "link add "+name+" master "+bridge+" type veth peer name t0 netns "+name)
	in(t, name, "sysctl -qw net.ipv6.conf.t0.accept_dad=0")
	in(t, name, "ip link set lo up")
	in(t, name, "ip link set t0 up")
	ip(t, "link set "+name+" up")
	for _, a := range addrs {
		words := "ip addr add " + a + " dev t0"
		if strings.Contains(a, ":") {
			words += " nodad"
		}
		in(t, name, words)
	}
}

func prefixes(s ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func mac(s string) net.HardwareAddr {
	m, err := net.ParseMAC(s)
	if err != nil {
		panic(err)
	}
	return m
}

// blue is the network that most tests make, on the bridge br-blue.
func blue() Network {
	return Network{
		Namespace: "cw-blue",
		HostLink:  "cwblue",
		Plug:      plug.Bridge{Name: "br-blue"},
		Addresses: prefixes("10.77.0.2/24", "fd77::2/64"),
		Routes: []Route{
			{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("10.77.0.1")},
			{netip.MustParsePrefix("fd88::/48"), netip.MustParseAddr("fd77::1")},
		},
		MAC: mac("02:77:00:00:00:02"),
	}
}

// newHost waits long enough for an answer on a busy machine's virtual network,
// and not longer, for it is waited for in nearly every test.
func newHost() *Host { return New(Options{ProbeWait: 40 * time.Millisecond}) }

// healthy fails the test unless n is on the host as wanted.
func healthy(t *testing.T, h *Host, n Network) {
	t.Helper()
	got, err := h.Observe(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(State{Exists: true, Remains: true}, got); diff != "" {
		t.Fatalf("state (-want +got):\n%s", diff)
	}
}

// at runs f on a thread in a named namespace.
func at(t *testing.T, ns string, f func() error) {
	t.Helper()
	file, err := os.Open(namespace.Path(ns))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := namespace.Inside(file, f); err != nil {
		t.Fatal(err)
	}
}

// ensure makes a network for one test.
func ensure(t *testing.T, h *Host, n Network) {
	t.Helper()
	t.Cleanup(func() {
		if err := h.Remove(context.WithoutCancel(t.Context()), n); err != nil {
			t.Error(err)
		}
	})
	if err := h.Ensure(t.Context(), n); err != nil {
		t.Fatal(err)
	}
}
