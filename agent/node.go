package agent

import (
	"context"
	"fmt"
	"strings"

	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/parts"
)

// Node says what this host has and does.
func (a *Agent) Node(ctx context.Context) (model.Node, error) {
	n := model.Node{
		Hostname: a.o.Hostname, Version: a.o.Version, InSync: a.InSync(), StartedAt: a.Started(),
		Drivers: a.o.Drivers.Descriptions(), Mounts: a.Mounts(),
		Subsystems: a.Subsystems(ctx), Virtiofsd: a.virtiofsd(ctx),
	}
	for _, d := range a.Damaged() {
		n.Damaged = append(n.Damaged, d.String())
	}
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

func (a *Agent) ledgerState() model.Subsystem {
	s := model.Subsystem{Name: "ledger", Verdict: model.Pass}
	if n := len(a.Damaged()); n > 0 {
		s.Verdict = model.Warn
		s.Message = fmt.Sprintf("%d damaged files: restore or remove them, and restart the agent", n)
	}
	return s
}

func (a *Agent) syncState() model.Subsystem {
	if a.InSync() {
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
	return append([]model.Subsystem{a.ledgerState(), a.syncState()}, of...)
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
	for _, d := range a.Damaged() {
		checks = append(checks, model.Check{Name: "ledger", Verdict: model.Warn, Message: d.String(), Fix: "restore or remove " + d.Path + ", then restart the agent"})
	}
	return checks, nil
}
