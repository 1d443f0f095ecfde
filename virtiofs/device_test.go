package virtiofs

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"libvirt.org/go/libvirtxml"

	"github.com/causeway-project/causeway/integration/golden"
)

func TestDeviceXML(t *testing.T) {
	for _, tt := range []struct {
		name string
		dev  Device
	}{
		{"dots", Device{"", AliasPrefix + "docs.vm_1", "docs", "/run/causeway/virtiofs/docs.vm_1/sock", 0}},
		{"plain", Device{"", AliasPrefix + "docs-vm1", "docs", "/run/causeway/virtiofs/docs-vm1/sock", 256}},
		{"hostile", Device{"", AliasPrefix + "x", `'"><readonly/>&amp;]]>`, `/run/a"b'c<d>&e/sock`, 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			xml, err := tt.dev.XML()
			if err != nil {
				t.Fatal(err)
			}
			golden.Check(t, "device-"+tt.name+".xml", xml+"\n")
		})
	}
}

func TestValidateTag(t *testing.T) {
	for _, good := range []string{"a", "docs", strings.Repeat("x", MaxTag), `'"<>&\`, "-o", "a=b", "~", "a,b", "LABEL"} {
		if err := ValidateTag(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", strings.Repeat("x", MaxTag+1), "a b", "a\n", "a\x00", "é", "\x7f", "日本", "LABEL=x", "uuid=x", "PartUUID=1"} {
		if err := ValidateTag(bad); !errors.Is(err, ErrBadTag) {
			t.Errorf("%q: %v, want ErrBadTag", bad, err)
		}
	}
}

func TestAliases(t *testing.T) {
	for alias, want := range map[string]string{
		"ua-cw-a":     "ua-cw-a",
		"ua-cw-a.b":   "ua-cw-a_db",
		"ua-cw-a_b":   "ua-cw-a__b",
		"ua-cw-a_db":  "ua-cw-a__db",
		"ua-cw-_.._d": "ua-cw-___d_d__d",
	} {
		if got := libvirtAlias(alias); got != want {
			t.Errorf("%s is %s to libvirt, want %s", alias, got, want)
		}
		if got := parseAlias(want); got != alias {
			t.Errorf("%s is read as %s, want %s", want, got, alias)
		}
	}
	for other, want := range map[string]string{"fs0": "fs0", "ua-x_d": "ua-x_d", "ua-cw-a_b": "", "ua-cw-": "", "ua-cw-a_": ""} {
		if got := parseAlias(other); got != want {
			t.Errorf("%s is read as %q, want %q", other, got, want)
		}
	}
}

// Nothing that passes the checks may come out of the XML as anything else.
func FuzzDeviceXML(f *testing.F) {
	f.Add("ua-cw-a", "docs", "/run/sock")
	f.Add("ua-cw-a", `"/><x y='`, "/run/]]>&lt;")
	f.Add("ua-cw-a._d__", "a", "/run/sock")
	f.Add("ua-cw-a'", "\t", "/\x00")
	f.Fuzz(func(t *testing.T, alias, tag, socket string) {
		d := Device{Alias: alias, Tag: tag, Socket: socket}
		doc, err := d.XML()
		if err != nil {
			return
		}
		i, err := parseInstance("<domain id='1'><devices>" + doc + "</devices></domain>")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]Device{d}, i.Filesystems); diff != "" {
			t.Error(diff)
		}
		if strings.Trim(libvirtAlias(alias), "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
			t.Errorf("libvirt would ignore the alias of %q", alias)
		}
		var fs libvirtxml.DomainFilesystem
		if err := fs.Unmarshal(doc); err != nil {
			t.Fatal(err)
		}
		if fs.ReadOnly != nil || fs.Binary != nil || fs.AccessMode != "passthrough" || fs.Address != nil {
			t.Errorf("something crept in: %s", doc)
		}
	})
}

func TestParseInstance(t *testing.T) {
	for _, bad := range []string{"", "<domain", "<domain><devices><disk><address type='pci' bus='x' slot='0'/></disk></devices></domain>"} {
		if i, err := parseInstance(bad); err == nil {
			t.Errorf("%q parsed as %+v", bad, i)
		}
	}
	doc, err := os.ReadFile(filepath.Join("testdata", "openstack.xml"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseInstance(string(doc))
	if err != nil {
		t.Fatal(err)
	}
	want := Instance{
		UUID: "6b3c8bb4-0a34-4b8b-9d3e-3b1b5c1e8f10", Name: "instance-0000002a",
		Running: true, SharedMemory: true, FreePorts: 2, Express: true, GuestAgent: true, Channel: true,
		Machine: "pc-q35-8.2", CPUs: 2, Memory: 4194304, User: "+64055",
		Filesystems: []Device{{
			Instance: "6b3c8bb4-0a34-4b8b-9d3e-3b1b5c1e8f10",
			Alias:    "ua-cw-docs", Tag: "docs", Socket: "/run/causeway/virtiofs/docs/sock",
		}, {
			Instance: "6b3c8bb4-0a34-4b8b-9d3e-3b1b5c1e8f10",
			Alias:    "fs1", Tag: "nova-share",
		}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestUIDOf(t *testing.T) {
	for label, want := range map[string]int64{"": 0, "+64055": 64055, "+0": 0, "root": 0, "107": 107, "+": -1, "+-1": -1, "nobody-is-called-so": -1, "+4294967296": -1} {
		got, err := uidOf(label)
		if (err != nil) != (want < 0) || err == nil && int64(got) != want {
			t.Errorf("uidOf(%q) = %d, %v, want %d", label, got, err, want)
		}
	}
}
