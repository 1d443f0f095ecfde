package agent

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/ganesha"
)

func indexed(id, network, pseudo string, number uint16) (*object, *intent.Record) {
	r := &intent.Record{Generation: 1, Export: &intent.Export{Network: network, Pseudo: pseudo, ExportID: number}}
	return newObject(objectKey{model.KindExport, id}, r), r
}

// TestExportIndex compares the index with a list that is searched, over many
// additions and removals.
func TestExportIndex(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	pseudos := []string{"/a", "/a/b", "/a/b/c", "/ab", "/b", "/b/a", "/b/b", "/c/d/e", "/c/d"}
	x := exportIndex{}
	have := map[string]*object{}
	nested := func(a, b string) bool {
		return strings.HasPrefix(a+"/", b+"/") || strings.HasPrefix(b+"/", a+"/")
	}
	for round := range 5000 {
		network := fmt.Sprint("net", rng.IntN(2))
		pseudo := pseudos[rng.IntN(len(pseudos))]
		number, used := uint16(1), map[uint16]bool{}
		var by []string
		for id, o := range have {
			if e := o.rec.Export; e.Network == network {
				used[e.ExportID] = true
				if nested(e.Pseudo, pseudo) {
					by = append(by, id)
				}
			}
		}
		for used[number] {
			number++
		}
		if got, ok := x.freeID(network); !ok || got != number {
			t.Fatalf("round %d: free number %d, %v; want %d", round, got, ok, number)
		}
		if n := len(x.of(network)); n != len(used) {
			t.Fatalf("round %d: %d exports, want %d", round, n, len(used))
		}
		id, taken := x.taken(network, pseudo)
		if taken != (len(by) > 0) || taken && !strings.Contains(strings.Join(by, " "), id) {
			t.Fatalf("round %d: %s is taken by %q, %v; want one of %q", round, pseudo, id, taken, by)
		}
		if !taken {
			id := fmt.Sprint("export", round)
			o, r := indexed(id, network, pseudo, number)
			x.add(o, r)
			have[id] = o
			continue
		}
		x.drop(have[id], have[id].rec)
		delete(have, id)
	}
	for id, o := range have {
		x.drop(o, o.rec)
		delete(have, id)
	}
	if len(x) != 0 {
		t.Errorf("left: %v", x)
	}
}

// TestExportIDsRunOut: all that a gateway can have, and one more. One that goes
// makes room for one.
func TestExportIDsRunOut(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	a := h.boot(dir)
	if _, err := a.PutNetwork(t.Context(), blue()); err != nil {
		t.Fatal(err)
	}
	var one *object
	a.mu.Lock()
	for number := uint16(1); number <= ganesha.MaxExportID; number++ {
		id := fmt.Sprint("export-", number)
		o, r := indexed(id, "blue", "/"+id, number)
		a.exports.add(o, r)
		if number == 4711 {
			one = o
		}
	}
	a.mu.Unlock()
	_, err := a.PutExport(t.Context(), docs())
	if e := parts.Classify(err); err == nil || e.Kind != fault.Exhausted || e.Reason != fault.NoExportIDs || !strings.Contains(e.Message, "another network") {
		t.Errorf("one too many: %v", err)
	}
	a.mu.Lock()
	left := a.objects[objectKey{model.KindExport, docs().ID}]
	a.exports.drop(one, one.rec)
	a.mu.Unlock()
	if left != nil {
		t.Errorf("it left %+v", left)
	}
	e, err := a.PutExport(t.Context(), docs())
	if err != nil || e.ExportID != 4711 {
		t.Errorf("with room for one: id %d, %v", e.ExportID, err)
	}
}

// TestExportIDReused: the smallest free number, and another file system id, by
// which clients tell the two exports apart.
func TestExportIDReused(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	a := h.boot(dir)
	if _, err := a.PutNetwork(t.Context(), blue()); err != nil {
		t.Fatal(err)
	}
	put := func(id string) (uint16, uint64) {
		e := docs()
		e.ID, e.Pseudo = id, "/"+id
		got, err := a.PutExport(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		return got.ExportID, a.objects[objectKey{model.KindExport, id}].rec.Export.FSID
	}
	put("a")
	number, fsid := put("b")
	put("c")
	if err := a.DeleteExport(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	again, fsidAgain := put("d")
	if number != 2 || again != 2 || fsid == fsidAgain {
		t.Errorf("number %d, then %d; file system id %d, then %d", number, again, fsid, fsidAgain)
	}
	if next, _ := put("e"); next != 4 {
		t.Errorf("the next is %d", next)
	}
}
