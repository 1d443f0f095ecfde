package agent

import (
	"strings"

	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/ganesha"
)

// An exportIndex knows exports by their network, so that what one costs does not
// grow with those of other networks, nor an export id or a pseudo path with the
// number of its own. It holds each export from the moment that its record is
// reserved until it is forgotten. Agent.mu guards it, as it does the objects.
type exportIndex map[string]*networkExports

// networkExports are those of one network.
type networkExports struct {
	objects map[string]*object // by the export's id
	ids     map[uint16]string  // Ganesha's numbers, and whose they are
	free    uint16             // every number below is taken
	pseudos map[string]string  // pseudo paths, and whose they are
	above   map[string]int     // how many pseudo paths lie below a directory that is none
}

// of returns a network's exports by id, not to be changed.
func (x exportIndex) of(network string) map[string]*object {
	if n := x[network]; n != nil {
		return n.objects
	}
	return nil
}

// add enters an export whose record is r.
func (x exportIndex) add(o *object, r *intent.Record) {
	e := r.Export
	if e == nil {
		return
	}
	n := x[e.Network]
	if n == nil {
		n = &networkExports{objects: map[string]*object{}, ids: map[uint16]string{}, free: 1, pseudos: map[string]string{}, above: map[string]int{}}
		x[e.Network] = n
	}
	if n.objects[o.key.id] != nil {
		return
	}
	n.objects[o.key.id] = o
	n.ids[e.ExportID] = o.key.id
	n.pseudos[e.Pseudo] = o.key.id
	for dir := range ancestors(e.Pseudo) {
		n.above[dir]++
	}
}

// drop takes out an export whose record is, or was to be, r.
func (x exportIndex) drop(o *object, r *intent.Record) {
	e := r.Export
	if e == nil || x.of(e.Network)[o.key.id] != o {
		return
	}
	n := x[e.Network]
	delete(n.objects, o.key.id)
	if n.ids[e.ExportID] == o.key.id {
		delete(n.ids, e.ExportID)
		n.free = min(n.free, e.ExportID)
	}
	if n.pseudos[e.Pseudo] == o.key.id {
		delete(n.pseudos, e.Pseudo)
	}
	for dir := range ancestors(e.Pseudo) {
		if n.above[dir]--; n.above[dir] == 0 {
			delete(n.above, dir)
		}
	}
	if len(n.objects) == 0 {
		delete(x, e.Network)
	}
}

// freeID returns the smallest number that no export of a network has.
func (x exportIndex) freeID(network string) (uint16, bool) {
	n := x[network]
	if n == nil {
		return 1, true
	}
	for ; n.free <= ganesha.MaxExportID; n.free++ {
		if n.ids[n.free] == "" {
			return n.free, true
		}
	}
	return 0, false
}

// taken names the export of a network whose pseudo path is the given one, lies
// inside it, or around it: Ganesha would want the inner one's directory to exist
// in the outer one.
func (x exportIndex) taken(network, pseudo string) (id string, is bool) {
	n := x[network]
	if n == nil {
		return "", false
	}
	if id, is := n.pseudos[pseudo]; is {
		return id, true
	}
	for dir := range ancestors(pseudo) {
		if id, is := n.pseudos[dir]; is {
			return id, true
		}
	}
	if n.above[pseudo] == 0 {
		return "", false
	}
	for inner, id := range n.pseudos {
		if strings.HasPrefix(inner, pseudo+"/") {
			return id, true
		}
	}
	return "", false
}

// ancestors are the directories above a pseudo path, without the root.
func ancestors(pseudo string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for i := len(pseudo) - 1; i > 0; i-- {
			if pseudo[i] == '/' && !yield(pseudo[:i]) {
				return
			}
		}
	}
}
