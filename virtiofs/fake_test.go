package virtiofs

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/causeway-project/causeway/integration/wait"
)

// fakeVirt is a model of libvirtd 9.0, as far as a hypervisor goes. It keeps
// libvirt's rules: an alias is there once, a tag as often as you like; asking a
// guest to let go of a device succeeds whatever the guest does. And it keeps
// QEMU's, which may have more devices than libvirt knows of.
type fakeVirt struct {
	mu      sync.Mutex
	domains map[string]*fakeDomain
	notify  func(Event)
	lost    func()
	away    bool          // refuses connections
	dead    bool          // this connection is
	hang    chan struct{} // where set, every call waits for it to close
	inside  int           // calls that wait
	fail    map[string]error
	dials   int
	closed  int
	log     []string // of what changed
}

// A fakeDomain is one domain and the guest in it.
type fakeDomain struct {
	name    string
	running bool
	private bool
	ports   int
	agent   bool
	asleep  bool // the guest answers nothing
	pending []string
	devices []Device
	strays  map[string]int // what QEMU has besides: the port of each alias, 0 for a chardev alone
	defined []Device       // of its definition
	passing bool           // it is transient
	guest   fakeGuest
}

// startFake runs a Host on a fake with one running domain, guestUUID.
func startFake(t *testing.T) (*fakeVirt, *Host, *events) {
	t.Helper()
	f := &fakeVirt{fail: map[string]error{}, domains: map[string]*fakeDomain{
		guestUUID: {name: "guest", running: true, ports: 4, agent: true},
	}}
	seen := &events{}
	h := New(Options{Changed: seen.add, Logger: nil})
	h.dial = f.dial
	h.admit = func(Instance, string) error { return nil }
	runHost(t, h)
	wait.Until(t, "libvirt is connected", func() bool { return h.Connected() == nil })
	t.Cleanup(func() {
		for k, err := range f.fail {
			t.Errorf("the failure of %s was not used: %v", k, err)
		}
	})
	return f, h, seen
}

func (f *fakeVirt) dial(notify func(Event), lost func()) (*link, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dials++
	if f.away {
		return nil, libvirt.Error{Code: libvirt.ERR_SYSTEM_ERROR, Message: "Failed to connect socket"}
	}
	f.notify, f.lost, f.dead = notify, lost, false
	gone := false
	return &link{
		hypervisor: f,
		alive:      func() bool { f.mu.Lock(); defer f.mu.Unlock(); return !gone && !f.away && !f.dead },
		close:      func() { f.mu.Lock(); defer f.mu.Unlock(); gone = true; f.closed++ },
	}, nil
}

// enter begins a call. It is locked when it returns nil.
func (f *fakeVirt) enter(verb string) error {
	f.mu.Lock()
	if f.hang != nil {
		hang := f.hang
		f.inside++
		f.mu.Unlock()
		<-hang
		f.mu.Lock()
		f.inside--
	}
	if err := f.fail[verb]; err != nil {
		delete(f.fail, verb)
		f.mu.Unlock()
		return err
	}
	if f.away {
		f.mu.Unlock()
		return libvirt.Error{Code: libvirt.ERR_RPC, Message: "client socket is closed"}
	}
	return nil
}

func noDomain(ref string) error {
	return libvirt.Error{Code: libvirt.ERR_NO_DOMAIN, Message: "no domain with matching " + ref}
}

// get returns a domain that runs.
func (f *fakeVirt) get(uuid string) (*fakeDomain, error) {
	d := f.domains[uuid]
	if d == nil {
		return nil, noDomain(uuid)
	}
	if !d.running {
		return nil, libvirt.Error{Code: libvirt.ERR_OPERATION_INVALID, Message: "domain is not running"}
	}
	return d, nil
}

func (f *fakeVirt) domain(ref string) (string, passage, error) {
	if err := f.enter("domain"); err != nil {
		return "", stays, err
	}
	defer f.mu.Unlock()
	for uuid, d := range f.domains {
		if uuid == ref || d.name == ref {
			if !d.running {
				return d.xml(uuid, d.defined), stays, nil
			}
			return d.xml(uuid, d.devices), stays, nil
		}
	}
	return "", stays, noDomain(ref)
}

func (f *fakeVirt) capabilities() (string, error) {
	return "<capabilities><host><secmodel><model>dac</model><doi>0</doi><baselabel type='qemu'>+64055:+64055</baselabel></secmodel></host></capabilities>", nil
}

func (f *fakeVirt) versions() (Hypervisor, error) {
	return Hypervisor{Libvirt: 9_000_000, QEMU: 7_002_022}, nil
}

func (f *fakeVirt) definition(uuid string) (string, error) {
	if err := f.enter("definition"); err != nil {
		return "", err
	}
	defer f.mu.Unlock()
	d := f.domains[uuid]
	switch {
	case d == nil:
		return "", noDomain(uuid)
	case d.passing:
		return "", nil
	}
	return d.xml(uuid, d.defined), nil
}

func (f *fakeVirt) define(uuid, xml string) error {
	if err := f.enter("define"); err != nil {
		return err
	}
	defer f.mu.Unlock()
	d := f.domains[uuid]
	dev, err := parseDevice(uuid, xml)
	switch {
	case d == nil:
		return noDomain(uuid)
	case err != nil:
		return err
	case d.passing:
		return libvirt.Error{Code: libvirt.ERR_OPERATION_INVALID, Message: "transient domains do not have any persistent config"}
	case slices.ContainsFunc(d.defined, func(v Device) bool { return v.Tag == dev.Tag }):
		return libvirt.Error{Code: libvirt.ERR_OPERATION_INVALID, Message: "Target already exists"}
	}
	d.defined = append(d.defined, dev)
	f.log = append(f.log, "define "+dev.Alias)
	return nil
}

func (f *fakeVirt) undefine(uuid, alias string) error {
	if err := f.enter("undefine"); err != nil {
		return err
	}
	defer f.mu.Unlock()
	d := f.domains[uuid]
	if d == nil {
		return noDomain(uuid)
	}
	if !slices.ContainsFunc(d.defined, func(v Device) bool { return v.Alias == alias }) {
		return libvirt.Error{Code: libvirt.ERR_DEVICE_MISSING, Message: "no device found with alias " + alias}
	}
	d.defined = slices.DeleteFunc(d.defined, func(v Device) bool { return v.Alias == alias })
	f.log = append(f.log, "undefine "+alias)
	return nil
}

func parseDevice(uuid, xml string) (Device, error) {
	var fs libvirtxml.DomainFilesystem
	if err := fs.Unmarshal(xml); err != nil {
		return Device{}, libvirt.Error{Code: libvirt.ERR_XML_ERROR, Message: err.Error()}
	}
	return Device{Instance: uuid, Alias: fs.Alias.Name, Tag: fs.Target.Dir, Socket: fs.Source.Mount.Socket}, nil
}

func (f *fakeVirt) running() (docs []string, err error) {
	if err := f.enter("running"); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	for _, uuid := range slices.Sorted(maps.Keys(f.domains)) {
		if d := f.domains[uuid]; d.running {
			docs = append(docs, d.xml(uuid, d.devices))
		}
	}
	return docs, nil
}

func (f *fakeVirt) attach(uuid, xml string) error {
	if err := f.enter("attach"); err != nil {
		return err
	}
	defer f.mu.Unlock()
	d, err := f.get(uuid)
	if err != nil {
		return err
	}
	dev, err := parseDevice(uuid, xml)
	if err != nil {
		return err
	}
	for _, other := range d.devices {
		if other.Alias == dev.Alias {
			return libvirt.Error{Code: libvirt.ERR_INTERNAL_ERROR, Message: "non unique alias detected: " + dev.Alias}
		}
	}
	switch {
	case d.private:
		return libvirt.Error{Code: libvirt.ERR_CONFIG_UNSUPPORTED, Message: "unsupported configuration: 'virtiofs' requires shared memory"}
	case len(d.devices) >= d.ports:
		return libvirt.Error{Code: libvirt.ERR_INTERNAL_ERROR, Message: "internal error: No more available PCI slots"}
	}
	if err := d.qemuTakes(dev.Alias, len(d.devices)+1); err != nil {
		return err
	}
	d.devices = append(d.devices, dev)
	f.log = append(f.log, "attach "+dev.Alias)
	go f.notify(Event{Instance: uuid})
	return nil
}

func (f *fakeVirt) detach(uuid, alias string) error {
	if err := f.enter("detach"); err != nil {
		return err
	}
	defer f.mu.Unlock()
	d, err := f.get(uuid)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(d.devices, func(v Device) bool { return v.Alias == alias }) {
		return libvirt.Error{Code: libvirt.ERR_INTERNAL_ERROR, Message: "internal error: no device found with alias " + alias}
	}
	f.log = append(f.log, "unplug "+alias)
	d.pending = append(d.pending, alias)
	if !d.asleep {
		go f.release(uuid)
	}
	return nil
}

// release is the guest letting go of what it was asked to.
func (f *fakeVirt) release(uuid string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.domains[uuid]
	if d == nil {
		return
	}
	for _, alias := range d.pending {
		if d.strays[alias] > 0 {
			d.strays[alias] = 0
		}
		d.devices = slices.DeleteFunc(d.devices, func(v Device) bool { return v.Alias == alias })
	}
	d.pending = nil
	go f.notify(Event{Instance: uuid})
}

// change changes the model.
func (f *fakeVirt) change(c func(d *fakeDomain)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c(f.domains[guestUUID])
}

// String shows the model.
func (f *fakeVirt) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var b strings.Builder
	for _, uuid := range slices.Sorted(maps.Keys(f.domains)) {
		d := f.domains[uuid]
		fmt.Fprintf(&b, "%s running=%v\n", d.name, d.running)
		for _, v := range d.devices {
			fmt.Fprintf(&b, "  %s %s %s\n", v.Alias, v.Tag, v.Socket)
		}
	}
	return b.String()
}

func (d *fakeDomain) xml(uuid string, devices []Device) string {
	x := libvirtxml.Domain{Type: "kvm", Name: d.name, UUID: uuid, Devices: &libvirtxml.DomainDeviceList{}}
	if d.running {
		x.ID = new(7)
	}
	if !d.private {
		x.MemoryBacking = &libvirtxml.DomainMemoryBacking{MemoryAccess: &libvirtxml.DomainMemoryAccess{Mode: "shared"}}
	}
	x.Devices.Controllers = append(x.Devices.Controllers, libvirtxml.DomainController{Type: "pci", Model: "pcie-root", Index: new(uint(0))})
	for i := range d.ports {
		x.Devices.Controllers = append(x.Devices.Controllers, libvirtxml.DomainController{Type: "pci", Model: "pcie-root-port", Index: new(uint(i + 1))})
	}
	state := "disconnected"
	if d.agent {
		state = "connected"
	}
	x.Devices.Channels = []libvirtxml.DomainChannel{{Target: &libvirtxml.DomainChannelTarget{
		VirtIO: &libvirtxml.DomainChannelTargetVirtIO{Name: guestAgentChannel, State: state},
	}}}
	for i, v := range devices {
		x.Devices.Filesystems = append(x.Devices.Filesystems, libvirtxml.DomainFilesystem{
			Driver:  &libvirtxml.DomainFilesystemDriver{Type: "virtiofs"},
			Source:  &libvirtxml.DomainFilesystemSource{Mount: &libvirtxml.DomainFilesystemSourceMount{Socket: v.Socket}},
			Target:  &libvirtxml.DomainFilesystemTarget{Dir: v.Tag},
			Alias:   &libvirtxml.DomainAlias{Name: v.Alias},
			Address: &libvirtxml.DomainAddress{PCI: &libvirtxml.DomainAddressPCI{Domain: new(uint(0)), Bus: new(uint(i + 1)), Slot: new(uint(0)), Function: new(uint(0))}},
		})
	}
	doc, err := x.Marshal()
	if err != nil {
		panic(err)
	}
	return doc
}

// A fakeGuest is a guest's mount table and its agent.
type fakeGuest struct {
	mounts   []guestEntry
	unseen   int             // how many mounts fail before the guest sees its device
	dead     map[string]bool // paths whose daemon has died
	busy     map[string]bool // paths in use
	links    map[string]string
	hangs    map[string]bool // programs that never end
	raw      string          // answers everything with this
	silent   bool            // answers nothing
	asked    int
	forbids  []string       // commands that the agent must not use
	commands map[int]string // of processes
	results  map[int]execStatus
	pids     int
	ran      []string
}

func (f *fakeVirt) agent(uuid, command string, seconds int) (string, error) {
	if err := f.enter("agent"); err != nil {
		return "", err
	}
	defer f.mu.Unlock()
	d, err := f.get(uuid)
	if err != nil {
		return "", err
	}
	g := &d.guest
	g.asked++
	switch {
	case seconds <= 0:
		panic("a command without a limit")
	case !d.agent, g.silent:
		return "", libvirt.Error{Code: libvirt.ERR_AGENT_UNRESPONSIVE, Message: "guest agent is not responding"}
	case g.raw != "":
		return g.raw, nil
	}
	var q struct {
		Execute   string
		Arguments json.RawMessage
	}
	if err := json.Unmarshal([]byte(command), &q); err != nil {
		panic(err)
	}
	if slices.Contains(g.forbids, q.Execute) {
		return "", libvirt.Error{Code: libvirt.ERR_INTERNAL_ERROR, Message: "unable to execute QEMU agent command: The command has been disabled for this instance"}
	}
	switch q.Execute {
	case "guest-info":
		doc := `{"name":"guest-info","enabled":true}`
		for _, c := range []string{"guest-exec", "guest-file-open"} {
			doc += fmt.Sprintf(`,{"name":%q,"enabled":%v}`, c, !slices.Contains(g.forbids, c))
		}
		return `{"return":{"supported_commands":[` + doc + `]}}`, nil
	case "guest-file-open":
		return `{"return":1000}`, nil
	case "guest-file-read":
		doc, err := json.Marshal(map[string]any{"return": map[string]any{"count": 1, "eof": true, "buf-b64": g.table()}})
		return string(doc), err
	case "guest-file-close":
		return `{"return":{}}`, nil
	case "guest-exec":
		var a execArguments
		if err := json.Unmarshal(q.Arguments, &a); err != nil {
			panic(err)
		}
		g.pids++
		if g.results == nil {
			g.results = map[int]execStatus{}
		}
		g.ran = append(g.ran, a.Path+" "+strings.Join(a.Arg, " "))
		if g.hangs[a.Path] {
			g.results[g.pids] = execStatus{}
		} else {
			g.results[g.pids] = g.run(d, a)
		}
		return fmt.Sprintf(`{"return":{"pid":%d}}`, g.pids), nil
	case "guest-exec-status":
		var a struct{ PID int }
		if err := json.Unmarshal(q.Arguments, &a); err != nil {
			panic(err)
		}
		doc, err := json.Marshal(map[string]execStatus{"return": g.results[a.PID]})
		return string(doc), err
	}
	panic("unknown command " + q.Execute)
}

func (g *fakeGuest) table() (out []byte) {
	esc := strings.NewReplacer(" ", `\040`, `\`, `\134`).Replace
	for _, m := range g.mounts {
		out = fmt.Appendf(out, "%s %s %s rw 0 0\n", esc(m.source), esc(m.path), m.kind)
	}
	return out
}

func failed(format string, args ...any) execStatus {
	return execStatus{Exited: true, ExitCode: 1, Err: fmt.Appendf(nil, format, args...)}
}

// run is the guest's programs.
func (g *fakeGuest) run(d *fakeDomain, a execArguments) execStatus {
	ok := execStatus{Exited: true}
	last := a.Arg[len(a.Arg)-1]
	top := -1
	for i, m := range g.mounts {
		if m.path == last {
			top = i
		}
	}
	switch a.Path {
	case "readlink":
		if to, linked := g.links[last]; linked {
			last = to
		}
		ok.Out = []byte(last + "\n")
	case "cat":
		ok.Out = g.table()
	case "sh":
		switch a.Arg[1] {
		case mountPlainly:
			tag, at := a.Arg[3], a.Arg[4]
			if strings.Contains(at, " ") || slices.ContainsFunc(g.mounts, func(m guestEntry) bool { return m.path == at || m.path == g.links[at] }) {
				return execStatus{Exited: true, ExitCode: notPlain}
			}
			return g.run(d, execArguments{Path: "mount", Arg: []string{tag, at}})
		case findHolders:
		default:
			panic("no such script")
		}
		for _, from := range slices.Sorted(maps.Keys(g.links)) {
			if to := " -> " + g.links[from]; strings.Contains(to, " -> "+last) {
				ok.Out = fmt.Appendln(ok.Out, from+to)
			}
		}
	case "grep":
		for pid, name := range g.commands {
			ok.Out = fmt.Appendf(ok.Out, "/proc/%d/comm:%s\n", pid, name)
		}
	case "mkdir":
	case "df":
		if g.dead[last] {
			return failed("df: %s: Transport endpoint is not connected", last)
		}
	case "mount":
		if last = a.Arg[len(a.Arg)-1]; g.links[last] != "" {
			last = g.links[last]
		}
		tag := a.Arg[len(a.Arg)-2]
		if !slices.ContainsFunc(d.devices, func(v Device) bool { return v.Tag == tag }) || g.unseen > 0 {
			g.unseen--
			return failed("mount: wrong fs type, bad option, bad superblock on %s", tag)
		}
		g.mounts = append(g.mounts, guestEntry{tag, last, "virtiofs"})
	case "umount":
		if top < 0 {
			return failed("umount: %s: not mounted.", last)
		}
		if g.busy[last] && a.Arg[0] != "-l" {
			return failed("umount: %s: target is busy.\x1b[2J", last)
		}
		g.mounts = slices.Delete(g.mounts, top, top+1)
		delete(g.dead, last)
	default:
		panic("no such program " + a.Path)
	}
	return ok
}
