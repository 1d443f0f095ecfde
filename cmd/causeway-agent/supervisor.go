package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/process"
	"github.com/causeway-project/causeway/agent/process/cgroup"
	"github.com/causeway-project/causeway/agent/process/unit"
)

// A supervisor is who starts gateways and virtiofsd, and holds them to their
// limits. Those that another one started before are adopted all the same.
type supervisor struct {
	groups *cgroup.Tree // nil where systemd has been chosen, and always was
	units  *unit.Units  // nil where it has not
}

// systemdRuns is where sd_booted(3) looks.
const systemdRuns = "/run/systemd/system"

// asking bounds a question to systemd.
const asking = 3 * time.Second

// newSupervisor chooses. With auto a systemd that does not answer leaves the
// work to us until the agent starts anew.
func newSupervisor(choice string, log *slog.Logger) *supervisor {
	units := unit.New(unit.Options{Logger: log})
	bySystemd := func() *supervisor {
		s := &supervisor{units: units}
		if cgroup.Used(cgroup.DefaultRoot) { // by processes that go on
			s.groups = cgroup.New(cgroup.DefaultRoot)
		}
		return s
	}
	switch choice {
	case supervisorSystemd:
		return bySystemd()
	case supervisorAuto:
		if _, err := os.Stat(systemdRuns); err == nil {
			ctx, cancel := context.WithTimeout(context.Background(), asking)
			defer cancel()
			err := units.Check(ctx)
			if err == nil {
				return bySystemd()
			}
			log.Warn("systemd does not answer: gateways are started without it", "err", err)
		}
	}
	s := &supervisor{groups: cgroup.New(cgroup.DefaultRoot)}
	if missing := s.groups.Missing(); len(missing) > 0 {
		log.Warn("gateways have no limits of some kinds", "missing", missing)
	}
	return s
}

func (s *supervisor) starter(launcher string) *process.Starter {
	o := &process.Starter{Launcher: launcher}
	if s.units != nil {
		o.Units = s.units
	}
	if s.groups != nil {
		o.Groups = s.groups
	}
	return o
}

// close ends the connections to systemd. What was started goes on.
func (s *supervisor) close() {
	if s.units != nil {
		s.units.Close()
	}
}

// subsystem says how gateways are kept, and what is wrong with that.
func (s *supervisor) subsystem() model.Subsystem {
	sub := model.Subsystem{Name: "supervisor", Verdict: model.Pass, Message: "systemd"}
	if s.units != nil {
		ctx, cancel := context.WithTimeout(context.Background(), asking)
		defer cancel()
		if err := s.units.Check(ctx); err != nil {
			sub.Verdict = model.Warn
			sub.Message = fmt.Sprintf("gateways that run go on, none can be started: %v", err)
		}
		return sub
	}
	sub.Message = "direct"
	if missing := s.groups.Missing(); len(missing) > 0 {
		sub.Verdict = model.Warn
		sub.Message = "direct; gateways run without limits of " + strings.Join(missing, ", ")
	}
	return sub
}
