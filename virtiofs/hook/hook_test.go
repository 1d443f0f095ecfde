package hook

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestState(t *testing.T) {
	long := time.Now().Add(-time.Hour)
	later := time.Now().Add(time.Hour)
	for _, c := range []struct {
		name string
		make func(t *testing.T, p Place)
		want State
	}{
		{"nothing", func(*testing.T, Place) {}, Missing},
		{"not executable", func(t *testing.T, p Place) { write(t, p.Program, 0o644) }, Missing},
		{"a directory", func(t *testing.T, p Place) { must(t, os.Mkdir(p.Program, 0o755)) }, Missing},
		{"a link to nothing", func(t *testing.T, p Place) { must(t, os.Symlink("/nowhere", p.Program)) }, Missing},
		{"no libvirt", func(t *testing.T, p Place) { write(t, p.Program, 0o755) }, Unread},
		{"after libvirt", func(t *testing.T, p Place) {
			write(t, p.PIDs[0], 0o644)
			must(t, os.Chtimes(p.PIDs[0], long, long))
			write(t, p.Program, 0o755)
		}, Unread},
		{"before libvirt", func(t *testing.T, p Place) {
			write(t, p.Program, 0o755)
			write(t, p.PIDs[1], 0o644)
			must(t, os.Chtimes(p.PIDs[1], later, later))
		}, Active},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			p := Place{Program: filepath.Join(dir, "causeway"), PIDs: []string{filepath.Join(dir, "a.pid"), filepath.Join(dir, "b.pid")}}
			c.make(t, p)
			if got, err := p.State(); got != c.want || err != nil {
				t.Errorf("State = %v, %v, want %v", got, err, c.want)
			}
		})
	}
}

// TestUpgrade: a package replaces what the link leads to.
func TestUpgrade(t *testing.T) {
	dir := t.TempDir()
	p := Place{Program: filepath.Join(dir, "causeway"), PIDs: []string{filepath.Join(dir, "pid")}}
	to := filepath.Join(dir, "script")
	write(t, to, 0o755)
	must(t, os.Symlink(to, p.Program))
	write(t, p.PIDs[0], 0o644)
	soon := time.Now().Add(time.Second)
	must(t, os.Chtimes(p.PIDs[0], soon, soon))
	must(t, os.Remove(to))
	write(t, to, 0o755)
	later := time.Now().Add(time.Hour)
	must(t, os.Chtimes(to, later, later))
	if got, err := p.State(); got != Active || err != nil {
		t.Errorf("State = %v, %v, want active", got, err)
	}
}

func TestParseStart(t *testing.T) {
	const doc = `<?xml version='1.0'?>
<domain type='kvm' id='3'>
  <name>vm1</name>
  <uuid>11111111-2222-3333-4444-555555555555</uuid>
  <metadata><x:filesystem xmlns:x='urn:x'><driver type='virtiofs'/><source socket='/evil'/></x:filesystem></metadata>
  <devices>
    <filesystem type='mount'><driver type='virtiofs' queue='1024'/><source socket='/run/causeway/virtiofs/a/sock'/><target dir='a'/><alias name='ua-cw-a'/></filesystem>
    <filesystem type='mount'><driver type='virtiofs'/><source dir='/srv'/><target dir='b'/></filesystem>
    <filesystem type='mount'><source dir='/srv'/><target dir='c'/></filesystem>
    <filesystem type='mount'><driver type='virtiofs'/><source socket='/elsewhere'/><target dir='d'/><alias name='ua-theirs'/></filesystem>
  </devices>
</domain>`
	want := Start{Instance: "vm1", UUID: "11111111-2222-3333-4444-555555555555", Sockets: []string{"/run/causeway/virtiofs/a/sock"}}
	got, is, err := ParseStart([]string{"vm1", "prepare", "begin", "-"}, strings.NewReader(doc))
	if diff := cmp.Diff(want, got); diff != "" || !is || err != nil {
		t.Errorf("%v, %v (-want +got):\n%s", is, err, diff)
	}
	for _, args := range [][]string{nil, {"vm1"}, {"vm1", "start", "begin", "-"}, {"vm1", "release", "end", "-"}, {"vm1", "reconnect", "begin", "-"}, {"vm1", "restore", "begin", "-"}} {
		if _, is, err := ParseStart(args, unreadable{t}); is || err != nil {
			t.Errorf("%q: %v, %v, want nothing to do", args, is, err)
		}
	}
	for _, bad := range []string{"", "<domain>", "no xml", "<domain></devices>"} {
		if _, is, err := ParseStart([]string{"vm1", "prepare", "begin", "-"}, strings.NewReader(bad)); is || err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

type unreadable struct{ t *testing.T }

func (u unreadable) Read([]byte) (int, error) {
	u.t.Error("the input is read")
	return 0, os.ErrClosed
}

func write(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	must(t, os.WriteFile(path, nil, mode))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
