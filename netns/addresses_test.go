package netns

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/integration/wait"
	"github.com/causeway-project/causeway/netns/kernel"
	"github.com/causeway-project/causeway/netns/plug"
)

func TestDuplicateAddress(t *testing.T) {
	tests := []struct {
		name   string
		tenant []string
		words  []string
	}{
		{"v4", []string{"10.77.0.2/24"}, []string{"address 10.77.0.2:"}},
		{"v6", []string{"fd77::2/64"}, []string{"address fd77::2:"}},
		{"both", []string{"10.77.0.2/24", "fd77::2/64"}, []string{"address 10.77.0.2:", "address fd77::2:"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			newBridge(t, "br-blue")
			newTenant(t, "ten", "br-blue", test.tenant...)
			h, n := newHost(), blue()
			t.Cleanup(func() { _ = h.Remove(context.WithoutCancel(t.Context()), n) })
			for range 2 { // the second finds all made but the address
				err := h.Ensure(t.Context(), n)
				if !errors.Is(err, ErrAddressInUse) {
					t.Fatalf("ensure: %v, want ErrAddressInUse", err)
				}
				for _, w := range test.words {
					if !strings.Contains(err.Error(), w) {
						t.Errorf("%v does not say %q", err, w)
					}
				}
				for _, a := range test.tenant {
					if got := in(t, "cw-blue", "ip addr show eth0"); strings.Contains(got, a) {
						t.Errorf("the address is set nevertheless:\n%s", got)
					}
				}
			}
			for _, a := range test.tenant {
				in(t, "ten", "ip addr del "+a+" dev t0")
			}
			if err := h.Ensure(t.Context(), n); err != nil {
				t.Fatal(err)
			}
			healthy(t, h, n)
		})
	}
}

// Somebody took the address by force while it was set here: the kernel finds
// it when detection runs again, and Ensure must say so.
func TestDuplicateFoundAfterwards(t *testing.T) {
	newBridge(t, "br-blue")
	newTenant(t, "ten", "br-blue", "fd77::2/64")
	h, n := newHost(), blue()
	n.Addresses, n.Routes = prefixes("fd77::9/64"), nil
	ensure(t, h, n)
	at(t, n.Namespace, func() error {
		nl, err := kernel.Open()
		if err != nil {
			return err
		}
		defer nl.Close()
		l, err := nl.LinkByName(plug.Interface)
		if err != nil {
			return err
		}
		if err := blue().addAddress(nl, l, netip.MustParsePrefix("fd77::2/64"), 0); err != nil {
			return err
		}
		return wait.Within(wait.Long, func() bool {
			have, err := addresses(nl, l)
			return err == nil && have[netip.MustParsePrefix("fd77::2/64")].Flags&unix.IFA_F_DADFAILED != 0
		})
	})
	n.Addresses = prefixes("fd77::9/64", "fd77::2/64")
	state, err := h.Observe(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(state.Drift, "\n"); got != "address fd77::2/64 is in use by another machine" {
		t.Errorf("drift %q", got)
	}
	if err := h.Ensure(t.Context(), n); !errors.Is(err, ErrAddressInUse) {
		t.Errorf("ensure: %v, want ErrAddressInUse", err)
	}
}

func TestNobodyIsAskedWhereProbingIsOff(t *testing.T) {
	newBridge(t, "br-blue")
	newTenant(t, "ten", "br-blue", "10.77.0.2/24", "fd77::2/64")
	h, n := New(Options{ProbeWait: -1}), blue()
	ensure(t, h, n)
	healthy(t, h, n)
}

func TestEnsureEndsWithItsContext(t *testing.T) {
	newBridge(t, "br-blue")
	h, n := New(Options{ProbeWait: time.Hour}), blue()
	n.Addresses, n.Routes = n.Addresses[:1], nil
	t.Cleanup(func() { _ = h.Remove(context.WithoutCancel(t.Context()), n) })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := h.Ensure(ctx, n); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ensure: %v, want the context's end", err)
	}
	h = newHost()
	if err := h.Ensure(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	healthy(t, h, n)
}

// The address moves here from another machine: a neighbour that remembers the
// old place hears of the new one without asking.
func TestAddressesAreAnnounced(t *testing.T) {
	newBridge(t, "br-blue")
	newTenant(t, "ten", "br-blue", "10.77.0.5/24", "fd77::5/64")
	in(t, "ten", "ip neigh replace 10.77.0.2 lladdr 02:00:00:00:00:99 dev t0 nud stale")
	in(t, "ten", "ip neigh replace fd77::2 lladdr 02:00:00:00:00:99 dev t0 nud stale")
	h, n := newHost(), blue()
	ensure(t, h, n)
	err := wait.Within(wait.Long, func() bool { return strings.Count(in(t, "ten", "ip neigh"), n.MAC.String()) >= 2 })
	if err != nil {
		t.Errorf("neighbours: %v\n%s", err, in(t, "ten", "ip neigh"))
	}
}
