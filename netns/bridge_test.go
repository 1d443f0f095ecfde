package netns

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/netns/plug"
)

// Whether bridges of this kernel filter VLANs: where they do, the real thing is
// used, and where not, the error says what is missing.
func TestKernelBridgeVLAN(t *testing.T) {
	newBridge(t, "br-blue")
	h, n := newHost(), blue()
	n.Plug = plug.Bridge{Name: "br-blue", VLAN: 100}
	if out, err := exec.Command("ip", "link", "set", "br-blue", "type", "bridge", "vlan_filtering", "1").CombinedOutput(); err != nil {
		if err := h.Check(t.Context(), n); !errors.Is(err, plug.ErrUnsupported) && !errors.Is(err, plug.ErrNoVLANs) {
			t.Errorf("check: %v, want ErrUnsupported or ErrNoVLANs", err)
		}
		t.Skipf("this kernel's bridges filter no VLANs (%s): a model of their table was tested instead", strings.TrimSpace(string(out)))
	}
	newTenant(t, "ten", "br-blue", "10.77.0.5/24", "fd77::5/64")
	ensure(t, h, n)
	healthy(t, h, n)
	_, err := dial(t, "ten", "tcp", "10.77.0.2:2049", silence)
	noAnswer(t, "another VLAN", err)
	run(t, "bridge", "vlan", "add", "dev", "ten", "vid", "100", "pvid", "untagged")
	reached(t, n.Namespace)
}

// A port that is not yet in its VLAN alone is never up: in another one it would
// hear another tenant.
func TestTagCutShort(t *testing.T) {
	newBridge(t, "br-blue")
	for nth := 1; nth <= 2; nth++ { // out of VLAN 1, into VLAN 100
		h, n := newHost(), blue()
		n.Plug = plug.Bridge{Name: "br-blue", VLAN: 100}
		model := newModelTable()
		h.plugs.VLANs = func(nl *netlink.Handle) plug.PortVLANs { model.nl = nl; return model }
		model.fail = nth
		t.Cleanup(func() { _ = h.Remove(context.WithoutCancel(t.Context()), n) })
		if err := h.Ensure(t.Context(), n); !errors.Is(err, unix.ENOMEM) {
			t.Fatalf("ensure, change %d fails: %v", nth, err)
		}
		if model.fail != 0 {
			t.Fatalf("change %d was not made", nth)
		}
		if l := ip(t, "link show cwblue"); strings.Contains(l, ",UP") || strings.Contains(l, "<UP") {
			t.Errorf("change %d failed, and the port is up:\n%s", nth, l)
		}
		if err := h.Ensure(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		healthy(t, h, n)
		if err := h.Remove(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
}
