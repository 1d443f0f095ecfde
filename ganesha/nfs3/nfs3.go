// Package nfs3 runs what NFSv3 needs beside its server, in the server's network
// namespace: rpcbind (RFC 1833), which tells clients the ports of mountd and of
// the lock manager, and rpc.statd, the status monitor (X/Open XNFS, chapter 11)
// without which the lock manager refuses every lock.
//
//	RunDir/rpcbind/         run directory of rpcbind (package process)
//	RunDir/statd/           run directory of rpc.statd
//	RunDir/notify/          run directory of sm-notify, which ends when it has told everybody
//	StateDir/statd/sm       one file for each client that took a lock
//	StateDir/statd/restart  the server was started anew, and those clients are not told yet
//
// # What happens to locks
//
// Locks of NFSv3 have no lease. Two messages stand in for it: a client that was
// started anew tells rpc.statd, which tells the server, which drops its locks;
// and when the server was started anew, sm-notify tells the clients, which take
// their locks again while grace lasts.
//
//	Prepare:   rpc.statd ends, "restart" is written   the server's first act, to forget all clients, is lost
//	           rpcbind runs                           without it the server ends at its start
//	server starts
//	Complete:  sm-notify moves sm to sm.bak, and tells the clients in there
//	           rpc.statd starts, and "restart" goes
//
// Killed anywhere between, the next Prepare or Complete goes on. Where rpc.statd
// alone ended no client may be told that the server was started anew: it would
// ask for locks that it has, outside of grace, and believe that they are lost.
//
// Rpc.statd would start sm-notify itself, but leaves out the state directory
// (nfs-utils 2.6.2 and 2.8.3, utils/statd/statd.c).
package nfs3

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/causeway-project/causeway/agent/process"
)

// ErrMissing: a program is not installed.
var ErrMissing = errors.New("not installed")

// The ports. NFSv3 has one for itself, which is the server's.
const (
	RPCBindPort = 111   // by RFC 1833
	MountPort   = 20048 // registered with IANA
	LockPort    = 32803 // the last three are what many distributions suggest
	StatPort    = 32765
	NotifyPort  = 32766 // from which clients are told
)

// TCPPorts are those that clients reach.
func TCPPorts() []uint16 { return []uint16{RPCBindPort, MountPort, LockPort} }

// UDPPorts are those by which a client that was started anew tells so, and from
// which clients are told: Linux does both over UDP alone.
func UDPPorts() []uint16 { return []uint16{RPCBindPort, StatPort, NotifyPort} }

// Options of Companions.
type Options struct {
	RunDir   string // required: the server's
	StateDir string // required: survives a reboot; statd is the companions' in it
	NetNS    string // required: path of the network namespace
	System   string // root directory of the distribution whose programs run; empty is the host's
	Starter  *process.Starter

	// Pieces of System that every program of the distribution needs.
	Pieces []string // required
	// Name is what operators see of a companion of this kind.
	Name func(kind string) process.Name // required
	// Dial connects to a loopback port of the network namespace.
	Dial func(port int) (net.Conn, error) // required
	// Lives says whether a process runs in the network namespace.
	Lives func(pid int) (bool, error) // required
}

// Companions are the processes of one server. Methods that change anything
// are called one after the other.
type Companions struct{ o Options }

// New returns a handle and does nothing else.
func New(o Options) *Companions { return &Companions{o} }

// look bounds one question to a companion, patience the start of one, and stop
// the time from SIGTERM to SIGKILL.
const (
	look     = time.Second
	patience = 5 * time.Second
	stop     = time.Second
)

// Prepare makes the namespace fit for a server that starts next. None runs.
func (c *Companions) Prepare(ctx context.Context) error {
	if err := c.StopStatd(ctx); err != nil {
		return err
	}
	for _, dir := range []string{c.dir(rpcbindDir), c.dir(statdDir), c.dir(notifyDir), c.state("sm"), c.state("sm.bak")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	if err := os.WriteFile(c.state(restartFile), nil, 0o600); err != nil {
		return err
	}
	return c.runRPCBind(ctx)
}

// Complete is for a server that serves, started or adopted: it puts right
// whatever of its companions is missing.
func (c *Companions) Complete(ctx context.Context) error {
	if err := c.runRPCBind(ctx); err != nil {
		return err
	}
	if err := c.notify(ctx); err != nil {
		return err
	}
	if err := c.runStatd(ctx); err != nil {
		return err
	}
	if err := os.Remove(c.state(restartFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return c.register(ctx)
}

// Missing says which companion does not run, or does not answer; nil where
// both do.
func (c *Companions) Missing(ctx context.Context) error {
	for _, d := range []struct {
		name string
		at   service
	}{{rpcbindDir, rpcbind}, {statdDir, status}} {
		p, err := c.find(d.name)
		if err != nil {
			return err
		}
		if p == nil {
			return fmt.Errorf("%s does not run", d.name)
		}
		if err := c.null(ctx, d.at); err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
	}
	return nil
}

// OnRecord says whether there are clients that held locks, or were not told of
// an earlier start.
func (c *Companions) OnRecord() (bool, error) {
	for _, dir := range []string{"sm", "sm.bak"} {
		entries, err := os.ReadDir(c.state(dir))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return false, err
		}
		if len(entries) > 0 {
			return true, nil
		}
	}
	return false, nil
}

// StopStatd ends what stands for locks, before the server ends; StopRPCBind
// what the server talks to, after it. The run directories are the server's to
// remove. Clients that hold locks, or were not told yet, stay on record.
func (c *Companions) StopStatd(ctx context.Context) error {
	return errors.Join(c.stop(ctx, notifyDir), c.stop(ctx, statdDir))
}

func (c *Companions) StopRPCBind(ctx context.Context) error { return c.stop(ctx, rpcbindDir) }

func (c *Companions) stop(ctx context.Context, name string) error {
	p, err := process.Find(c.dir(name))
	if err == nil && p != nil {
		limit := stop
		if name == notifyDir {
			limit = 0 // it handles no signal
		}
		err = p.Stop(ctx, limit)
	}
	if err != nil {
		return fmt.Errorf("stop %s: %w", name, err)
	}
	return nil
}

// find returns a companion that lives in the namespace, or nil.
func (c *Companions) find(name string) (*process.Process, error) {
	p, err := process.Find(c.dir(name))
	if err != nil || p == nil {
		return nil, err
	}
	there, err := c.o.Lives(p.Identity().PID)
	if err != nil || !there {
		return nil, err
	}
	return p, nil
}

// The parts of RunDir and StateDir.
const (
	rpcbindDir = "rpcbind"
	statdDir   = "statd"
	notifyDir  = "notify"

	restartFile = "restart"
)

// Processes are the names of those that may run.
func (c *Companions) Processes() []string { return []string{rpcbindDir, statdDir, notifyDir} }

func (c *Companions) dir(name string) string { return filepath.Join(c.o.RunDir, name) }

func (c *Companions) state(parts ...string) string {
	return filepath.Join(append([]string{c.o.StateDir, statdDir}, parts...)...)
}

// spec of a companion, which lives in the namespace and in a jail.
func (c *Companions) spec(dir, name string, args []string) process.Spec {
	return process.Spec{
		Dir:   c.dir(dir),
		Path:  program(c.o.System, name),
		Args:  args,
		NetNS: c.o.NetNS,
		Root: &process.Root{
			System:    append([]string{"/etc/netconfig"}, c.o.Pieces...),
			SystemDir: c.o.System,
			ReadOnly:  []string{servicesFile, "/etc/hosts"},
			Tmp:       []string{"/run"},
		},
		Limits:  process.Limits{Memory: 64 << 20, Tasks: 16, Files: 1024},
		Name:    c.o.Name(dir),
		OwnPIDs: true, // uid 0 could signal every process of the host otherwise
	}
}

// runRPCBind starts rpcbind, or replaces one that does not answer or lives
// elsewhere. It listens on its port and becomes a user without rights. Debian
// builds it without the forwarding of calls (CALLIT), by which a caller would
// come from inside; and it registers for loopback alone.
func (c *Companions) runRPCBind(ctx context.Context) error {
	s := c.spec(rpcbindDir, rpcbindProgram, []string{"-f"})
	s.Caps = []string{"net_bind_service", "setgid", "setuid"}
	return c.run(ctx, rpcbind, s)
}

// runStatd starts rpc.statd, which is not to tell anybody anything.
func (c *Companions) runStatd(ctx context.Context) error {
	return c.run(ctx, status, c.withState(c.spec(statdDir, statdProgram, []string{"-F", "-L", "-p", fmt.Sprint(StatPort), "-P", c.state()})))
}

// withState is for the two that read and write the records of clients. They run
// as root, without a right over files; setpcap is for the capabilities that
// they drop themselves.
func (c *Companions) withState(s process.Spec) process.Spec {
	s.Root.ReadWrite = []string{c.state()}
	s.Caps = []string{"net_bind_service", "setpcap"}
	return s
}

// notify begins to tell the clients on record that the server was started
// anew, where it was, and returns when no record is moved any more. It goes on
// for a quarter of an hour at most, for clients that are away.
func (c *Companions) notify(ctx context.Context) error {
	if _, err := os.Stat(c.state(restartFile)); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	if p, err := c.find(statdDir); err != nil || p != nil {
		return err // it was started after sm-notify
	}
	before := c.number()
	p, err := c.o.Starter.Start(ctx, c.withState(c.spec(notifyDir, notifyProgram, []string{"-d", "-p", fmt.Sprint(NotifyPort), "-P", c.state()})))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		if c.number() != before {
			return nil
		}
		select {
		case <-p.Done():
			return nil // nobody is on record
		case <-ctx.Done():
			return fmt.Errorf("sm-notify: %w", context.Cause(ctx))
		case <-time.After(time.Millisecond):
		}
	}
}

// number is the server's, which grows by two with each start. Sm-notify writes
// it after it has moved the records.
func (c *Companions) number() string {
	text, err := os.ReadFile(c.state("state"))
	if err != nil {
		return "" // there is none yet
	}
	return string(text)
}

// run makes a companion run and answer.
func (c *Companions) run(ctx context.Context, s service, spec process.Spec) error {
	name := filepath.Base(spec.Dir)
	p, err := c.find(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	if p != nil && c.null(ctx, s) == nil {
		return nil
	}
	if err := c.stop(ctx, name); err != nil {
		return err
	}
	if p, err = c.o.Starter.Start(ctx, spec); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := c.null(ctx, s)
		if err == nil {
			return nil
		}
		select {
		case <-p.Done():
			return fmt.Errorf("%s ended: %s", name, process.Tail(spec.Dir, 1024))
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", name, err)
		case <-time.After(time.Millisecond):
		}
	}
}
