package ganesha

import (
	"context"
	"fmt"
	"os"
	"testing"
)

// oneKind is a Mounts with one kind of file system everywhere.
type oneKind struct{ source, fstype string }

func (oneKind) Bind(string, string) error             { return nil }
func (oneKind) Unmount(context.Context, string) error { return nil }
func (k oneKind) Kind(string) (string, string, error) { return k.source, k.fstype, nil }

// TestMtab: one line for each anchor and none for exports, as getmntent(3)
// reads them.
func TestMtab(t *testing.T) {
	for _, c := range []struct {
		kind oneKind
		want string // without the directory and what follows
		dir  string
	}{
		{oneKind{"/dev/vda1", "ext4"}, "/dev/vda1 ", "plain"},
		{oneKind{"", "btrfs"}, "none ", "plain"},
		{oneKind{"10.0.0.1:/a b\t\\#", "fuse.x"}, `10.0.0.1:/a\040b\011\134\043 `, `a b#c\d`},
	} {
		run, exports := t.TempDir(), t.TempDir()+"/"+c.dir
		g := New(Options{RunDir: run, Exports: exports, Mounts: c.kind})
		d := device{8, 1}
		for _, dir := range []string{g.path(confDir), g.anchorDir(d, firstAnchor), exports + "/docs"} {
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if err := g.writeMtab(); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(g.mtab())
		want := c.want + mtabEscape.Replace(exports) + "/.fs-8-1-" + fmt.Sprint(firstAnchor) + " " + c.kind.fstype + " rw 0 0\n"
		if err != nil || string(got) != want {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
	}
}
