package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/virtiofs"
)

type fakeConfinement struct {
	is  virtiofs.Confinement
	err error
}

func (f fakeConfinement) Confinement(context.Context) (virtiofs.Confinement, error) {
	return f.is, f.err
}

func TestConfinement(t *testing.T) {
	shipped, err := os.ReadFile("../../packaging/apparmor-libvirt-qemu")
	if err != nil {
		t.Fatal(err)
	}
	user := virtiofs.Confinement{User: "+64055"}
	apparmor := virtiofs.Confinement{User: "+64055", AppArmor: true}
	for name, c := range map[string]struct {
		host  fakeConfinement
		run   string
		local string
		want  model.Verdict
		fix   string
	}{
		"a user":          {fakeConfinement{is: user}, "/run/causeway", "", model.Pass, ""},
		"no rule":         {fakeConfinement{is: apparmor}, "/run/causeway", "# /run/causeway/virtiofs is not here\n/etc/x r,\n", model.Warn, "echo '/run/causeway/virtiofs/*/sock rw,' >> /etc/apparmor.d/local/abstractions/libvirt-qemu"},
		"what is shipped": {fakeConfinement{is: apparmor}, "/run/causeway", string(shipped), model.Pass, ""},
		"another run_dir": {fakeConfinement{is: apparmor}, "/run/other", string(shipped), model.Warn, "/run/other/virtiofs"},
		"SELinux":         {fakeConfinement{is: virtiofs.Confinement{SELinux: true}}, "/run/causeway", "", model.Warn, "ausearch"},
		"libvirt is away": {fakeConfinement{err: errors.New("away")}, "/run/causeway", "", model.Warn, "libvirtd"},
	} {
		root := t.TempDir()
		file := filepath.Join(root, localRules[0])
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(c.local), 0o600)); err != nil {
			t.Fatal(err)
		}
		got := confinement{host: c.host, runDir: c.run, root: root}.check(t.Context())
		if got.Verdict != c.want || !strings.Contains(got.Fix, c.fix) || got.Message == "" {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
