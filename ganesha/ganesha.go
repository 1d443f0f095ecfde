// Package ganesha runs NFS-Ganesha gateways: one process per network, with a
// D-Bus daemon of its own, in the network's namespace.
//
// # What lies where
//
//	RunDir/conf/ganesha.conf      rendered at each start from the wanted exports
//	RunDir/conf/settings          Options.Settings, of the same start
//	RunDir/conf/bus.conf          of the private bus
//	RunDir/conf/exports/ID.conf   what Ganesha was last told of one export
//	RunDir/conf/mtab              the mount table that Ganesha reads
//	RunDir/conf/identities        of the exports, which file handles are bound to (package handles)
//	RunDir/sock/bus               the socket of the private bus
//	RunDir/bus/                   run directory of dbus-daemon (package process)
//	RunDir/nfsd/                  run directory of ganesha.nfsd (package process)
//	RunDir/var/                   Ganesha's log, pid file and credential caches: its only writable part
//	RunDir/rpcbind, RunDir/statd  where NFSv3 is served: see package nfs3, which is told when Ganesha starts and serves
//	StateDir/v4recov              one record per client, read after a restart so that it can reclaim
//	StateDir/epoch                that of the last start: see nextEpoch
//	StateDir/handles.key          under which file handles are authenticated
//	Exports/.fs-*                 the anchors of exported file systems: see Mounts
//
// # Two processes, one life
//
//	            bus starts            ganesha starts         name owned, NULL answered
//	nothing ---------------> bus only ---------------> both ---------------------------> serving
//	   ^                        |                        |                                  |
//	   |     bus ends: Ganesha ends with it, at once, status 1 and no log line              |
//	   +------------------------+------------------------+------- does not answer: replaced +
//
// Ganesha never connects to a bus again that it has lost, nor to one that was
// not there when it started; so the bus comes first, answers before Ganesha
// starts, and is left alone while Ganesha runs.
//
// Ganesha is never sent SIGHUP: it would drop the exports that D-Bus added,
// and with a syntax error in its file all of them. An exact copy of the wanted
// exports is rendered at each start instead, and between two starts D-Bus is
// the only way in, so that a change costs the same however many exports there
// are.
//
// The meaning of D-Bus calls and of the configuration was learned from
// Ganesha 4.3 (src/support/export_mgr.c, src/support/exports.c,
// src/config_parsing/conf_lex.l) and from watching it.
package ganesha

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"time"

	"github.com/causeway-project/causeway/agent/process"
	"github.com/causeway-project/causeway/ganesha/handles"
	"github.com/causeway-project/causeway/ganesha/nfs3"
)

// ErrNotRunning: the gateway's process is not there, or does not answer.
var ErrNotRunning = errors.New("gateway is not running")

// ErrRefused: the export cannot be written in Ganesha's configuration, or
// Ganesha understood and said no. Trying again will not help.
var ErrRefused = errors.New("ganesha refused the export")

// ErrPath: an export's path is not a directory that can be exported, or the
// gateway does not see what the host sees there.
var ErrPath = errors.New("path cannot be exported")

// Library is the file name of what is loaded into each Ganesha: it protects file
// handles, and ends the grace period when it is over.
const Library = "causeway-preload.so"

// ErrUnprotected: the library that protects file handles is not there, or not
// at work in this release of Ganesha; no gateway runs without.
var ErrUnprotected = handles.ErrUnprotected

// An Export is one tree as Ganesha serves it. What a client may write is in the
// rules alone: a read-only mount at Path does not bind Ganesha, which may reach
// the file system by another mount of it.
type Export struct {
	ID     uint16 // required: 1..65279, unique in the gateway; the gateway itself uses the rest
	Path   string // required: absolute, below the gateway's Exports directory
	Pseudo string // required: absolute path in the NFSv4 pseudo file system, unique in the gateway
	FSID   uint64 // required, not 0: distinguishes file systems to clients; stable over restarts
	Rules  []Rule // in the order in which they match; none lets nobody in
}

// Options of one gateway.
type Options struct {
	RunDir   string         // required: under /run, at most 90 bytes; made and removed by the gateway
	StateDir string         // required: recovery records of clients; survives a reboot
	Exports  string         // required: the shared directory below which exported trees are mounted
	NetNS    string         // required: path of the network namespace
	Settings string         // names those of these options that may change under a running gateway: Start replaces one that was started with another name
	Lease    time.Duration  // whole seconds; 10 s by default
	Grace    time.Duration  // whole seconds; 15 s by default
	Versions Versions       // of NFS; none are DefaultVersions
	Library  string         // required: path of the file Library
	System   string         // root directory of the distribution whose Ganesha and D-Bus daemon run; empty is the host's
	Mounts   Mounts         // nil leaves exports of one file system dependent on each other: see Mounts
	Limits   process.Limits // of Ganesha; its bus has small ones of its own
	Starter  *process.Starter
	Logger   *slog.Logger
}

// The shortest lease with which real clients live, and a grace that lets each
// of them notice the restart and reclaim.
const (
	defaultLease = 10 * time.Second
	defaultGrace = 15 * time.Second
)

// defaultFiles that Ganesha may have open. It keeps its clients' files open up
// to a share of this.
const defaultFiles = 65536

// deadlines bound what may hang.
type deadlines struct {
	look   time.Duration // a question over D-Bus
	change time.Duration // a change over D-Bus
	start  time.Duration // from exec to serving; a thousand exports take 2 s
	null   time.Duration // one NFS NULL call
	stop   time.Duration // from SIGTERM to SIGKILL; a clean end takes 0.1 s
}

func defaultDeadlines() deadlines {
	return deadlines{
		look:   2 * time.Second,
		change: 5 * time.Second,
		start:  20 * time.Second,
		null:   time.Second,
		stop:   3 * time.Second,
	}
}

// A Gateway is the handle of one gateway. Its methods may be called from
// several goroutines; changes are made one after the other. Status, Probe, Has,
// IDs and Done do not wait for a change under way.
type Gateway struct {
	o      Options
	files  handles.Files
	limits deadlines
	log    *slog.Logger

	nfs3 *nfs3.Companions // run where Versions say so

	change  chan struct{} // a mutex that a context can give up waiting for: Start, Stop, Put, Remove
	anchors anchors       // guarded by change

	mu     sync.Mutex
	conn   *client          // guarded by mu; nil until somebody asks
	nfsd   *process.Process // guarded by mu; the process that was last seen
	served process.Identity // guarded by mu; the process that was last seen to serve
	vetoes map[veto]error   // guarded by mu; the rules that the running Ganesha refused
}

// New returns a handle and does nothing else.
func New(o Options) *Gateway {
	if o.Lease == 0 {
		o.Lease = defaultLease
	}
	if o.Grace == 0 {
		o.Grace = defaultGrace
	}
	if o.Limits.Files == 0 {
		o.Limits.Files = defaultFiles
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	g := &Gateway{o: o, limits: defaultDeadlines(), log: o.Logger, change: make(chan struct{}, 1)}
	g.files = handles.Files{
		Library: o.Library,
		Key:     filepath.Join(o.StateDir, "handles.key"),
		Exports: g.path(confDir, "identities"),
		Ready:   g.path(varDir, "handles-protected"),

		Unsealed: o.Versions.v3(),
	}
	g.nfs3 = nfs3.New(nfs3.Options{
		RunDir: o.RunDir, StateDir: o.StateDir, NetNS: o.NetNS, System: o.System, Starter: o.Starter, Pieces: system(), Name: g.name,
		Dial:  func(port int) (net.Conn, error) { return dialIn(o.NetNS, port) },
		Lives: func(pid int) (bool, error) { return inNetNS(pid, o.NetNS) },
	})
	return g
}

// lock keeps other changes out until unlock.
func (g *Gateway) lock(ctx context.Context) error {
	select {
	case g.change <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g *Gateway) unlock() { <-g.change }
