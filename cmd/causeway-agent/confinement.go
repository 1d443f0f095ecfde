package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/virtiofs"
)

// A confinement is what keeps QEMU from sockets.
type confinement struct {
	host interface {
		Confinement(context.Context) (virtiofs.Confinement, error)
	}
	runDir string
	root   string // "/", but in tests
}

// Where a host's own rules for every QEMU are: libvirt's abstraction includes
// the first, newer ones the second too.
var localRules = []string{"/etc/apparmor.d/local/abstractions/libvirt-qemu", "/etc/apparmor.d/abstractions/libvirt-qemu.d/*"}

// check warns where a policy is known to be in the way: with AppArmor libvirt's
// virt-aa-helper writes the rules of each instance, and has none for the socket
// of a virtiofsd that libvirt did not start (seen with 9.0).
func (c confinement) check(ctx context.Context) model.Check {
	check := model.Check{Name: "qemu-confinement", Verdict: model.Warn}
	is, err := c.host.Confinement(ctx)
	switch {
	case err != nil:
		check.Message, check.Fix = "how libvirt confines QEMU is not known: "+err.Error(), "systemctl start libvirtd"
	case is.AppArmor && !c.allowed():
		check.Message = "AppArmor confines QEMU, and no rule lets it connect to the sockets in " + filepath.Join(c.runDir, "virtiofs")
		check.Fix = "echo '" + c.rule() + "' >> " + localRules[0] + "; instances have it from their next start on"
	case is.SELinux:
		check.Message = "SELinux confines QEMU: there is no policy for the sockets in " + filepath.Join(c.runDir, "virtiofs") + ", and attachments may fail"
		check.Fix = "ausearch -m avc -c qemu-kvm, then a policy of your own"
	default:
		check.Verdict, check.Message = model.Pass, "QEMU runs as user "+is.User
		if is.User == "" {
			check.Message = "libvirt names no user for QEMU"
		}
	}
	return check
}

// rule for every QEMU; who may connect to which socket is the keeper's to say.
func (c confinement) rule() string { return filepath.Join(c.runDir, "virtiofs/*/sock") + " rw," }

// allowed looks for a rule with our directory in what the host has added.
func (c confinement) allowed() bool {
	for _, pattern := range localRules {
		files, err := filepath.Glob(filepath.Join(c.root, pattern))
		if err != nil {
			continue // it is a pattern
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				continue
			}
			for line := range strings.Lines(string(text)) {
				line = strings.TrimSpace(line)
				// /run may be written as libvirt's own rules have it.
				if !strings.HasPrefix(line, "#") && strings.Contains(line, strings.TrimPrefix(filepath.Join(c.runDir, "virtiofs"), "/")) {
					return true
				}
			}
		}
	}
	return false
}
