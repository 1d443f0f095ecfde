package netns

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/causeway-project/causeway/netns/plug"
)

func TestValidate(t *testing.T) {
	route := func(to, via string) func(*Network) {
		return func(n *Network) {
			n.Routes = []Route{{netip.MustParsePrefix(to), netip.MustParseAddr(via)}}
		}
	}
	address := func(p string) func(*Network) {
		return func(n *Network) { n.Addresses, n.Routes = prefixes(p), nil }
	}
	tests := []struct {
		name   string
		change func(*Network)
		words  string // "" where it is sound
	}{
		{"as it is", func(*Network) {}, ""},
		{"a namespace with single dots", func(n *Network) { n.Namespace = "cw-my.net.1" }, ""},
		{"the longest id of a caller's", func(n *Network) { n.Namespace = "cw-" + strings.Repeat("x", 63) }, ""},
		{"no namespace", func(n *Network) { n.Namespace = "" }, "namespace"},
		{"namespace not ours", func(n *Network) { n.Namespace = "blue" }, "namespace"},
		{"namespace elsewhere", func(n *Network) { n.Namespace = "cw/../../etc/passwd" }, "namespace"},
		{"namespace with dots", func(n *Network) { n.Namespace = "cw.." }, "namespace"},
		{"namespace with NUL", func(n *Network) { n.Namespace = "cw\x00" }, "namespace"},
		{"namespace with newline", func(n *Network) { n.Namespace = "cw\n" }, "namespace"},
		{"namespace in another script", func(n *Network) { n.Namespace = "cwблакитний" }, "namespace"},
		{"long namespace", func(n *Network) { n.Namespace = "cw" + strings.Repeat("x", 10000) }, "namespace"},
		{"no host link", func(n *Network) { n.HostLink = "" }, "host link"},
		{"host link not ours", func(n *Network) { n.HostLink = "eth0" }, "host link"},
		{"host link of 15 bytes", func(n *Network) { n.HostLink = "cw3456789012345" }, ""},
		{"host link of 16 bytes", func(n *Network) { n.HostLink = "cw34567890123456" }, "host link"},
		{"host link with slash", func(n *Network) { n.HostLink = "cw/all" }, "host link"},
		{"no plug", func(n *Network) { n.Plug = nil }, "plug"},
		{"no bridge", func(n *Network) { n.Plug = plug.Bridge{Name: ""} }, "bridge"},
		{"bridge with space", func(n *Network) { n.Plug = plug.Bridge{Name: "br blue"} }, "bridge"},
		{"bridge is a path", func(n *Network) { n.Plug = plug.Bridge{Name: "../x"} }, "bridge"},
		{"bridge of 16 bytes", func(n *Network) { n.Plug = plug.Bridge{Name: "br34567890123456"} }, "bridge"},
		{"bridge is the link", func(n *Network) { n.Plug = plug.Bridge{Name: n.HostLink} }, "bridge"},
		{"bridge with dot", func(n *Network) { n.Plug = plug.Bridge{Name: "br.100"} }, ""},
		{"mtu", func(n *Network) { n.MTU = 1280 }, ""},
		{"mtu too low", func(n *Network) { n.MTU = 1279 }, "mtu"},
		{"mtu too high", func(n *Network) { n.MTU = 65536 }, "mtu"},
		{"mtu below zero", func(n *Network) { n.MTU = -1 }, "mtu"},
		{"no mac", func(n *Network) { n.MAC = nil }, "mac"},
		{"mac of zeros", func(n *Network) { n.MAC = make(net.HardwareAddr, 6) }, "mac"},
		{"mac of a group", func(n *Network) { n.MAC = mac("01:00:5e:00:00:01") }, "mac"},
		{"long mac", func(n *Network) { n.MAC = mac("02:00:00:00:00:00:00:01") }, "mac"},
		{"no address", func(n *Network) { n.Addresses = nil }, "addresses"},
		{"no prefix", func(n *Network) { n.Addresses = []netip.Prefix{{}} }, "address"},
		{"address twice", func(n *Network) { n.Addresses = prefixes("10.77.0.2/24", "10.77.0.2/16") }, "twice"},
		{"prefix length 0", address("10.77.0.2/0"), "everything"},
		{"IPv4 in IPv6", address("::ffff:10.77.0.2/120"), "IPv4"},
		{"unspecified", address("0.0.0.0/8"), "no machine"},
		{"loopback", address("127.0.0.2/8"), "no machine"},
		{"loopback v6", address("::1/128"), "no machine"},
		{"multicast", address("224.0.0.1/24"), "no machine"},
		{"multicast v6", address("ff02::1/64"), "no machine"},
		{"broadcast", address("255.255.255.255/32"), "no machine"},
		{"network", address("10.77.0.0/24"), "network's own"},
		{"directed broadcast", address("10.77.0.255/24"), "network's own"},
		{"high end of an odd prefix", address("10.77.3.255/22"), "network's own"},
		{"not the high end", address("10.77.2.255/22"), ""},
		{"host", address("10.77.0.2/32"), ""},
		{"point to point", address("10.77.0.0/31"), ""},
		{"link-local v6", address("fe80::2/64"), "link-local"},
		{"anycast v6", address("fd77::/64"), "anycast"},
		{"point to point v6", address("fd77::/127"), ""},
		{"default route", route("0.0.0.0/0", "10.77.0.1"), ""},
		{"route with host bits", route("10.99.0.7/16", "10.77.0.1"), ""},
		{"no route", func(n *Network) { n.Routes = []Route{{}} }, "route"},
		{"route twice", func(n *Network) { n.Routes = append(n.Routes, n.Routes[0]) }, "twice"},
		{"router elsewhere", route("0.0.0.0/0", "10.78.0.1"), "not in the prefix"},
		{"router is us", route("0.0.0.0/0", "10.77.0.2"), "own address"},
		{"router of the other family", route("0.0.0.0/0", "fd77::1"), "other family"},
		{"link-local router", route("::/0", "fe80::1"), ""},
		{"router with zone", route("::/0", "fe80::1%eth0"), "router's address"},
		{"router for all", route("::/0", "ff02::1"), "router's address"},
		{"route to the own prefix", route("10.77.0.0/24", "10.77.0.1"), "own prefix"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			n := blue()
			test.change(&n)
			err := n.validate()
			if test.words == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), test.words) {
				t.Errorf("%v, want ErrInvalid and %q", err, test.words)
			}
			// Whatever is refused is refused before anything is touched.
			h := New(Options{})
			for verb, f := range map[string]func() error{
				"check":  func() error { return h.Check(t.Context(), n) },
				"ensure": func() error { return h.Ensure(t.Context(), n) },
			} {
				if err := f(); !errors.Is(err, ErrInvalid) {
					t.Errorf("%s: %v, want ErrInvalid", verb, err)
				}
			}
		})
	}
}

func TestRemoveTouchesOnlyOurs(t *testing.T) {
	for _, n := range []Network{
		{Namespace: "cw-blue", HostLink: "cwblue"}, // without a plug
		{Namespace: "blue", HostLink: "cwblue", Plug: plug.Bridge{}},
		{Namespace: "cw-blue", HostLink: "eth0", Plug: plug.Bridge{}},
		{Namespace: "cw/../../../etc/hosts", HostLink: "cwblue", Plug: plug.Bridge{}},
	} {
		if err := New(Options{}).Remove(t.Context(), n); !errors.Is(err, ErrInvalid) {
			t.Errorf("remove %q, %q: %v, want ErrInvalid", n.Namespace, n.HostLink, err)
		}
	}
}
