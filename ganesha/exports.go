package ganesha

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/causeway-project/causeway/agent/crashpoint"
)

// Put adds the export, or changes its rules, and reads the result back. Where
// it is so already nothing happens. An export whose path, pseudo path or file
// system id differs, or on whose path another file system was mounted since,
// is removed and added; its clients then open their files again. What Ganesha
// took in another way than it was meant is withdrawn, so that nobody is let in
// by half a rule. A rule that Ganesha does not take does not keep the others
// from being put: see Refusal.
//
// ErrRefused and ErrPath are final until e or the host changes; with
// ErrNotRunning, Start and Put again.
func (g *Gateway) Put(ctx context.Context, e Export) ([]Refusal, error) {
	return g.bring(ctx, e, ifNeeded)
}

// Recover is Put that tells Ganesha all of the export's rules anew, whatever it
// says that it has, and tries again those that it has refused. Clients that
// were and are let in notice nothing.
func (g *Gateway) Recover(ctx context.Context, e Export) ([]Refusal, error) {
	return g.bring(ctx, e, anyhow)
}

// A telling says when Ganesha is told of an export.
type telling int

const (
	ifNeeded telling = iota // where it does not have it so
	anyhow
)

func (g *Gateway) bring(ctx context.Context, e Export, when telling) ([]Refusal, error) {
	if when == anyhow {
		g.acquit(e.ID, e.Rules)
	}
	able, _ := g.able(e)
	if _, err := g.o.Versions.renderExport(able); err != nil {
		return nil, err
	}
	if err := g.own(e); err != nil {
		return nil, err
	}
	if err := g.lock(ctx); err != nil {
		return nil, err
	}
	defer g.unlock()
	c, err := g.client(ctx)
	if err != nil {
		return nil, err
	}
	if err := g.put(ctx, c, e, when); err != nil {
		return nil, fmt.Errorf("put export %d: %w", e.ID, err)
	}
	_, refused := g.able(e)
	return refused, nil
}

// put finds out what is to do by asking Ganesha, which alone is believed.
func (g *Gateway) put(ctx context.Context, c *client, e Export, when telling) error {
	now, err := c.show(ctx, g.limits.look, e.ID)
	if err != nil {
		return err
	}
	p, err := g.find()
	if err != nil {
		return err
	}
	if p == nil {
		return ErrNotRunning
	}
	on, err := seen(p.Identity().PID, e.Path)
	if err != nil {
		return err
	}
	// Ganesha goes on serving what was mounted there when it was told.
	was, known := g.anchors.devices[e.ID]
	moved := known && was != on
	able, _ := g.able(e)
	if now != nil && !moved && g.o.Versions.differs(now, able) == nil && when == ifNeeded {
		return nil
	}
	again := now != nil && (moved || !now.sameTree(e))
	if again {
		if err := g.withdraw(ctx, c, e.ID); err != nil {
			return err
		}
		now = nil
	}
	if err = g.anchor(ctx, c, on, e); err == nil {
		err = g.tellRules(ctx, c, e, now)
		if err == nil && g.anchors.devices != nil {
			g.anchors.devices[e.ID] = on // it may have been withdrawn on the way
		}
	}
	err = g.explain(ctx, c, e, err)
	if now == nil && errors.Is(err, ErrRefused) {
		delete(g.anchors.devices, e.ID) // also where its anchor was refused, before it
	}
	if !again && !errors.Is(err, ErrRefused) {
		return err
	}
	// An anchor may have lost its last export.
	ctx, cancel := g.cleanup(ctx)
	defer cancel()
	return errors.Join(err, g.weigh(ctx, c))
}

// explain adds to a refusal what is known of the release that runs.
func (g *Gateway) explain(ctx context.Context, c *client, e Export, err error) error {
	if !errors.Is(err, ErrRefused) {
		return err
	}
	version, asked := c.version(ctx, g.limits.look)
	if asked != nil {
		return err
	}
	r, unknown := parseRelease(version)
	if unknown != nil {
		return err
	}
	if why := r.refuses(e.Path); why != nil {
		return fmt.Errorf("%w: %w", why, err)
	}
	return err
}

// cleanup goes on where the caller has given up, but not for long.
func (g *Gateway) cleanup(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), g.limits.change)
}

// tellRules tells Ganesha of an export, which has now, or nil. Where it refuses,
// the rules that it does not take are found and left out.
func (g *Gateway) tellRules(ctx context.Context, c *client, e Export, now *shownExport) error {
	able, _ := g.able(e)
	block, err := g.o.Versions.renderExport(able)
	if err != nil {
		return err
	}
	err = g.tell(ctx, c, able, block, now)
	if !errors.Is(err, ErrRefused) {
		return err
	}
	return g.sift(able, g.o.Versions.has(now, able.Rules), err, func() error {
		able, _ := g.able(e)
		block, err := g.o.Versions.renderExport(able)
		if err != nil {
			return err
		}
		now, err := c.show(ctx, g.limits.look, e.ID)
		if err != nil {
			return err
		}
		if now != nil && g.o.Versions.differs(now, able) == nil {
			return nil
		}
		return g.tell(ctx, c, able, block, now)
	})
}

// tell writes the export's file before it tells Ganesha, which has now, or nil.
// A crash between the two leaves a file that says more than is true, and does
// no harm: the next Put reads back what Ganesha has.
func (g *Gateway) tell(ctx context.Context, c *client, e Export, block string, now *shownExport) error {
	file := g.exportFile(e.ID)
	if err := replace(file, block); err != nil {
		return err
	}
	if err := g.files.Set(e.ID, e.FSID); err != nil {
		return fmt.Errorf("identity of export: %w", err)
	}
	crashpoint.Hit(crashpoint.ExportFile)
	load := c.add
	if now != nil {
		load = c.update
	}
	told := load(ctx, g.limits.change, file, e.ID)
	crashpoint.Hit(crashpoint.ExportAdded)
	if told != nil && !errors.Is(told, ErrRefused) {
		return told // nobody knows what became of it: the next Put reads it back first
	}
	return g.settle(ctx, c, e, now, told)
}

// settle reads e back. Where Ganesha refused a change as a whole the export is
// as it was before; anything else that is not e goes.
func (g *Gateway) settle(ctx context.Context, c *client, e Export, before *shownExport, told error) error {
	after, err := c.show(ctx, g.limits.look, e.ID)
	if err != nil {
		return errors.Join(told, err)
	}
	var wrong error
	if after == nil {
		wrong = errors.New("it is not there")
	} else {
		wrong = g.o.Versions.differs(after, e)
	}
	if wrong == nil {
		wrong = g.files.Works()
	}
	if told == nil && wrong == nil {
		return nil
	}
	if told == nil {
		told = refuse(e.ID, "read back: "+wrong.Error())
	}
	if before != nil && after != nil && sameExport(before, after) {
		return told
	}
	ctx, cancel := g.cleanup(ctx)
	defer cancel()
	return errors.Join(told, g.withdraw(ctx, c, e.ID))
}

func sameExport(a, b *shownExport) bool {
	if a.ID != b.ID || a.Path != b.Path || a.Tag != b.Tag || len(a.Clients) != len(b.Clients) {
		return false
	}
	for i := range a.Clients {
		if a.Clients[i] != b.Clients[i] {
			return false
		}
	}
	return true
}

// Remove withdraws an export. An id that is not exported is success, and so is
// a gateway that does not run. One with other exports below its pseudo path is
// ErrRefused: they go first.
func (g *Gateway) Remove(ctx context.Context, id uint16) error {
	if err := g.lock(ctx); err != nil {
		return err
	}
	defer g.unlock()
	g.forgive(id)
	p, err := g.find()
	if err != nil {
		return err
	}
	if p == nil {
		return g.forget(id)
	}
	c, err := g.client(ctx)
	if err == nil {
		err = g.withdraw(ctx, c, id)
	}
	if err == nil {
		err = g.weigh(ctx, c)
	}
	if errors.Is(err, ErrNotRunning) {
		// It may have died meanwhile; one that hangs may still serve the export.
		if p, gone := g.find(); gone == nil && p == nil {
			return g.forget(id)
		}
	}
	if err != nil {
		return fmt.Errorf("remove export %d: %w", id, err)
	}
	return nil
}

// withdraw removes an export from Ganesha and then its file.
func (g *Gateway) withdraw(ctx context.Context, c *client, id uint16) error {
	if err := c.remove(ctx, g.limits.change, id); err != nil {
		// Ganesha has one answer for what is not there and for what it keeps.
		still, lost := c.show(ctx, g.limits.look, id)
		if lost != nil || still != nil {
			return errors.Join(err, lost)
		}
	}
	delete(g.anchors.devices, id)
	if err := g.files.Set(id, 0); err != nil {
		return fmt.Errorf("identity of export: %w", err)
	}
	return g.forget(id)
}

func (g *Gateway) forget(id uint16) error {
	if err := os.Remove(g.exportFile(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// A Match is how what Ganesha serves compares with what is wanted.
type Match int

// The matches.
const (
	Absent  Match = iota // no export has the id
	Differs              // one has it, with another path or other rules
	Same
)

// A Sight is what a look at an export saw.
type Sight struct {
	Match   Match
	Refused []Refusal // where Same: the rules that are not in force all the same
}

// Look compares Ganesha's export with e. It costs one call whatever the number
// of exports. The path itself is not looked at.
func (g *Gateway) Look(ctx context.Context, e Export) (Sight, error) {
	c, err := g.client(ctx)
	if err != nil {
		return Sight{}, err
	}
	s, err := c.show(ctx, g.limits.look, e.ID)
	if err != nil {
		return Sight{}, fmt.Errorf("look at export %d: %w", e.ID, err)
	}
	able, refused := g.able(e)
	switch {
	case s == nil:
		return Sight{}, nil
	case g.o.Versions.differs(s, able) != nil:
		return Sight{Match: Differs}, nil
	}
	return Sight{Same, refused}, nil
}

// Has says whether Ganesha serves e with exactly e's rules.
func (g *Gateway) Has(ctx context.Context, e Export) (bool, error) {
	s, err := g.Look(ctx, e)
	return s.Match == Same && len(s.Refused) == 0, err
}

// IDs lists the exports that Ganesha has, without the pseudo root and anchors. It costs
// some 26 ms for a thousand exports; Has is cheap.
func (g *Gateway) IDs(ctx context.Context) ([]uint16, error) {
	c, err := g.client(ctx)
	if err != nil {
		return nil, err
	}
	list, err := c.list(ctx, g.limits.look)
	if err != nil {
		return nil, fmt.Errorf("list exports: %w", err)
	}
	var ids []uint16
	for _, e := range list {
		if e.id < firstAnchor {
			ids = append(ids, e.id)
		}
	}
	return ids, nil
}

// own refuses an id that is an anchor's, and a path that the gateway can
// never see.
func (g *Gateway) own(e Export) error {
	if e.ID >= firstAnchor {
		return refuse(e.ID, fmt.Sprintf("ids end at %d", firstAnchor-1))
	}
	if !strings.HasPrefix(e.Path, strings.TrimSuffix(g.o.Exports, "/")+"/") {
		return fmt.Errorf("export %d: %s is not below %s: %w", e.ID, short(e.Path), g.o.Exports, ErrPath)
	}
	return nil
}

func (g *Gateway) exportFile(id uint16) string {
	return filepath.Join(g.o.RunDir, confDir, "exports", fmt.Sprintf("%d.conf", id))
}

// replace writes a file that is read by its name at any time. Nothing that it
// writes is needed after a crash of the host, so nothing is synced.
func replace(file, text string) error {
	next := file + ".new"
	if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(next, file)
}
