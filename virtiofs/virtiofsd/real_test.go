package virtiofsd

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/causeway-project/causeway/agent/process"
	"github.com/causeway-project/causeway/integration/needs"
	"github.com/causeway-project/causeway/integration/wait"
)

// daemons returns a Daemons, and one with a short run directory, which is
// stopped when the test ends.
func daemons(t *testing.T, source string) (*Daemons, Daemon) {
	t.Helper()
	needs.Root(t)
	_, err := findBinary("/")
	needs.Met(t, err)
	run, err := os.MkdirTemp("/tmp", "cwrun")
	if err != nil {
		t.Fatal(err)
	}
	d := &Daemons{Starter: &process.Starter{Launcher: built.Path(t, "causeway-launch")}, Keeper: built.Path(t, "causeway-keeper")}
	v := Daemon{Dir: filepath.Join(run, "virtiofs", "a"), Source: source}
	t.Cleanup(func() {
		if err := d.Stop(context.Background(), v, time.Second); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(run); err != nil {
			t.Error(err)
		}
	})
	return d, v
}

func wantState(t *testing.T, d *Daemons, v Daemon, want State) {
	t.Helper()
	var got State
	var err error
	if wait.Within(wait.Long, func() bool { got, err = d.State(v); return got == want }) != nil {
		t.Fatalf("State = %q, %v, want %q", got, err, want)
	}
}

func pid(t *testing.T, d *Daemons, v Daemon) int {
	t.Helper()
	p, err := d.Find(v)
	if err != nil || p == nil {
		t.Fatalf("Find = %v, %v, want a process", p, err)
	}
	return p.Identity().PID
}

func TestDaemonLife(t *testing.T) {
	d, v := daemons(t, t.TempDir())
	ctx := limited(t, time.Minute)
	wantState(t, d, v, Stopped)
	if err := d.Start(ctx, v); err != nil {
		t.Fatal(err)
	}
	wantState(t, d, v, Listening) // Start has waited for it, and not used it up
	first := pid(t, d, v)

	// Another agent, after this one's death, adopts it.
	other := &Daemons{Starter: d.Starter}
	if err := other.Start(ctx, v); err != nil {
		t.Fatal(err)
	}
	if got := pid(t, other, v); got != first {
		t.Errorf("pid %d was started beside %d", got, first)
	}

	c := connect(t, d, v)
	if err := d.Start(ctx, v); err != nil {
		t.Errorf("Start of one in use: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	wantState(t, d, v, Stopped) // it serves one connection
	if err := d.Start(ctx, v); err != nil {
		t.Fatal(err)
	}
	second := pid(t, d, v)
	if second == first {
		t.Errorf("pid is still %d", first)
	}

	if err := syscall.Kill(second, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wantState(t, d, v, Stopped)
	if err := d.Start(ctx, v); err != nil {
		t.Fatalf("Start after kill -9: %v", err)
	}
	for range 2 {
		if err := d.Stop(ctx, v, 5*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Lstat(v.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is left: %v", v.Dir, err)
	}
}

func TestDaemonErrors(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Daemons, *Daemon)
		want   string
	}{
		{"no source", func(_ *Daemons, v *Daemon) { v.Source = "/nonexistent" }, "ended"},
		{"source is a file", func(_ *Daemons, v *Daemon) { v.Source = "/etc/passwd" }, "ended"},
		{"relative source", func(_ *Daemons, v *Daemon) { v.Source = "etc" }, "absolute"},
		{"long path", func(_ *Daemons, v *Daemon) { v.Dir = "/tmp/" + strings.Repeat("x", 100) }, "107"},
		{"no binary", func(d *Daemons, _ *Daemon) { d.Binary = "/nonexistent" }, ErrMissing.Error()},
		{"no virtiofsd", func(d *Daemons, _ *Daemon) { d.Binary = "/bin/true" }, "virtiofsd"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, v := daemons(t, t.TempDir())
			tt.change(d, &v)
			err := d.Start(limited(t, time.Minute), v)
			// The Rust one may listen before it finds that it cannot go on.
			if late := err == nil && tt.want == "ended"; !late && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("Start = %v, want one with %q", err, tt.want)
			}
			wantState(t, d, v, Stopped)
			if err := d.Stop(t.Context(), v, time.Second); err != nil {
				t.Error(err)
			}
		})
	}
}
