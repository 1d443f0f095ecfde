package lab

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// hookPath is where libvirtd looks, which has no setting for it.
const hookPath = "/etc/libvirt/hooks/qemu.d/causeway"

// InstallHook gives libvirt the hook that tells this agent of starts. libvirtd
// takes notice of it when it is started the next time.
func (a *Agent) InstallHook() error {
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
	if err := os.MkdirAll(filepath.Dir(hookPath), 0o755); err != nil {
		return err
	}
	return os.WriteFile(hookPath, []byte(text), 0o755)
}

// RemoveHook takes it away again.
func (a *Agent) RemoveHook() error {
	if err := os.Remove(hookPath); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
