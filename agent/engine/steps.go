package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/causeway-project/causeway/agent/crashpoint"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/agent/reconcile"
	"github.com/causeway-project/causeway/drivers"
	"github.com/causeway-project/causeway/ganesha"
)

// deadlines is the one table of how long a step may take. A step that is cut
// off is looked at and tried again.
var deadlines = map[reconcile.Kind]time.Duration{
	reconcile.Mount:      30 * time.Second,
	reconcile.Namespace:  15 * time.Second,
	reconcile.Gateway:    30 * time.Second,
	reconcile.View:       5 * time.Second,
	reconcile.Export:     10 * time.Second,
	reconcile.Daemon:     10 * time.Second,
	reconcile.Device:     15 * time.Second,
	reconcile.GuestMount: 15 * time.Second,
	reconcile.Definition: 10 * time.Second,
}

// lookDeadline bounds one observation.
const lookDeadline = 10 * time.Second

// do takes one step.
func (eng *Engine) do(ctx context.Context, g *group, s reconcile.Step, members []member) error {
	m, ok := memberOf(s.Key, members)
	if !ok {
		return fmt.Errorf("%v: no record owns it", s)
	}
	limit := deadlines[s.Key.Kind]
	if m.rec.RemovalForced && intent.OfGuest(s.Key) {
		limit = forcedStep
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if intent.OfLibvirt(s.Key) {
		guarded, stop := eng.starts.Guard(ctx, m.rec.Attachment.InstanceUUID)
		defer stop()
		ctx = guarded
	}
	crashpoint.Hit(crashpoint.At(crashpoint.StepBegin, s.Key.Kind.String(), string(s.Verb)))
	err := eng.doKind(ctx, g, s, m)
	crashpoint.Hit(crashpoint.At(crashpoint.StepEnd, s.Key.Kind.String(), string(s.Verb)))
	if err != nil {
		return fmt.Errorf("%v: %w", s, err)
	}
	return nil
}

// memberOf finds the record that describes a key; of several that share a
// mount any will do.
func memberOf(k reconcile.Key, members []member) (member, bool) {
	for _, m := range members {
		for _, own := range m.rec.Keys(m.key.ID) {
			if own == k {
				return m, true
			}
		}
	}
	return member{}, false
}

func (eng *Engine) doKind(ctx context.Context, g *group, s reconcile.Step, m member) error {
	remove := s.Verb == reconcile.Remove
	switch s.Key.Kind {
	case reconcile.Mount:
		if remove {
			return eng.at.UnmountShare(ctx, m.rec)
		}
		conn, err := eng.connectionOf(m)
		if err != nil {
			return err
		}
		return eng.at.MountShare(ctx, m.rec, conn)
	case reconcile.View:
		if remove {
			return eng.at.RemoveView(ctx, m.rec.Export.Network, m.key.ID)
		}
		return eng.at.MakeView(m.key.ID, m.rec.Export)
	case reconcile.Namespace:
		if remove && m.rec.Network.Former != nil {
			return eng.leave(ctx, m)
		}
		if remove {
			return eng.o.Namespaces.Remove(ctx, m.rec.Network.ForHost(m.key.ID))
		}
		return eng.o.Namespaces.Ensure(ctx, m.rec.Network.ForHost(m.key.ID))
	case reconcile.Gateway:
		if remove {
			return eng.stopGateway(ctx, m)
		}
		return eng.startGateway(ctx, g, s, m)
	case reconcile.Export:
		server := eng.existingServer(m.rec.Export.Network)
		if server == nil {
			return ganesha.ErrNotRunning
		}
		if remove {
			return server.Remove(ctx, m.rec.Export.ExportID)
		}
		return eng.putIntoGateway(ctx, g, server, m)
	case reconcile.Daemon, reconcile.Device, reconcile.GuestMount, reconcile.Definition:
		return eng.guests.Take(ctx, s, eng.shareOf(m))
	}
	return errors.New("unknown kind")
}

func (eng *Engine) startGateway(ctx context.Context, g *group, s reconcile.Step, m member) error {
	if err := eng.at.Share(m.key.ID); err != nil {
		return err
	}
	if s.Verb == reconcile.Create {
		once(g.settled) // what the shares' groups wait for: it has nothing to adopt
		eng.awaitViews(ctx, m.key.ID)
	}
	server := eng.server(m.key.ID, m.rec.Network)
	eng.gatewayStarts(m.key.ID)
	if err := server.Start(ctx, func() []ganesha.Export { return eng.mountedExports(m.key.ID) }); err != nil {
		return err
	}
	st, err := server.Status(ctx)
	if err != nil {
		return err
	}
	if !st.Running {
		return ganesha.ErrNotRunning
	}
	if err := eng.dropUnknownExports(ctx, m.key.ID, server); err != nil {
		return err
	}
	eng.gatewayServes(m.key.ID, st)
	eng.watchHealth(m.key.ID, server, server.Done())
	eng.watchEnd(g, s.Key, server.Done()) // the look that follows its end notes it, with the cause
	return nil
}

// viewPatience is how long a gateway's start waits for the trees of its exports.
// Its clients' leases and its grace period go on meanwhile.
const viewPatience = 3 * time.Second

// awaitViews returns when no tree of a network's exports is on its way any
// more: each is in place, or cannot be had now. A gateway that began without,
// as after a reboot, would answer a client that comes to reclaim a file that
// the file is no more, and the client believes it.
func (eng *Engine) awaitViews(ctx context.Context, network string) {
	ctx, cancel := context.WithTimeout(ctx, viewPatience)
	defer cancel()
	for {
		changed := eng.viewUnderWay(network)
		if changed == nil {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			eng.log.Warn("gateway starts without some of its exports, whose trees are not there yet", "network", network)
			return
		}
	}
}

// viewUnderWay is closed with the next change of an export whose tree is on its
// way; nil where there is none.
func (eng *Engine) viewUnderWay(network string) <-chan struct{} {
	eng.mu.Lock()
	working := map[string]<-chan struct{}{}
	for key, o := range eng.objects {
		if o.rec != nil && o.rec.Export != nil && o.rec.Export.Network == network && !o.rec.Removing && o.status.Phase == model.Working {
			working[key.ID] = o.changed
		}
	}
	eng.mu.Unlock()
	for id, changed := range working {
		if sight, err := eng.o.Mounts.Peek(eng.at.View(network, id)); err == nil && !sight.Mounted {
			return changed
		}
	}
	return nil
}

// mountedExports lists what a gateway that starts now should serve from its
// first moment: exports that are wanted and whose tree is in place. The others
// are put in one by one.
func (eng *Engine) mountedExports(network string) []ganesha.Export {
	eng.mu.Lock()
	var ms []member
	for _, o := range eng.exports.Of(network) {
		if o.rec != nil && !o.rec.Removing {
			ms = append(ms, member{key: o.key, rec: o.rec, at: time.Now()})
		}
	}
	eng.mu.Unlock()
	var exports []ganesha.Export
	for _, m := range ms {
		if sight, err := eng.o.Mounts.Peek(eng.at.View(network, m.key.ID)); err == nil && sight.Mounted {
			exports = append(exports, eng.exportOf(m))
		}
	}
	return exports
}

// dropUnknownExports withdraws what an adopted gateway serves and no record
// asks for, unless a record that cannot be read may do so.
func (eng *Engine) dropUnknownExports(ctx context.Context, network string, server parts.Server) error {
	ids, err := server.IDs(ctx)
	if err != nil {
		return err
	}
	eng.mu.Lock()
	known := map[uint16]bool{}
	for _, o := range eng.exports.Of(network) {
		known[o.intent().Export.ExportID] = true
	}
	damaged := len(eng.damagedOf(model.KindExport)) > 0
	eng.mu.Unlock()
	for _, id := range ids {
		if known[id] || damaged {
			continue
		}
		eng.log.Warn("gateway served an export without a record, which is withdrawn", "network", network, "export_id", id)
		if err := server.Remove(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

func (eng *Engine) stopGateway(ctx context.Context, m member) error {
	eng.gatewayStops(m.key.ID)
	// One that has exports comes again, in another namespace: its clients then
	// want their open files and locks back.
	forget := !eng.hasExports(m.key.ID)
	if err := eng.server(m.key.ID, m.rec.Network).Stop(ctx, ganesha.StopOptions{Forget: forget}); err != nil {
		return err
	}
	return eng.at.Unshare(ctx, m.key.ID, func() bool { return eng.hasExports(m.key.ID) })
}

// connectionOf is a record's connection with its secret.
func (eng *Engine) connectionOf(m member) (drivers.Connection, error) {
	c := m.rec.Connection()
	secret, err := eng.ledger.Secret(m.key.Kind, m.key.ID)
	if err != nil {
		return drivers.Connection{}, err
	}
	return drivers.Connection{Kind: c.Kind, Source: c.Source, Options: c.Options, Secret: drivers.NewSecret(secret)}, nil
}

func isNotRunning(err error) bool { return errors.Is(err, ganesha.ErrNotRunning) }
