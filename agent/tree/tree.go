// Package tree is the agent's directories on this host: where each thing lies,
// and the steps that mount shares there and show them to gateways.
package tree

import (
	"path/filepath"
	"sync"

	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/drivers"
)

// Options of a Tree. All are required.
type Options struct {
	StateDir string // survives a reboot
	RunDir   string // on the host's /run
	Mounts   parts.Mounts
	Drivers  *drivers.Registry
}

// A Tree is the agent's directories.
type Tree struct {
	o     Options
	views sync.Mutex // guards the directories that gateways see, and the making of those below
}

// New makes the handle, and nothing on the host.
func New(o Options) *Tree { return &Tree{o: o} }

// Ledger is the directory of the records.
func (t *Tree) Ledger() string { return filepath.Join(t.o.StateDir, "ledger") }

// Mounts is the directory of the shares' mounts.
func (t *Tree) Mounts() string { return filepath.Join(t.o.RunDir, "mounts") }

// Mount is where the share's mount of a name lies.
func (t *Tree) Mount(name string) string { return filepath.Join(t.Mounts(), name) }

// GatewayRun is where a network's gateway has what goes with a reboot.
func (t *Tree) GatewayRun(net string) string { return filepath.Join(t.o.RunDir, "gateways", net) }

// GatewayState is where a network's gateway has what outlives a reboot.
func (t *Tree) GatewayState(net string) string { return filepath.Join(t.o.StateDir, "gateways", net) }

// Exports is the one directory of views that a network's gateway sees.
func (t *Tree) Exports(net string) string { return filepath.Join(t.o.RunDir, "exports", net) }

// View is where a network's gateway sees an export's share.
func (t *Tree) View(net, export string) string { return filepath.Join(t.Exports(net), export) }

// Daemon is the directory of an attachment's virtiofsd.
func (t *Tree) Daemon(attachment string) string {
	return filepath.Join(t.o.RunDir, "virtiofs", attachment)
}

// Socket is where an attachment's virtiofsd listens.
func (t *Tree) Socket(attachment string) string { return filepath.Join(t.Daemon(attachment), "sock") }

// OfSocket is the attachment whose virtiofsd listens at a path, if it is one of
// this directory's.
func (t *Tree) OfSocket(path string) (attachment string, ours bool) {
	attachment = filepath.Base(filepath.Dir(path))
	return attachment, path == t.Socket(attachment)
}
