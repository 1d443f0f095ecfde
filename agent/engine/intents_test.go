package engine

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/causeway-project/causeway/agent/allotment"
	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/ledger"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/ganesha"
)

// TestExportIDsRunOut: all that a gateway can have, and one more. One that goes
// makes room for one.
func TestExportIDsRunOut(t *testing.T) {
	eng := &Engine{exports: allotment.Table[*object]{}}
	export := func(number uint16) *intent.Export {
		return &intent.Export{Network: "blue", Pseudo: fmt.Sprint("/", number), ExportID: number}
	}
	for number := uint16(1); number <= ganesha.MaxExportID; number++ {
		eng.exports.Add(fmt.Sprint(number), export(number), nil)
	}
	var e *fault.Error
	if _, err := (Intents{eng}).FreeExportID("blue"); !errors.As(err, &e) || e.Kind != fault.Exhausted || e.Reason != fault.NoExportIDs || !strings.Contains(e.Message, "another network") {
		t.Errorf("one too many: %v", err)
	}
	eng.exports.Drop("4711", export(4711), nil)
	if id, err := (Intents{eng}).FreeExportID("blue"); err != nil || id != 4711 {
		t.Errorf("with room for one: id %d, %v", id, err)
	}
	if id, err := (Intents{eng}).FreeExportID("green"); err != nil || id != 1 {
		t.Errorf("another network: id %d, %v", id, err)
	}
	eng.damaged = []ledger.Damage{{Kind: model.KindExport, ID: "docs"}}
	if _, err := (Intents{eng}).FreeExportID("green"); !errors.As(err, &e) || e.Reason != fault.RecordDamaged {
		t.Errorf("while nobody knows which are taken: %v", err)
	}
}
