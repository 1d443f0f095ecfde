package agent

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/ganesha"
	"github.com/causeway-project/causeway/integration/wait"
)

// TestReadOnlyExport: the rules say so, since one mount of a file system serves
// all its exports.
func TestReadOnlyExport(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	a := h.boot(dir)
	if _, err := a.PutNetwork(t.Context(), blue()); err != nil {
		t.Fatal(err)
	}
	e := docs()
	e.ReadOnly = true
	if _, err := a.PutExport(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if got := seen(h, dir); strings.Contains(got, " rw ") || !strings.Contains(got, "10.77.0.5/32 ro") {
		t.Errorf("somebody may write:\n%s", got)
	}
}

// TestShareDeletedUnderAnExport: the export says so, and is served again when
// the share is there again, without anybody's call.
func TestShareDeletedUnderAnExport(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	a := h.boot(dir)
	if _, err := a.PutNetwork(t.Context(), blue()); err != nil {
		t.Fatal(err)
	}
	if _, err := a.PutExport(t.Context(), docs()); err != nil {
		t.Fatal(err)
	}
	before := h.String()
	look := func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		for key := range a.groups {
			a.wakeLocked(key, lookAgain)
		}
	}
	mount := a.at.Mount(intent.ConnectionOf(share("docs")).MountName())
	h.mu.Lock()
	h.gone[mount] = true
	delete(h.shares, "docs")
	h.mu.Unlock()
	look()
	status := func() model.Status {
		e, err := a.Export(t.Context(), "docs")
		if err != nil {
			t.Fatal(err)
		}
		return e.Status
	}
	wait.Until(t, "degraded", func() bool { return status().Phase == model.Degraded && status().Reason == fault.ShareGone })
	if now := h.String(); now != before {
		t.Errorf("the host has\n%s\nand had\n%s", now, before)
	}
	h.mu.Lock()
	h.shares["docs"] = true
	h.mu.Unlock()
	look()
	wait.Until(t, "ready", func() bool { return status().Phase == model.Ready })
	h.mu.Lock()
	gone := h.gone[mount]
	h.mu.Unlock()
	if now := h.String(); now != before || gone {
		t.Errorf("the mount is of the deleted share: %v; the host has\n%s\nand had\n%s", gone, now, before)
	}
	if err := errors.Join(a.DeleteExport(t.Context(), "docs"), a.DeleteNetwork(t.Context(), "blue")); err != nil || h.String() != "" {
		t.Errorf("delete: %v; left:\n%s", err, h)
	}
}

// TestViewTakenAway: it is made again under its export, of which clients have
// files open.
func TestViewTakenAway(t *testing.T) {
	h, dir := newHost(t), shortDir(t)
	a := h.boot(dir)
	if _, err := a.PutNetwork(t.Context(), blue()); err != nil {
		t.Fatal(err)
	}
	if _, err := a.PutExport(t.Context(), docs()); err != nil {
		t.Fatal(err)
	}
	before, view := h.String(), a.at.View("blue", "docs")
	h.mu.Lock()
	delete(h.mounted, view)
	puts := len(h.log)
	h.mu.Unlock()
	a.MountsChanged()
	wait.Until(t, "made again", func() bool { return h.String() == before })
	h.mu.Lock()
	defer h.mu.Unlock()
	if done := h.log[puts:]; !slices.Equal(done, []string{"bind docs"}) {
		t.Errorf("steps %q", done)
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
	a.mu.Lock()
	for number := uint16(1); number <= ganesha.MaxExportID; number++ {
		id := fmt.Sprint("export-", number)
		r := &intent.Record{Generation: 1, Export: &intent.Export{Network: "blue", Pseudo: "/" + id, ExportID: number}}
		a.exports.Add(id, r.Export, newObject(model.ExportKey(id), r))
	}
	a.mu.Unlock()
	_, err := a.PutExport(t.Context(), docs())
	if e := parts.Classify(err); err == nil || e.Kind != fault.Exhausted || e.Reason != fault.NoExportIDs || !strings.Contains(e.Message, "another network") {
		t.Errorf("one too many: %v", err)
	}
	a.mu.Lock()
	left := a.objects[model.ExportKey(docs().ID)]
	one := a.exports.Of("blue")["export-4711"]
	a.exports.Drop(one.key.ID, one.rec.Export, one)
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
		return got.ExportID, a.objects[model.ExportKey(id)].rec.Export.FSID
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
