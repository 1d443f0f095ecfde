package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/causeway-project/causeway/agent/gateway"
	"github.com/causeway-project/causeway/ganesha"
)

// server is one gateway: agent.Server.
type server struct {
	*host
	place    gateway.Place
	done     chan struct{}
	pid      int
	hung     bool // runs, and does not answer clients
	blocked  bool // hung, because a backend is
	mute     bool // does not answer D-Bus
	probes   int  // since it is mute
	asked    int  // for figures
	started  time.Time
	settings string // of the last start
	first    int    // exports that it was started with
	records  bool   // of clients that may reclaim
	kills    uint64 // for memory
	refused  uint64 // threads
	exports  map[uint16]ganesha.Export
}

func (s *server) Start(_ context.Context, exports func() []ganesha.Export) error {
	es := exports()
	s.slow("start " + s.place.Network)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done != nil && !s.hung && !s.mute && s.settings == s.place.Settings {
		return nil
	}
	if s.done != nil && s.hung && s.blocked {
		return ganesha.ErrBlocked
	}
	if s.done != nil {
		close(s.done)
		s.exports = map[uint16]ganesha.Export{}
	}
	if err := s.changing("start %s", s.place.Network); err != nil {
		return err
	}
	if _, there := s.namespaces[filepath.Base(s.place.NetNS)]; !there {
		s.t.Errorf("started the gateway of %s without its namespace", s.place.Network)
	}
	s.done, s.started, s.hung, s.mute, s.records = make(chan struct{}), time.Now(), false, false, true
	s.settings, s.first = s.place.Settings, len(es)
	s.pid++
	for _, e := range es {
		s.exports[e.ID] = e
	}
	return nil
}

// kill ends the gateway as kill -9 does.
func (s *server) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.done)
	s.done = nil
	s.exports = map[uint16]ganesha.Export{}
}

func (s *server) Stop(_ context.Context, o ganesha.StopOptions) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.changing("stop %s", s.place.Network); err != nil {
		return err
	}
	if s.done != nil {
		close(s.done)
		s.done = nil
	}
	s.exports = map[uint16]ganesha.Export{}
	s.records = s.records && !o.Forget
	return nil
}

func (s *server) Status(context.Context) (ganesha.Status, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return ganesha.Status{Running: s.done != nil, PID: 42 + s.pid, StartedAt: s.started, Version: "4.3", Settings: s.settings, LastLog: "it fell over", Kills: s.kills, Refused: s.refused}, nil
}

func (s *server) Probe(_ context.Context, o ganesha.ProbeOptions) ganesha.Health {
	s.mu.Lock()
	defer s.mu.Unlock()
	var h ganesha.Health
	if s.hung || s.done == nil {
		h.NFS = ganesha.ErrNotRunning
	}
	if !o.NFSOnly && (s.mute || s.done == nil) {
		h.Bus = ganesha.ErrNotRunning
		s.probes++
	}
	return h
}

// ExportStats answers with figures that name the export; a hung one does not
// answer, as long as it is asked.
func (s *server) ExportStats(ctx context.Context) ([]ganesha.ExportStats, error) {
	s.mu.Lock()
	silent := s.mute
	s.asked++
	var all []ganesha.ExportStats
	for id := range s.exports {
		n := uint64(id)
		all = append(all, ganesha.ExportStats{ID: id, Read: ganesha.Transfer{Ops: n, Bytes: 10 * n, Time: time.Second}, Write: ganesha.Transfer{Ops: 2 * n, Errors: n, Bytes: 20 * n}})
	}
	s.mu.Unlock()
	if silent {
		<-ctx.Done()
		return nil, ganesha.ErrNotRunning
	}
	return append(all, ganesha.ExportStats{ID: 4711}), nil // nobody's
}

func (s *server) ClientStats(_ context.Context, most int) ([]ganesha.ClientStats, error) {
	return make([]ganesha.ClientStats, min(most, 3)), nil
}

func (s *server) Done() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.done
}

func (s *server) Put(_ context.Context, e ganesha.Export) ([]ganesha.Refusal, error) {
	return s.put("put", e)
}

func (s *server) Recover(_ context.Context, e ganesha.Export) ([]ganesha.Refusal, error) {
	return s.put("recover", e)
}

func (s *server) put(verb string, e ganesha.Export) ([]ganesha.Refusal, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done == nil {
		return nil, ganesha.ErrNotRunning
	}
	if err := s.changing("%s export %d", verb, e.ID); err != nil {
		return nil, err
	}
	if s.mounted[e.Path] == "" {
		s.t.Errorf("exported %s, where nothing is mounted", e.Path)
	}
	s.exports[e.ID] = e
	return s.refusals(e), nil
}

// refusals are of the rules that the host was told to refuse.
func (s *server) refusals(e ganesha.Export) []ganesha.Refusal {
	var refused []ganesha.Refusal
	for i, r := range e.Rules {
		if s.refuses[r.Client] {
			refused = append(refused, ganesha.Refusal{Rule: i, Err: errors.New("no such client")})
		}
	}
	return refused
}

func (s *server) Remove(_ context.Context, id uint16) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.changing("remove export %d", id); err != nil {
		return err
	}
	delete(s.exports, id)
	return nil
}

func (s *server) Look(_ context.Context, e ganesha.Export) (ganesha.Sight, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	has, there := s.exports[e.ID]
	switch {
	case s.done == nil:
		return ganesha.Sight{}, ganesha.ErrNotRunning
	case !there:
		return ganesha.Sight{}, nil
	case fmt.Sprint(has) != fmt.Sprint(e):
		return ganesha.Sight{Match: ganesha.Differs}, nil
	}
	return ganesha.Sight{Match: ganesha.Same, Refused: s.refusals(e)}, nil
}

func (s *server) IDs(context.Context) ([]uint16, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []uint16
	for id := range s.exports {
		ids = append(ids, id)
	}
	return ids, nil
}
