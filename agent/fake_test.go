package agent

import (
	"cmp"
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

	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-project/causeway/agent/engine"
	"github.com/causeway-project/causeway/agent/gateway"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/agent/strain"
	"github.com/causeway-project/causeway/agent/tree"
	"github.com/causeway-project/causeway/drivers"
	"github.com/causeway-project/causeway/drivers/mounts"
	"github.com/causeway-project/causeway/ganesha"
	"github.com/causeway-project/causeway/integration/wait"
	"github.com/causeway-project/causeway/netns"
	"github.com/causeway-project/causeway/netns/plug"
)

// host is a fake kernel, libvirt and Ganesha at once. It enforces the order
// that those enforce, prints itself as text, and fails the call that it is told
// to fail. It outlives the agents of a test, as a real host does.
type host struct {
	t *testing.T

	mu          sync.Mutex
	resync      time.Duration // of the agents that are booted; a minute where 0
	sample      time.Duration // the same
	calls       int
	failAt      int // this changing call fails; 0 fails none
	failed      bool
	onCall      func(n int)    // runs before the n-th changing call
	before      func(string)   // runs before slow calls, without mu; set before an agent is booted
	looks       map[string]int // at instances, by what they were asked for by
	log         []string
	shares      map[string]bool   // at the backend
	mounted     map[string]string // target -> what
	sharing     map[string]bool   // directories that are being made shared
	gone        map[string]bool
	namespaces  map[string]netns.Network // as made
	drift       bool
	bridges     map[string]bool
	gateways    map[string]*server // by network
	daemons     map[string]chan struct{}
	instances   map[string]*parts.Instance // by name
	libvirtOff  bool
	usage       strain.Usage // of each virtiofsd
	noVirtiofsd bool
	guestBusy   bool
	guestKeeps  bool // its devices
	agentless   bool // guests without a guest agent
	blind       bool // guests do not see their devices
	unasked     bool // daemons know that no guest has asked them
	askedError  error
	unmounts    int                      // that guests were asked for
	abilities   []string                 // of virtiofsd
	refuses     map[netip.Prefix]bool    // clients of rules that gateways do not take
	noNFS3      bool                     // its rpcbind is not installed
	idle        bool                     // binds say that they worked, and are not there
	guests      map[string]bool          // uuid + path mounted in the guest
	hooks       map[string]chan struct{} // by instance: closed when its hook has returned
	connected   map[string]bool          // daemons that have a QEMU, by directory
	strays      map[string]bool          // aliases of devices that QEMU has and libvirt does not
	litter      map[string]bool          // directories of daemons, until one is stopped

	deaths       map[string]parts.Death // of daemons that do not run, by directory
	replaceError error                  // of what is asked to replace one
}

func newHost(t *testing.T) *host {
	h := &host{
		t: t, shares: map[string]bool{"docs": true, "music": true}, mounted: map[string]string{}, sharing: map[string]bool{}, gone: map[string]bool{},
		namespaces: map[string]netns.Network{}, bridges: map[string]bool{"br-blue": true, "br-red": true}, gateways: map[string]*server{},
		daemons: map[string]chan struct{}{}, instances: map[string]*parts.Instance{}, looks: map[string]int{}, guests: map[string]bool{},
		abilities: []string{"cache_auto", "cache_never", "xattr", "posix_acl", "shared_locks", "threads", "map_ids"},
		hooks:     map[string]chan struct{}{}, connected: map[string]bool{}, strays: map[string]bool{}, litter: map[string]bool{},
		deaths: map[string]parts.Death{},
	}
	for _, name := range []string{"vm1", "vm2"} {
		h.instances[name] = &parts.Instance{UUID: "uuid-" + name, Name: name, Running: true, SharedMemory: true, FreePorts: 4, Express: true, GuestAgent: true, Machine: "pc-q35-7.2", Cells: 1, CPUs: 1, Memory: 262144}
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
		for _, d := range i.Defined {
			lines = append(lines, "definition of "+i.Name+" with "+d.Alias+" tag "+d.Tag)
		}
	}
	for g := range h.guests {
		lines = append(lines, "guest mount "+g)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// The backend: drivers.Mounter, Prober and OwnerReporter.

func (h *host) Kind() string { return "fake" }

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

// Owner is root, as of a directory that an operator has just made.
func (h *host) Owner(_ context.Context, c drivers.Connection) (drivers.Owner, error) {
	return drivers.Owner{Mode: 0o755, Path: "/pool/" + c.Source}, nil
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

func (h *host) server(p gateway.Place) parts.Server {
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

func (h *host) endDaemon(dir string) {
	if h.daemons[dir] == nil {
		return
	}
	close(h.daemons[dir])
	delete(h.daemons, dir)
	delete(h.connected, dir)
}

// node is an agent that runs on a host.
type node struct {
	*Agent
	at   *tree.Tree
	stop func()
}

// boot starts an agent on the host, over the ledger in dir, and waits until it
// is in sync.
func (h *host) boot(dir string) *node {
	h.t.Helper()
	n := h.launch(dir)
	wait.Until(h.t, "in sync", n.InSync)
	return n
}

// launch does not wait.
func (h *host) launch(dir string) *node {
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
		Options: engine.Options{
			StateDir: filepath.Join(dir, "state"), RunDir: filepath.Join(dir, "r"), Drivers: registry,
			Mounts: table{h}, Namespaces: networks{h}, Instances: libvirt{h}, Daemons: daemons{h}, Servers: h.server,
			Resync: cmp.Or(h.resync, time.Minute), Sample: h.sample, Probe: 5 * time.Millisecond, ForceGrace: 50 * time.Millisecond, CallTimeout: wait.Long,
			Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})),
		},
		CheckVersions: h.checkVersions, Hostname: "host",
	})
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- a.Run(ctx) }()
	n := &node{Agent: a, at: tree.New(tree.Options{StateDir: a.o.StateDir, RunDir: a.o.RunDir}), stop: sync.OnceFunc(func() { cancel(); <-ended })}
	h.t.Cleanup(n.stop)
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

// A patience is a context whose deadline passes when over is closed.
type patience struct {
	context.Context
	over chan struct{}
}

func (p patience) Done() <-chan struct{} { return p.over }

func (p patience) Err() error {
	select {
	case <-p.over:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

// endsAfter is the context of a caller who waits until done says so, and for a
// while longer: a fixed time would be too short on a machine that is busy.
func endsAfter(t *testing.T, while time.Duration, done func() bool) context.Context {
	t.Helper()
	p := patience{t.Context(), make(chan struct{})}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer close(p.over)
		if err := wait.Within(wait.Long, func() bool { return done() || t.Context().Err() != nil }); err != nil {
			t.Error(err)
			return
		}
		select {
		case <-time.After(while):
		case <-t.Context().Done():
		}
	}()
	t.Cleanup(func() { <-ended })
	return p
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

// metric is the value of one of an agent's metrics: of the one with these values
// of its labels. That of a histogram is how much it has measured.
func metric(t *testing.T, a *node, name string, labels ...string) float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(a.Collector())
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			var has []string
			for _, l := range m.GetLabel() {
				has = append(has, l.GetValue())
			}
			if slices.Equal(has, labels) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return 0
}
