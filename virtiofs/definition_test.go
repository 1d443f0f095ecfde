package virtiofs

import (
	"errors"
	"slices"
	"testing"

	"libvirt.org/go/libvirt"
)

func TestDefine(t *testing.T) {
	f, h, _ := startFake(t)
	d := Device{Instance: guestUUID, Alias: AliasPrefix + "a.b", Tag: "docs", Socket: "/run/a/sock"}
	elsewhere := d
	elsewhere.Socket = "/run/b/sock"
	for _, next := range []Device{d, d, elsewhere} {
		if err := h.Define(t.Context(), next); err != nil {
			t.Fatal(err)
		}
		i, err := h.Instance(t.Context(), guestUUID)
		if err != nil || !i.Persistent || !slices.Equal(i.Defined, []Device{next}) || len(i.Filesystems) != 0 {
			t.Errorf("%+v, %v, want %+v in the definition alone", i, err, next)
		}
	}
	other := Device{Instance: guestUUID, Alias: AliasPrefix + "other", Tag: "docs", Socket: "/run/c/sock"}
	if err := h.Define(t.Context(), other); !errors.Is(err, ErrTagTaken) {
		t.Errorf("tag of another: %v", err)
	}
	f.change(func(d *fakeDomain) { d.running = false })
	i, err := h.Instance(t.Context(), guestUUID)
	if err != nil || i.Running || !slices.Equal(i.Defined, []Device{elsewhere}) || len(i.Filesystems) != 0 {
		t.Errorf("off: %+v, %v", i, err)
	}
	for range 2 {
		if err := h.Undefine(t.Context(), d); err != nil {
			t.Error(err)
		}
	}
	want := []string{"define ua-cw-a_db", "undefine ua-cw-a_db", "define ua-cw-a_db", "undefine ua-cw-a_db"}
	if !slices.Equal(f.log, want) {
		t.Errorf("libvirt was told %q, want %q", f.log, want)
	}
	f.change(func(d *fakeDomain) { d.running, d.passing = true, true })
	if err := h.Define(t.Context(), d); !errors.Is(err, ErrTransient) {
		t.Errorf("transient: %v", err)
	}
	f.fail["undefine"] = libvirt.Error{Code: libvirt.ERR_DEVICE_MISSING}
	f.change(func(x *fakeDomain) { x.passing, x.defined = false, []Device{{Alias: libvirtAlias(d.Alias), Tag: "t"}} })
	if err := h.Undefine(t.Context(), d); err != nil {
		t.Errorf("somebody else took it out: %v", err)
	}
	d.Instance = "00000000-0000-0000-0000-000000000000"
	if err := h.Undefine(t.Context(), d); err != nil {
		t.Errorf("no such instance: %v", err)
	}
	if err := h.Define(t.Context(), d); !errors.Is(err, ErrNoInstance) {
		t.Errorf("no such instance: %v", err)
	}
}
