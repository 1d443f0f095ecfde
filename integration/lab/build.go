package lab

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"github.com/causeway-project/causeway/integration/programs"
)

// Programs of the project, built from the working tree.
type Programs struct {
	Agent  string
	CLI    string
	Launch string
	Keep   string // causeway-keeper, beside Launch, where the agent looks for it
}

// BuildOptions of Programs.
type BuildOptions struct {
	CrashPoints bool // the agent, or its launcher, dies where CAUSEWAY_CRASH_AT says
	Race        bool // the agent has the race detector
}

// Build compiles the programs into a directory of their own, beside each other
// as they are shipped. It takes 2 s when the build cache is warm, and what it
// returns may serve any number of agents.
func Build(ctx context.Context, o BuildOptions) (*Programs, error) {
	root, err := Repo()
	if err != nil {
		return nil, err
	}
	dir, err := TempDir()
	if err != nil {
		return nil, err
	}
	tags := ""
	if o.CrashPoints {
		tags = "crashpoints"
	}
	for _, p := range []programs.Options{
		{Packages: []string{"cmd/causeway-agent"}, Tags: tags, Race: o.Race, C: true},
		{Packages: []string{"cmd/causeway"}, C: true},
		{Packages: []string{"cmd/causeway-launch", "cmd/causeway-keeper"}, Tags: tags},
	} {
		p.Dir = dir
		if err := programs.Build(ctx, p); err != nil {
			return nil, err
		}
	}
	// It lies beside the launcher, where the agent looks for it.
	if _, err := command(ctx, filepath.Join(root, "ganesha/preload/build"), dir); err != nil {
		return nil, err
	}
	return Installed(dir), nil
}

// Installed are programs that were built before, such as those of 'make build'
// in bin.
func Installed(dir string) *Programs {
	return &Programs{
		Agent:  filepath.Join(dir, "causeway-agent"),
		CLI:    filepath.Join(dir, "causeway"),
		Launch: filepath.Join(dir, "causeway-launch"),
		Keep:   filepath.Join(dir, "causeway-keeper"),
	}
}

// raced is the first report of the race detector, or empty.
func raced(log string) string {
	data, err := os.ReadFile(log)
	if err != nil {
		return ""
	}
	_, report, found := strings.Cut(string(data), "WARNING: DATA RACE\n")
	if !found {
		return ""
	}
	report, _, _ = strings.Cut(report, "\n==================")
	return report
}
