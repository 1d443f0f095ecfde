package gateway

import (
	"context"
	"log/slog"
	"slices"
	"testing"

	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/agent/tree"
	"github.com/causeway-project/causeway/drivers/mounts"
	"github.com/causeway-project/causeway/ganesha"
)

// server is a Ganesha that serves exports by number.
type server struct {
	parts.Server // what is not called
	serves       []uint16
	running      bool
	forgot       bool // at its stop
}

func (s *server) Start(_ context.Context, exports func() []ganesha.Export) error {
	if s.running {
		return nil // adopted
	}
	for _, e := range exports() {
		s.serves = append(s.serves, e.ID)
	}
	slices.Sort(s.serves)
	s.running = true
	return nil
}

func (s *server) Status(context.Context) (ganesha.Status, error) {
	return ganesha.Status{Running: s.running}, nil
}

func (s *server) IDs(context.Context) ([]uint16, error) { return slices.Clone(s.serves), nil }

func (s *server) Remove(_ context.Context, id uint16) error {
	s.serves = slices.DeleteFunc(s.serves, func(is uint16) bool { return is == id })
	return nil
}

func (s *server) Stop(_ context.Context, o ganesha.StopOptions) error {
	s.running, s.forgot = false, o.Forget
	return nil
}

// table is a mount table in which some trees are in place.
type table struct {
	parts.Mounts
	there map[string]bool
}

func (t table) Peek(target string) (mounts.Sight, error) {
	return mounts.Sight{Mounted: t.there[target]}, nil
}
func (t table) Shared(string) error                   { return nil }
func (t table) Unmount(context.Context, string) error { return nil }

// notes log what they are told.
type notes struct {
	exports Exports
	log     []string
}

func (n *notes) Starts(string)                 { n.log = append(n.log, "starts") }
func (n *notes) Serves(string, ganesha.Status) { n.log = append(n.log, "serves") }
func (n *notes) Stops(string)                  { n.log = append(n.log, "stops") }
func (n *notes) Exports(string) Exports        { return n.exports }

func world(t *testing.T) (*Gateways, *server, *notes) {
	s, n := &server{}, &notes{exports: Exports{Used: true, Numbers: map[uint16]bool{1: true, 2: true}, Wanted: map[string]*intent.Export{
		"docs": {Network: "blue", ExportID: 1}, "music": {Network: "blue", ExportID: 2},
	}}}
	m := table{there: map[string]bool{}}
	at := tree.New(tree.Options{StateDir: t.TempDir(), RunDir: t.TempDir(), Mounts: m})
	m.there[at.View("blue", "docs")] = true
	made := 0
	return New(Options{Tree: at, Mounts: m, Notes: n, Logger: slog.New(slog.DiscardHandler), Servers: func(Place) parts.Server {
		if made++; made > 1 {
			return &server{}
		}
		return s
	}}), s, n
}

// TestStart: it begins with the exports whose tree is there.
func TestStart(t *testing.T) {
	g, s, n := world(t)
	if _, err := g.Start(t.Context(), Start{Network: "blue", Intent: &intent.Network{}, Anew: true}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(s.serves, []uint16{1}) || !slices.Equal(n.log, []string{"starts", "serves"}) {
		t.Errorf("it serves %v; %v", s.serves, n.log)
	}
}

// TestAdopt: what no record asks for is withdrawn, unless one cannot be read.
func TestAdopt(t *testing.T) {
	for _, unsure := range []bool{false, true} {
		g, s, n := world(t)
		s.running, s.serves, n.exports.Unsure = true, []uint16{1, 2, 3}, unsure
		if _, err := g.Start(t.Context(), Start{Network: "blue", Intent: &intent.Network{}}); err != nil {
			t.Fatal(err)
		}
		if kept := slices.Contains(s.serves, 3); kept != unsure || len(s.serves) < 2 {
			t.Errorf("a record cannot be read: %v; it serves %v", unsure, s.serves)
		}
	}
}

// TestStop: clients of one that comes again want their open files back.
func TestStop(t *testing.T) {
	for _, used := range []bool{false, true} {
		g, s, n := world(t)
		n.exports.Used = used
		if err := g.Stop(t.Context(), "blue", &intent.Network{}); err != nil {
			t.Fatal(err)
		}
		if s.forgot == used || !slices.Equal(n.log, []string{"stops"}) {
			t.Errorf("it is used: %v; its clients were forgotten: %v; %v", used, s.forgot, n.log)
		}
	}
}

// TestHandles: a network has the same until it is at another place.
func TestHandles(t *testing.T) {
	g, s, _ := world(t)
	if g.Last("blue") != nil {
		t.Error("a handle before there was one")
	}
	for range 2 {
		if g.Of("blue", &intent.Network{}) != s || g.Last("blue") != s {
			t.Error("another handle of the same place")
		}
	}
	if other := g.Of("blue", &intent.Network{Namespace: "green"}); other == s || g.Last("blue") != other {
		t.Error("the same handle of another place")
	}
	if g.Forget("blue"); g.Last("blue") != nil {
		t.Error("it was not forgotten")
	}
}
