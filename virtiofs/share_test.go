package virtiofs

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/causeway-project/causeway/virtiofs/virtiofsd"
)

// A share with an odd name reaches the guest through everything, and the
// daemon's few capabilities are enough to act as the guest's users.
func TestShareThroughEverything(t *testing.T) {
	w := bootedGuest(t)
	ctx := limited(t, 2*time.Minute)
	source := filepath.Join(t.TempDir(), `a,b\c d=é,sandbox=none`)
	if err := os.Mkdir(source, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(source, "private"), "x")
	if err := os.Chown(filepath.Join(source, "private"), 1234, 1234); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(source, "private"), 0o600); err != nil {
		t.Fatal(err)
	}
	d, v := daemon(t, source)
	dev := Device{Instance: guestUUID, Alias: AliasPrefix + "whole", Tag: "whole", Socket: v.Socket()}
	m := GuestMount{Instance: guestUUID, Tag: "whole", Path: "/mnt/whole"}
	if err := w.host.Attach(ctx, dev); err != nil {
		t.Fatal(err)
	}
	wantState(t, d, v, virtiofsd.Connected)
	if err := w.host.GuestMount(ctx, m); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"cat", "/mnt/whole/private"}, // root's right over others' files
		{"cp", "/mnt/whole/private", "/mnt/whole/copy"},
		{"chown", "1000:1000", "/mnt/whole/copy"},
		{"chmod", "4755", "/mnt/whole/copy"},
		{"mknod", "/mnt/whole/fifo", "p"},
		{"mknod", "/mnt/whole/null", "c", "1", "3"},
		{"mkdir", "/mnt/whole/dir"},
		{"chown", "1000:1000", "/mnt/whole/dir"},
		{"mv", "/mnt/whole/copy", "/mnt/whole/dir/copy"},
		{"ln", "/mnt/whole/dir/copy", "/mnt/whole/hard"},
	} {
		w.run(t, args[0], args[1:]...)
	}
	info, err := os.Stat(filepath.Join(source, "hard"))
	if err != nil {
		t.Fatal(err)
	}
	if st := info.Sys().(*syscall.Stat_t); st.Uid != 1000 || st.Nlink != 2 || info.Mode()&fs.ModeSetuid == 0 {
		t.Errorf("uid %d, links %d, mode %v, want 1000, 2 and setuid", st.Uid, st.Nlink, info.Mode())
	}
	if err := w.host.GuestUnmount(ctx, m); err != nil {
		t.Fatal(err)
	}
	if err := w.host.Detach(ctx, dev); err != nil {
		t.Fatal(err)
	}
	wantState(t, d, v, virtiofsd.Stopped) // by itself
}
