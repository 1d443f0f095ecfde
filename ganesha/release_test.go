package ganesha

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseRelease(t *testing.T) {
	tests := map[string]release{
		"4.3": {4, 3}, "6.5": {6, 5}, "10.12.1": {10, 12}, "5.9-rc1": {5, 9},
		"": {}, "6": {}, "3.5": {}, "V6.5": {}, "-6.5": {},
	}
	for in, want := range tests {
		got, err := parseRelease(in)
		if got != want || (err == nil) != (want != release{}) || err != nil && !errors.Is(err, ErrRelease) {
			t.Errorf("parseRelease(%q) = %v, %v; want %v", in, got, err, want)
		}
	}
}

// TestInstalled: the file says the same as the process.
func TestInstalled(t *testing.T) { onBoth(t, testInstalled) }

func testInstalled(t *testing.T, system string) {
	s := newSiteOn(t, system)
	s.start()
	is, err := installed(system)
	if err != nil {
		t.Fatal(err)
	}
	st, err := s.g.Status(t.Context())
	if err != nil || st.Version != is.String() {
		t.Errorf("the process says %q, %v; the file %s", st.Version, err, is)
	}
	if system != "" && is.major < 5 {
		t.Errorf("Debian 13 has %s", is)
	}
}

func TestInstalledNot(t *testing.T) {
	dir := t.TempDir()
	if _, err := installed(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nothing there: %v", err)
	}
	file := filepath.Join(dir, nfsdPath)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if r, err := installed(dir); err == nil {
		t.Errorf("a script is %v", r)
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, self, 0o755); err != nil {
		t.Fatal(err)
	}
	if r, err := installed(dir); !errors.Is(err, ErrRelease) {
		t.Errorf("another program is %v, %v", r, err)
	}
}

// TestNames: names that mean something in the configuration come out of
// Ganesha as they went in. What it says of a path Put compares.
func TestNames(t *testing.T) { onBoth(t, testNames) }

func testNames(t *testing.T, system string) {
	s := newSiteOn(t, system)
	s.start()
	for i, name := range []string{
		"it's", `say "so"`, `'`, `"`, `both ' and "`, `back\slash`, `a\\b`, `a\"b`, `a\nb`, "semi; colon", "{ curly }", "# no comment", "%include x", "$HOME", "メディア", "a b", `\'`,
	} {
		e := s.tree(uint16(i + 1))
		e.Path = filepath.Join(s.o.Exports, name)
		e.Pseudo = "/" + name
		if err := os.MkdirAll(e.Path, 0o755); err != nil {
			t.Fatal(err)
		}
		s.put(e)
		if _, err := s.client(identity{}).Stat(t.Context(), e.Pseudo); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	ids, err := s.g.IDs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	list, err := s.client(identity{}).ReadDir(t.Context(), "/")
	if err != nil || len(list) != len(ids) {
		t.Errorf("the root lists %d of %d: %v", len(list), len(ids), err)
	}
}

// TestTmpfs: what a release cannot export is refused in words.
func TestTmpfs(t *testing.T) { onBoth(t, testTmpfs) }

func testTmpfs(t *testing.T, system string) {
	s := newSiteOn(t, system)
	s.start()
	e := s.tree(1)
	s.mount("test", e.Path, "tmpfs", 0)
	is, err := installed(system)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.g.Put(t.Context(), e)
	if is.before(5, 3) {
		if err != nil {
			t.Error(err)
		}
		return
	}
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "exports no tmpfs") {
		t.Errorf("Put = %v, want a refusal that names tmpfs", err)
	}
	if err := unix.Unmount(e.Path, 0); err != nil {
		t.Errorf("unmount what was refused: %v", err)
	}
	if dirs, err := filepath.Glob(s.o.Exports + "/" + anchorPrefix + "*"); err != nil || len(dirs) != 0 {
		t.Errorf("anchors: %q, %v; want none", dirs, err)
	}
}
