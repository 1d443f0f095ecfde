package virtiofsd

import (
	"github.com/causeway-project/causeway/agent/process"
	"github.com/causeway-project/causeway/virtiofs/keeper"
)

// A kept is the virtiofsd of a keeper that runs.
type kept struct {
	report *keeper.Report   // nil: it is being started
	runs   *process.Process // nil: it does not
}

// dead says that it ran once.
func (k kept) dead() bool { return k.report != nil && k.runs == nil }

// keptBy looks at the virtiofsd of keeper p, which is v's.
func (d *Daemons) keptBy(p *process.Process, v Daemon) (kept, error) {
	r, err := keeper.ReadReport(v.Dir)
	if err != nil || r == nil || r.Keeper != p.Identity().PID {
		return kept{}, err
	}
	k := kept{report: r}
	if r.Ended != nil {
		return k, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	// A handle costs a pidfd until its process ends, so there is one of each.
	if c := d.children[v.Dir]; c != nil && c.Identity().PID == r.PID {
		select {
		case <-c.Done():
		default:
			k.runs = c
			return k, nil
		}
	}
	delete(d.children, v.Dir)
	k.runs, err = p.Child(r.PID)
	if k.runs != nil {
		if d.children == nil {
			d.children = map[string]*process.Process{}
		}
		d.children[v.Dir] = k.runs
	}
	return k, err
}

// Done is closed when v's virtiofsd ends, or its keeper; nil where none serves,
// also where a keeper stands in for one.
func (d *Daemons) Done(v Daemon) (<-chan struct{}, error) {
	p, err := d.Find(v)
	if err != nil || p == nil {
		return nil, err
	}
	k, err := d.keptBy(p, v)
	switch {
	case err != nil || k.dead():
		return nil, err
	case k.runs == nil:
		return p.Done(), nil
	}
	return k.runs.Done(), nil // it does not outlive its keeper
}
