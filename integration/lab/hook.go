package lab

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// hook is where libvirtd looks, which has no setting for it.
func (l *Libvirt) hook() string { return filepath.Join(l.own.etc, "hooks/qemu.d/causeway") }

// InstallHook has libvirt tell an agent of starts. libvirtd is started anew, to
// take notice of it; guests go on.
func (l *Libvirt) InstallHook(ctx context.Context, a *Agent) error {
	root, err := Repo()
	if err != nil {
		return err
	}
	script, err := os.ReadFile(filepath.Join(root, "packaging", "libvirt-hook"))
	if err != nil {
		return err
	}
	program := a.Programs.CLI + " --socket " + a.Socket + " --timeout 10s"
	text := strings.Replace(string(script), "exec /usr/bin/causeway --timeout 40s", "exec "+program, 1)
	if !strings.Contains(text, program) {
		return errors.New("packaging/libvirt-hook does not run the command line")
	}
	if err := os.MkdirAll(filepath.Dir(l.hook()), 0o755); err != nil {
		return err
	}
	return errors.Join(os.WriteFile(l.hook(), []byte(text), 0o755), l.Stop(), l.Start(ctx))
}

// RemoveHook takes it away again.
func (l *Libvirt) RemoveHook(ctx context.Context) error {
	if err := os.Remove(l.hook()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return errors.Join(l.Stop(), l.Start(ctx))
}
