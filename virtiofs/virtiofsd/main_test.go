package virtiofsd

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/causeway-project/causeway/integration/programs"
)

var built = programs.Built{Packages: []string{"cmd/causeway-launch", "cmd/causeway-keeper"}}

func TestMain(m *testing.M) {
	code := m.Run()
	if err := built.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "clean up:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func limited(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
