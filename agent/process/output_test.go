package process

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-project/causeway/integration/wait"
)

func TestTail(t *testing.T) {
	for _, c := range []struct {
		name, text string
		n          int
		want       string
	}{
		{"all", "one\ntwo\n", 100, "one\ntwo"},
		{"exactly", "one\n", 4, "one"},
		{"the end", "one\ntwo\n", 4, "two"},
		{"no half character", "aéb", 2, "b"},
		{"a whole character", "aéb", 3, "éb"},
		{"not text", "a\xffb", 10, "a\uFFFDb"},
		{"only its middle bytes", strings.Repeat("\xa9", 5), 3, ""},
		{"nothing", "", 10, ""},
		{"none of it", "one", 0, ""},
		{"less than none", "one", -1, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, outputFile), []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if got := Tail(dir, c.n); got != c.want {
				t.Errorf("Tail(%q, %d) = %q, want %q", c.text, c.n, got, c.want)
			}
		})
	}
	if got := Tail(t.TempDir(), 10); got != "" {
		t.Errorf("Tail without output = %q", got)
	}
}

func TestOutput(t *testing.T) {
	s, dir := starter(t), t.TempDir()
	spec := sleeper(dir)
	spec.Path, spec.Args = "/bin/sh", []string{"-c", "echo out; echo err >&2"}
	for range 2 {
		wait.Closed(t, "it ends", start(t, s, spec).Done())
	}
	if got := Tail(dir, 1000); got != "out\nerr\nout\nerr" {
		t.Errorf("two runs printed %q", got)
	}
	file := filepath.Join(dir, outputFile)
	if err := os.WriteFile(file, make([]byte, outputMax+1), 0o600); err != nil {
		t.Fatal(err)
	}
	wait.Closed(t, "it ends", start(t, s, spec).Done())
	if got, err := os.ReadFile(file); err != nil || string(got) != "out\nerr\n" {
		t.Errorf("after a long output: %d bytes, %v", len(got), err)
	}
	spec.Output = "other"
	wait.Closed(t, "it ends", start(t, s, spec).Done())
	if got, err := os.ReadFile(filepath.Join(dir, "other")); err != nil || string(got) != "out\nerr\n" {
		t.Errorf("output in another file: %q, %v", got, err)
	}
}

func TestParseStat(t *testing.T) {
	const rest = " S 1 77 78 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 2 3"
	for _, line := range []string{"77 (sleep)" + rest, "77 (a b) R 1 (c)" + rest, "77 ()" + rest, "77 (x\n)" + rest} {
		got, err := parseStat(line)
		want := stat{state: 'S', parent: 1, session: 78, start: 4242}
		if d := cmp.Diff(want, got, cmp.AllowUnexported(stat{})); err != nil || d != "" {
			t.Errorf("parseStat(%q): %v %s", line, err, d)
		}
	}
	for _, line := range []string{"", "77", "77 (x)", "77 (x) S 1 2", "77 (x)" + strings.Replace(rest, "4242", "-1", 1), "77 (x)" + strings.Replace(rest, "78", "x", 1)} {
		if got, err := parseStat(line); err == nil {
			t.Errorf("parseStat(%q) = %+v, want an error", line, got)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add("77 (sleep) S 1 77 78 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 2 3")
	f.Add(")")
	f.Fuzz(func(t *testing.T, line string) {
		if s, err := parseStat(line); err == nil && s.state == 0 {
			t.Errorf("parseStat(%q) = %+v without a state", line, s)
		}
	})
}
