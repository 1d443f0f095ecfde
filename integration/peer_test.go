package integration

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/causeway-project/causeway/integration/lab"
)

// stranger connects to a socket whenever it can, and asks what a vhost-user
// front-end asks first: its features.
const stranger = `
import socket, struct, sys
tried = False
while True:
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(5)
    try:
        s.connect(sys.argv[1])
        if not tried:
            tried = True
            print("connected", flush=True)
        s.sendall(struct.pack("<III", 1, 1, 0))
        if s.recv(1):
            print("served", flush=True)
            break
    except OSError:
        pass
    finally:
        s.close()
`

// TestStrangerOfTheSameUser: all QEMUs of a host are one user. One that its
// guest has taken over waits for the socket of another instance, and is there
// before that one's QEMU; it gets nothing, and the attachment comes all the same.
func TestStrangerOfTheSameUser(t *testing.T) {
	w := theWorld(t)
	ctx := limited(t, 6*time.Minute)
	w.share(t, "docs")
	n := w.started(ctx, t, lab.AgentOptions{})
	at := attached("docs-vm1", "docs")
	at.Tag, at.MountAt = "docs", "/mnt/docs"
	var said bytes.Buffer
	running, stop := context.WithCancel(ctx)
	defer stop()
	c := exec.CommandContext(running, "/usr/bin/python3", "-c", stranger, filepath.Join(n.RunDir, "virtiofs", at.GetId(), "sock"))
	c.Stdout = &said
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid(t, "libvirt-qemu"), Gid: 65534}, Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		n.attach(ctx, at)
		if got := n.in(ctx, "cat /mnt/docs/hello"); got != "from docs" {
			t.Errorf("the guest reads %q", got)
		}
		n.detach(ctx, at.GetId())
	}
	stop()
	if err := c.Wait(); err == nil || errors.Is(err, exec.ErrNotFound) {
		t.Errorf("the stranger ended: %v", err)
	}
	if strings.Contains(said.String(), "served") {
		t.Error("the share went to a stranger")
	}
	if !strings.Contains(said.String(), "connected") {
		t.Error("the stranger never came through to the socket, so that this test has shown nothing")
	}
	n.finish(ctx)
}

// uid of a user's name.
func uid(t *testing.T, name string) uint32 {
	t.Helper()
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(n)
}
