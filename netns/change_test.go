package netns

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/causeway-project/causeway/integration/wait"
)

// addressesOf are the addresses of eth0, as "ip" lists them.
func addressesOf(t *testing.T, ns string) string {
	t.Helper()
	var all []string
	for _, line := range strings.Split(in(t, ns, "ip -o addr show eth0 scope global"), "\n") {
		if words := strings.Fields(line); len(words) > 3 {
			all = append(all, words[3])
		}
	}
	return strings.Join(all, " ")
}

// TestRefusedAddressesChangeNothing: where one of the new ones is taken, the old
// ones stay, whichever families come and go.
func TestRefusedAddressesChangeNothing(t *testing.T) {
	newBridge(t, "br-blue")
	newTenant(t, "ten", "br-blue", "10.77.0.5/24", "fd77::5/64")
	h, n := newHost(), blue()
	n.Routes = nil
	ensure(t, h, n)
	link := in(t, "cw-blue", "ip -o link show eth0")
	for _, change := range []string{"10.77.0.5/24", "fd77::5/64", "10.77.0.5/16 fd77::2/64", "10.77.0.2/24 fd77::5/56"} {
		t.Run(change, func(t *testing.T) {
			other := n
			other.Addresses = prefixes(strings.Fields(change)...)
			for range 2 {
				if err := h.Ensure(t.Context(), other); !errors.Is(err, ErrAddressInUse) {
					t.Fatalf("ensure: %v, want ErrAddressInUse", err)
				}
				if got := addressesOf(t, "cw-blue"); got != "10.77.0.2/24 fd77::2/64" {
					t.Errorf("addresses are %s", got)
				}
				in(t, "ten", "ping -q -c 1 -W 5 10.77.0.2")
				in(t, "ten", "ping -q -c 1 -W 5 fd77::2")
			}
			if err := h.Ensure(t.Context(), n); err != nil {
				t.Fatal(err)
			}
			healthy(t, h, n)
		})
	}
	if got := in(t, "cw-blue", "ip -o link show eth0"); got != link {
		t.Errorf("the interface was\n%s and is\n%s", link, got)
	}
}

// TestChangedAddresses: what stays is not touched, and neighbours hear of what
// is new, or has another hardware address, without asking.
func TestChangedAddresses(t *testing.T) {
	newBridge(t, "br-blue")
	newTenant(t, "ten", "br-blue", "10.77.0.5/24", "fd77::5/64")
	h, n := newHost(), blue()
	n.Routes = nil
	ensure(t, h, n)
	for _, change := range []struct {
		addresses string
		mac       string
	}{
		{"10.77.0.2/24 10.77.0.3/24 fd77::2/64 fd77::3/64", "02:77:00:00:00:02"},
		{"10.77.0.3/24 fd77::3/64", "02:77:00:00:00:02"}, // the first ones of their prefixes
		{"10.77.0.3/16 fd77::3/56", "02:77:00:00:00:02"},
		{"10.77.0.3/16", "02:77:00:00:00:02"},
		{"10.77.0.3/16 fd77::3/64", "02:77:00:00:00:03"},
		{"fd77::3/64", "02:77:00:00:00:03"},
		{"10.77.0.2/24 fd77::3/64", "02:77:00:00:00:02"},
	} {
		t.Run(change.addresses, func(t *testing.T) {
			n.Addresses, n.MAC = prefixes(strings.Fields(change.addresses)...), mac(change.mac)
			for _, p := range n.Addresses {
				in(t, "ten", "ip neigh replace "+p.Addr().String()+" lladdr 02:00:00:00:00:99 dev t0 nud stale")
			}
			had := map[string]bool{}
			for _, a := range strings.Fields(addressesOf(t, "cw-blue")) {
				had[a] = true
			}
			moved := !strings.Contains(in(t, "cw-blue", "ip link show eth0"), change.mac)
			if err := h.Ensure(t.Context(), n); err != nil {
				t.Fatal(err)
			}
			healthy(t, h, n)
			for _, p := range n.Addresses {
				if p.Addr().Is6() && had[p.String()] && !moved {
					continue // nothing new
				}
				if p.Addr() == netip.MustParseAddr("fd77::3") && p.Bits() == 56 {
					continue // nor for its neighbours
				}
				err := wait.Within(wait.Long, func() bool {
					return strings.Contains(in(t, "ten", "ip neigh show "+p.Addr().String()), change.mac)
				})
				if err != nil {
					t.Errorf("neighbours: %v\n%s", err, in(t, "ten", "ip neigh"))
				}
			}
		})
	}
}
