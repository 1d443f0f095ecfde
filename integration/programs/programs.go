// Package programs builds programs of this module for tests.
package programs

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

const module = "github.com/causeway-project/causeway/"

// Options of Build.
type Options struct {
	Dir      string   // required: where the programs come to lie, under their packages' names
	Packages []string // required: within the module, such as cmd/causeway-launch
	Tags     string
	Race     bool // the race detector; it needs C
	C        bool // with the C library, where they are static otherwise
}

// Build compiles programs from the working tree. The working directory must be
// in the module.
func Build(ctx context.Context, o Options) error {
	args := []string{"build", "-buildvcs=false", "-ldflags", "-s -w", "-tags", o.Tags, "-o", o.Dir + "/"}
	if o.Race {
		args = append(args, "-race")
	}
	for _, p := range o.Packages {
		args = append(args, module+p)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = os.Environ()
	if !o.C && !o.Race {
		cmd.Env = append(cmd.Env, "CGO_ENABLED=0")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w: %s", o.Packages, err, out)
	}
	return nil
}

// Built are programs for the tests of one package, built when the first of them
// asks. Whoever has them calls Close after all tests.
type Built struct {
	Packages []string // required
	Tags     string

	once sync.Once
	dir  string
	err  error
}

// Path of a program, by the last word of its package.
func (b *Built) Path(t testing.TB, name string) string {
	t.Helper()
	b.once.Do(func() {
		if b.dir, b.err = os.MkdirTemp("", "programs"); b.err == nil {
			b.err = Build(context.Background(), Options{Dir: b.dir, Packages: b.Packages, Tags: b.Tags})
		}
	})
	if b.err != nil {
		t.Fatal(b.err)
	}
	return filepath.Join(b.dir, name)
}

// Close removes them.
func (b *Built) Close() error {
	if b.dir == "" {
		return nil
	}
	return os.RemoveAll(b.dir)
}
