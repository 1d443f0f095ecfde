package ganesha

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDeleted: an export whose directory was deleted while it was mounted does
// not keep the others from being served by the next start, not even where it is
// what the anchor shows.
func TestDeleted(t *testing.T) { onBoth(t, testDeleted) }

func testDeleted(t *testing.T, system string) {
	s := newSiteOn(t, system)
	pool := t.TempDir()
	s.mountFS(pool)
	var es []Export
	for i, name := range []string{"gone", "a", "b"} {
		e := s.tree(uint16(i + 1))
		dir := filepath.Join(pool, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := (binds{}).Bind(dir, e.Path); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(e.Path, unix.MNT_DETACH) })
		es = append(es, e)
	}
	s.start(es...)
	if err := os.Remove(filepath.Join(pool, "gone")); err != nil {
		t.Fatal(err)
	}
	s.kill(s.pid())
	s.start(es...)
	c := s.client(identity{})
	for _, e := range []Export{es[1], es[2]} {
		s.has(e)
		if _, err := c.Stat(t.Context(), e.Pseudo); err != nil {
			t.Error(err)
		}
	}
}
