package ganesha

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestNextEpoch(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for _, c := range []struct {
		name, file string
		want       uint32
	}{
		{"first", "", 1_800_000_000},
		{"long ago", "1700000000\n", 1_800_000_000},
		{"same second", "1800000000\n", 1_800_000_001},
		{"clock was set back", "1900000000\n", 1_900_000_001},
		{"cut off", "\x00\x00", 1_800_000_000},
		{"too large", "4294967296\n", 1_800_000_000},
		{"the largest", "4294967295\n", 1_800_000_000},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if c.file != "" {
				if err := os.WriteFile(filepath.Join(dir, "epoch"), []byte(c.file), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for _, want := range []uint32{c.want, c.want + 1} {
				if got, err := nextEpoch(dir, now); err != nil || got != want {
					t.Errorf("got %d, %v, want %d", got, err, want)
				}
			}
		})
	}
}
