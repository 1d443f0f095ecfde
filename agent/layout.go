package agent

import (
	"path/filepath"
	"sync"

	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/drivers"
)

// Options of a Tree. All are required.
type Options_ struct {
	StateDir string // survives a reboot
	RunDir   string // on the host's /run
	Mounts   parts.Mounts
	Drivers  *drivers.Registry
}

// A Tree is the agent's directories on this host.
type Tree struct {
	o     Options_
	views sync.Mutex // guards the directories that gateways see, and the making of those below
}

// newTree does nothing.
func newTree(o Options_) *Tree { return &Tree{o: o} }

func (t *Tree) ledger() string                 { return filepath.Join(t.o.StateDir, "ledger") }
func (t *Tree) mounts() string                 { return filepath.Join(t.o.RunDir, "mounts") }
func (t *Tree) mount(name string) string       { return filepath.Join(t.o.RunDir, "mounts", name) }
func (t *Tree) gatewayRun(net string) string   { return filepath.Join(t.o.RunDir, "gateways", net) }
func (t *Tree) gatewayState(net string) string { return filepath.Join(t.o.StateDir, "gateways", net) }
func (t *Tree) exports(net string) string      { return filepath.Join(t.o.RunDir, "exports", net) }
func (t *Tree) view(net, export string) string {
	return filepath.Join(t.o.RunDir, "exports", net, export)
}
func (t *Tree) daemon(attachment string) string {
	return filepath.Join(t.o.RunDir, "virtiofs", attachment)
}
func (t *Tree) socket(attachment string) string {
	return filepath.Join(t.daemon(attachment), "sock")
}
