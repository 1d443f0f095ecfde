package ganesha

import (
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestStats: what clients read and wrote is what Ganesha says they did.
func TestStats(t *testing.T) { onBoth(t, testStats) }

func testStats(t *testing.T, system string) {
	s := newSiteOn(t, system)
	ctx := t.Context()
	if _, err := s.g.ExportStats(ctx); !errors.Is(err, ErrNotRunning) {
		t.Errorf("before the start: %v, want ErrNotRunning", err)
	}
	if _, err := s.g.ClientStats(ctx, 1); !errors.Is(err, ErrNotRunning) {
		t.Errorf("before the start: %v, want ErrNotRunning", err)
	}
	one, two, idle := s.share(1), s.share(2), s.share(3)
	s.start(one, two, idle)
	if got, err := s.g.ExportStats(ctx); err != nil || len(got) != 0 {
		t.Errorf("before any client: %+v, %v", got, err)
	}
	const size = 10000
	begin := time.Now().Add(-time.Second)
	writer, reader := s.client(identity{from: "127.0.0.2"}), s.client(identity{from: "127.0.0.3"})
	for _, dir := range []string{"/share1", "/share2"} {
		if err := writer.WriteFile(ctx, dir+"/file", make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := reader.ReadFile(ctx, "/share1/file"); err != nil {
		t.Fatal(err)
	}
	got, err := s.g.ExportStats(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i := range got {
		for _, x := range []*Transfer{&got[i].Read, &got[i].Write} {
			if (x.Ops == 0) != (x.Time == 0) || x.Time < 0 || x.Time > time.Minute {
				t.Errorf("export %d: %d operations took %s", got[i].ID, x.Ops, x.Time)
			}
			x.Ops, x.Time = min(x.Ops, 1), 0 // how many a client makes of it is its own affair
		}
	}
	want := []ExportStats{
		{ID: 1, Read: Transfer{Ops: 1, Bytes: size}, Write: Transfer{Ops: 1, Bytes: size}},
		{ID: 2, Write: Transfer{Ops: 1, Bytes: size}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("exports, -want +got:\n%s", d)
	}
	clients, err := s.g.ClientStats(ctx, 10)
	if err != nil {
		t.Fatal(err)
	}
	byAddr := map[netip.Addr]ClientStats{}
	for i, c := range clients {
		if c.Seen.Before(begin) || c.Seen.After(time.Now().Add(time.Second)) {
			t.Errorf("%s was seen at %s", c.Address, c.Seen)
		}
		if i > 0 && c.Seen.After(clients[i-1].Seen) {
			t.Errorf("%s comes after one that was seen before it", c.Address)
		}
		byAddr[c.Address] = c
	}
	w, r := byAddr[netip.MustParseAddr("127.0.0.2")], byAddr[netip.MustParseAddr("127.0.0.3")]
	if w.Write.Bytes != 2*size || w.Read.Bytes != 0 || w.Compounds == 0 || r.Read.Bytes != size || r.Write.Ops != 0 {
		t.Errorf("writer %+v, reader %+v", w, r)
	}
	if some, err := s.g.ClientStats(ctx, 1); err != nil || len(some) != 1 {
		t.Errorf("one client: %+v, %v", some, err)
	}
}

func TestReadClientStats(t *testing.T) {
	num := func(n ...uint64) []any {
		var s []any
		for _, x := range n {
			s = append(s, x)
		}
		return s
	}
	tests := map[string]struct {
		body []any
		ok   bool
		want ClientStats
	}{
		"empty":     {},
		"not known": {body: []any{false, "Client IP address not found", num(0, 0)}},
		"no figures": {
			body: []any{true, "OK", num(1, 2), false, false, false}, ok: true,
		},
		"two versions": {
			body: []any{true, "OK", num(1, 2), false, true, num(1, 2, 3), num(4, 5, 6), num(7, 8), true, num(10, 20, 30), num(40, 50, 60), num(70, 80), num(9, 9), false},
			ok:   true, want: ClientStats{Read: Transfer{Ops: 11, Errors: 22, Bytes: 33}, Write: Transfer{Ops: 44, Errors: 55, Bytes: 66}, Compounds: 77},
		},
		"other shapes": {
			body: []any{true, "OK", num(1, 2), true, num(1), num(), []any{"x"}}, ok: true, want: ClientStats{Read: Transfer{Ops: 1}},
		},
	}
	for name, tt := range tests {
		var got ClientStats
		if ok := got.read(tt.body); ok != tt.ok || got != tt.want {
			t.Errorf("%s: %+v, %v; want %+v, %v", name, got, ok, tt.want, tt.ok)
		}
	}
}

// BenchmarkExportStats asks for a hundred exports that are all in use.
func BenchmarkExportStats(b *testing.B) {
	s := newSite(b)
	s.start()
	const n = 100
	c := s.client(identity{})
	for id := range uint16(n) {
		e := s.tree(id + 1)
		s.put(e)
		if err := os.WriteFile(e.Path+"/f", []byte("x"), 0o644); err != nil {
			b.Fatal(err)
		}
		if _, err := c.ReadFile(b.Context(), e.Pseudo+"/f"); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		got, err := s.g.ExportStats(b.Context())
		if err != nil || len(got) != n {
			b.Fatalf("%d exports, %v", len(got), err)
		}
	}
}
