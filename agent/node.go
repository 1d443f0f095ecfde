package agent

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/agent/reconcile"
)

// Node says what this host has and does.
func (a *Agent) Node(ctx context.Context) (model.Node, error) {
	subsystems := a.Subsystems(ctx)
	daemon := a.virtiofsd(ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	n := model.Node{
		Hostname: a.o.Hostname, Version: a.o.Version, InSync: a.synced, StartedAt: a.start,
		Drivers: a.o.Drivers.Descriptions(), Mounts: a.mountsLocked(),
	}
	for _, d := range a.damaged {
		n.Damaged = append(n.Damaged, d.String())
	}
	n.Subsystems, n.Virtiofsd = subsystems, daemon
	return n, nil
}

// virtiofsd says what new attachments get as their daemon.
func (a *Agent) virtiofsd(ctx context.Context) model.Virtiofsd {
	p, err := a.o.Daemons.Program(ctx)
	if err != nil {
		return model.Virtiofsd{Message: parts.Classify(err).Error()}
	}
	return model.Virtiofsd{Path: p.Path, Flavour: p.Flavour, Version: p.Version, Abilities: p.Abilities}
}

func (a *Agent) ledgerStateLocked() model.Subsystem {
	s := model.Subsystem{Name: "ledger", Verdict: model.Pass}
	if len(a.damaged) > 0 {
		s.Verdict = model.Warn
		s.Message = fmt.Sprintf("%d damaged files: restore or remove them, and restart the agent", len(a.damaged))
	}
	return s
}

func (a *Agent) syncStateLocked() model.Subsystem {
	if a.synced {
		return model.Subsystem{Name: "reconciler", Verdict: model.Pass}
	}
	return model.Subsystem{Name: "reconciler", Verdict: model.Fail, Message: "the host has not been seen once yet"}
}

// Subsystems says of each part whether it can serve, without the rest of Node.
func (a *Agent) Subsystems(context.Context) []model.Subsystem {
	var of []model.Subsystem
	if a.o.Subsystems != nil {
		of = a.o.Subsystems()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]model.Subsystem{a.ledgerStateLocked(), a.syncStateLocked()}, of...)
}

// mountsLocked lists the mounts that objects ask for, with the status of the
// step that makes each.
func (a *Agent) mountsLocked() []model.Mount {
	byName := map[string]*model.Mount{}
	for key, o := range a.objects {
		if o.rec == nil || o.rec.Network != nil {
			continue
		}
		name := o.rec.MountName()
		m := byName[name]
		if m == nil {
			c := o.rec.Connection()
			m = &model.Mount{Name: name, Kind: c.Kind, Source: c.Source, Path: a.at.Mount(name), ReadOnly: o.rec.MountReadOnly()}
			m.Status = a.mountStatusLocked(reconcile.Mount.Of(name), a.groups[o.rec.Group(key.ID)])
			byName[name] = m
		}
		m.Users = append(m.Users, key.String())
	}
	var list []model.Mount
	for _, m := range byName {
		slices.Sort(m.Users)
		list = append(list, *m)
	}
	slices.SortFunc(list, func(x, y model.Mount) int { return cmp.Compare(x.Name, y.Name) })
	return list
}

func (a *Agent) mountStatusLocked(k reconcile.Key, g *group) model.Status {
	switch {
	case g == nil:
		return model.Status{Phase: model.Pending}
	case g.fails[k] != nil:
		return model.Status{Phase: model.Failed}.Because(g.fails[k].Err, g.fails[k].Attempts)
	case g.gone[k]:
		return model.Status{Phase: model.Degraded, Reason: fault.ShareGone, Message: "the share was deleted at the backend"}
	case g.there[k]:
		return model.Status{Phase: model.Ready}
	}
	return model.Status{Phase: model.Pending, Reason: fault.Waiting, Message: "nobody needs it now"}
}

// Preflight checks what this host needs, one verdict a line.
func (a *Agent) Preflight(ctx context.Context) ([]model.Check, error) {
	var checks []model.Check
	for _, check := range a.o.Checks {
		checks = append(checks, check(ctx))
	}
	for _, d := range a.o.Drivers.Descriptions() {
		var abilities []string
		for _, ability := range d.Abilities {
			abilities = append(abilities, string(ability))
		}
		checks = append(checks, model.Check{Name: "driver " + d.Kind, Verdict: model.Pass, Message: "abilities: " + strings.Join(abilities, ", ")})
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, d := range a.damaged {
		checks = append(checks, model.Check{Name: "ledger", Verdict: model.Warn, Message: d.String(), Fix: "restore or remove " + d.Path + ", then restart the agent"})
	}
	return checks, nil
}
