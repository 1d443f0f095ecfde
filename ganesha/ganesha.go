// Package ganesha runs NFS-Ganesha gateways: one process per network, with a
// D-Bus daemon of its own, in the network's namespace.
package ganesha

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"github.com/causeway-project/causeway/agent/process"
)

// ErrNotRunning: the gateway's process is not there, or does not answer.
var ErrNotRunning = errors.New("gateway is not running")

// ErrRefused: Ganesha understood and said no. Trying again will not help.
var ErrRefused = errors.New("ganesha refused the export")

// ErrPath: an export's path is not a directory that can be exported.
var ErrPath = errors.New("path cannot be exported")

// An Export is one tree as Ganesha serves it.
type Export struct {
	ID     uint16 // required: 1..65535, unique in the gateway
	Path   string // required: absolute, below the gateway's Exports directory
	Pseudo string // required: absolute path in the NFSv4 pseudo file system
	FSID   uint64 // required: distinguishes file systems to clients; stable over restarts
	Rules  []Rule // in the order in which they match; none lets nobody in
}

// A Rule lets the clients of one prefix in.
type Rule struct {
	Client  netip.Prefix
	Level   Level
	Squash  Squash
	AnonUID uint32
	AnonGID uint32
}

// A Level is what a rule's clients may do.
type Level string

// A Squash says which users are mapped to the anonymous one.
type Squash string

// The levels and squashes.
const (
	ReadOnly  Level = "ro"
	ReadWrite Level = "rw"

	SquashNone   Squash = "none"
	SquashRoot   Squash = "root"
	SquashRootID Squash = "root_id"
	SquashAll    Squash = "all"
)

// Options of one gateway.
type Options struct {
	RunDir   string        // required: under /run, for sockets, configuration, logs; made and removed by the gateway
	StateDir string        // required: recovery records of clients; survives a reboot
	Exports  string        // required: the shared directory below which exported trees are mounted
	NetNS    string        // required: path of the network namespace
	Lease    time.Duration // 10 s by default
	Grace    time.Duration // 15 s by default
	Starter  *process.Starter
	Logger   *slog.Logger
}

// A Gateway is the handle of one gateway. Its methods may be called from
// several goroutines; changes are made one after the other.
type Gateway struct{}

// New returns a handle and does nothing else.
func New(o Options) *Gateway { panic("written next") }

// A Status is what is known of a gateway's processes.
type Status struct {
	Running   bool // Ganesha and its bus run, and Ganesha owns its bus name
	PID       int
	StartedAt time.Time
	Version   string // "4.3"
	LastLog   string // the end of Ganesha's log where it does not run
}

// Start makes the gateway run with exactly these exports, or adopts it where
// it runs already (the exports are then left as they are: Put and Remove
// them). It returns when Ganesha serves: the bus name is owned and an NFS NULL
// call from inside the namespace is answered. A half-started or wrong process
// is replaced. exports is called with changes to the gateway locked out, right
// before the configuration is rendered.
func (g *Gateway) Start(ctx context.Context, exports func() []Export) error {
	panic("written next")
}

// Stop ends both processes and removes RunDir. StateDir stays unless forget.
func (g *Gateway) Stop(ctx context.Context, o StopOptions) error { panic("written next") }

// StopOptions of Stop.
type StopOptions struct {
	Forget bool // remove StateDir too: the network is gone for good
}

// Status looks; it changes nothing.
func (g *Gateway) Status(ctx context.Context) (Status, error) { panic("written next") }

// Done is closed when the gateway that runs now has ended; nil where none runs.
func (g *Gateway) Done() <-chan struct{} { panic("written next") }

// Put adds the export, or changes its rules, and reads the result back. An
// export whose path or pseudo path differs is removed and added.
func (g *Gateway) Put(ctx context.Context, e Export) error { panic("written next") }

// Remove withdraws an export. An id that is not exported is success, and so is
// a gateway that does not run.
func (g *Gateway) Remove(ctx context.Context, id uint16) error { panic("written next") }

// Has says whether Ganesha serves e with exactly e's rules.
func (g *Gateway) Has(ctx context.Context, e Export) (bool, error) { panic("written next") }

// IDs lists the exports that Ganesha has, without the pseudo root.
func (g *Gateway) IDs(ctx context.Context) ([]uint16, error) { panic("written next") }
