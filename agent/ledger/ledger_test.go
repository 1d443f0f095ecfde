package ledger

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-project/causeway/integration/golden"
)

type object struct {
	Name string `json:"name"`
}

func open(t *testing.T, dir string) (*Ledger, []Record, []Damage) {
	t.Helper()
	l, rs, ds, err := Open(dir, "attachment", "export")
	if err != nil {
		t.Fatal(err)
	}
	return l, rs, ds
}

func TestPutOpenDelete(t *testing.T) {
	dir := t.TempDir()
	l, rs, _ := open(t, dir)
	if len(rs) != 0 {
		t.Fatalf("a new ledger has %v", rs)
	}
	for _, name := range []string{"one", "two"} {
		if err := l.Put("export", "docs", object{name}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.PutSecret("export", "docs", []byte("s3cret")); err != nil {
		t.Fatal(err)
	}
	l, rs, ds := open(t, dir)
	want := []Record{{Kind: "export", ID: "docs", Body: json.RawMessage(`{"name":"two"}`)}}
	for i := range rs {
		var o object
		if err := json.Unmarshal(rs[i].Body, &o); err != nil {
			t.Fatal(err)
		}
		rs[i].Body, _ = json.Marshal(o)
	}
	if d := cmp.Diff(want, rs); d != "" || len(ds) != 0 {
		t.Fatalf("records (-want +got):\n%s\ndamage %v", d, ds)
	}
	if s, err := l.Secret("export", "docs"); err != nil || string(s) != "s3cret" {
		t.Fatalf("secret = %q, %v", s, err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "export", "docs.json"))
	if err != nil || strings.Contains(string(b), "s3cret") {
		t.Fatalf("the object file holds the secret, or is gone: %s, %v", b, err)
	}
	for range 2 { // the second finds nothing, which is success
		if err := l.Delete("export", "docs"); err != nil {
			t.Fatal(err)
		}
	}
	if entries, _ := os.ReadDir(filepath.Join(dir, "export")); len(entries) != 0 {
		t.Fatalf("left behind: %v", entries)
	}
}

func TestFilesAreForRootAlone(t *testing.T) {
	dir := t.TempDir()
	l, _, _ := open(t, dir)
	if err := l.Put("export", "a", object{"x"}); err != nil {
		t.Fatal(err)
	}
	if err := l.PutSecret("export", "a", []byte("x")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a.json", "a.secret"} {
		fi, err := os.Stat(filepath.Join(dir, "export", name))
		if err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v; want 0600", name, fi.Mode(), err)
		}
	}
}

func TestDamagedFileLosesOneObject(t *testing.T) {
	for name, content := range map[string]string{
		"empty":          "",
		"cut short":      `{"format":1,"kind":"export","id":"bad","bo`,
		"not json":       "\x00\x00\x00",
		"newer format":   `{"format":99,"kind":"export","id":"bad","body":{}}`,
		"no format":      `{"kind":"export","id":"bad","body":{}}`,
		"another's name": `{"format":1,"kind":"export","id":"good","body":{}}`,
		"another's kind": `{"format":1,"kind":"attachment","id":"bad","body":{}}`,
		"no body":        `{"format":1,"kind":"export","id":"bad"}`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l, _, _ := open(t, dir)
			if err := l.Put("export", "good", object{"x"}); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "export", "bad.json")
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			_, rs, ds := open(t, dir)
			if len(rs) != 1 || rs[0].ID != "good" {
				t.Errorf("records = %v, want the good one", rs)
			}
			if len(ds) != 1 || ds[0].ID != "bad" || ds[0].Path != path {
				t.Errorf("damage = %v, want %s", ds, path)
			}
			if b, err := os.ReadFile(path); err != nil || string(b) != content {
				t.Errorf("the damaged file was touched: %q, %v", b, err)
			}
		})
	}
}

func TestTemporaryFilesOfACutWriteGo(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	tmp := filepath.Join(dir, "export", ".docs.json123")
	if err := os.WriteFile(tmp, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, rs, ds := open(t, dir); len(rs)+len(ds) != 0 {
		t.Errorf("records %v, damage %v", rs, ds)
	}
	if _, err := os.Stat(tmp); !os.IsNotExist(err) {
		t.Errorf("%s is still there", tmp)
	}
}

// TestFormats reads a file of each format that was ever written.
func TestFormats(t *testing.T) {
	if golden.Updating() {
		l, _, _, err := Open("testdata/format1", "attachment", "export")
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Put("export", "docs", object{"x"}); err != nil {
			t.Fatal(err)
		}
	}
	dirs, err := filepath.Glob("testdata/format*")
	if err != nil || len(dirs) != Format {
		t.Fatalf("fixtures %v, %v; want one for each of %d formats", dirs, err, Format)
	}
	for _, d := range dirs {
		r, err := parse(filepath.Join(d, "export", "docs.json"), "export", "docs")
		if err != nil || r.ID != "docs" {
			t.Errorf("%s: %v, %v", d, r, err)
		}
	}
}
