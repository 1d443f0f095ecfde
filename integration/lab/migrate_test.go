package lab_test

import (
	"testing"

	"github.com/causeway-project/causeway/integration/lab"
)

// TestMigrate moves a guest between two libvirts and back.
func TestMigrate(t *testing.T) {
	ctx := limited(t)
	w := newWorld(t)
	other, err := lab.StartOtherLibvirt(ctx)
	if err != nil {
		t.Fatal(err)
	}
	atEnd(t, other.Close)
	g := w.guest(t, lab.GuestOptions{Name: "vm1"})
	before, err := g.Shell(ctx, "cat /proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	there, err := g.Migrate(other, lab.MigrateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := there.Shell(ctx, "cat /proc/sys/kernel/random/boot_id"); err != nil || got != before {
		t.Errorf("the guest's boot is %q, %v; want %q", got, err, before)
	}
	if _, err := there.Migrate(w.libvirt, lab.MigrateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, err := g.Shell(ctx, "cat /proc/sys/kernel/random/boot_id"); err != nil || got != before {
		t.Errorf("back again the guest's boot is %q, %v; want %q", got, err, before)
	}
}
