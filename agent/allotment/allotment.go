// Package allotment keeps which exports each network has, and which numbers and
// pseudo paths they took of their gateway.
package allotment

import (
	"strings"

	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/ganesha"
)

// A Table knows exports by their network, so that what one costs does not grow
// with those of other networks, nor an export id or a pseudo path with the number
// of its own. Its owner sees to that it is used by one goroutine at a time.
type Table[T comparable] map[string]*network[T]

// network has the exports of one.
type network[T comparable] struct {
	exports map[string]T      // by id
	ids     map[uint16]string // Ganesha's numbers, and whose they are
	free    uint16            // every number below is taken
	pseudos map[string]string // pseudo paths, and whose they are
	above   map[string]int    // how many pseudo paths lie below a directory that is none
}

// Of returns a network's exports by id, not to be changed.
func (t Table[T]) Of(network string) map[string]T {
	if n := t[network]; n != nil {
		return n.exports
	}
	return nil
}

// Add enters an export, unless it is there already.
func (t Table[T]) Add(id string, e *intent.Export, export T) {
	n := t[e.Network]
	if n == nil {
		n = &network[T]{exports: map[string]T{}, ids: map[uint16]string{}, free: 1, pseudos: map[string]string{}, above: map[string]int{}}
		t[e.Network] = n
	}
	if _, is := n.exports[id]; is {
		return
	}
	n.exports[id] = export
	n.ids[e.ExportID] = id
	n.pseudos[e.Pseudo] = id
	for dir := range ancestors(e.Pseudo) {
		n.above[dir]++
	}
}

// Drop takes out an export, if it is the one that has the id.
func (t Table[T]) Drop(id string, e *intent.Export, export T) {
	n := t[e.Network]
	if n == nil || n.exports[id] != export {
		return
	}
	delete(n.exports, id)
	if n.ids[e.ExportID] == id {
		delete(n.ids, e.ExportID)
		n.free = min(n.free, e.ExportID)
	}
	if n.pseudos[e.Pseudo] == id {
		delete(n.pseudos, e.Pseudo)
	}
	for dir := range ancestors(e.Pseudo) {
		if n.above[dir]--; n.above[dir] == 0 {
			delete(n.above, dir)
		}
	}
	if len(n.exports) == 0 {
		delete(t, e.Network)
	}
}

// FreeID returns the smallest number that no export of a network has.
func (t Table[T]) FreeID(network string) (uint16, bool) {
	n := t[network]
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

// Taken names the export of a network whose pseudo path is the given one, lies
// inside it, or around it: Ganesha would want the inner one's directory to exist
// in the outer one.
func (t Table[T]) Taken(network, pseudo string) (id string, is bool) {
	n := t[network]
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
