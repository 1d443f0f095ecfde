// Package virtiofsd runs the daemons behind virtiofs devices, one for each
// device: it finds the program, starts it within its limits, and finds it again.
package virtiofsd

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/causeway-project/causeway/agent/process"
	"github.com/causeway-project/causeway/virtiofs/keeper"
)

// ErrMissing says that this host has no virtiofsd.
var ErrMissing = errors.New("no virtiofsd on this host")

// A Daemon is the virtiofsd of one attachment.
type Daemon struct {
	Dir    string // required: run directory, made and removed here; the socket lies in it
	Source string // required: directory to share, an absolute path

	ReadOnly bool // where it can, the daemon refuses to write by itself too; the mount of Source has to be so
	Settings Settings
	IDs      IDs
}

// Socket that QEMU connects to; the same for a directory for ever.
func (v Daemon) Socket() string { return filepath.Join(v.Dir, "sock") }

// A State is how far a daemon is.
type State string

// The daemon states. A device in an instance whose daemon is not Connected is
// dead: QEMU never reconnects.
const (
	Stopped   State = "stopped"
	Starting  State = "starting"  // it runs, and does not listen yet
	Listening State = "listening" // it waits for its one connection
	Connected State = "connected" // QEMU uses it
	Dead      State = "dead"      // it has ended, and its keeper answers QEMU and guest with errors
)

// Daemons starts and finds virtiofsd processes.
type Daemons struct {
	Starter *process.Starter
	Keeper  string         // required: path of causeway-keeper
	Binary  string         // found when empty: ErrMissing
	Limits  process.Limits // of each daemon that has no others
	Logger  *slog.Logger   // is told of each program that is found, another after an upgrade; may be nil

	mu       sync.Mutex
	programs map[string]Program          // by path, size and time of the binary
	running  map[string]*process.Process // keepers by run directory; those that have ended are found out at the next look
	children map[string]*process.Process // their daemons, likewise
}

// defaultFiles is a daemon's limit of open files: it keeps one for each inode
// that the guest remembers. The launcher lowers it to what the host allows.
const defaultFiles = 1 << 20

// oomScore makes the kernel look for its victim elsewhere first: a guest is lost
// with its virtiofsd only for a moment, but all that it had open is.
const oomScore = -500

// name of a daemon's process; the run directory has the attachment's.
func (v Daemon) name() process.Name {
	return process.Name{Group: "virtiofs", Own: "virtiofs-" + filepath.Base(v.Dir)}
}

// maxSocketPath is sun_path of sockaddr_un(7), less its NUL.
const maxSocketPath = 107

// polling a socket that is about to appear, which takes some 10 ms.
const polling = 300 * time.Microsecond

// capabilities that a virtiofsd needs: to act as the guest's users, and to
// build its sandbox. It drops the latter itself.
var capabilities = []string{
	"chown", "dac_override", "dac_read_search", "fowner", "fsetid", "mknod", "setfcap", "setgid", "setuid",
	"setpcap", "sys_admin", "sys_chroot",
}

// Start makes the daemon run and listen, or adopts one that does or that QEMU
// uses already. virtiofsd serves one connection and then ends, so each attach
// needs a fresh one. When ctx ends, the daemon may come all the same: the same
// call again adopts it. ErrMissing, ErrUnable, process.ErrNoIDMap.
func (d *Daemons) Start(ctx context.Context, v Daemon) error {
	if err := d.start(ctx, v); err != nil {
		return fmt.Errorf("start virtiofsd for %s: %w", v.Source, err)
	}
	return nil
}

func (d *Daemons) start(ctx context.Context, v Daemon) error {
	if n := len(v.Socket()); n > maxSocketPath {
		return fmt.Errorf("socket path %s has %d bytes, and Unix sockets allow %d: use a shorter run directory", v.Socket(), n, maxSocketPath)
	}
	if !filepath.IsAbs(v.Dir) || !filepath.IsAbs(v.Source) {
		return fmt.Errorf("directory %q, source %q: want absolute paths", v.Dir, v.Source)
	}
	p, err := d.Find(v)
	if err != nil {
		return err
	}
	if p != nil {
		k, err := d.reported(ctx, p, v)
		switch {
		case err != nil:
			return err
		case k.report == nil:
			p = nil // it has left
		case k.dead(): // of no use to the next device
			if err := p.Stop(ctx, 0); err != nil {
				return err
			}
			p = nil
		}
	}
	if p == nil {
		if p, err = d.fresh(ctx, v); err != nil {
			return err
		}
	}
	return ready(ctx, p, v)
}

// reported waits for the report of keeper p. One that has none is about to
// serve, or to end: when QEMU lets go it takes its report away first.
func (d *Daemons) reported(ctx context.Context, p *process.Process, v Daemon) (kept, error) {
	t := time.NewTicker(polling)
	defer t.Stop()
	for {
		if k, err := d.keptBy(p, v); err != nil || k.report != nil {
			return k, err
		}
		select {
		case <-t.C:
		case <-p.Done():
			return kept{}, nil
		case <-ctx.Done():
			return kept{}, fmt.Errorf("it does not serve: %w", context.Cause(ctx))
		}
	}
}

// fresh starts a daemon where none runs.
func (d *Daemons) fresh(ctx context.Context, v Daemon) (*process.Process, error) {
	p, err := d.Program(ctx)
	if err != nil {
		return nil, err
	}
	args, err := p.arguments(v)
	if err != nil {
		return nil, err
	}
	// A socket file that nobody listens on would make the daemon's bind fail
	// (Rust), or look like a ready one.
	if err := remove(v.Socket(), filepath.Join(v.Dir, keeper.ReportFile)); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(v.Dir, 0o711); err != nil {
		return nil, err
	}
	// QEMU, which is not root, has to find its socket; the rest is root's.
	if err := os.Chmod(v.Dir, 0o711); err != nil {
		return nil, err
	}
	limits := process.Limits{
		Memory: cmp.Or(v.Settings.Memory, d.Limits.Memory),
		Tasks:  d.Limits.Tasks,
		Files:  cmp.Or(v.Settings.Files, d.Limits.Files, defaultFiles),
	}
	is, err := d.Starter.Start(ctx, process.Spec{
		Dir:    v.Dir,
		Path:   d.Keeper,
		Args:   p.kept(v, args),
		Env:    []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"},
		Caps:   capabilities,
		IDMap:  v.IDs.mount(v.Source),
		Limits: limits,
		OOM:    oomScore,
		Name:   v.name(),
	})
	if err == nil {
		d.keep(v, is)
	}
	return is, err
}

// ready waits until the daemon listens. It must not try the socket: the daemon
// would take that for its one connection.
func ready(ctx context.Context, p *process.Process, v Daemon) error {
	t := time.NewTicker(polling)
	defer t.Stop()
	for look := true; ; {
		if look {
			switch s, err := socketState(v.Socket()); {
			case err != nil:
				return err
			case s == Listening || s == Connected:
				return nil
			}
		}
		select {
		case <-t.C:
		case <-p.Done():
			return fmt.Errorf("it ended: %s", strings.TrimSpace(process.Tail(v.Dir, 1000)))
		case <-ctx.Done():
			return fmt.Errorf("it does not listen: %w", context.Cause(ctx))
		}
		// The kernel's table has thousands of sockets on a busy host.
		_, err := os.Lstat(v.Socket())
		look = err == nil
	}
}

// Stop ends it and removes its directory. Not there is success. Detach its
// device first.
func (d *Daemons) Stop(ctx context.Context, v Daemon, grace time.Duration) error {
	if err := d.stop(ctx, v, grace); err != nil {
		return fmt.Errorf("stop virtiofsd of %s: %w", v.Dir, err)
	}
	return nil
}

func (d *Daemons) stop(ctx context.Context, v Daemon, grace time.Duration) error {
	p, err := d.Find(v)
	if err != nil {
		return err
	}
	if p != nil {
		if err := d.letGo(ctx, p, v, grace); err != nil {
			return err
		}
		if err := p.Stop(ctx, grace); err != nil {
			return err
		}
	}
	d.keep(v, nil)
	if err := d.Starter.Forget(v.name()); err != nil {
		return err
	}
	return removeDir(v.Dir)
}

// Find returns its keeper's process, nil where it does not run. It ends by itself when
// QEMU lets go of it.
func (d *Daemons) Find(v Daemon) (*process.Process, error) {
	d.mu.Lock()
	p := d.running[v.Dir]
	d.mu.Unlock()
	if p != nil {
		select {
		case <-p.Done():
		default:
			return p, nil
		}
	}
	// Each handle costs a pidfd until its process ends, so it is kept.
	p, err := process.Find(v.Dir)
	if err == nil {
		d.keep(v, p)
	}
	return p, err
}

// keep remembers a daemon's process, nil that it has none.
func (d *Daemons) keep(v Daemon, p *process.Process) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p == nil {
		delete(d.running, v.Dir)
		delete(d.children, v.Dir)
		return
	}
	if d.running == nil {
		d.running = map[string]*process.Process{}
	}
	d.running[v.Dir] = p
}

// State tells how far it is.
func (d *Daemons) State(v Daemon) (State, error) {
	p, err := d.Find(v)
	if err != nil {
		return "", err
	}
	if p == nil {
		return Stopped, nil
	}
	if k, err := d.keptBy(p, v); err != nil || k.dead() {
		return Dead, err
	}
	s, err := socketState(v.Socket())
	if err == nil && s == Stopped {
		s = Starting
	}
	return s, err
}

// Program returns the virtiofsd that Start would run: ErrMissing. It asks one
// that it has not seen yet, as after an upgrade, what it can do.
func (d *Daemons) Program(ctx context.Context) (Program, error) {
	binary := d.Binary
	if binary == "" {
		var err error
		if binary, err = findBinary("/"); err != nil {
			return Program{}, err
		}
	}
	info, err := os.Stat(binary)
	if err != nil {
		return Program{}, fmt.Errorf("%w: %w", ErrMissing, err)
	}
	key := fmt.Sprint(binary, info.Size(), info.ModTime())
	d.mu.Lock()
	defer d.mu.Unlock()
	if p, ok := d.programs[key]; ok {
		return p, nil
	}
	p, err := detect(ctx, binary)
	if err != nil {
		return Program{}, err
	}
	d.programs = map[string]Program{key: p}
	if d.Logger != nil {
		d.Logger.Info("virtiofsd found", "path", p.Path, "flavour", string(p.Flavour), "version", p.Version)
	}
	return p, nil
}

// removeDir removes a directory of files. Not what lies deeper: should a share
// be mounted there, its files are not ours to remove.
func removeDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := remove(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return remove(dir)
}

// remove files that may be there.
func remove(paths ...string) error {
	var errs []error
	for _, p := range paths {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Of /proc/net/unix (net/unix/af_unix.c, unix_seq_show).
const (
	flagAccepting  = "00010000" // __SO_ACCEPTCON
	stateConnected = "03"       // SS_CONNECTED
)

// socketState reads off the kernel's table of Unix sockets what goes on at a
// path: Listening, Connected (the daemon's end carries the path too), or
// Stopped.
func socketState(path string) (State, error) {
	f, err := os.Open("/proc/net/unix")
	if err != nil {
		return "", fmt.Errorf("list sockets: %w", err)
	}
	defer f.Close()
	s, err := scanSockets(f, path)
	if err != nil {
		return "", fmt.Errorf("list sockets: %w", err)
	}
	return s, nil
}

func scanSockets(r io.Reader, path string) (State, error) {
	state := Stopped
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		// Num RefCount Protocol Flags Type St Inode Path
		line, ok := strings.CutSuffix(lines.Text(), " "+path)
		f := strings.Fields(line)
		if !ok || len(f) != 7 {
			continue
		}
		switch {
		case f[5] == stateConnected:
			return Connected, nil
		case f[3] == flagAccepting:
			state = Listening
		}
	}
	return state, lines.Err()
}
