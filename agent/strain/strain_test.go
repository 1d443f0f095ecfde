package strain

import (
	"testing"
	"time"

	"github.com/causeway-project/causeway/agent/fault"
)

func TestWatch(t *testing.T) {
	var w Watch
	now := time.Unix(1000, 0)
	for i, s := range []struct {
		usage   Usage
		begun   Begun
		changed bool
		want    fault.Reason
	}{
		{Usage{Files: 10, FilesLimit: 100}, Begun{}, false, ""},
		{Usage{Files: 79, FilesLimit: 100}, Begun{}, false, ""},
		{Usage{Files: 80, FilesLimit: 100}, Begun{Files: true}, true, fault.FilesNearLimit},
		{Usage{Files: 75, FilesLimit: 100}, Begun{}, false, fault.FilesNearLimit},
		{Usage{Files: 85, FilesLimit: 100, Memory: 90, MemoryLimit: 100}, Begun{Memory: true}, true, fault.FilesNearLimit},
		{Usage{Files: 69, FilesLimit: 100, Memory: 90, MemoryLimit: 100}, Begun{}, true, fault.MemoryNearLimit},
		{Usage{Files: 69, FilesLimit: 100, Memory: 1 << 40}, Begun{}, true, ""},
		{Usage{Files: 100, FilesLimit: 100}, Begun{Files: true}, true, fault.FilesNearLimit},
	} {
		begun, changed := w.Note(Look{Usage: s.usage, At: now})
		var got fault.Reason
		if e := w.Warning(); e != nil {
			got = e.Reason
		}
		if begun != s.begun || changed != s.changed || got != s.want {
			t.Errorf("%d: %+v: began %+v, changed %v, %q; want %+v, %v, %q", i, s.usage, begun, changed, got, s.begun, s.changed, s.want)
		}
	}
	if !w.Forget() || w.Warning() != nil || w.Forget() {
		t.Error("a virtiofsd that has ended still has a warning")
	}
}

// TestDue: what takes long to look at is looked at seldom.
func TestDue(t *testing.T) {
	var w Watch
	now := time.Unix(1000, 0)
	if !w.Due(now) {
		t.Error("not due though nobody has looked")
	}
	w.Note(Look{At: now, Took: 500 * time.Millisecond})
	if w.Due(now.Add(99*time.Second)) || !w.Due(now.Add(100*time.Second)) {
		t.Errorf("a look of 500 ms is not followed by one after 100 s")
	}
}
