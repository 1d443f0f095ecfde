package virtiofs

import (
	"errors"
	"testing"

	"libvirt.org/go/libvirt"
)

// TestHandlesOutlivedByDomains: a handle that is kept serves a domain that was
// defined anew, and none that is gone.
func TestHandlesOutlivedByDomains(t *testing.T) {
	if err := eventLoop(); err != nil {
		t.Fatal(err)
	}
	c, err := libvirt.NewConnect("test:///default") // libvirt's own model, in this process
	if err != nil {
		t.Fatal(err)
	}
	n := &connection{c: c, domains: map[string]*libvirt.Domain{}}
	defer n.close()
	define := func(name string) {
		t.Helper()
		d, err := c.DomainDefineXML("<domain type='test'><name>" + name + "</name><uuid>" + guestUUID + "</uuid><memory>1024</memory><os><type>hvm</type></os></domain>")
		if err == nil {
			err = d.Free()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	undefine := func() {
		t.Helper()
		if err := n.with(guestUUID, (*libvirt.Domain).Undefine); err != nil {
			t.Fatal(err)
		}
	}
	named := func(want string) {
		t.Helper()
		doc, _, err := n.domain(guestUUID)
		if err != nil {
			t.Fatal(err)
		}
		if i, err := parseInstance(doc); err != nil || i.Name != want {
			t.Errorf("it is %q, %v, want %q", i.Name, err, want)
		}
		if len(n.domains) != 1 {
			t.Errorf("%d handles are kept, want 1", len(n.domains))
		}
	}
	define("one")
	named("one")
	named("one")
	undefine()
	define("two")
	named("two")
	undefine()
	if _, _, err := n.domain(guestUUID); !errors.Is(err, libvirt.ERR_NO_DOMAIN) {
		t.Errorf("a domain that is gone: %v", err)
	}
	if len(n.domains) != 0 {
		t.Errorf("%d handles are kept of a domain that is gone", len(n.domains))
	}
}
