// Package gateway starts and stops the gateways of networks, and keeps the handle
// of each.
package gateway

import (
	"context"
	"log/slog"
	"path/filepath"
	"reflect"
	"sync"
	"time"

	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/agent/tree"
	"github.com/causeway-project/causeway/ganesha"
	"github.com/causeway-project/causeway/netns"
)

// A Place is where a gateway lives on this host.
type Place struct {
	Network  string
	RunDir   string
	StateDir string
	Exports  string // the shared directory of its trees
	NetNS    string // path of its namespace
	Settings string // ganesha.Options.Settings
	Versions ganesha.Versions
}

// Notes are what others keep of gateways and their exports.
type Notes interface {
	// Starts notes that a gateway is about to be started or adopted.
	Starts(network string)
	// Serves notes that it takes exports.
	Serves(network string, st ganesha.Status)
	// Stops notes that it is about to be stopped.
	Stops(network string)
	// Exports tells what it has to serve.
	Exports(network string) Exports
}

// Exports are those of one network.
type Exports struct {
	Wanted  map[string]*intent.Export  // by id
	Working map[string]<-chan struct{} // those of them that steps are taken for, closed with the next change
	Numbers map[uint16]bool            // that records have, those that are to go as well
	Used    bool                       // there is a record, or one that cannot be read may be of an export
	Unsure  bool                       // there is one that cannot be read
}

// Options of Gateways. All are required.
type Options struct {
	Servers func(Place) parts.Server // makes a handle, and does nothing else
	Tree    *tree.Tree
	Mounts  parts.Mounts
	Notes   Notes
	Logger  *slog.Logger
}

// Gateways are those of a host.
type Gateways struct {
	o Options

	mu      sync.Mutex
	handles map[string]handle // by network
}

// A handle is a gateway's, which a network that moves has anew.
type handle struct {
	parts.Server
	place Place
}

// New has no handle yet.
func New(o Options) *Gateways { return &Gateways{o: o, handles: map[string]handle{}} }

// Of is the handle of a network's gateway.
func (g *Gateways) Of(network string, n *intent.Network) parts.Server {
	place := Place{
		Network:  network,
		RunDir:   g.o.Tree.GatewayRun(network),
		StateDir: g.o.Tree.GatewayState(network),
		Exports:  g.o.Tree.Exports(network),
		NetNS:    netns.Path(n.Namespace),
		Settings: n.GatewaySettings(),
		Versions: n.Served(),
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	h, ok := g.handles[network]
	if !ok || !reflect.DeepEqual(h.place, place) {
		h = handle{g.o.Servers(place), place}
		g.handles[network] = h
	}
	return h.Server
}

// Last is the handle that Of made last for a network; nil where it made none.
func (g *Gateways) Last(network string) parts.Server {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.handles[network].Server
}

// Forget the handle of a network that is gone.
func (g *Gateways) Forget(network string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.handles, network)
}

// Export says to Ganesha what a record wants at a time.
func (g *Gateways) Export(id string, e *intent.Export, now time.Time) ganesha.Export {
	return ganesha.Export{
		ID: e.ExportID, Path: filepath.Clean(g.o.Tree.View(e.Network, id)), Pseudo: e.Pseudo, FSID: e.FSID,
		Rules: e.ServedRules(now),
	}
}

// A Start is that of one gateway.
type Start struct {
	Network string          // required: id
	Intent  *intent.Network // required
	Anew    bool            // there is no process to adopt
}

// Start makes a gateway run and take exports, or finds it doing so.
func (g *Gateways) Start(ctx context.Context, s Start) (parts.Server, error) {
	network := s.Network
	if err := g.o.Tree.Share(network); err != nil {
		return nil, err
	}
	if s.Anew {
		g.awaitViews(ctx, network)
	}
	server := g.Of(network, s.Intent)
	g.o.Notes.Starts(network)
	if err := server.Start(ctx, func() []ganesha.Export { return g.mounted(network) }); err != nil {
		return nil, err
	}
	st, err := server.Status(ctx)
	if err != nil {
		return nil, err
	}
	if !st.Running {
		return nil, ganesha.ErrNotRunning
	}
	if err := g.dropUnknown(ctx, network, server); err != nil {
		return nil, err
	}
	g.o.Notes.Serves(network, st)
	return server, nil
}

// viewPatience is how long a gateway's start waits for the trees of its exports.
// Its clients' leases and its grace period go on meanwhile.
const viewPatience = 3 * time.Second

// awaitViews returns when no tree of a network's exports is on its way any
// more: each is in place, or cannot be had now. A gateway that began without,
// as after a reboot, would answer a client that comes to reclaim a file that
// the file is no more, and the client believes it.
func (g *Gateways) awaitViews(ctx context.Context, network string) {
	ctx, cancel := context.WithTimeout(ctx, viewPatience)
	defer cancel()
	for {
		changed := g.viewUnderWay(network)
		if changed == nil {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			g.o.Logger.Warn("gateway starts without some of its exports, whose trees are not there yet", "network", network)
			return
		}
	}
}

// viewUnderWay is closed with the next change of an export whose tree is on its
// way; nil where there is none.
func (g *Gateways) viewUnderWay(network string) <-chan struct{} {
	for id, changed := range g.o.Notes.Exports(network).Working {
		if sight, err := g.o.Mounts.Peek(g.o.Tree.View(network, id)); err == nil && !sight.Mounted {
			return changed
		}
	}
	return nil
}

// mounted lists what a gateway that starts now should serve from its first moment:
// exports that are wanted and whose tree is in place. The others are put in one by
// one.
func (g *Gateways) mounted(network string) []ganesha.Export {
	now := time.Now()
	var exports []ganesha.Export
	for id, e := range g.o.Notes.Exports(network).Wanted {
		if sight, err := g.o.Mounts.Peek(g.o.Tree.View(network, id)); err == nil && sight.Mounted {
			exports = append(exports, g.Export(id, e, now))
		}
	}
	return exports
}

// dropUnknown withdraws what an adopted gateway serves and no record asks for,
// unless a record that cannot be read may do so.
func (g *Gateways) dropUnknown(ctx context.Context, network string, server parts.Server) error {
	ids, err := server.IDs(ctx)
	if err != nil {
		return err
	}
	known := g.o.Notes.Exports(network)
	for _, id := range ids {
		if known.Numbers[id] || known.Unsure {
			continue
		}
		g.o.Logger.Warn("gateway served an export without a record, which is withdrawn", "network", network, "export_id", id)
		if err := server.Remove(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// Stop ends a network's gateway.
func (g *Gateways) Stop(ctx context.Context, network string, n *intent.Network) error {
	g.o.Notes.Stops(network)
	// One that has exports comes again, in another namespace: its clients then
	// want their open files and locks back.
	used := func() bool { return g.o.Notes.Exports(network).Used }
	if err := g.Of(network, n).Stop(ctx, ganesha.StopOptions{Forget: !used()}); err != nil {
		return err
	}
	return g.o.Tree.Unshare(ctx, network, used)
}
