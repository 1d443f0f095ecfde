package engine

import (
	"cmp"
	"slices"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/reconcile"
)

// Mounts lists the mounts that objects ask for, with the status of the step that
// makes each.
func (eng *Engine) Mounts() []model.Mount {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	byName := map[string]*model.Mount{}
	for key, o := range eng.objects {
		if o.rec == nil || o.rec.Network != nil {
			continue
		}
		name := o.rec.MountName()
		m := byName[name]
		if m == nil {
			c := o.rec.Connection()
			m = &model.Mount{Name: name, Kind: c.Kind, Source: c.Source, Path: eng.at.Mount(name), ReadOnly: o.rec.MountReadOnly()}
			m.Status = eng.mountStatusLocked(reconcile.Mount.Of(name), eng.groups[o.rec.Group(key.ID)])
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

func (eng *Engine) mountStatusLocked(k reconcile.Key, g *group) model.Status {
	switch {
	case g == nil:
		return model.Status{Phase: model.Pending}
	case g.steps.Failures()[k] != nil:
		return model.Status{Phase: model.Failed}.Because(g.steps.Failures()[k].Err, g.steps.Failures()[k].Attempts)
	case g.gone[k]:
		return model.Status{Phase: model.Degraded, Reason: fault.ShareGone, Message: "the share was deleted at the backend"}
	case g.there[k]:
		return model.Status{Phase: model.Ready}
	}
	return model.Status{Phase: model.Pending, Reason: fault.Waiting, Message: "nobody needs it now"}
}
