package agent

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/causeway-project/causeway/agent/allotment"
	"github.com/causeway-project/causeway/agent/device"
	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/ledger"
	"github.com/causeway-project/causeway/agent/metrics"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/agent/refusal"
	"github.com/causeway-project/causeway/agent/starts"
	"github.com/causeway-project/causeway/agent/tree"
	"github.com/causeway-project/causeway/drivers"
	"github.com/causeway-project/causeway/ganesha"
	"github.com/causeway-project/causeway/netns"
)

// driver is what Options.Drivers holds.
type driver = drivers.Bound

// Options of an Agent.
type Options struct {
	StateDir      string                              // required: survives a reboot
	RunDir        string                              // required: on the host's /run; at most 29 bytes, for the sockets below it
	Drivers       *drivers.Registry                   // required
	Mounts        parts.Mounts                        // required
	Namespaces    parts.Namespaces                    // required
	Instances     parts.Instances                     // required
	Daemons       parts.Daemons                       // required
	Settings      device.Settings                     // of attachments that ask for no others; device.Builtin where open
	Servers       func(ServerPlace) parts.Server      // required: makes the handle of a gateway, and does nothing else
	CheckVersions func(ganesha.Versions) error        // whether this host can serve them: ganesha.ErrVersion; nil is yes to all
	Checks        []func(context.Context) model.Check // of Preflight
	Subsystems    func() []model.Subsystem            // what the parts say of themselves; may be nil
	Resync        time.Duration                       // between full looks at each group; 60 s by default
	Probe         time.Duration                       // between questions to each gateway whether it serves; 2 s by default
	ForceGrace    time.Duration                       // of a guest that a share is taken from with force; 10 s by default
	Sample        time.Duration                       // between looks at what each virtiofsd takes; 10 s by default
	CallTimeout   time.Duration                       // of a call without a deadline; 60 s by default
	Hostname      string                              // required
	Version       string
	Logger        *slog.Logger // required
}

// A ServerPlace is where a gateway lives on this host.
type ServerPlace struct {
	Network  string
	RunDir   string
	StateDir string
	Exports  string // the shared directory of its trees
	NetNS    string // path of its namespace
	Settings string // ganesha.Options.Settings
	Versions ganesha.Versions
}

// A placedServer is a gateway's handle, which a network that moves has anew.
type placedServer struct {
	parts.Server
	place ServerPlace
}

// An Agent is the core of one node.
//
// Locks: mu guards the maps, the objects and the groups' shared half, and is
// held for no I/O. What a group does on the host is done by its one worker.
type Agent struct {
	o      Options
	log    *slog.Logger
	at     *tree.Tree
	ledger *ledger.Ledger
	start  time.Time
	pulse  atomic.Int64 // unix nanoseconds of the last beat of Run

	metrics *metrics.Metrics
	starts  starts.Table

	mu       sync.Mutex
	objects  map[model.Key]*object
	exports  allotment.Table[*object] // of the objects
	groups   map[string]*group
	servers  map[string]placedServer // by network
	damaged  []ledger.Damage
	watchers map[*watcher]bool
	run      context.Context // of the workers; nil before Run
	synced   bool
	workers  sync.WaitGroup
}

// New reads the ledger and makes the directories; it starts nothing. A ledger
// with damaged files is not an error: Node names them.
func New(o Options) (*Agent, error) {
	if o.Resync == 0 {
		o.Resync = 60 * time.Second
	}
	if o.Probe == 0 {
		o.Probe = 2 * time.Second
	}
	if o.ForceGrace == 0 {
		o.ForceGrace = 10 * time.Second
	}
	if o.Sample == 0 {
		o.Sample = 10 * time.Second
	}
	if o.CallTimeout == 0 {
		o.CallTimeout = 60 * time.Second
	}
	o.Settings = o.Settings.Or(device.Builtin())
	a := &Agent{
		o: o, log: o.Logger, at: tree.New(tree.Options{StateDir: o.StateDir, RunDir: o.RunDir, Mounts: o.Mounts, Drivers: o.Drivers}), start: time.Now(),
		objects: map[model.Key]*object{}, exports: allotment.Table[*object]{}, groups: map[string]*group{}, servers: map[string]placedServer{},
		watchers: map[*watcher]bool{},
	}
	a.metrics = metrics.New(a.state)
	// A unix socket's path has at most 107 bytes, and an id 63.
	if n := len(a.at.Socket(strings.Repeat("x", 63))); n > 107 {
		return nil, fmt.Errorf("run directory %s is too long by %d bytes for the sockets below it", o.RunDir, n-107)
	}
	for _, dir := range []string{o.RunDir, a.at.Mounts(), a.at.GatewayRun(""), a.at.Exports(""), a.at.Daemon(""), a.at.GatewayState("")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make directory: %w", err)
		}
	}
	// QEMU, which is not root, finds its sockets there; each is one QEMU's.
	for _, dir := range []string{o.RunDir, a.at.Daemon("")} {
		if err := searchable(dir); err != nil {
			return nil, err
		}
	}
	l, records, damaged, err := ledger.Open(a.at.Ledger(), model.KindAttachment, model.KindNetwork, model.KindExport)
	if err != nil {
		return nil, err
	}
	a.ledger = l
	for _, lr := range records {
		r, err := intent.Decode(lr)
		if err != nil {
			damaged = append(damaged, ledger.Damage{Kind: lr.Kind, ID: lr.ID, Path: filepath.Join(a.at.Ledger(), lr.Kind, lr.ID+".json"), Err: err})
			continue
		}
		key := model.Key{Kind: lr.Kind, ID: lr.ID}
		a.objects[key] = newObject(key, r)
		if r.Export != nil {
			a.exports.Add(key.ID, r.Export, a.objects[key])
		}
		a.objects[key].wasReady = true // as far as anybody knows
	}
	a.damaged = damaged
	for _, d := range damaged {
		a.log.Error("ledger file is damaged, and what it owns is left alone", "kind", d.Kind, "id", d.ID, "file", d.Path, "err", d.Err)
	}
	return a, nil
}

// searchable lets everybody reach by name what lies in a directory and is
// theirs.
func searchable(dir string) error {
	st, err := os.Stat(dir)
	if err != nil || st.Mode()&0o111 == 0o111 {
		return err
	}
	return os.Chmod(dir, st.Mode().Perm()|0o111)
}

// Run reconciles until ctx ends, and returns when every worker has stopped.
// The data path goes on without it.
func (a *Agent) Run(ctx context.Context) error {
	a.mu.Lock()
	a.run = ctx
	a.mu.Unlock()
	defer a.workers.Wait()
	a.workers.Go(a.watchStrain)

	// Networks first, so that the shares' first look meets adopted gateways.
	// One that takes longer, or cannot be had, does not hold up the others.
	networks := a.join(func(k model.Key) bool { return k.Kind == model.KindNetwork })
	patience, cancel := context.WithTimeout(ctx, adoptionPatience)
	defer cancel()
	overdue := a.overdue(time.Now())
	for _, g := range networks {
		wait := patience
		if overdue[g.key] {
			wait = ctx
		}
		select {
		case <-g.settled:
		case <-wait.Done():
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	shares := a.join(func(k model.Key) bool { return k.Kind != model.KindNetwork })
	for _, g := range append(networks, shares...) {
		seen := g.looked
		if overdue[g.key] {
			seen = g.settled
		}
		select {
		case <-seen:
		case <-ctx.Done():
			return nil
		}
	}
	a.mu.Lock()
	a.synced = true
	a.mu.Unlock()
	a.log.Info("agent is in sync", "groups", len(networks)+len(shares), "dur", time.Since(a.start))

	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		a.mu.Lock() // a beat proves that nobody sits on the lock
		a.pulse.Store(time.Now().UnixNano())
		a.mu.Unlock()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// adoptionPatience is how long the shares' first look waits for the networks.
const adoptionPatience = 3 * time.Second

// join puts the objects that were in the ledger into their groups.
func (a *Agent) join(which func(model.Key) bool) []*group {
	a.mu.Lock()
	defer a.mu.Unlock()
	var gs []*group
	for key, o := range a.objects {
		if which(key) {
			gs = append(gs, a.joinLocked(o))
		}
	}
	return gs
}

// Pulse is when the reconciler last showed that it is alive.
func (a *Agent) Pulse() time.Time { return time.Unix(0, a.pulse.Load()) }

// InSync reports whether the ledger was read and the host seen once.
func (a *Agent) InSync() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.synced
}

// InstanceChanged makes every attachment of an instance be looked at again.
func (a *Agent) InstanceChanged(e parts.InstanceEvent) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, o := range a.objects {
		if o.rec == nil || o.rec.Attachment == nil {
			continue
		}
		// One whose instance is not there hears of others, which may have its name.
		if e.UUID != "" && o.rec.Attachment.InstanceUUID != e.UUID && o.status.Reason != fault.InstanceNotFound {
			continue
		}
		if e.Rebooted || e.UUID == "" {
			// Where libvirt was away nobody saw whether the guest started anew.
			o.guestForgets()
			a.lookAtLocked(o)
			a.retryLocked(o)
			continue
		}
		a.soonerLocked(o)
	}
}

// NetworksChanged makes every network be looked at again. One that waits for
// what its plug leads to is tried at once. It returns after a while in which
// further changes may gather: each network that is made changes links, so that
// making a hundred would otherwise have each looked at a hundred times.
func (a *Agent) NetworksChanged() {
	if n := a.lookAtNetworks(); n > 0 {
		rest := time.NewTimer(min(time.Duration(n)*networkRest, networkRestMost))
		defer rest.Stop()
		select {
		case <-rest.C:
		case <-a.run.Done():
		}
	}
}

// A look at a network takes some 2 ms of processor time: these leave it a tenth
// of one processor.
const (
	networkRest     = 20 * time.Millisecond
	networkRestMost = 2 * time.Second
)

// lookAtNetworks wakes all, and returns how many there are.
func (a *Agent) lookAtNetworks() (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for key, o := range a.objects {
		if key.Kind == model.KindNetwork && o.rec != nil {
			n++
			a.wakeLocked(intent.NetworkGroup(key.ID), lookAgain)
			if o.failure != nil && slices.Contains([]fault.Reason{fault.NoBridge, fault.NoDevice, fault.NoNamespace}, o.failure.Reason) {
				a.retryLocked(o)
			}
		}
	}
	if a.run == nil {
		return 0
	}
	return n
}

// MountsChanged looks whether a mount of ours has gone. It is called for every
// change of the mount table, our own included, so it looks at targets and
// wakes only those that miss one.
func (a *Agent) MountsChanged() {
	a.mu.Lock()
	targets := map[string]string{} // of things that were there: path -> group
	for _, g := range a.groups {
		for k := range g.there {
			if p := a.targetOf(k); p != "" {
				targets[p] = g.key
			}
		}
	}
	a.mu.Unlock()
	for path, group := range targets {
		if sight, err := a.o.Mounts.Peek(path); err == nil && !sight.Mounted {
			a.mu.Lock()
			a.wakeLocked(group, lookAgain)
			a.mu.Unlock()
		}
	}
}

// server returns the handle of a network's gateway.
func (a *Agent) server(network string, n *intent.Network) parts.Server {
	a.mu.Lock()
	defer a.mu.Unlock()
	place := ServerPlace{
		Network:  network,
		RunDir:   a.at.GatewayRun(network),
		StateDir: a.at.GatewayState(network),
		Exports:  a.at.Exports(network),
		NetNS:    netns.Path(n.Namespace),
		Settings: n.GatewaySettings(),
		Versions: n.Served(),
	}
	s, ok := a.servers[network]
	if !ok || !reflect.DeepEqual(s.place, place) {
		s = placedServer{a.o.Servers(place), place}
		a.servers[network] = s
	}
	return s.Server
}

// ready refuses what changes the host before the host has been seen.
func (a *Agent) ready() error {
	if !a.InSync() {
		return refusal.NotInSync()
	}
	return nil
}

// within gives a call without a deadline the default one.
func (a *Agent) within(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, has := ctx.Deadline(); has {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, a.o.CallTimeout)
}
