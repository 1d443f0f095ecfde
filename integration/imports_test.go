package integration

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/causeway-project/causeway/"

// mayImport is docs/architecture.md as data: for each package, the packages of
// this module that it may import. A trailing ... stands for all below.
var mayImport = map[string][]string{
	"cmd/causeway":            {"api/node/client", "api/node/v1", "virtiofs/hook", "virtiofs/recipe"},
	"cmd/causeway-agent":      {"agent...", "api/node/v1", "drivers...", "ganesha", "ganesha/handles", "netns", "virtiofs", "virtiofs/hook", "virtiofs/virtiofsd"},
	"cmd/causeway-keeper":     {"virtiofs/keeper"},
	"cmd/causeway-launch":     {"agent/process"},
	"api/node/client":         {"api/node/v1"},
	"api/node/client/example": {"api/node/client", "api/node/v1"},
	"api/node/v1":             {},

	"agent":            {"agent/access", "agent/answers", "agent/device", "agent/engine", "agent/fault", "agent/intent", "agent/model", "agent/move", "agent/parts", "agent/preflight", "agent/refusal", "agent/statistics", "agent/word", "agent/writers", "drivers", "ganesha"},
	"agent/access":     {"agent/fault", "agent/word", "ganesha"},
	"agent/allotment":  {"agent/intent", "ganesha"},
	"agent/answers":    {"agent/fault", "agent/intent", "agent/move", "agent/parts", "agent/word"},
	"agent/crashpoint": {},
	"agent/device":     {"agent/fault", "agent/word"},
	"agent/engine":     {"agent/access", "agent/allotment", "agent/answers", "agent/crashpoint", "agent/device", "agent/fault", "agent/gateway", "agent/guest", "agent/intent", "agent/ledger", "agent/metrics", "agent/model", "agent/move", "agent/parts", "agent/reconcile", "agent/refusal", "agent/retry", "agent/rulebook", "agent/standing", "agent/starts", "agent/statistics", "agent/strain", "agent/tree", "agent/vitals", "agent/word", "agent/writers", "drivers", "ganesha", "netns"},
	"agent/fault":      {},
	"agent/gateway":    {"agent/intent", "agent/parts", "agent/tree", "ganesha", "netns"},
	"agent/guest":      {"agent/device", "agent/fault", "agent/intent", "agent/model", "agent/parts", "agent/reconcile", "agent/tree", "agent/word"},
	"agent/intent":     {"agent/access", "agent/device", "agent/fault", "agent/ledger", "agent/model", "agent/move", "agent/reconcile", "agent/word", "drivers", "ganesha", "netns", "netns/plug"},
	"agent/ledger":     {"agent/crashpoint"},
	"agent/metrics":    {"agent/model", "agent/move", "agent/parts", "agent/reconcile", "agent/statistics", "agent/strain"},
	"agent/model":      {"agent/access", "agent/device", "agent/fault", "agent/move", "agent/strain", "agent/word", "drivers"},
	"agent/move":       {"agent/fault", "agent/word"},
	"agent/parts":      {"agent/device", "agent/fault", "agent/model", "agent/strain", "drivers", "drivers/mounts", "ganesha", "netns", "netns/plug"},
	"agent/preflight":  {"agent/device", "agent/fault", "agent/model", "agent/parts", "agent/word", "drivers"},
	"agent/process":    {"agent/crashpoint"},

	// The launcher imports agent/process, and must not become large.
	"agent/process/cgroup": {"agent/process"},
	"agent/process/unit":   {"agent/process", "agent/process/cgroup"},
	"agent/process/usage":  {},

	"agent/reconcile":  {},
	"agent/rpc":        {"agent", "agent/access", "agent/device", "agent/fault", "agent/model", "agent/move", "agent/statistics", "agent/strain", "api/node/v1", "drivers"},
	"agent/refusal":    {"agent/fault", "agent/ledger", "agent/model"},
	"agent/retry":      {"agent/fault", "agent/reconcile"},
	"agent/rulebook":   {"agent/access", "agent/fault", "agent/intent", "agent/model", "ganesha"},
	"agent/standing":   {"agent/answers", "agent/fault", "agent/intent", "agent/model", "agent/move", "agent/reconcile", "agent/retry", "agent/word"},
	"agent/starts":     {},
	"agent/statistics": {"ganesha"},
	"agent/strain":     {"agent/fault"},
	"agent/tree":       {"agent/fault", "agent/intent", "agent/parts", "drivers", "drivers/mounts"},
	"agent/vitals":     {"agent/fault", "agent/model", "agent/retry", "ganesha"},
	"agent/word":       {"agent/fault"},
	"agent/writers":    {"agent/access", "agent/device", "agent/intent", "agent/model"},

	// These know nothing of each other, nor of the agent; the two leaves
	// serve them all.
	"ganesha":  {"agent/crashpoint", "agent/process", "ganesha/handles", "ganesha/nfs3"},
	"virtiofs": {"agent/crashpoint", "virtiofs/peer"},
	"netns":    {"agent/crashpoint", "netns/arp", "netns/firewall", "netns/kernel", "netns/namespace", "netns/ovs", "netns/plug", "netns/sysctl"},
	"drivers":  {},

	"ganesha/nfs3":       {"agent/process"},
	"virtiofs/hook":      {},
	"virtiofs/keeper":    {"virtiofs/peer", "virtiofs/vhostuser"},
	"virtiofs/peer":      {},
	"virtiofs/vhostuser": {},
	"virtiofs/recipe":    {},
	"virtiofs/virtiofsd": {"agent/process", "virtiofs/keeper"},

	"netns/arp":       {},
	"netns/firewall":  {},
	"netns/kernel":    {"netns/namespace"},
	"netns/namespace": {"agent/crashpoint"},
	"netns/ovs":       {},
	"netns/plug":      {"agent/crashpoint", "netns/firewall", "netns/kernel", "netns/namespace", "netns/ovs", "netns/sysctl"},
	"netns/sysctl":    {},
	"ganesha/handles": {},

	"drivers/drivertest": {"drivers", "drivers/mounts"},
	"drivers/local":      {"drivers", "drivers/mounts"},
	"drivers/mounts":     {"agent/crashpoint", "drivers"},

	"integration/attack":            {"integration/netspace"},
	"integration/bench":             {"..."},
	"integration/demo":              {"..."},
	"integration/generations/probe": {},
	"integration/golden":            {},
	"integration/lab":               {"api/node/v1", "integration/programs", "integration/wait"},
	"integration/lab/guest/writer":  {},
	"integration/lab/run":           {"integration/lab"},
	"integration/needs":             {},
	"integration/netspace":          {},
	"integration/nfs41":             {"integration/netspace"},
	"integration/nfsv3":             {"integration/netspace"},
	"integration/programs":          {},
	"integration/wait":              {},
}

// onlyIn gives outside packages, and all below them, their homes. It confines
// cgo too: whatever imports neither libvirt nor its home builds without a C
// library.
var onlyIn = map[string][]string{
	"libvirt.org/go":                        {"virtiofs", "integration/bench", "integration/lab"},
	"github.com/vishvananda":                {"netns...", "integration..."},
	"github.com/google/nftables":            {"netns/firewall"},
	"github.com/godbus/dbus":                {"ganesha", "agent/process/unit", "integration", "integration/bench"},
	"github.com/coreos/go-systemd/v22/dbus": {"agent/process/unit"},
	"github.com/coreos/go-systemd":          {"cmd/causeway-agent", "agent/process/unit"},
	"google.golang.org/grpc":                {"agent/rpc", "api...", "cmd...", "integration..."},
	"google.golang.org/protobuf":            {"agent/rpc", "api...", "cmd...", "integration..."},
	"github.com/prometheus":                 {"agent/engine", "agent/metrics", "agent/statistics", "agent/strain", "cmd/causeway-agent"},
	"github.com/spf13":                      {"cmd..."},
	"os/exec":                               {"agent/process", "netns/ovs", "netns/plug", "virtiofs/virtiofsd", "cmd/causeway-agent", "drivers/drivertest", "integration..."},
}

// TestImports reads the sources itself: a "go list" child would not be noticed
// by the test cache, and a forbidden import would pass from there.
func TestImports(t *testing.T) {
	seen := map[string]bool{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); name != ".." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin") {
				return fs.SkipDir
			}
			return nil
		}
		if filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		rel, err := filepath.Rel("..", filepath.Dir(path))
		if err != nil {
			return err
		}
		pkg := filepath.ToSlash(rel)
		seen[pkg] = true
		allowed, known := mayImport[pkg]
		if !known {
			t.Errorf("%s is not in mayImport: say what it may import, here and in docs/architecture.md", pkg)
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range f.Imports {
			imp, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if to, ours := strings.CutPrefix(imp, module); ours && !matches(allowed, to) {
				t.Errorf("%s imports %s; %s may import only %v", path, to, pkg, allowed)
			}
			if homes, outside := homesOf(imp); outside && !matches(homes, pkg) {
				t.Errorf("%s imports %s; only %v may", path, imp, homes)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for pkg := range mayImport {
		if !seen[pkg] {
			t.Errorf("mayImport lists %s, which is not there", pkg)
		}
	}
}

// homesOf finds the longest entry of onlyIn that imp lies at or below.
func homesOf(imp string) ([]string, bool) {
	best := ""
	for p := range onlyIn {
		if (imp == p || strings.HasPrefix(imp, p+"/")) && len(p) > len(best) {
			best = p
		}
	}
	return onlyIn[best], best != ""
}

func matches(allowed []string, pkg string) bool {
	for _, a := range allowed {
		if base, tree := strings.CutSuffix(a, "..."); a == pkg || tree && strings.HasPrefix(pkg, base) {
			return true
		}
	}
	return false
}
