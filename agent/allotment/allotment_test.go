package allotment

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/causeway-project/causeway/agent/intent"
)

// TestTable compares it with a list that is searched, over many
// additions and removals.
func TestTable(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	pseudos := []string{"/a", "/a/b", "/a/b/c", "/ab", "/b", "/b/a", "/b/b", "/c/d/e", "/c/d"}
	x := Table[*intent.Export]{}
	have := map[string]*intent.Export{}
	nested := func(a, b string) bool {
		return strings.HasPrefix(a+"/", b+"/") || strings.HasPrefix(b+"/", a+"/")
	}
	for round := range 5000 {
		network := fmt.Sprint("net", rng.IntN(2))
		pseudo := pseudos[rng.IntN(len(pseudos))]
		number, used := uint16(1), map[uint16]bool{}
		var by []string
		for id, e := range have {
			if e.Network == network {
				used[e.ExportID] = true
				if nested(e.Pseudo, pseudo) {
					by = append(by, id)
				}
			}
		}
		for used[number] {
			number++
		}
		if got, ok := x.FreeID(network); !ok || got != number {
			t.Fatalf("round %d: free number %d, %v; want %d", round, got, ok, number)
		}
		if n := len(x.Of(network)); n != len(used) {
			t.Fatalf("round %d: %d exports, want %d", round, n, len(used))
		}
		id, taken := x.Taken(network, pseudo)
		if taken != (len(by) > 0) || taken && !strings.Contains(strings.Join(by, " "), id) {
			t.Fatalf("round %d: %s is taken by %q, %v; want one of %q", round, pseudo, id, taken, by)
		}
		if !taken {
			id := fmt.Sprint("export", round)
			have[id] = &intent.Export{Network: network, Pseudo: pseudo, ExportID: number}
			x.Add(id, have[id], have[id])
			continue
		}
		x.Drop(id, have[id], have[id])
		delete(have, id)
	}
	for id, e := range have {
		x.Drop(id, e, e)
		delete(have, id)
	}
	if len(x) != 0 {
		t.Errorf("left: %v", x)
	}
}
