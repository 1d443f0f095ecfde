package virtiofs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/causeway-project/causeway/integration/needs"
	"github.com/causeway-project/causeway/integration/wait"
	"github.com/causeway-project/causeway/virtiofs/recipe"
)

const bareUUID = "11111111-2222-3333-4444-5555555555cc"

// watchMounts tells the console what virtiofs mounts the guest has, when that
// changes, and which of them can be read. It waits for nothing, so that devices
// come while the guest boots.
const watchMounts = `[Unit]
DefaultDependencies=no
[Service]
StandardOutput=tty
TTYPath=/dev/ttyS0
ExecStart=/bin/sh -c 'old=none; while :; do \
	now=$(while read -r tag at kind how _; do if [ "$kind" = virtiofs ]; then \
		stat -f "$at" >/dev/null 2>&1 && echo -n "$tag at $at $how; " || echo -n "dead $tag; "; fi; done </proc/mounts); \
	[ "$now" = "$old" ] || echo "mounts: [$now]"; old=$now; sleep 0.2; done'
[Install]
WantedBy=multi-user.target
`

// TestGuestMountsByItself gives a Debian guest with systemd, and without a guest
// agent, what the recipe says, and plugs devices in and out.
func TestGuestMountsByItself(t *testing.T) {
	dir := os.Getenv("CAUSEWAY_GUEST_DIR")
	if _, err := os.Stat(filepath.Join(dir, "systemd.cpio")); err != nil || dir == "" {
		needs.Met(t, errors.New("needs CAUSEWAY_GUEST_DIR with systemd.cpio"))
	}
	w := embedded(t)
	ctx := limited(t, 8*time.Minute)

	files, err := recipe.Files([]recipe.Mount{{Tag: "docs", Path: "/mnt/the-docs"}, {Tag: "music", ReadOnly: true}})
	if err != nil {
		t.Fatal(err)
	}
	const unit = "/etc/systemd/system/watch.service"
	files = append(files, recipe.File{Path: unit, Text: strings.ReplaceAll(watchMounts, "$", "$$")})
	root := t.TempDir()
	for _, f := range files {
		if err := errors.Join(os.MkdirAll(filepath.Join(root, filepath.Dir(f.Path)), 0o755), os.WriteFile(filepath.Join(root, f.Path), []byte(f.Text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	wants := filepath.Join(root, "etc/systemd/system/multi-user.target.wants")
	if err := errors.Join(os.Mkdir(wants, 0o755), os.Symlink(unit, filepath.Join(wants, "watch.service"))); err != nil {
		t.Fatal(err)
	}
	pack := exec.CommandContext(ctx, "sh", "-c", "find . | busybox cpio -o -H newc 2>/dev/null")
	pack.Dir = root
	extra, err := pack.Output()
	if err != nil {
		t.Fatal(err)
	}
	base, err := os.ReadFile(filepath.Join(dir, "systemd.cpio"))
	if err != nil {
		t.Fatal(err)
	}
	d := domainXML{
		name: "bare", uuid: bareUUID, memory: sharedCell, ports: pcieRoot + strings.Repeat(rootPort, 5), mebibytes: 512,
		kernel: filepath.Join(dir, "vmlinuz"), initramfs: filepath.Join(w.root, "bare.cpio"), console: filepath.Join(w.root, "bare.console"),
	}
	if err := os.WriteFile(d.initramfs, append(base, extra...), 0o600); err != nil {
		t.Fatal(err)
	}
	guest, err := w.conn.DomainCreateXML(d.String(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := guest.Destroy(); err != nil {
			t.Error(err)
		}
	}()
	console := &tail{path: d.console}
	console.wait(t, "mounts: []")

	bare := func(tag string) Device {
		v := w.device(t, tag, tag, t.TempDir())
		v.Instance = bareUUID
		return v
	}
	docs, music := bare("docs"), bare("music")
	out := func(v Device) {
		t.Helper()
		if err := w.host.Detach(ctx, v); err != nil {
			t.Fatal(err)
		}
	}
	in := func(v Device) {
		t.Helper()
		if err := w.host.Attach(ctx, v); err != nil {
			t.Fatal(err)
		}
	}
	in(docs)
	console.wait(t, "docs at /mnt/the-docs rw,nosuid,nodev,")
	in(music)
	console.wait(t, "music at /mnt/music ro,nosuid,nodev,")
	out(docs)
	console.wait(t, "mounts: [music at /mnt/music")
	// QEMU has taken its socket, so that it is another daemon that comes back.
	again := bare("docs")
	in(again)
	console.wait(t, "docs at /mnt/the-docs rw,")
	out(again)
	out(music)
	console.wait(t, "mounts: []")
}

// A tail reads what is added to a file.
type tail struct {
	path string
	read int
}

// wait until a line of what was not yet read has the words.
func (c *tail) wait(t *testing.T, words string) {
	t.Helper()
	var text []byte
	err := wait.Within(4*time.Minute, func() bool {
		f, err := os.Open(c.path)
		if err != nil {
			return false
		}
		defer f.Close()
		if text, err = io.ReadAll(f); err != nil || len(text) < c.read {
			return false
		}
		for line := range bytes.Lines(text[c.read:]) {
			c.read += len(line)
			if bytes.HasSuffix(line, []byte("\n")) && bytes.Contains(line, []byte(words)) {
				return true
			}
			if !bytes.HasSuffix(line, []byte("\n")) {
				c.read -= len(line)
			}
		}
		return false
	})
	if err != nil {
		t.Fatal(fmt.Errorf("the guest's console has no %q: %w\n%s", words, err, text))
	}
}
