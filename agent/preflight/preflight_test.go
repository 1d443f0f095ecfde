package preflight

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-project/causeway/agent/device"
	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/drivers"
)

// good are facts with nothing wrong.
func good() Facts {
	return Facts{
		Want:  model.Attachment{ID: "docs", Instance: "vm1", Tag: "docs", MountAt: "/mnt"},
		Alias: "ua-cw-docs",
		Instance: parts.Instance{UUID: "u-1", Name: "vm1", Running: true, SharedMemory: true, FreePorts: 3, Express: true,
			Machine: "pc-q35-7.2", Cells: 1, CPUs: 2, Memory: 524288},
		Program: &parts.Program{Program: device.Program{Flavour: "c", Version: "7.2.22", Abilities: []string{"cache_auto"}}, Path: "/usr/lib/qemu/virtiofsd", WantFiles: 1 << 20, HostFiles: 1 << 20, NrOpen: 1 << 20, FileMax: 1 << 40},
		Libvirt: &parts.Hypervisor{Libvirt: 9_000_000, QEMU: 7_002_022},
		Guest:   &parts.GuestAgent{Channel: true, Commands: []string{"guest-exec", "guest-exec-status", "guest-ping"}},
		Share:   &Share{Name: "local:docs"},
	}
}

func TestLook(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Facts)
		check  string
		want   model.Verdict
		reason fault.Reason
		fix    string // a part of it
	}{
		"off":              {func(f *Facts) { f.Instance.Running = false }, "instance", model.Fail, fault.InstanceOff, "virsh start vm1"},
		"private memory":   {func(f *Facts) { f.Instance.SharedMemory = false }, "shared-memory", model.Fail, fault.NoSharedMemory, "numa.cell0.memAccess=shared && virsh shutdown vm1"},
		"private and off":  {func(f *Facts) { f.Instance.SharedMemory, f.Instance.Running = false, false }, "shared-memory", model.Fail, fault.NoSharedMemory, "source.type=memfd"},
		"no cell, old":     {func(f *Facts) { f.Instance.Cells = 0 }, "shared-memory", model.Warn, "", "numa.cell0.cpus=0-1,numa.cell0.memory=524288,numa.cell0.unit=KiB"},
		"no cell, new":     {func(f *Facts) { f.Instance.Cells, f.Libvirt.Libvirt = 0, 11_003_000 }, "shared-memory", model.Pass, "", ""},
		"tag of a device":  {func(f *Facts) { f.Instance.Devices = []parts.Device{{Tag: "docs", Alias: "fs0"}} }, "tag", model.Fail, fault.TagTaken, ""},
		"tag of its own":   {func(f *Facts) { f.Instance.Devices = []parts.Device{{Tag: "docs", Alias: "ua-cw-docs"}} }, "tag", model.Pass, "", ""},
		"tag of a promise": {func(f *Facts) { f.Others = []Other{{ID: "o", Tag: "docs"}} }, "tag", model.Fail, fault.TagTaken, ""},
		"no port":          {func(f *Facts) { f.Instance.FreePorts = 0 }, "ports", model.Fail, fault.NoFreePort, "model=pcie-root-port"},
		"no slot":          {func(f *Facts) { f.Instance.FreePorts, f.Instance.Express = 0, false }, "ports", model.Fail, fault.NoFreePort, "model=pci-bridge"},
		"last port":        {func(f *Facts) { f.Instance.FreePorts = 1 }, "ports", model.Warn, "", "model=pcie-root-port"},
		"microvm":          {func(f *Facts) { f.Instance.Machine, f.Instance.FreePorts = "microvm", 0 }, "ports", model.Fail, fault.NoFreePort, ""},
		"no virtiofsd":     {func(f *Facts) { f.Program, f.Missing = nil, fault.Preconditionf(fault.NoVirtiofsd, "none") }, "virtiofsd", model.Fail, fault.NoVirtiofsd, "apt-get install"},
		"unable virtiofsd": {func(f *Facts) { f.Want.Settings.Cache = device.CacheMetadata }, "virtiofsd", model.Fail, fault.DaemonUnable, "causeway node show"},
		"no share": {func(f *Facts) {
			f.Share.Refused = &fault.Error{Kind: fault.NotFound, Reason: fault.ShareNotFound, Message: "none"}
		}, "share", model.Fail, fault.ShareNotFound, ""},
		"wedged":               {func(f *Facts) { f.HotPlug = fault.Preconditionf(fault.NeedsReset, "wedged") }, "hot-plug", model.Fail, fault.NeedsReset, "virsh reset vm1"},
		"other locks":          {func(f *Facts) { f.Locks = fault.Preconditionf(fault.LocksNotShared, "other") }, "locks", model.Fail, fault.LocksNotShared, "--force"},
		"few files for itself": {func(f *Facts) { f.Want.Settings.OpenFiles = 4096 }, "open-files", model.Warn, "", "--open-files 1M"},
		"share twice":          {func(f *Facts) { f.Others = []Other{{ID: "o", Tag: "other", Share: true}} }, "share-twice", model.Warn, "", "causeway attachment show o"},
		"agent's hard limit":   {func(f *Facts) { f.Program.HostFiles = 524288 }, "open-files", model.Warn, "", "LimitNOFILE=1048576"},
		"host's limit":         {func(f *Facts) { f.Program.NrOpen, f.Program.HostFiles = 65536, 1<<30 }, "open-files", model.Warn, "", "fs.nr_open=1048576"},
		"few files by choice":  {func(f *Facts) { f.Program.WantFiles = 4096 }, "open-files", model.Warn, "", "--open-files 1M"},
		"the host's are used":  {func(f *Facts) { f.Program.FileMax, f.Program.FilesOpen = 1<<20, 9000 }, "open-files", model.Warn, "", "fs.file-max"},
		"too little memory":    {func(f *Facts) { f.Program.Memory = 256 << 20 }, "memory-limit", model.Warn, "", "--memory with more than 512M"},
		"enough memory":        {func(f *Facts) { f.Program.Memory = 1 << 30 }, "memory-limit", model.Pass, "", ""},
		"owner outside":        {func(f *Facts) { mapped(f, 0, 0, 0o777) }, "share-owner", model.Fail, fault.OwnerUnmapped, "chown 100000:200000 '/pool/my docs'"},
		"group outside":        {func(f *Facts) { mapped(f, 100001, 0, 0o775) }, "share-owner", model.Fail, fault.OwnerUnmapped, "chown 100001:200000 "},
		"owner inside":         {func(f *Facts) { mapped(f, 165535, 200000, 0o700) }, "share-owner", model.Pass, "", ""},
		"outside, to read":     {func(f *Facts) { mapped(f, 0, 0, 0o755); f.Want.ReadOnly = true }, "share-owner", model.Pass, "", ""},
		"outside, closed":      {func(f *Facts) { mapped(f, 0, 0, 0o750); f.Want.ReadOnly = true }, "share-owner", model.Fail, fault.OwnerUnmapped, "chown 100000:200000 "},
		"its group may read":   {func(f *Facts) { mapped(f, 0, 200009, 0o750); f.Want.ReadOnly = true }, "share-owner", model.Pass, "", ""},
		"squashed, of another": {func(f *Facts) { squashed(f, 1000, 1001) }, "share-owner", model.Fail, fault.OwnerUnmapped, "chown 1000:1000 "},
		"squashed":             {func(f *Facts) { squashed(f, 1000, 1000) }, "share-owner", model.Pass, "", ""},
		"no channel":           {func(f *Facts) { f.Guest = &parts.GuestAgent{} }, "guest-agent", model.Warn, "", "org.qemu.guest_agent.0"},
		"mute agent":           {func(f *Facts) { f.Guest.Err = errors.New("it does not answer") }, "guest-agent", model.Warn, "", "systemctl enable --now qemu-guest-agent"},
		"guest-exec is off":    {func(f *Facts) { f.Guest.Commands = []string{"guest-ping"} }, "guest-agent", model.Warn, "", "allow guest-exec, guest-exec-status"},
	} {
		f := good()
		c.change(&f)
		all := Look(f)
		var got *Finding
		for i := range all {
			if all[i].Name == c.check {
				got = &all[i]
			}
			if all[i].Verdict == model.Fail != (all[i].Err() != nil) {
				t.Errorf("%s: %+v has error %v", name, all[i].Check, all[i].Err())
			}
		}
		if got == nil {
			t.Errorf("%s: no line %s among %+v", name, c.check, Lines(all))
			continue
		}
		if got.Verdict != c.want || got.Reason != c.reason || !strings.Contains(got.Fix, c.fix) || c.fix == "" && c.want == model.Warn {
			t.Errorf("%s: %+v, want %s %s, fix with %q", name, got.Check, c.want, c.reason, c.fix)
		}
		var e *fault.Error
		if err := Refusal(all); c.want == model.Fail && (!errors.As(err, &e) || e.Reason != c.reason && c.reason != fault.NoSharedMemory) || c.want != model.Fail && err != nil {
			t.Errorf("%s: refused with %v", name, err)
		}
	}
}

// mapped is a guest with other ids, and a share of an owner.
func mapped(f *Facts, uid, gid uint32, mode fs.FileMode) {
	f.Want.IDs = device.IDs{Policy: device.Map, UIDs: []device.Range{{Host: 100000, Count: 65536}}, GIDs: []device.Range{{Host: 200000, Count: 65536}}}
	f.Program.Abilities = append(f.Program.Abilities, "map_ids")
	f.Share.Owner = &drivers.Owner{UID: uid, GID: gid, Mode: mode, Path: "/pool/my docs"}
}

func squashed(f *Facts, uid, gid uint32) {
	f.Want.IDs = device.IDs{Policy: device.Squash, UID: 1000, GID: 1000}
	f.Program.Abilities = append(f.Program.Abilities, "squash_ids")
	f.Share.Owner = &drivers.Owner{UID: uid, GID: gid, Mode: 0o755, Path: "/pool/docs"}
}

// TestOwnerIsTold: whose it is, who the guest is, and every way out.
func TestOwnerIsTold(t *testing.T) {
	for name, c := range map[string]struct {
		mode     fs.FileMode
		readOnly bool
		want     string
	}{
		"open":   {0o755, false, "could write it: chown 100000:200000 '/pool/my docs', or attach it read-only"},
		"closed": {0o750, false, "could read it: chown 100000:200000 '/pool/my docs'"},
		"closed, to read": {0o750, true,
			"could read it: chown 100000:200000 '/pool/my docs', or chmod o+rx '/pool/my docs'"},
	} {
		f := good()
		mapped(&f, 0, 5, c.mode)
		f.Want.ReadOnly = c.readOnly
		got := f.owner().Message
		whose := fmt.Sprintf("the directory of share local:docs belongs to 0:5 (mode %04o), which is not in the ids of the guest (map-uids=0:100000:65536 map-gids=0:200000:65536), so that nobody there ", c.mode)
		if got != whose+c.want {
			t.Errorf("%s: %s, want %s", name, got, whose+c.want)
		}
	}
}

// TestOrder: an attach fails with the first, so the order is part of the API.
func TestOrder(t *testing.T) {
	f := good()
	f.Program.Memory = 1 << 30
	var names []string
	for _, l := range Lines(Look(f)) {
		if l.Verdict != model.Pass || l.Message == "" {
			t.Errorf("%+v", l)
		}
		names = append(names, l.Name)
	}
	want := []string{"instance", "shared-memory", "tag", "ports", "hot-plug", "virtiofsd", "share", "locks", "open-files", "memory-limit", "libvirt", "guest-agent"}
	if d := cmp.Diff(want, names); d != "" {
		t.Error(d)
	}
}

// TestNamesAreQuoted: whoever may name a domain does not get to choose what an
// operator runs.
func TestNamesAreQuoted(t *testing.T) {
	for name, want := range map[string]string{
		"vm1":         "virsh start vm1",
		"my vm":       "virsh start 'my vm'",
		"a;rm -rf /'": `virsh start 'a;rm -rf /'\'''`,
		"$(reboot)":   "virsh start '$(reboot)'",
		"--all":       "virsh start u-1",
		"":            "virsh start u-1",
	} {
		f := good()
		f.Instance.Name, f.Instance.Running = name, false
		if got := Look(f)[0].Fix; got != want {
			t.Errorf("%q: %s, want %s", name, got, want)
		}
	}
}
