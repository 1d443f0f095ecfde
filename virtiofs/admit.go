package virtiofs

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/causeway-project/causeway/virtiofs/peer"
)

// Admit lets the QEMU of an instance that libvirt is about to start connect to a
// socket: ErrNoListener, ErrUnavailable. Of i it takes the name and the UUID,
// and the user where the definition has one. Attach does it for instances that
// run.
func (h *Host) Admit(ctx context.Context, i Instance, socket string) error {
	if i.User == "" {
		c, err := h.Confinement(ctx)
		if err != nil {
			return err
		}
		i.User = c.User
	}
	p, err := h.peerOf(i)
	if err == nil {
		err = p.Admit(socket)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrNoListener, err)
	}
	return err
}

func (h *Host) peerOf(i Instance) (peer.Peer, error) {
	uid, err := uidOf(i.User)
	if err != nil {
		return peer.Peer{}, fmt.Errorf("QEMU of instance %s: %w", i.UUID, err)
	}
	return peer.Peer{UID: uid, PIDFile: filepath.Join(pidFiles(h.o.URI), i.Name+".pid")}, nil
}

// admitQEMU lets the instance's QEMU connect to a socket. It is done as late as
// can be: until then the socket is root's alone.
func (h *Host) admitQEMU(i Instance, socket string) error {
	if _, err := os.Lstat(socket); errors.Is(err, fs.ErrNotExist) {
		return ErrNoListener
	}
	p, err := h.peerOf(i)
	if err != nil {
		return err
	}
	if pid, err := peer.PID(p.PIDFile); err != nil || !isQEMU(pid, i) {
		h.o.Logger.Warn("libvirt does not tell the pid of an instance, so that any QEMU of its user could take its share for itself", "instance", i.UUID, "err", err)
		p.PIDFile = ""
	}
	return p.Admit(socket)
}

// isQEMU says whether a process runs the instance, as the pid of another pid
// namespace does not.
func isQEMU(pid int, i Instance) bool {
	line, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	return err == nil && bytes.Contains(line, []byte("\x00"+i.UUID+"\x00"))
}

// pidFiles is where libvirt's QEMU driver notes the pids of what it runs
// (qemu_conf.c, stateDir): beside libvirt's socket.
func pidFiles(uri string) string {
	u, err := url.Parse(uri)
	if err != nil {
		return "/run/libvirt/qemu"
	}
	if u.Path == "/embed" {
		return filepath.Join(u.Query().Get("root"), "run", "qemu")
	}
	return filepath.Join(filepath.Dir(cmp.Or(u.Query().Get("socket"), "/run/libvirt/libvirt-sock")), "qemu")
}

// uidOf reads the user of a DAC label: a number behind "+", or a name, or else
// a number (libvirt's formatdomain.html, "Security label"). An instance without
// such a label runs as libvirt does: as root.
func uidOf(label string) (uint32, error) {
	if label == "" {
		return 0, nil
	}
	number, isNumber := strings.CutPrefix(label, "+")
	if !isNumber {
		if u, err := user.Lookup(label); err == nil {
			number = u.Uid
		}
	}
	uid, err := strconv.ParseUint(number, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("its label names user %q, whom this host does not have", label)
	}
	return uint32(uid), nil
}
