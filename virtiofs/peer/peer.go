// Package peer lets one instance's QEMU, and nobody else, connect to the socket
// of one attachment.
//
// QEMU runs as a user of its own, and on most hosts all of them as the same
// one. A file's mode can tell that user from others, not one QEMU from another:
// one that its guest has taken over could be the first to connect to the fresh
// socket of another instance, whose share it then had. So the mode keeps all
// other users out, and who accepts the connection asks the kernel which process
// made it, and libvirt's own note which process the instance is.
package peer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A Peer is who may connect.
type Peer struct {
	UID     uint32 `json:"uid"`
	PIDFile string `json:"pid_file,omitempty"` // of libvirt, with QEMU's pid; empty asks for the user alone
}

// ErrStranger says that a connection is not of the one who may connect.
var ErrStranger = errors.New("connection of a stranger")

// file says beside a socket who may connect to it.
const file = "peer"

// Admit lets p connect to the socket from now on, and no other: not root
// either. The socket's directory and those above it must let p search them.
func (p Peer) Admit(socket string) error {
	if err := p.admit(socket); err != nil {
		return fmt.Errorf("let user %d connect to %s: %w", p.UID, socket, err)
	}
	return nil
}

// admit writes the note first: once the user can connect, it has to be there.
func (p Peer) admit(socket string) error {
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	to := filepath.Join(filepath.Dir(socket), file)
	if err := os.WriteFile(to+".new", text, 0o600); err != nil {
		return err
	}
	if err := os.Rename(to+".new", to); err != nil {
		return err
	}
	if err := os.Lchown(socket, int(p.UID), -1); err != nil {
		return err
	}
	return os.Chmod(socket, 0o600)
}

// Check tells whether the connection fd, accepted from the socket, is of the
// one who was admitted: nil, or ErrStranger. Where nobody was, the socket's mode
// alone counts.
func Check(socket string, fd int) error {
	if err := check(socket, fd); err != nil {
		return fmt.Errorf("check who connects to %s: %w", socket, err)
	}
	return nil
}

func check(socket string, fd int) error {
	text, err := os.ReadFile(filepath.Join(filepath.Dir(socket), file))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var p Peer
	if err := json.Unmarshal(text, &p); err != nil {
		return err
	}
	// Of the moment of connect(2), so that a process that got the descriptor
	// from another is still told from it.
	is, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return os.NewSyscallError("getsockopt SO_PEERCRED", err)
	}
	if is.Uid != p.UID {
		return fmt.Errorf("%w: user %d", ErrStranger, is.Uid)
	}
	if p.PIDFile == "" {
		return nil
	}
	pid, err := PID(p.PIDFile)
	if err != nil {
		return err
	}
	if is.Pid != int32(pid) {
		return fmt.Errorf("%w: process %d, and the instance's QEMU is %d", ErrStranger, is.Pid, pid)
	}
	return nil
}

// PID reads libvirt's note of a process.
func PID(pidFile string) (int, error) {
	text, err := os.ReadFile(pidFile)
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 0 {
		return 0, fmt.Errorf("read %s: no pid in it", pidFile)
	}
	return pid, nil
}
