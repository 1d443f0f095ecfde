package integration

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestTroubleshootingIsComplete finds every reason and metric of the sources
// in the page that says what an operator does about it, and nothing else there.
func TestTroubleshootingIsComplete(t *testing.T) {
	page := read(t, "../docs/troubleshooting.md")
	for _, c := range []struct {
		files   []string
		pattern string
	}{
		{[]string{"../agent/fault/reasons.go"}, `Reason = "([a-z_]+)"`},
		{[]string{"../agent/rpc/status.go"}, `fault\.Reason = "([a-z_]+)"`},
		{[]string{"../agent/metrics.go"}, `"(causeway_[a-z_]+)"`},
	} {
		for _, file := range c.files {
			found := regexp.MustCompile(c.pattern).FindAllStringSubmatch(read(t, file), -1)
			if len(found) == 0 {
				t.Errorf("%s has nothing like %s", file, c.pattern)
			}
			for _, f := range found {
				if !strings.Contains(page, "`"+f[1]) {
					t.Errorf("%s of %s is not in docs/troubleshooting.md", f[1], file)
				}
			}
		}
	}
}

// TestLinks: every file that a document names is there.
func TestLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]+)(#[a-z-]+)?\)`)
	for _, doc := range []string{"README.md", "docs/quickstart.md", "docs/gateways.md", "docs/architecture.md", "docs/node-api.md", "docs/troubleshooting.md", "docs/bench.md", "docs/gateways.md"} {
		dir := "../" + strings.TrimSuffix(doc, doc[strings.LastIndex(doc, "/")+1:])
		for _, l := range link.FindAllStringSubmatch(read(t, "../"+doc), -1) {
			if _, err := os.Stat(dir + l[1]); err != nil {
				t.Errorf("%s links to %s: %v", doc, l[1], err)
			}
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
