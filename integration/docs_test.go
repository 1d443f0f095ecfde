package integration

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestTroubleshootingIsComplete finds every reason, metric, warning and error of
// the sources in the page that says what an operator does about it, and nothing
// else there.
func TestTroubleshootingIsComplete(t *testing.T) {
	page := read(t, "../docs/troubleshooting.md")
	known := map[string]bool{}
	for file, text := range sources(t) {
		for _, pattern := range []string{
			`(?m)\bReason\s+= "([a-z0-9_]+)"`,
			`"(causeway_[a-z_]+)"`,
			`[lL]og(?:ger)?\.(?:Warn|Error)(?:Context)?\((?:ctx, )?"([^"]+)"`,
		} {
			for _, f := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
				known[f[1]] = true
				if !strings.Contains(page, "`"+f[1]) {
					t.Errorf("%s of %s is not in docs/troubleshooting.md", f[1], file)
				}
			}
		}
		for _, f := range regexp.MustCompile(`\.Info(?:Context)?\((?:ctx, )?"([^"]+)"`).FindAllStringSubmatch(text, -1) {
			known[f[1]] = true
		}
	}
	// The first cell of a row names what the row is about.
	for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]*)\\|").FindAllStringSubmatch(page, -1) {
		for _, word := range regexp.MustCompile("`([^`{]+)[^`]*`").FindAllStringSubmatch(row[1], -1) {
			if !known[word[1]] {
				t.Errorf("docs/troubleshooting.md explains %q, which nothing says", word[1])
			}
		}
	}
}

// sources are those of what an operator installs, by file.
func sources(t *testing.T) map[string]string {
	t.Helper()
	texts := map[string]string{}
	for _, dir := range []string{"agent", "cmd", "drivers", "ganesha", "netns", "virtiofs"} {
		err := filepath.WalkDir("../"+dir, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.Name() == "drivertest":
				return fs.SkipDir
			}
			if strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
				texts[path] = read(t, path)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return texts
}

// TestLinks: every file that a document names is there, and every heading.
func TestLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]*)(#[^)]+)?\)`)
	for _, doc := range []string{"README.md", "docs/quickstart.md", "docs/gateways.md", "docs/virtiofs.md", "docs/architecture.md", "docs/node-api.md", "docs/troubleshooting.md", "docs/bench.md", "docs/nova.md"} {
		dir := "../" + strings.TrimSuffix(doc, doc[strings.LastIndex(doc, "/")+1:])
		for _, l := range link.FindAllStringSubmatch(read(t, "../"+doc), -1) {
			file := "../" + doc
			if l[1] != "" {
				file = dir + l[1]
			}
			if _, err := os.Stat(file); err != nil {
				t.Errorf("%s links to %s: %v", doc, l[1], err)
			} else if l[2] != "" && !slices.Contains(anchors(read(t, file)), l[2]) {
				t.Errorf("%s links to %s%s, which is no heading there", doc, l[1], l[2])
			}
		}
	}
}

// anchors of the headings of a document, as they are made of their text where
// the documents are shown.
func anchors(doc string) []string {
	var all []string
	for _, h := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(doc, -1) {
		text := regexp.MustCompile(`[^a-z0-9 _-]`).ReplaceAllString(strings.ToLower(h[1]), "")
		all = append(all, "#"+strings.ReplaceAll(text, " ", "-"))
	}
	return all
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
