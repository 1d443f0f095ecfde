package agent

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/reconcile"
)

// Node says what this host has and does.
func (a *Agent) Node(ctx context.Context) (Node, error) {
	subsystems := a.Subsystems(ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	n := Node{
		Hostname: a.o.Hostname, Version: a.o.Version, InSync: a.synced, StartedAt: a.start,
		Drivers: a.o.Drivers.Descriptions(), Mounts: a.mountsLocked(),
	}
	for _, d := range a.damaged {
		n.Damaged = append(n.Damaged, d.String())
	}
	n.Subsystems = subsystems
	return n, nil
}

func (a *Agent) ledgerStateLocked() Subsystem {
	s := Subsystem{Name: "ledger", Verdict: Pass}
	if len(a.damaged) > 0 {
		s.Verdict = Warn
		s.Message = fmt.Sprintf("%d damaged files: restore or remove them, and restart the agent", len(a.damaged))
	}
	return s
}

func (a *Agent) syncStateLocked() Subsystem {
	if a.synced {
		return Subsystem{Name: "reconciler", Verdict: Pass}
	}
	return Subsystem{Name: "reconciler", Verdict: Fail, Message: "the host has not been seen once yet"}
}

// Subsystems says of each part whether it can serve, without the rest of Node.
func (a *Agent) Subsystems(context.Context) []Subsystem {
	var parts []Subsystem
	if a.o.Subsystems != nil {
		parts = a.o.Subsystems()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]Subsystem{a.ledgerStateLocked(), a.syncStateLocked()}, parts...)
}

// mountsLocked lists the mounts that objects ask for, with the status of the
// step that makes each.
func (a *Agent) mountsLocked() []Mount {
	byName := map[string]*Mount{}
	for key, o := range a.objects {
		if o.rec == nil || o.rec.Network != nil {
			continue
		}
		name := o.rec.mountName()
		m := byName[name]
		if m == nil {
			c := o.rec.connection()
			m = &Mount{Name: name, Kind: c.Kind, Source: c.Source, Path: a.at.mount(name), ReadOnly: o.rec.mountReadOnly()}
			m.Status = a.mountStatusLocked(reconcile.Key{Kind: reconcile.Mount, Name: name}, a.groups[o.rec.group(key.id)])
			byName[name] = m
		}
		m.Users = append(m.Users, key.String())
	}
	var list []Mount
	for _, m := range byName {
		slices.Sort(m.Users)
		list = append(list, *m)
	}
	slices.SortFunc(list, func(x, y Mount) int { return cmp.Compare(x.Name, y.Name) })
	return list
}

func (a *Agent) mountStatusLocked(k reconcile.Key, g *group) Status {
	switch {
	case g == nil:
		return Status{Phase: Pending}
	case g.fails[k] != nil:
		return Status{Phase: Failed}.because(g.fails[k].err, g.fails[k].attempts)
	case g.gone[k]:
		return Status{Phase: Degraded, Reason: fault.ShareGone, Message: "the share was deleted at the backend"}
	case g.there[k]:
		return Status{Phase: Ready}
	}
	return Status{Phase: Pending, Reason: fault.Waiting, Message: "nobody needs it now"}
}

// Preflight checks what this host needs, one verdict a line.
func (a *Agent) Preflight(ctx context.Context) ([]Check, error) {
	var checks []Check
	for _, check := range a.o.Checks {
		checks = append(checks, check(ctx))
	}
	for _, d := range a.o.Drivers.Descriptions() {
		var abilities []string
		for _, ability := range d.Abilities {
			abilities = append(abilities, string(ability))
		}
		checks = append(checks, Check{Name: "driver " + d.Kind, Verdict: Pass, Message: "abilities: " + strings.Join(abilities, ", ")})
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, d := range a.damaged {
		checks = append(checks, Check{Name: "ledger", Verdict: Warn, Message: d.String(), Fix: "restore or remove " + d.Path + ", then restart the agent"})
	}
	return checks, nil
}
