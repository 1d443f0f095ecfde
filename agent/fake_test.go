package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/drivers"
	"github.com/causeway-project/causeway/drivers/mounts"
	"github.com/causeway-project/causeway/ganesha"
	"github.com/causeway-project/causeway/netns"
	"github.com/causeway-project/causeway/netns/plug"
)

// host is a fake kernel, libvirt and Ganesha at once. It enforces the order
// that those enforce, prints itself as text, and fails the call that it is told
// to fail. It outlives the agents of a test, as a real host does.
type host struct {
	t *testing.T

	mu         sync.Mutex
	calls      int
	failAt     int // this changing call fails; 0 fails none
	failed     bool
	onCall     func(n int)  // runs before the n-th changing call
	before     func(string) // runs before slow calls, without mu; set before an agent is booted
	looks      int          // at instances
	log        []string
	shares     map[string]bool   // at the backend
	mounted    map[string]string // target -> what
	sharing    map[string]bool   // directories that are being made shared
	gone       map[string]bool
	namespaces map[string]netns.Network // as made
	drift      bool
	bridges    map[string]bool
	gateways   map[string]*server // by network
	daemons    map[string]chan struct{}
	instances  map[string]*parts.Instance // by name
	libvirtOff bool
	guestBusy  bool
	agentless  bool                  // guests without a guest agent
	refuses    map[netip.Prefix]bool // clients of rules that gateways do not take
	noNFS3     bool                  // its rpcbind is not installed
	idle       bool                  // binds say that they worked, and are not there
	guests     map[string]bool       // uuid + path mounted in the guest
}

func newHost(t *testing.T) *host {
	h := &host{
		t: t, shares: map[string]bool{"docs": true, "music": true}, mounted: map[string]string{}, sharing: map[string]bool{}, gone: map[string]bool{},
		namespaces: map[string]netns.Network{}, bridges: map[string]bool{"br-blue": true, "br-red": true}, gateways: map[string]*server{},
		daemons: map[string]chan struct{}{}, instances: map[string]*parts.Instance{}, guests: map[string]bool{},
	}
	for _, name := range []string{"vm1", "vm2"} {
		h.instances[name] = &parts.Instance{UUID: "uuid-" + name, Name: name, Running: true, SharedMemory: true, FreePorts: 4, GuestAgent: true}
	}
	h.instances["off"] = &parts.Instance{UUID: "uuid-off", Name: "off"}
	h.instances["plain"] = &parts.Instance{UUID: "uuid-plain", Name: "plain", Running: true, FreePorts: 4}
	return h
}

// changing counts a call that changes the host, and fails the chosen one.
// Called with mu held.
func (h *host) changing(format string, args ...any) error {
	h.calls++
	h.log = append(h.log, fmt.Sprintf(format, args...))
	if h.onCall != nil {
		h.onCall(h.calls)
	}
	if h.calls == h.failAt {
		h.failed = true
		return errors.New("simulated")
	}
	return nil
}

func (h *host) slow(what string) {
	if h.before != nil {
		h.before(what)
	}
}

// String lists what is on the host, without temporary directories.
func (h *host) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var lines []string
	for target, what := range h.mounted {
		lines = append(lines, "mount "+filepath.Base(target)+" of "+what)
	}
	for n := range h.namespaces {
		lines = append(lines, "namespace "+n)
	}
	for n, s := range h.gateways {
		if s.done != nil {
			lines = append(lines, "gateway "+n)
		}
		for id, e := range s.exports {
			lines = append(lines, fmt.Sprintf("export %s %d %s %v", n, id, e.Pseudo, e.Rules))
		}
	}
	for dir := range h.daemons {
		lines = append(lines, "daemon "+filepath.Base(dir))
	}
	for _, i := range h.instances {
		for _, d := range i.Devices {
			lines = append(lines, "device "+d.Alias+" tag "+d.Tag+" in "+i.Name)
		}
	}
	for g := range h.guests {
		lines = append(lines, "guest mount "+g)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// The backend: drivers.Mounter and Prober.

func (h *host) Kind() string                   { return "fake" }
func (h *host) Properties() drivers.Properties { return drivers.Properties{StableHandles: true} }

func (h *host) Validate(c drivers.Connection) error {
	if c.Source == "" || strings.ContainsAny(c.Source, "/\x00") {
		return fmt.Errorf("source %q: %w", c.Source, drivers.ErrSource)
	}
	return nil
}

func (h *host) Probe(_ context.Context, c drivers.Connection) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.shares[c.Source] {
		return fmt.Errorf("source %q: %w", c.Source, drivers.ErrNotFound)
	}
	return nil
}

func (h *host) Mount(_ context.Context, r drivers.MountRequest) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mounted[r.Target] != "" {
		return nil
	}
	if err := h.changing("mount %s", r.Connection.Source); err != nil {
		return err
	}
	if !h.shares[r.Connection.Source] {
		return drivers.ErrNotFound
	}
	h.mounted[r.Target] = r.Connection.Source
	return nil
}

func (h *host) Unmount(_ context.Context, target string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.unmountLocked(target)
}

func (h *host) unmountLocked(target string) error {
	what := h.mounted[target]
	if what == "" {
		return nil
	}
	if err := h.changing("unmount %s", filepath.Base(target)); err != nil {
		return err
	}
	for t, w := range h.mounted {
		if w == "view of "+target {
			return fmt.Errorf("%s under %s: %w", target, t, drivers.ErrBusy)
		}
	}
	for dir := range h.daemons {
		if h.mounted[dir+" source"] == target {
			h.t.Errorf("unmounted %s under the daemon of %s", target, dir)
		}
	}
	for _, s := range h.gateways {
		for _, e := range s.exports {
			if e.Path == target && s.done != nil {
				h.t.Errorf("unmounted %s under export %d", target, e.ID)
			}
		}
	}
	delete(h.mounted, target)
	delete(h.gone, target)
	return nil
}

func (h *host) Mounts(context.Context, string) ([]drivers.Mounted, error) { return nil, nil }

// table is the mount table: agent.Mounts.
type table struct{ *host }

func (h table) Peek(target string) (mounts.Sight, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return mounts.Sight{Mounted: h.mounted[target] != "", Gone: h.gone[target]}, nil
}

func (h table) BindPath(source, target string, _ mounts.BindOptions) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.changing("bind %s", filepath.Base(target)); err != nil {
		return err
	}
	if h.mounted[source] == "" || h.mounted[target] != "" {
		h.t.Errorf("bind %s (%s) at %s (%s)", source, h.mounted[source], target, h.mounted[target])
	}
	if !h.idle {
		h.mounted[target] = "view of " + source
	}
	return nil
}

// Shared stacks a second mount where two call it at once, as the kernel does.
func (h table) Shared(dir string) error {
	h.mu.Lock()
	if h.sharing[dir] {
		h.t.Errorf("made %s shared twice at once", dir)
	}
	h.sharing[dir] = true
	h.mu.Unlock()
	runtime.Gosched()
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.sharing, dir)
	h.mounted[dir] = "itself"
	return nil
}

// Networks: agent.Namespaces.
type networks struct{ *host }

func (h networks) Check(_ context.Context, n netns.Network) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.bridges[bridgeOf(n)] {
		return plug.ErrNoBridge
	}
	return nil
}

func (h networks) Ensure(_ context.Context, n netns.Network) error {
	h.slow("ensure " + n.Namespace)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.changing("ensure %s", n.Namespace); err != nil {
		return err
	}
	if !h.bridges[bridgeOf(n)] {
		return plug.ErrNoBridge
	}
	is, there := h.namespaces[n.Namespace]
	if there && bridgeOf(is) != bridgeOf(n) {
		h.t.Errorf("%s was made on %s, and is to become %s's in place", n.Namespace, bridgeOf(is), bridgeOf(n))
	}
	if bridgeOf(n) == "br-red" && n.Addresses[0].Addr().String() == "10.77.0.66" {
		if !there {
			n.Addresses = nil
			h.namespaces[n.Namespace] = n // all but the address
		}
		return netns.ErrAddressInUse
	}
	h.namespaces[n.Namespace], h.drift = n, false
	return nil
}

func (h networks) Remove(_ context.Context, n netns.Network) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.changing("remove %s", n.Namespace); err != nil {
		return err
	}
	if s := h.gateways[strings.TrimPrefix(n.Namespace, "cw-")]; s != nil && s.done != nil {
		h.t.Errorf("removed %s under its gateway", n.Namespace)
	}
	if is, there := h.namespaces[n.Namespace]; there && bridgeOf(is) != bridgeOf(n) {
		h.t.Errorf("%s was made on %s, and %s is told to let go", n.Namespace, bridgeOf(is), bridgeOf(n))
	}
	delete(h.namespaces, n.Namespace)
	return nil
}

func (h networks) Observe(_ context.Context, n netns.Network) (netns.State, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	is, there := h.namespaces[n.Namespace]
	s := netns.State{Exists: there}
	if h.drift || there && fmt.Sprint(is) != fmt.Sprint(n) {
		s.Drift = []string{"link is down"}
	}
	return s, nil
}

// server is one gateway: agent.Server.
type server struct {
	*host
	place    ServerPlace
	done     chan struct{}
	pid      int
	hung     bool // runs, and does not answer clients
	blocked  bool // hung, because a backend is
	mute     bool // does not answer D-Bus
	probes   int  // since it is mute
	asked    int  // for figures
	started  time.Time
	settings string // of the last start
	first    int    // exports that it was started with
	records  bool   // of clients that may reclaim
	kills    uint64 // for memory
	refused  uint64 // threads
	exports  map[uint16]ganesha.Export
}

func (h *host) server(p ServerPlace) parts.Server {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.gateways[p.Network]
	if s == nil {
		s = &server{host: h, exports: map[uint16]ganesha.Export{}}
		h.gateways[p.Network] = s
	}
	s.place = p
	return s
}

func (s *server) Start(_ context.Context, exports func() []ganesha.Export) error {
	es := exports()
	s.slow("start " + s.place.Network)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done != nil && !s.hung && !s.mute && s.settings == s.place.Settings {
		return nil
	}
	if s.done != nil && s.hung && s.blocked {
		return ganesha.ErrBlocked
	}
	if s.done != nil {
		close(s.done)
		s.exports = map[uint16]ganesha.Export{}
	}
	if err := s.changing("start %s", s.place.Network); err != nil {
		return err
	}
	if _, there := s.namespaces[filepath.Base(s.place.NetNS)]; !there {
		s.t.Errorf("started the gateway of %s without its namespace", s.place.Network)
	}
	s.done, s.started, s.hung, s.mute, s.records = make(chan struct{}), time.Now(), false, false, true
	s.settings, s.first = s.place.Settings, len(es)
	s.pid++
	for _, e := range es {
		s.exports[e.ID] = e
	}
	return nil
}

// kill ends the gateway as kill -9 does.
func (s *server) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.done)
	s.done = nil
	s.exports = map[uint16]ganesha.Export{}
}

func (s *server) Stop(_ context.Context, o ganesha.StopOptions) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.changing("stop %s", s.place.Network); err != nil {
		return err
	}
	if s.done != nil {
		close(s.done)
		s.done = nil
	}
	s.exports = map[uint16]ganesha.Export{}
	s.records = s.records && !o.Forget
	return nil
}

func (s *server) Status(context.Context) (ganesha.Status, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return ganesha.Status{Running: s.done != nil, PID: 42 + s.pid, StartedAt: s.started, Version: "4.3", Settings: s.settings, LastLog: "it fell over", Kills: s.kills, Refused: s.refused}, nil
}

func (s *server) Probe(_ context.Context, o ganesha.ProbeOptions) ganesha.Health {
	s.mu.Lock()
	defer s.mu.Unlock()
	var h ganesha.Health
	if s.hung || s.done == nil {
		h.NFS = ganesha.ErrNotRunning
	}
	if !o.NFSOnly && (s.mute || s.done == nil) {
		h.Bus = ganesha.ErrNotRunning
		s.probes++
	}
	return h
}

// ExportStats answers with figures that name the export; a hung one does not
// answer, as long as it is asked.
func (s *server) ExportStats(ctx context.Context) ([]ganesha.ExportStats, error) {
	s.mu.Lock()
	silent := s.mute
	s.asked++
	var all []ganesha.ExportStats
	for id := range s.exports {
		n := uint64(id)
		all = append(all, ganesha.ExportStats{ID: id, Read: ganesha.Transfer{Ops: n, Bytes: 10 * n, Time: time.Second}, Write: ganesha.Transfer{Ops: 2 * n, Errors: n, Bytes: 20 * n}})
	}
	s.mu.Unlock()
	if silent {
		<-ctx.Done()
		return nil, ganesha.ErrNotRunning
	}
	return append(all, ganesha.ExportStats{ID: 4711}), nil // nobody's
}

func (s *server) ClientStats(_ context.Context, most int) ([]ganesha.ClientStats, error) {
	return make([]ganesha.ClientStats, min(most, 3)), nil
}

func (s *server) Done() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.done
}

func (s *server) Put(_ context.Context, e ganesha.Export) ([]ganesha.Refusal, error) {
	return s.put("put", e)
}

func (s *server) Recover(_ context.Context, e ganesha.Export) ([]ganesha.Refusal, error) {
	return s.put("recover", e)
}

func (s *server) put(verb string, e ganesha.Export) ([]ganesha.Refusal, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done == nil {
		return nil, ganesha.ErrNotRunning
	}
	if err := s.changing("%s export %d", verb, e.ID); err != nil {
		return nil, err
	}
	if s.mounted[e.Path] == "" {
		s.t.Errorf("exported %s, where nothing is mounted", e.Path)
	}
	s.exports[e.ID] = e
	return s.refusals(e), nil
}

// refusals are of the rules that the host was told to refuse.
func (s *server) refusals(e ganesha.Export) []ganesha.Refusal {
	var refused []ganesha.Refusal
	for i, r := range e.Rules {
		if s.refuses[r.Client] {
			refused = append(refused, ganesha.Refusal{Rule: i, Err: errors.New("no such client")})
		}
	}
	return refused
}

func (s *server) Remove(_ context.Context, id uint16) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.changing("remove export %d", id); err != nil {
		return err
	}
	delete(s.exports, id)
	return nil
}

func (s *server) Look(_ context.Context, e ganesha.Export) (ganesha.Sight, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	has, there := s.exports[e.ID]
	switch {
	case s.done == nil:
		return ganesha.Sight{}, ganesha.ErrNotRunning
	case !there:
		return ganesha.Sight{}, nil
	case fmt.Sprint(has) != fmt.Sprint(e):
		return ganesha.Sight{Match: ganesha.Differs}, nil
	}
	return ganesha.Sight{Match: ganesha.Same, Refused: s.refusals(e)}, nil
}

func (s *server) IDs(context.Context) ([]uint16, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []uint16
	for id := range s.exports {
		ids = append(ids, id)
	}
	return ids, nil
}

// Libvirt: agent.Instances.
type libvirt struct{ *host }

func (h libvirt) Instance(_ context.Context, name string) (parts.Instance, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.looks++
	if h.libvirtOff {
		return parts.Instance{}, &fault.Error{Kind: fault.Unavailable, Reason: fault.LibvirtUnavailable, Message: "libvirt is away"}
	}
	for _, i := range h.instances {
		if i.Name == name || i.UUID == name {
			c := *i
			c.Devices = slices.Clone(i.Devices)
			return c, nil
		}
	}
	return parts.Instance{}, &fault.Error{Kind: fault.NotFound, Reason: fault.InstanceNotFound, Message: "no such instance: check its name"}
}

func (h libvirt) byUUID(uuid string) *parts.Instance {
	for _, i := range h.instances {
		if i.UUID == uuid {
			return i
		}
	}
	return nil
}

func (h libvirt) Attach(_ context.Context, d parts.Device) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := h.byUUID(d.Instance)
	if slices.Contains(i.Devices, d) {
		return nil
	}
	if err := h.changing("attach %s", d.Alias); err != nil {
		return err
	}
	if h.daemons[filepath.Dir(d.Socket)] == nil {
		h.t.Errorf("attached %s without its daemon", d.Alias)
	}
	i.Devices = append(i.Devices, d)
	return nil
}

func (h libvirt) Detach(_ context.Context, d parts.Device) error {
	h.slow("detach " + d.Alias)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.changing("detach %s", d.Alias); err != nil {
		return err
	}
	i := h.byUUID(d.Instance)
	if i == nil {
		return nil
	}
	if h.guestBusy {
		return &fault.Error{Kind: fault.Precondition, Reason: fault.GuestBusy, Message: "the guest holds the device"}
	}
	i.Devices = slices.DeleteFunc(i.Devices, func(o parts.Device) bool { return o.Alias == d.Alias })
	return nil
}

func (h libvirt) GuestMount(_ context.Context, g parts.GuestMount) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.changing("guest mount %s", g.Tag); err != nil {
		return err
	}
	if h.agentless {
		return &fault.Error{Kind: fault.Precondition, Reason: fault.GuestAgentAbsent, Message: "no guest agent"}
	}
	if i := h.byUUID(g.Instance); !slices.ContainsFunc(i.Devices, func(d parts.Device) bool { return d.Tag == g.Tag }) {
		h.t.Errorf("mounted %s in a guest without the device", g.Tag)
	}
	h.guests[g.Instance+" "+g.Path] = true
	return nil
}

func (h libvirt) GuestUnmount(_ context.Context, g parts.GuestMount) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.changing("guest unmount %s", g.Tag); err != nil {
		return err
	}
	if h.guestBusy {
		return &fault.Error{Kind: fault.Precondition, Reason: fault.GuestBusy, Message: "the guest has files open"}
	}
	delete(h.guests, g.Instance+" "+g.Path)
	return nil
}

// virtiofsd: agent.Daemons.
type daemons struct{ *host }

func (h daemons) Start(_ context.Context, dir, source string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.daemons[dir] != nil {
		return nil
	}
	if err := h.changing("daemon %s", filepath.Base(dir)); err != nil {
		return err
	}
	if h.mounted[source] == "" {
		h.t.Errorf("started the daemon of %s over nothing", dir)
	}
	h.daemons[dir] = make(chan struct{})
	return nil
}

func (h daemons) Stop(_ context.Context, dir string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.changing("stop daemon %s", filepath.Base(dir)); err != nil {
		return err
	}
	h.endDaemon(dir)
	return nil
}

func (h *host) endDaemon(dir string) {
	if h.daemons[dir] == nil {
		return
	}
	close(h.daemons[dir])
	delete(h.daemons, dir)
}

func (h daemons) Done(dir string) (<-chan struct{}, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.daemons[dir], nil
}

// node is an agent that runs on a host.
type node struct {
	*Agent
	stop func()
}

// boot starts an agent on the host, over the ledger in dir, and waits until it
// is in sync.
func (h *host) boot(dir string) *node {
	h.t.Helper()
	registry, err := drivers.NewRegistry(h)
	if err != nil {
		h.t.Fatal(err)
	}
	level := slog.LevelError + 4
	if testing.Verbose() {
		level = slog.LevelDebug
	}
	a, err := New(Options{
		StateDir: filepath.Join(dir, "state"), RunDir: filepath.Join(dir, "r"), Drivers: registry,
		Mounts: table{h}, Namespaces: networks{h}, Instances: libvirt{h}, Daemons: daemons{h}, Servers: h.server,
		CheckVersions: h.checkVersions,
		Resync:        time.Minute, Probe: 5 * time.Millisecond, CallTimeout: 10 * time.Second, Hostname: "host",
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})),
	})
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- a.Run(ctx) }()
	n := &node{Agent: a, stop: sync.OnceFunc(func() { cancel(); <-ended })}
	h.t.Cleanup(n.stop)
	eventually(h.t, "in sync", a.InSync)
	return n
}

func (h *host) checkVersions(v ganesha.Versions) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.noNFS3 && slices.Contains(v, ganesha.NFS3) {
		return fmt.Errorf("rpcbind not installed: %w", ganesha.ErrVersion)
	}
	return nil
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not in time: %s", what)
}

var discard = slog.New(slog.DiscardHandler)

// shortDir is a directory whose path leaves room for the sockets below it.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "a")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
