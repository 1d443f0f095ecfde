package netns

import (
	"context"
	"errors"
	"net"
	"os/exec"
	"strings"
	"testing"

	"github.com/causeway-project/causeway/netns/namespace"
	"github.com/causeway-project/causeway/netns/plug"
)

// A VLAN's number and a hardware address can be once on a device. A namespace
// that somebody unnamed holds ours as long as a process lives in it.
func TestStrayLinkIsTakenFromUnnamedNamespace(t *testing.T) {
	for _, sc := range scenes()[:3] {
		t.Run(sc.name, func(t *testing.T) {
			h, n := sc.build(t), sc.network()
			ensure(t, h, n)
			cmd := exec.CommandContext(t.Context(), "nsenter", "--net="+namespace.Path(n.Namespace), "sh", "-c", "echo in; exec sleep 1000")
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
			if _, err := out.Read(make([]byte, 8)); err != nil {
				t.Fatal(err)
			}
			ip(t, "netns del cw-blue")
			if err := h.Ensure(t.Context(), n); err != nil {
				t.Fatal(err)
			}
			healthy(t, h, n)
			reached(t, n.Namespace)
		})
	}
}

// The one of two networks that comes second is told.
func TestNumberTaken(t *testing.T) {
	for _, sc := range scenes()[1:3] {
		t.Run(sc.name, func(t *testing.T) {
			h, n := sc.build(t), sc.network()
			ensure(t, h, n)
			second := sc.network()
			second.Namespace, second.HostLink, second.MAC = "cw-second", "cwsecond", mac("02:77:00:00:00:03")
			second.Addresses, second.Routes = prefixes("10.77.0.3/24"), nil
			t.Cleanup(func() { _ = h.Remove(context.WithoutCancel(t.Context()), second) })
			if err := h.Ensure(t.Context(), second); !errors.Is(err, plug.ErrTaken) {
				t.Errorf("ensure: %v, want ErrTaken", err)
			}
			healthy(t, h, n)
		})
	}
}

// Several gateways on one device reach one another and the wire, and the host
// reaches none.
func TestMacvlanIsClosedToTheHost(t *testing.T) {
	newWire(t)
	ip(t, "addr add 10.77.0.8/24 dev p0")
	h, n := newHost(), scenes()[0].network()
	ensure(t, h, n)
	listen(t, "cw-blue", "[::]:2049", "nfs")
	_, err := net.DialTimeout("tcp", "10.77.0.2:2049", silence)
	if err == nil {
		t.Error("the host reached the gateway")
	}
}

// The device of a plug goes and comes back.
func TestDeviceReturns(t *testing.T) {
	newWire(t)
	h, n := newHost(), scenes()[0].network()
	ensure(t, h, n)
	ip(t, "link del p0")
	if err := h.Ensure(t.Context(), n); !errors.Is(err, plug.ErrNoDevice) {
		t.Errorf("ensure without the device: %v", err)
	}
	s, err := h.Observe(t.Context(), n)
	if err != nil || !s.Exists || !strings.Contains(strings.Join(s.Drift, "\n"), "there is no such link") {
		t.Errorf("observe without the device: %+v, %v", s, err)
	}
	ip(t, "link add p0 type veth peer name t0 netns ten")
	ip(t, "link set p0 up")
	tenantAddresses(t, "t0")
	if err := h.Ensure(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	healthy(t, h, n)
	reached(t, n.Namespace)
}

// Whether this kernel has 802.1Q: where it has, the real thing is used, and
// where not, the error says what is missing.
func TestKernelVLAN(t *testing.T) {
	newWire(t)
	h, n := newHost(), scenes()[1].network()
	t.Cleanup(func() { _ = h.Remove(context.WithoutCancel(t.Context()), n) })
	err := h.Ensure(t.Context(), n)
	if errors.Is(err, plug.ErrUnsupported) {
		nothingLeft(t, h) // refused before anything was made
		if !strings.Contains(err.Error(), "modprobe 8021q") {
			t.Errorf("%v: without the cure", err)
		}
		t.Skipf("this kernel has no 802.1Q links (%v): the model of them was tested instead", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	healthy(t, h, n)
	in(t, "ten", "ip link add link t0 name v100 type vlan id 100")
	in(t, "ten", "ip addr flush dev t0")
	tenantAddresses(t, "v100")
	reached(t, n.Namespace)
}
