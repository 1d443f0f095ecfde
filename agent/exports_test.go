package agent

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
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
	h := newHost(t)
	h.resync = 50 * time.Millisecond
	a := h.boot(shortDir(t))
	if _, err := a.PutNetwork(t.Context(), blue()); err != nil {
		t.Fatal(err)
	}
	if _, err := a.PutExport(t.Context(), docs()); err != nil {
		t.Fatal(err)
	}
	before := h.String()
	mount := a.at.Mount(intent.ConnectionOf(share("docs")).MountName())
	h.mu.Lock()
	h.gone[mount] = true
	delete(h.shares, "docs")
	h.mu.Unlock()
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
	wait.Equal(t, "ready", model.Ready, func() model.Phase { return status().Phase })
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
	wait.Equal(t, "made again", before, h.String)
	h.mu.Lock()
	defer h.mu.Unlock()
	if done := h.log[puts:]; !slices.Equal(done, []string{"bind docs"}) {
		t.Errorf("steps %q", done)
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
		h.mu.Lock()
		defer h.mu.Unlock()
		return got.ExportID, h.gateways["blue"].exports[got.ExportID].FSID
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
