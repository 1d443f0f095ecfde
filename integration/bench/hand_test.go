package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/causeway-project/causeway/integration/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

const rendered = `# Rendered.
NFSv4 {
	Minor_Versions = 1,2;
	Lease_Lifetime = 10;
	Grace_Period = 15;
	RecoveryBackend = fs;
	RecoveryRoot = '/var/lib/x';
}
NFS_CORE_PARAM { Protocols = 4; Enable_NLM = false; Enable_RQUOTA = false; Enable_UDP = false; }
NFS_KRB5 {
	Active_krb5 = false;
	CCacheDir = '/run/x';
}
EXPORT_DEFAULTS {
	Access_Type = None;
}
EXPORT {
	Export_Id = 65280;
	Access_Type = None;
}
EXPORT {
	Export_Id = 7;
	Path = '/srv/x';
	Pseudo = '/x';
	Tag = cw-7;
	Filesystem_Id = 77.0;
	Protocols = 4;
	CLIENT {
		Clients = 10.99.0.0/24;
		Protocols = 4;
		Access_Type = RW;
		Squash = no_root_squash;
	}
	FSAL { Name = VFS; }
}
EXPORT {
	Export_Id = 8;
}
`

func TestTemplate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ganesha.conf")
	if err := os.WriteFile(file, []byte(rendered), 0o600); err != nil {
		t.Fatal(err)
	}
	tmpl, err := readTemplate(file)
	if err != nil {
		t.Fatal(err)
	}
	block, err := tmpl.renderExport(handExport{id: 3, path: "/pool/$1"})
	if err != nil {
		t.Fatal(err)
	}
	const want = `EXPORT {
	Export_Id = 3;
	Path = '/pool/$1';
	Pseudo = '/hand-3';
	Tag = hand-3;
	Filesystem_Id = 1003.0;
	Protocols = 4;
	CLIENT {
		Clients = 10.99.0.0/24;
		Protocols = 4;
		Access_Type = RW;
		Squash = no_root_squash;
	}
	FSAL { Name = VFS; }
}
`
	if block != want {
		t.Errorf("%s", block)
	}
	if _, err := (template{server: "RecoveryRoot = 'x';"}).renderServer("/x"); err == nil {
		t.Error("a configuration without CCacheDir is accepted")
	}
}

// The raw halves, on the real Ganesha.
func TestHandGateway(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	net, err := newTenant(ctx)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	conf := filepath.Join(dir, "template")
	if err := os.WriteFile(conf, []byte(rendered), 0o600); err != nil {
		t.Fatal(err)
	}
	tmpl, err := readTemplate(conf)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{world: &world{tenant: net, pool: &lab.Pool{Dir: filepath.Join(dir, "pool")}}, dir: dir}
	e := handExport{id: 1}
	if e.path, err = b.directory("one"); err != nil {
		t.Fatal(err)
	}
	g, err := newHandGateway(b.handPlace(), tmpl, e)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(g.log())
		}
		if err := g.stop(); err != nil {
			t.Error(err)
		}
	})
	if err := net.read(ctx, handAddress, "/hand-1/file"); err != nil {
		t.Fatal(err)
	}
	bus, err := g.connectBus()
	if err != nil {
		t.Fatal(err)
	}
	defer bus.conn.Close()
	more := handExport{id: 2}
	if more.path, err = b.directory("two"); err != nil {
		t.Fatal(err)
	}
	block, err := tmpl.renderExport(more)
	if err != nil {
		t.Fatal(err)
	}
	if err := bus.add(ctx, more, block); err != nil {
		t.Fatal(err)
	}
	if err := net.read(ctx, handAddress, "/hand-2/file"); err != nil {
		t.Error(err)
	}
	if err := bus.remove(ctx, more); err != nil {
		t.Error(err)
	}
	samples, err := net.stallOf(ctx, stalled{
		runs: 3, address: handAddress, path: "/hand-1/file", timing: quick(),
		kill: func() (time.Time, error) { return time.Now(), errors.Join(g.kill(), g.start()) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("stall of an open file: %s", spread(samples))
}

// And on the real libvirt.
func TestHandAttach(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if err := listen(); err != nil {
		t.Fatal(err)
	}
	virt, err := lab.StartLibvirt(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := virt.Close(); err != nil {
			t.Error(err)
		}
	})
	guest, err := virt.Boot(ctx, lab.GuestOptions{Name: "bench"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := guest.Close(); err != nil {
			t.Error(err)
		}
	})
	hand, err := openDomain(virt.URI, guest.Name)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := lab.TempDir() // QEMU, which is not root, has to reach into it
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		start := time.Now()
		d, err := hand.attach(ctx, handShare{dir: dir, source: dir, tag: "hand"})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("attach: %s", time.Since(start))
		if err := hand.detach(ctx, d); err != nil {
			t.Fatal(err)
		}
	}
	if err := hand.close(); err != nil {
		t.Error(err)
	}
}
