package lab

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"libvirt.org/go/libvirt"
)

// places are where a libvirt keeps its files, as seen from here. It sees them
// at the paths that it was compiled with.
type places struct {
	etc, run, lib, cache, log string

	hostUUID string // empty: libvirt's own choice
}

var shared = places{
	etc: "/etc/libvirt", run: "/run/libvirt", lib: "/var/lib/libvirt", cache: "/var/cache/libvirt", log: "/var/log/libvirt",
}

// argv of a program of libvirt's that finds these places at the shared paths,
// in a mount namespace of its own. What is mounted here later appears there.
func (p places) argv(argv ...string) []string {
	if p == shared {
		return argv
	}
	script := "set -e\n"
	for from, to := range map[string]string{p.etc: shared.etc, p.run: shared.run, p.lib: shared.lib, p.cache: shared.cache, p.log: shared.log} {
		script += fmt.Sprintf("mount --bind '%s' '%s'\n", from, to)
	}
	// The pid files lie beside the directory.
	script += fmt.Sprintf("exec \"$@\" -p '%s'\n", filepath.Join(p.run, filepath.Base(argv[0])+".pid"))
	return append([]string{"unshare", "--mount", "--propagation", "slave", "sh", "-c", script, "sh"}, argv...)
}

// settings for libvirtd.conf.
func (p places) settings() string {
	if p.hostUUID == "" {
		return ""
	}
	// A libvirt refuses to migrate to one with the same.
	return fmt.Sprintf("host_uuid = \"%s\"\n", p.hostUUID)
}

// StartOtherLibvirt is StartLibvirt for a second host on this machine: a
// libvirt with directories of its own, beside the one of StartLibvirt, so that
// guests can be migrated between the two. It returns when libvirtd answers.
func StartOtherLibvirt(ctx context.Context) (*Libvirt, error) {
	dir, err := TempDir()
	if err != nil {
		return nil, err
	}
	l := &Libvirt{dir: dir, own: places{
		etc: filepath.Join(dir, "etc"), run: filepath.Join(dir, "run"), lib: filepath.Join(dir, "lib"),
		cache: filepath.Join(dir, "cache"), log: filepath.Join(dir, "log"),
		hostUUID: "6f7c2b52-3d4e-4c9f-9a51-0d6b8f0b7c02",
	}}
	l.URI = "qemu+unix:///system?socket=" + url.QueryEscape(filepath.Join(l.own.run, "libvirt-sock"))
	for _, to := range []string{shared.run, l.own.etc, l.own.run, l.own.lib, l.own.cache, l.own.log} {
		if err := os.MkdirAll(to, 0o755); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	if err := l.boot(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start the other libvirt: %w", err), l.Close())
	}
	return l, nil
}

// MigrateOptions of a migration.
type MigrateOptions struct {
	Edit   func(xml string) string // makes the definition at the destination; nil leaves it
	Paused bool                    // it is suspended there
}

// Migrate moves a running guest to another libvirt, live, and returns it there.
// Its domain goes along, and is forgotten here.
func (g *Guest) Migrate(to *Libvirt, o MigrateOptions) (*Guest, error) {
	p := libvirt.DomainMigrateParameters{URISet: true, URI: "tcp://127.0.0.1"}
	if o.Edit != nil {
		xml, err := g.migratableXML()
		if err != nil {
			return nil, err
		}
		xml = o.Edit(xml)
		p.DestXMLSet, p.DestXML, p.PersistXMLSet, p.PersistXML = true, xml, true, xml
	}
	flags := libvirt.MIGRATE_LIVE | libvirt.MIGRATE_UNDEFINE_SOURCE | libvirt.MIGRATE_PERSIST_DEST
	if o.Paused {
		flags |= libvirt.MIGRATE_PAUSED
	}
	err := g.with(func(d *libvirt.Domain) error {
		return to.with(func(c *libvirt.Connect) error {
			there, err := d.Migrate3(c, &p, flags)
			if err != nil {
				return err
			}
			return there.Free()
		})
	})
	if err != nil {
		return nil, fmt.Errorf("migrate guest %s: %w", g.Name, err)
	}
	return g.On(to), nil
}

func (g *Guest) migratableXML() (xml string, err error) {
	err = g.with(func(d *libvirt.Domain) error {
		xml, err = d.GetXMLDesc(libvirt.DOMAIN_XML_MIGRATABLE)
		return err
	})
	return xml, err
}

// On is the same guest, seen by another libvirt, to which it is or will be
// migrated.
func (g *Guest) On(l *Libvirt) *Guest {
	return &Guest{Name: g.Name, UUID: g.UUID, libvirt: l, console: g.console, agent: g.agent, writers: g.writers}
}
