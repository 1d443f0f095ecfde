package netns

import (
	"context"
	"errors"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/netns/namespace"
	"github.com/causeway-project/causeway/netns/plug"
)

// newProvided makes a namespace as a CNI plugin would: an interface of its own
// name, with an address and a route of its own.
func newProvided(t *testing.T) (*Host, Network) {
	t.Helper()
	newBridge(t, "br-blue")
	newTenant(t, "ten", "br-blue", "10.77.0.5/24", "fd77::5/64")
	newTenant(t, "cni-1", "br-blue", "10.99.0.2/24")
	in(t, "cni-1", "ip link set lo up")
	in(t, "cni-1", "ip route add 10.98.0.0/16 via 10.99.0.1")
	n := blue()
	n.Namespace, n.Plug, n.MAC = "cni-1", plug.Provided{Interface: "t0", Owner: "blue"}, nil
	return newHost(), n
}

// looks is all that can be seen of the namespace, but for counters.
func looks(t *testing.T) string {
	t.Helper()
	return in(t, "cni-1", "ip -d addr show dev t0") + in(t, "cni-1", "ip route") + in(t, "cni-1", "ip -6 route") +
		in(t, "cni-1", "nft -t list ruleset") + in(t, "cni-1", "sysctl -a --pattern net.ipv[46].conf.t0")
}

func TestProvided(t *testing.T) {
	h, n := newProvided(t)
	before := looks(t)
	inode, err := h.Inode("cni-1")
	if err != nil {
		t.Fatal(err)
	}
	s, err := h.Observe(t.Context(), n)
	if err != nil || s.Exists || s.Remains || len(s.Drift) == 0 {
		t.Fatalf("before: %+v, %v", s, err)
	}
	ensure(t, h, n)
	healthy(t, h, n)
	reached(t, "cni-1")
	for _, c := range []struct{ got, want string }{
		{in(t, "cni-1", "ip addr show t0"), "inet 10.99.0.2/24"},
		{in(t, "cni-1", "ip addr show t0"), "inet 10.77.0.2/24"},
		{in(t, "cni-1", "ip route"), "10.98.0.0/16 via 10.99.0.1"},
	} {
		if !strings.Contains(c.got, c.want) {
			t.Errorf("no %q in:\n%s", c.want, c.got)
		}
	}
	const inside = "netns exec cni-1 "
	for _, d := range []drifting{
		{[]string{inside + "nft flush ruleset"}, "firewall: there is no table inet causeway"},
		{[]string{inside + "nft flush chain inet causeway input"}, "firewall: the rules of chain input were altered"},
		{[]string{inside + "ip addr del 10.77.0.2/24 dev t0"}, "address 10.77.0.2/24 is missing"},
		{[]string{inside + "ip addr del fd77::2/64 dev t0"}, "address fd77::2/64 is missing"},
		{[]string{inside + "ip route del default"}, "route to 0.0.0.0/0 via 10.77.0.1 is missing"},
		{[]string{inside + "ip route add 10.97.0.0/16 via 10.77.0.9 proto 99"}, "route to 10.97.0.0/16 via 10.77.0.9 is not ours"},
		{[]string{inside + "ip link set t0 down"}, "t0 is down inside"},
	} {
		t.Run(strings.Join(d.do, "; "), func(t *testing.T) {
			d.run(t, h)
			s, err := h.Observe(t.Context(), n)
			if err != nil || !strings.Contains(strings.Join(s.Drift, "\n"), d.drift) {
				t.Errorf("drift %q, %v, want %q among it", s.Drift, err, d.drift)
			}
			if err := h.Ensure(t.Context(), n); err != nil {
				t.Fatal(err)
			}
			healthy(t, h, n)
		})
	}
	in(t, "cni-1", "ip route replace 10.98.0.0/16 via 10.99.0.1") // its owner's, that went when t0 was down
	for range 2 {
		if err := h.Remove(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		if s, err := h.Observe(t.Context(), n); err != nil || s.Exists || s.Remains {
			t.Errorf("after: %+v, %v", s, err)
		}
	}
	if now, err := h.Inode("cni-1"); err != nil || now != inode {
		t.Errorf("namespace %d, %v; was %d", now, err, inode)
	}
	if diff := cmp.Diff(before, looks(t)); diff != "" {
		t.Errorf("not as before (-before +after):\n%s", diff)
	}
}

// What is somebody else's is neither taken over nor removed.
func TestProvidedOwners(t *testing.T) {
	h, n := newProvided(t)
	ensure(t, h, n)
	second := n
	second.HostLink, second.Plug = "cwgreen", plug.Provided{Interface: "t0", Owner: "green"}
	second.Addresses, second.Routes = prefixes("10.77.0.3/24"), nil
	for verb, f := range map[string]func(context.Context, Network) error{"check": h.Check, "ensure": h.Ensure} {
		if err := f(t.Context(), second); !errors.Is(err, plug.ErrTaken) || !strings.Contains(err.Error(), "network blue") {
			t.Errorf("%s: %v, want ErrTaken by blue", verb, err)
		}
	}
	if s, err := h.Observe(t.Context(), second); err != nil || s.Exists || s.Remains {
		t.Errorf("observe: %+v, %v", s, err)
	}
	if err := h.Remove(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	healthy(t, h, n)

	// An address that its owner set itself stays when the network goes.
	in(t, "cni-1", "ip addr del 10.77.0.2/24 dev t0")
	in(t, "cni-1", "ip addr add 10.77.0.2/24 dev t0")
	if err := h.Ensure(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	healthy(t, h, n)
	if err := h.Remove(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	got := in(t, "cni-1", "ip addr show t0")
	if !strings.Contains(got, "inet 10.77.0.2/24") || !strings.Contains(got, "inet 10.99.0.2/24") || strings.Contains(got, "fd77::2") {
		t.Errorf("after:\n%s", got)
	}
	// Nor is its route replaced.
	in(t, "cni-1", "ip route add default via 10.99.0.1")
	if err := h.Ensure(t.Context(), n); !errors.Is(err, plug.ErrTaken) {
		t.Errorf("ensure against a default route of somebody's: %v, want ErrTaken", err)
	}
	if got := in(t, "cni-1", "ip route"); !strings.Contains(got, "default via 10.99.0.1") {
		t.Errorf("routes:\n%s", got)
	}
}

func TestProvidedIsNotMade(t *testing.T) {
	h, n := newProvided(t)
	for name, do := range map[string]func(*Network){
		"namespace": func(n *Network) { n.Namespace = "cni-none" },
		"interface": func(n *Network) { n.Plug = plug.Provided{Interface: "t9", Owner: "blue"} },
	} {
		t.Run(name, func(t *testing.T) {
			n := n
			do(&n)
			if err := h.Ensure(t.Context(), n); !errors.Is(err, plug.ErrNoNamespace) {
				t.Errorf("ensure: %v, want ErrNoNamespace", err)
			}
			if s, err := h.Observe(t.Context(), n); err != nil || s.Exists || s.Remains || len(s.Drift) == 0 {
				t.Errorf("observe: %+v, %v", s, err)
			}
			if err := h.Remove(t.Context(), n); err != nil {
				t.Error(err)
			}
		})
	}
	if out, err := exec.Command("ls", namespace.Dir).Output(); err != nil || strings.Contains(string(out), "cni-none") {
		t.Errorf("%s: %s, %v", namespace.Dir, out, err)
	}
	// The host's own namespace has a firewall of the host's.
	touch(t, namespace.Path("self"))
	run(t, "mount", "--bind", "/proc/self/ns/net", namespace.Path("self"))
	t.Cleanup(func() {
		_ = unix.Unmount(namespace.Path("self"), unix.MNT_DETACH)
		_ = exec.Command("rm", namespace.Path("self")).Run()
	})
	n.Namespace, n.Plug = "self", plug.Provided{Interface: "ten", Owner: "blue"}
	if err := h.Ensure(t.Context(), n); !errors.Is(err, plug.ErrNoNamespace) || !strings.Contains(err.Error(), "the host's own") {
		t.Errorf("ensure in the host's own namespace: %v", err)
	}
}

func TestProvidedNames(t *testing.T) {
	for name, sound := range map[string]bool{
		"cni-1": true, "qdhcp-5f.1": true, "cw-blue": false, "..": false, "a/b": false, "": false, ".": false,
	} {
		n := blue()
		n.Namespace, n.MAC, n.Plug = name, nil, plug.Provided{Interface: "eth0", Owner: "blue"}
		if err := n.validate(); (err == nil) != sound || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestOverlap(t *testing.T) {
	for _, c := range []struct {
		addrs []netip.Prefix
		sound bool
	}{
		{prefixes("10.77.0.2/24", "10.77.0.3/24", "fd77::2/64", "fd77::3/64"), true},
		{prefixes("10.77.0.2/24", "10.77.0.3/32", "fd77::2/64", "fd77::3/128"), true},
		{prefixes("10.77.0.2/24", "10.77.1.3/24"), true},
		{prefixes("10.77.0.2/24", "10.77.5.3/16"), false},
		{prefixes("fd77::2/64", "fd77:0:0:1::3/48"), false},
	} {
		n := blue()
		n.Addresses, n.Routes = c.addrs, nil
		if err := n.validate(); (err == nil) != c.sound || err != nil && !strings.Contains(err.Error(), "overlap") {
			t.Errorf("%v: %v", c.addrs, err)
		}
	}
}
