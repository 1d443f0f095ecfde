package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/causeway-project/causeway/agent/crashpoint"
	"github.com/causeway-project/causeway/agent/gateway"
	"github.com/causeway-project/causeway/agent/intent"
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
			return eng.gateways.Stop(ctx, m.key.ID, m.rec.Network)
		}
		return eng.startGateway(ctx, g, s, m)
	case reconcile.Export:
		server := eng.gateways.Last(m.rec.Export.Network)
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
	anew := s.Verb == reconcile.Create
	if anew {
		once(g.settled) // what the shares' groups wait for
	}
	server, err := eng.gateways.Start(ctx, gateway.Start{Network: m.key.ID, Intent: m.rec.Network, Anew: anew})
	if err != nil {
		return err
	}
	eng.watchHealth(m.key.ID, server, server.Done())
	eng.watchEnd(g, s.Key, server.Done()) // the look that follows its end notes it, with the cause
	return nil
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
