package ganesha

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/causeway-project/causeway/integration/wait"
)

// A fakeExporter stands on a real bus under Ganesha's name and answers as
// Ganesha does where it does not do what it was told. It keeps exports as
// DisplayExport shows them.
type fakeExporter struct {
	mu      sync.Mutex
	exports map[uint16]shownExport
	calls   []string

	answer func(method string, id uint16) (string, *dbus.Error) // nil: "1 exports added"
	shows  func(Export) shownExport                             // what is kept of an added export; nil: exactly it
	wanted Export                                               // what the next add or update is about

	refuses func(Export) bool // with the rules of the file; nil: none
}

var clientBlock = regexp.MustCompile(`(?s)Clients = (\S+);.*?Access_Type = (\w+);\s+Squash = root_squash;.*?Anonymous_Gid = (\d+);`)

// read takes the rules from a file, where they squash root and are for one
// prefix each.
func (f *fakeExporter) read(file string) *dbus.Error {
	text, err := os.ReadFile(file)
	if err != nil {
		return dbus.NewError(invalidArgs, []any{err.Error()})
	}
	f.wanted.Rules = nil
	for _, m := range clientBlock.FindAllStringSubmatch(string(text), -1) {
		level := map[string]Level{"RO": ReadOnly, "RW": ReadWrite, "None": barred}[m[2]]
		r := rule(m[1], level, SquashRoot)
		if m[3] == "65534" {
			r.AnonGID = 65534
		}
		f.wanted.Rules = append(f.wanted.Rules, r)
	}
	if f.refuses(f.wanted) {
		return dbus.NewError(invalidFile, []any{"1 validation errors in block CLIENT"})
	}
	return nil
}

func shown(e Export) shownExport {
	s := shownExport{ID: e.ID, Path: e.Path, Tag: tag(e)}
	for _, r := range e.Rules {
		w, err := Versions(nil).words(r)
		if err != nil {
			panic(err)
		}
		s.Clients = append(s.Clients, shownClient{Client: r.Client.String(), AnonUID: r.AnonUID, AnonGID: r.AnonGID, Options: w.options, Set: maskSet})
	}
	return s
}

func (f *fakeExporter) load(method, file string) (string, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, method)
	if f.refuses != nil {
		if fail := f.read(file); fail != nil {
			return "", fail
		}
	}
	message := "1 exports added"
	if f.answer != nil {
		var fail *dbus.Error
		if message, fail = f.answer(method, f.wanted.ID); fail != nil {
			return "", fail
		}
	}
	if f.shows != nil {
		if s := f.shows(f.wanted); s.ID != 0 {
			f.exports[s.ID] = s
		}
		return message, nil
	}
	f.exports[f.wanted.ID] = shown(f.wanted)
	return message, nil
}

func (f *fakeExporter) AddExport(file, expr string) (string, *dbus.Error) {
	if text, err := os.ReadFile(file); err != nil || !strings.Contains(string(text), "Export_Id") {
		return "", dbus.NewError(invalidArgs, []any{fmt.Sprintf("file %s: %v", file, err)})
	}
	if want := fmt.Sprintf("EXPORT(Export_Id=%d)", f.wanted.ID); expr != want {
		return "", dbus.NewError(invalidArgs, []any{"expression " + expr})
	}
	return f.load("add", file)
}

func (f *fakeExporter) UpdateExport(file, expr string) (string, *dbus.Error) {
	return f.load("update", file)
}

func (f *fakeExporter) RemoveExport(id uint16) *dbus.Error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, "remove")
	if _, ok := f.exports[id]; !ok {
		return dbus.NewError(invalidArgs, []any{"lookup_export failed with Export id not found"})
	}
	if f.answer != nil {
		if _, fail := f.answer("remove", id); fail != nil {
			return fail
		}
	}
	delete(f.exports, id)
	return nil
}

func (f *fakeExporter) DisplayExport(id uint16) (uint16, string, string, string, []shownClient, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, ok := f.exports[id]
	if !ok {
		return 0, "", "", "", nil, dbus.NewError(invalidArgs, []any{"lookup_export failed with Export id not found"})
	}
	return s.ID, s.Path, s.Path, s.Tag, s.Clients, nil
}

// newFake starts a bus with a fake on it, and a gateway that finds them where
// its own would be.
func newFake(t *testing.T) (*fakeExporter, *site) {
	t.Helper()
	s := newSite(t)
	s.o.Mounts = nil
	s.g = New(s.o)
	if err := s.g.directories(); err != nil {
		t.Fatal(err)
	}
	if err := replace(s.g.path(confDir, "bus.conf"), renderBus(s.g.socket())); err != nil {
		t.Fatal(err)
	}
	bus := exec.Command("dbus-daemon", "--config-file="+s.g.path(confDir, "bus.conf"), "--nofork", "--nopidfile", "--nosyslog")
	if err := bus.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = bus.Process.Signal(syscall.SIGKILL) // it may have ended
		_ = bus.Wait()                          // killed
	})
	var conn *dbus.Conn
	wait.Until(t, "the bus answers", func() bool {
		c, err := dial(t.Context(), s.g.socket(), time.Second)
		if err != nil {
			return false
		}
		conn = c.conn
		return true
	})
	t.Cleanup(func() { _ = conn.Close() }) // the bus is gone before
	// Nor is there a process that the library could be at work in.
	if _, err := s.g.files.Prepare(nil); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.g.files.Ready, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f := &fakeExporter{exports: map[uint16]shownExport{}}
	if err := conn.Export(f, exportPath, strings.TrimSuffix(exportMember, ".")); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.RequestName(busName, dbus.NameFlagDoNotQueue); err != nil {
		t.Fatal(err)
	}
	return f, s
}

// tellFake puts e by way of tell, since no process stands behind the fake.
func tellFake(f *fakeExporter, s *site, e Export) error {
	s.t.Helper()
	block, err := Versions(nil).renderExport(e)
	if err != nil {
		s.t.Fatal(err)
	}
	c, err := s.g.client(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	f.wanted = e
	now, err := c.show(s.t.Context(), time.Second, e.ID)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.g.tell(s.t.Context(), c, e, block, now)
}

// TestBadAnswers: whatever Ganesha answers, either the export is there exactly
// as wanted, or it is as it was before, or it is gone.
func TestBadAnswers(t *testing.T) {
	invalid := dbus.NewError(invalidFile, []any{"2 validation errors in block EXPORT"})
	widened := func(e Export) shownExport {
		s := shown(e)
		for i := range s.Clients {
			s.Clients[i].Options |= maskAccess
		}
		return s
	}
	tests := map[string]struct {
		before bool
		answer func(string, uint16) (string, *dbus.Error)
		shows  func(Export) shownExport
		want   error
		left   string // "new", "old", "none"
	}{
		"added":                        {left: "new"},
		"updated":                      {before: true, left: "new"},
		"add refused":                  {answer: func(string, uint16) (string, *dbus.Error) { return "", invalid }, want: ErrRefused, left: "none"},
		"update refused":               {before: true, answer: func(string, uint16) (string, *dbus.Error) { return "", invalid }, want: ErrRefused, left: "old"},
		"errors found, not added":      {answer: found, shows: nothing, want: ErrRefused, left: "none"},
		"errors found, and added":      {answer: found, want: ErrRefused, left: "none"},
		"errors found, and updated":    {before: true, answer: found, want: ErrRefused, left: "none"},
		"errors found, left as it was": {before: true, answer: found, shows: nothing, want: ErrRefused, left: "old"},
		"added wider than wanted":      {shows: widened, want: ErrRefused, left: "none"},
		"updated wider than wanted":    {before: true, shows: widened, want: ErrRefused, left: "none"},
		"said yes and did nothing":     {shows: nothing, want: ErrRefused, left: "none"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f, s := newFake(t)
			e := s.tree(1)
			e.Rules = []Rule{rule("10.0.0.0/8", ReadOnly, SquashRoot)}
			old := e
			old.Rules = []Rule{rule("10.1.0.0/16", ReadOnly, SquashRoot)}
			if tt.before {
				if err := tellFake(f, s, old); err != nil {
					t.Fatal(err)
				}
			}
			f.answer, f.shows = tt.answer, tt.shows
			if tt.answer != nil {
				f.answer = func(method string, id uint16) (string, *dbus.Error) {
					if method == "remove" {
						return "", nil
					}
					return tt.answer(method, id)
				}
			}
			if err := tellFake(f, s, e); !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				t.Errorf("err = %v, want %v", err, tt.want)
			}
			got := "none"
			for _, state := range []struct {
				name string
				e    Export
			}{{"new", e}, {"old", old}} {
				if m, err := s.g.Look(t.Context(), state.e); err != nil {
					t.Fatal(err)
				} else if m.Match == Same {
					got = state.name
				}
			}
			if _, there := f.exports[1]; got == "none" && there {
				got = "something else"
			}
			if got != tt.left {
				t.Errorf("left is %s, want %s; calls %v", got, tt.left, f.calls)
			}
		})
	}
}

func found(string, uint16) (string, *dbus.Error) {
	return "1 exports added. Errors found:\nConfig File (x:2): Syntax error in statement", nil
}

func nothing(Export) shownExport { return shownExport{} }

// TestPutOff: Ganesha puts off what it cannot do while it frees another export.
func TestPutOff(t *testing.T) {
	f, s := newFake(t)
	busy := 3
	f.answer = func(string, uint16) (string, *dbus.Error) {
		if busy--; busy >= 0 {
			return "", dbus.NewError(invalidArgs, []any{"another export admin operation is in progress, try again later"})
		}
		return "1 exports added", nil
	}
	e := s.tree(1)
	if err := tellFake(f, s, e); err != nil {
		t.Error(err)
	}
	if busy >= 0 {
		t.Error("the fake was not busy often enough")
	}
	busy = 2
	c, err := s.g.client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.g.withdraw(t.Context(), c, 1); err != nil {
		t.Error(err)
	}
	if len(f.exports) != 0 {
		t.Errorf("left: %v", f.exports)
	}
}

// TestKept: an export that Ganesha does not let go, because others hang below
// it, is an error and not gone.
func TestKept(t *testing.T) {
	f, s := newFake(t)
	e := s.tree(1)
	if err := tellFake(f, s, e); err != nil {
		t.Fatal(err)
	}
	f.answer = func(string, uint16) (string, *dbus.Error) {
		return "", dbus.NewError(invalidArgs, []any{"Cannot remove export with submounts"})
	}
	c, err := s.g.client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.g.withdraw(t.Context(), c, 1); !errors.Is(err, ErrRefused) {
		t.Errorf("err = %v, want ErrRefused", err)
	}
}

// TestSilent: who owns the name and does not answer is not running, and the
// caller is told soon.
func TestSilent(t *testing.T) {
	f, s := newFake(t)
	s.g.limits.look = 50 * time.Millisecond
	f.mu.Lock() // every answer waits for it
	_, err := s.g.Look(t.Context(), Export{ID: 1})
	f.mu.Unlock()
	if !errors.Is(err, ErrNotRunning) {
		t.Errorf("err = %v, want ErrNotRunning", err)
	}
}

// TestNobody: a bus without Ganesha on it answers in its place.
func TestNobody(t *testing.T) {
	_, s := newFake(t)
	c, err := s.g.client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = c.call(t.Context(), time.Second, question{path: exportPath, method: "org.example.no.Such"})
	if errors.Is(err, ErrNotRunning) || err == nil {
		t.Errorf("a method that is not there: %v", err)
	}
	if _, err := s.g.Status(t.Context()); err != nil {
		t.Errorf("Status without a process: %v", err)
	}
}
