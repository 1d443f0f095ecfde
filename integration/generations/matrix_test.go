package generations

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-project/causeway/integration/golden"
	"github.com/causeway-project/causeway/integration/needs"
)

// A finding is a line of the table in docs/generations.md.
type finding struct {
	what string
	find func(context.Context, seat) string
}

func findings() []finding {
	return append(append(append(append(versions, abilities...), migration), saved...), rules...)
}

// generations of hosts, by the first number of /etc/debian_version.
var generations = []string{"12", "13"}

const page = "../../docs/generations.md"

// foundFile holds what was found on one generation.
func foundFile(generation string) string { return "testdata/debian" + generation + ".json" }

func readFound(t *testing.T, generation string) map[string]string {
	t.Helper()
	found := map[string]string{}
	text, err := os.ReadFile(foundFile(generation))
	if errors.Is(err, fs.ErrNotExist) {
		return found
	}
	if err == nil {
		err = json.Unmarshal(text, &found)
	}
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestHere finds on this system what was found on its generation before.
func TestHere(t *testing.T) {
	release, err := os.ReadFile("/etc/debian_version")
	needs.Met(t, err)
	generation, _, _ := strings.Cut(string(release), ".")
	before, found := readFound(t, generation), map[string]string{}
	for _, f := range findings() {
		t.Run(f.what, func(t *testing.T) {
			s := sit(t) // the first has to make it
			found[f.what] = f.find(limited(t, 8*time.Minute), s)
			if diff := cmp.Diff(before[f.what], found[f.what]); diff != "" && !golden.Updating() {
				t.Errorf("on Debian %s, -before +now:\n%s", generation, diff)
			}
			t.Log(found[f.what])
		})
	}
	if golden.Updating() && !t.Failed() {
		for _, f := range findings() {
			if _, ran := found[f.what]; !ran {
				found[f.what] = before[f.what]
			}
		}
		var text bytes.Buffer
		e := json.NewEncoder(&text)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		if err := e.Encode(found); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(foundFile(generation), text.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTable: the page says what was found, on both.
func TestTable(t *testing.T) {
	var b strings.Builder
	b.WriteString("| | Debian 12 | Debian 13 |\n|---|---|---|\n")
	for _, f := range findings() {
		fmt.Fprintf(&b, "| %s |", f.what)
		for _, g := range generations {
			seen, ok := readFound(t, g)[f.what]
			if !ok {
				t.Errorf("nothing was found on Debian %s of: %s", g, f.what)
			}
			fmt.Fprintf(&b, " %s |", strings.ReplaceAll(seen, "|", "\\|"))
		}
		b.WriteString("\n")
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- found by integration/generations -->\n", "<!-- end of what was found -->\n"
	before, rest, ok := strings.Cut(string(text), begin)
	table, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatalf("%s has no place for the table", page)
	}
	if golden.Updating() {
		if err := os.WriteFile(page, []byte(before+begin+b.String()+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(table, b.String()); diff != "" {
		t.Errorf("%s is not what was found; -update writes it anew (-page +found):\n%s", page, diff)
	}
}

// versions without what a point release changes.
var versions = []finding{
	{"virtiofsd", func(ctx context.Context, s seat) string {
		if _, err := os.Stat(rust); err == nil {
			return "Rust, " + version(ctx, s, rust, "--version")
		}
		return "C, " + version(ctx, s, "/usr/lib/qemu/virtiofsd", "--version")
	}},
	{"QEMU", func(ctx context.Context, s seat) string { return version(ctx, s, "qemu-system-x86_64", "--version") }},
	{"libvirt", func(ctx context.Context, s seat) string { return version(ctx, s, "libvirtd", "--version") }},
}

func version(ctx context.Context, s seat, argv ...string) string {
	s.Helper()
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).Output()
	s.must(err)
	return regexp.MustCompile(`\d+\.\d+`).FindString(string(out))
}
