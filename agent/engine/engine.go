package engine

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/causeway-project/causeway/agent/allotment"
	"github.com/causeway-project/causeway/agent/device"
	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/gateway"
	"github.com/causeway-project/causeway/agent/guest"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/ledger"
	"github.com/causeway-project/causeway/agent/metrics"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/agent/refusal"
	"github.com/causeway-project/causeway/agent/starts"
	"github.com/causeway-project/causeway/agent/tree"
	"github.com/causeway-project/causeway/drivers"
)

// Options of an Engine.
type Options struct {
	StateDir    string                           // required: survives a reboot
	RunDir      string                           // required: on the host's /run; at most 29 bytes, for the sockets below it
	Drivers     *drivers.Registry                // required
	Mounts      parts.Mounts                     // required
	Namespaces  parts.Namespaces                 // required
	Instances   parts.Instances                  // required
	Daemons     parts.Daemons                    // required
	Settings    device.Settings                  // of attachments that ask for no others; device.Builtin where open
	Servers     func(gateway.Place) parts.Server // required: makes the handle of a gateway, and does nothing else
	Resync      time.Duration                    // between full looks at each group; 60 s by default
	Probe       time.Duration                    // between questions to each gateway whether it serves; 2 s by default
	ForceGrace  time.Duration                    // of a guest that a share is taken from with force; 10 s by default
	Sample      time.Duration                    // between looks at what each virtiofsd takes; 10 s by default
	CallTimeout time.Duration                    // of a call without a deadline; 60 s by default
	Logger      *slog.Logger                     // required
}

// An Engine keeps the objects of one node, and makes the host agree with them.
//
// Locks: mu guards the maps, the objects and the groups' shared half, and is
// held for no I/O. What a group does on the host is done by its one worker.
type Engine struct {
	o      Options
	log    *slog.Logger
	at     *tree.Tree
	ledger *ledger.Ledger
	start  time.Time
	pulse  atomic.Int64 // unix nanoseconds of the last beat of Run

	metrics  *metrics.Metrics
	gateways *gateway.Gateways
	guests   guest.Steps
	starts   starts.Table

	mu       sync.Mutex
	objects  map[model.Key]*object
	exports  allotment.Table[*object] // of the objects
	groups   map[string]*group
	damaged  []ledger.Damage
	watchers map[*watcher]bool
	run      context.Context // of the workers; nil before Run
	synced   bool
	workers  sync.WaitGroup
}

// New reads the ledger and makes the directories; it starts nothing. A ledger
// with damaged files is not an error: Node names them.
func New(o Options) (*Engine, error) {
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
	eng := &Engine{
		o: o, log: o.Logger, at: tree.New(tree.Options{StateDir: o.StateDir, RunDir: o.RunDir, Mounts: o.Mounts, Drivers: o.Drivers}), start: time.Now(),
		objects: map[model.Key]*object{}, exports: allotment.Table[*object]{}, groups: map[string]*group{},
		watchers: map[*watcher]bool{},
	}
	eng.metrics = metrics.New(eng.state)
	eng.gateways = gateway.New(gateway.Options{Servers: o.Servers, Tree: eng.at, Mounts: o.Mounts, Notes: gatewayNotes{eng}, Logger: o.Logger})
	eng.guests = guest.Steps{Instances: o.Instances, Daemons: o.Daemons, Tree: eng.at, Notes: guestNotes{eng}, Logger: o.Logger}
	// A unix socket's path has at most 107 bytes, and an id 63.
	if n := len(eng.at.Socket(strings.Repeat("x", 63))); n > 107 {
		return nil, fmt.Errorf("run directory %s is too long by %d bytes for the sockets below it", o.RunDir, n-107)
	}
	for _, dir := range []string{o.RunDir, eng.at.Mounts(), eng.at.GatewayRun(""), eng.at.Exports(""), eng.at.Daemon(""), eng.at.GatewayState("")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make directory: %w", err)
		}
	}
	// QEMU, which is not root, finds its sockets there; each is one QEMU's.
	for _, dir := range []string{o.RunDir, eng.at.Daemon("")} {
		if err := searchable(dir); err != nil {
			return nil, err
		}
	}
	l, records, damaged, err := ledger.Open(eng.at.Ledger(), model.KindAttachment, model.KindNetwork, model.KindExport)
	if err != nil {
		return nil, err
	}
	eng.ledger = l
	for _, lr := range records {
		r, err := intent.Decode(lr)
		if err != nil {
			damaged = append(damaged, ledger.Damage{Kind: lr.Kind, ID: lr.ID, Path: filepath.Join(eng.at.Ledger(), lr.Kind, lr.ID+".json"), Err: err})
			continue
		}
		key := model.Key{Kind: lr.Kind, ID: lr.ID}
		eng.objects[key] = newObject(key, r)
		if r.Export != nil {
			eng.exports.Add(key.ID, r.Export, eng.objects[key])
		}
		eng.objects[key].wasReady = true // as far as anybody knows
	}
	eng.damaged = damaged
	for _, d := range damaged {
		eng.log.Error("ledger file is damaged, and what it owns is left alone", "kind", d.Kind, "id", d.ID, "file", d.Path, "err", d.Err)
	}
	return eng, nil
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
func (eng *Engine) Run(ctx context.Context) error {
	eng.mu.Lock()
	eng.run = ctx
	eng.mu.Unlock()
	defer eng.workers.Wait()
	eng.workers.Go(eng.watchStrain)

	// Networks first, so that the shares' first look meets adopted gateways.
	// One that takes longer, or cannot be had, does not hold up the others.
	networks := eng.join(func(k model.Key) bool { return k.Kind == model.KindNetwork })
	patience, cancel := context.WithTimeout(ctx, adoptionPatience)
	defer cancel()
	overdue := eng.overdue(time.Now())
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
	shares := eng.join(func(k model.Key) bool { return k.Kind != model.KindNetwork })
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
	eng.mu.Lock()
	eng.synced = true
	eng.mu.Unlock()
	eng.log.Info("agent is in sync", "groups", len(networks)+len(shares), "dur", time.Since(eng.start))

	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		eng.mu.Lock() // a beat proves that nobody sits on the lock
		eng.pulse.Store(time.Now().UnixNano())
		eng.mu.Unlock()
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
func (eng *Engine) join(which func(model.Key) bool) []*group {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	var gs []*group
	for key, o := range eng.objects {
		if which(key) {
			gs = append(gs, eng.joinLocked(o))
		}
	}
	return gs
}

// Pulse is when the reconciler last showed that it is alive.
func (eng *Engine) Pulse() time.Time { return time.Unix(0, eng.pulse.Load()) }

// InSync reports whether the ledger was read and the host seen once.
func (eng *Engine) InSync() bool {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	return eng.synced
}

// InstanceChanged makes every attachment of an instance be looked at again.
func (eng *Engine) InstanceChanged(e parts.InstanceEvent) {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	for _, o := range eng.objects {
		if o.rec == nil || o.rec.Attachment == nil {
			continue
		}
		// One whose instance is not there hears of others, which may have its name.
		if e.UUID != "" && o.rec.Attachment.InstanceUUID != e.UUID && o.status.Reason != fault.InstanceNotFound {
			continue
		}
		if e.Rebooted || e.UUID == "" {
			// Where libvirt was away nobody saw whether the guest started anew.
			o.guest.Restarted()
			eng.lookAtLocked(o)
			eng.retryLocked(o)
			continue
		}
		eng.soonerLocked(o)
	}
}

// NetworksChanged makes every network be looked at again. One that waits for
// what its plug leads to is tried at once. It returns after a while in which
// further changes may gather: each network that is made changes links, so that
// making a hundred would otherwise have each looked at a hundred times.
func (eng *Engine) NetworksChanged() {
	if n := eng.lookAtNetworks(); n > 0 {
		rest := time.NewTimer(min(time.Duration(n)*networkRest, networkRestMost))
		defer rest.Stop()
		select {
		case <-rest.C:
		case <-eng.run.Done():
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
func (eng *Engine) lookAtNetworks() (n int) {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	for key, o := range eng.objects {
		if key.Kind == model.KindNetwork && o.rec != nil {
			n++
			eng.wakeLocked(intent.NetworkGroup(key.ID), lookAgain)
			if o.failure != nil && slices.Contains([]fault.Reason{fault.NoBridge, fault.NoDevice, fault.NoNamespace}, o.failure.Reason) {
				eng.retryLocked(o)
			}
		}
	}
	if eng.run == nil {
		return 0
	}
	return n
}

// MountsChanged looks whether a mount of ours has gone. It is called for every
// change of the mount table, our own included, so it looks at targets and
// wakes only those that miss one.
func (eng *Engine) MountsChanged() {
	eng.mu.Lock()
	targets := map[string]string{} // of things that were there: path -> group
	for _, g := range eng.groups {
		for k := range g.there {
			if p := eng.targetOf(k); p != "" {
				targets[p] = g.key
			}
		}
	}
	eng.mu.Unlock()
	for path, group := range targets {
		if sight, err := eng.o.Mounts.Peek(path); err == nil && !sight.Mounted {
			eng.mu.Lock()
			eng.wakeLocked(group, lookAgain)
			eng.mu.Unlock()
		}
	}
}

// Ready refuses what changes the host before the host has been seen.
func (eng *Engine) Ready() error {
	if !eng.InSync() {
		return refusal.NotInSync()
	}
	return nil
}

// Within gives a call without a deadline the default one.
func (eng *Engine) Within(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, has := ctx.Deadline(); has {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, eng.o.CallTimeout)
}

// Started is when the engine was made.
func (eng *Engine) Started() time.Time { return eng.start }

// Settings are those of attachments that ask for no others.
func (eng *Engine) Settings() device.Settings { return eng.o.Settings }

// Damaged are the files of the ledger that could not be read.
func (eng *Engine) Damaged() []ledger.Damage { return slices.Clone(eng.damaged) }
