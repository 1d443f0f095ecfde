package ganesha

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/causeway-project/causeway/agent/crashpoint"
	"github.com/causeway-project/causeway/agent/process"
)

// Start makes the gateway run with exactly these exports, or adopts it where
// it runs already (the exports are then left as they are: Put and Remove
// them). It returns when Ganesha serves: the bus name is owned, and an NFS
// NULL call from inside the namespace is answered. A process that hangs, or
// runs in another namespace than NetNS names now, is replaced; so is whatever
// a crash left half-started. exports is called with changes to the gateway
// locked out, right before the configuration is rendered; one that cannot be
// rendered, or whose path is no directory, is left out and logged, so that it
// does not keep the others from being served: its Put says why.
func (g *Gateway) Start(ctx context.Context, exports func() []Export) error {
	if err := g.lock(ctx); err != nil {
		return err
	}
	defer g.unlock()
	if err := g.boundLog(); err != nil {
		return fmt.Errorf("gateway log: %w", err)
	}
	p, err := g.find()
	if err != nil {
		return err
	}
	if p != nil {
		before, err := waiting(p.Identity().PID)
		if err != nil {
			return fmt.Errorf("look at gateway: %w", err)
		}
		unfit, err := g.fit(ctx, p)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return fmt.Errorf("look at gateway: %w", err)
		case unfit == nil:
			g.tidy(ctx)
			return g.complete(ctx)
		}
		if errors.Is(unfit, ErrNotRunning) {
			if err := stillWaiting(p.Identity().PID, before); err != nil {
				return err
			}
		}
		g.log.Warn("gateway replaced", "err", unfit)
		if err := p.Stop(ctx, 0); err != nil {
			return fmt.Errorf("replace gateway: %w", err)
		}
	}
	if err := g.directories(); err != nil {
		return fmt.Errorf("gateway directories: %w", err)
	}
	if err := g.prepare(ctx); err != nil {
		return err
	}
	bus, err := g.startBus(ctx)
	if err != nil {
		return fmt.Errorf("start bus: %w", err)
	}
	epoch, err := nextEpoch(g.o.StateDir, time.Now())
	if err != nil {
		return fmt.Errorf("epoch: %w", err)
	}
	var c *client
	p, err = g.o.Starter.StartAfter(ctx, g.ganeshaSpec(epoch), func(ctx context.Context) error {
		answering, err := g.answering(ctx, bus)
		if err != nil {
			return fmt.Errorf("start bus: %w", err)
		}
		c = answering
		crashpoint.Hit(crashpoint.GatewayBus)
		config, err := g.config(ctx, exports())
		if err != nil {
			return fmt.Errorf("render gateway: %w", err)
		}
		// Nothing runs that could be taken for what these two files say.
		if err := replace(g.path(confDir, "settings"), g.o.Settings); err != nil {
			return err
		}
		return replace(g.path(confDir, "ganesha.conf"), config)
	})
	if err != nil {
		return fmt.Errorf("start ganesha: %w", err)
	}
	crashpoint.Hit(crashpoint.GatewayStarted)
	g.forgiveAll()
	g.remember(p)
	err = g.ready(ctx, c, p, g.limits.start)
	if err == nil {
		err = g.protected(ctx, c, p)
	}
	if errors.Is(err, ErrUnprotected) {
		return fmt.Errorf("start ganesha: %w", errors.Join(err, p.Stop(ctx, 0)))
	}
	if refusal := g.files.Refusal(); err != nil && refusal != nil {
		return fmt.Errorf("start ganesha: %w", refusal)
	}
	if err != nil {
		if log := g.lastLog(); log != "" {
			return fmt.Errorf("start ganesha: %w; its log ends: %s", err, log)
		}
		return fmt.Errorf("start ganesha: %w", err)
	}
	g.log.Info("gateway started", "pid", p.Identity().PID)
	return g.complete(ctx)
}

// prepare and complete make the other programs of NFSv3 run, before Ganesha
// starts and when it serves. Where it is not served, any longer, they end.
func (g *Gateway) prepare(ctx context.Context) error {
	if !g.o.Versions.v3() {
		return errors.Join(g.nfs3.StopStatd(ctx), g.nfs3.StopRPCBind(ctx))
	}
	if err := g.nfs3.Prepare(ctx); err != nil {
		return fmt.Errorf("prepare NFSv3: %w", err)
	}
	return nil
}

func (g *Gateway) complete(ctx context.Context) error {
	if !g.o.Versions.v3() {
		return nil
	}
	if err := g.nfs3.Complete(ctx); err != nil {
		return fmt.Errorf("complete NFSv3: %w", err)
	}
	return nil
}

// protected is ErrUnprotected for a Ganesha that serves, and would believe
// every file handle.
func (g *Gateway) protected(ctx context.Context, c *client, p *process.Process) error {
	if err := g.files.Loaded(p.Identity().PID); err != nil {
		return err
	}
	works := g.files.Works()
	if works == nil {
		return nil
	}
	list, err := c.list(ctx, g.limits.look)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return nil // the module that is to call the library comes with the first export
	}
	return works
}

// tidy takes away what a crash in the middle of Remove left of an adopted
// gateway's anchors. One that resists is tried again with the next Remove.
func (g *Gateway) tidy(ctx context.Context) {
	c, err := g.client(ctx)
	if err == nil {
		err = g.weigh(ctx, c)
	}
	if err != nil {
		g.log.Warn("anchor left behind", "err", err)
	}
}

// fit says why a running Ganesha cannot be kept, or nil. An error means that
// nobody knows, and one that may be serving is then left alone. One that is
// still starting, because the agent died during the start, is given the time
// that a start may take; one that this handle has seen serving, a second.
func (g *Gateway) fit(ctx context.Context, p *process.Process) (unfit, err error) {
	bus, err := process.Find(g.path(busDir))
	if err != nil {
		return nil, err
	}
	if bus == nil {
		return errors.New("its bus is gone"), nil
	}
	for _, id := range []process.Identity{p.Identity(), bus.Identity()} {
		there, err := inNetNS(id.PID, g.o.NetNS)
		if err != nil {
			return nil, err
		}
		if !there {
			return errors.New("it runs in another network namespace"), nil
		}
	}
	settings, err := g.settings()
	if err != nil {
		return nil, err
	}
	if settings != g.o.Settings {
		return fmt.Errorf("it was started with the settings %q", settings), nil
	}
	// Directories that were made anew on the host are not those that it sees.
	for _, dir := range []string{g.path(confDir), g.o.Exports} {
		_, err := seen(p.Identity().PID, dir)
		if errors.Is(err, os.ErrPermission) {
			return nil, err
		}
		if err != nil {
			return err, nil
		}
	}
	age, err := since(p.Identity().Start)
	if err != nil {
		return nil, err
	}
	c, err := g.client(ctx)
	if err != nil {
		return err, nil
	}
	limit := max(g.limits.start-age, g.limits.look)
	if g.hasServed(p) {
		limit = g.limits.null // it is not starting: it hangs
	}
	if unfit := g.ready(ctx, c, p, limit); unfit != nil {
		return unfit, nil
	}
	err = g.protected(ctx, c, p)
	if errors.Is(err, ErrUnprotected) {
		return err, nil
	}
	return nil, err
}

// ready returns when Ganesha serves, or why it does not within limit. It owns
// its name early, answers D-Bus when its exports are loaded and its port
// listens, and NFS at the same time; so the first NULL call is hardly ever
// repeated.
func (g *Gateway) ready(ctx context.Context, c *client, p *process.Process, limit time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not serving after %s: %w", limit, ErrNotRunning))
	defer cancel()
	ctx, die := context.WithCancelCause(ctx)
	defer die(nil)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-p.Done():
			die(fmt.Errorf("ganesha ended: %w", ErrNotRunning))
		case <-ctx.Done():
		}
	}()
	defer func() { die(nil); <-watched }()

	why := func(err error) error {
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %w", err, context.Cause(ctx))
		}
		return err
	}
	if err := c.owned(ctx); err != nil {
		return why(err)
	}
	if _, err := c.version(ctx, limit); err != nil {
		return why(err)
	}
	for {
		err := g.null(ctx)
		if err == nil {
			g.saw(p)
			return nil
		}
		select {
		case <-ctx.Done():
			return why(err)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// startBus starts the gateway's bus, or replaces one that does not answer or
// runs elsewhere. Ganesha does not run.
func (g *Gateway) startBus(ctx context.Context) (*process.Process, error) {
	p, err := process.Find(g.path(busDir))
	if err != nil {
		return nil, err
	}
	if p != nil {
		there, err := inNetNS(p.Identity().PID, g.o.NetNS)
		if err != nil {
			return nil, err
		}
		if there {
			if c, err := g.client(ctx); err == nil && c.ping(ctx, g.limits.look) == nil {
				return p, nil
			}
		}
		g.hangUp()
		if err := p.Stop(ctx, 0); err != nil {
			return nil, err
		}
	}
	g.hangUp()
	socket := g.socket()
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err := replace(g.path(confDir, "bus.conf"), renderBus(socket)); err != nil {
		return nil, err
	}
	return g.o.Starter.Start(ctx, g.busSpec())
}

// answering is a connection to a bus. A new one takes a few milliseconds until
// it listens.
func (g *Gateway) answering(ctx context.Context, p *process.Process) (*client, error) {
	ctx, cancel := context.WithTimeout(ctx, g.limits.start)
	defer cancel()
	for {
		c, err := g.client(ctx)
		if err == nil {
			return c, nil
		}
		select {
		case <-p.Done():
			return nil, fmt.Errorf("bus ended: %s", process.Tail(g.path(busDir), tailBytes))
		case <-ctx.Done():
			return nil, err
		case <-time.After(time.Millisecond):
		}
	}
}

// config renders ganesha.conf, and mounts the anchors that it names; those
// come before the exports.
func (g *Gateway) config(ctx context.Context, exports []Export) (string, error) {
	is, err := installed(g.o.System)
	if err != nil {
		return "", err
	}
	clients, err := g.onRecord()
	if err != nil {
		return "", err
	}
	text, err := renderServer(server{
		Release:  is,
		StateDir: g.o.StateDir,
		CacheDir: g.path(varDir, "cc"),
		Lease:    g.o.Lease,
		Grace:    g.o.Grace,
		Versions: g.o.Versions,
		NoGrace:  !clients,
	})
	if err != nil {
		return "", err
	}
	var blocks strings.Builder
	identities := map[uint16]uint64{}
	ids, pseudos, used, devices := map[uint16]bool{}, map[string]bool{}, map[device]bool{}, map[uint16]device{}
	for _, e := range exports {
		e, refused := g.able(e)
		for _, r := range refused {
			g.log.Warn("access rule left out", "export", e.ID, "err", r.Err)
		}
		block, err := g.o.Versions.renderExport(e)
		if err == nil {
			err = g.own(e)
		}
		var at inode
		if err == nil {
			at, err = directory(e.Path)
		}
		if err == nil && (ids[e.ID] || pseudos[e.Pseudo]) {
			err = refuse(e.ID, "its id or pseudo path is taken")
		}
		var anchor string
		if err == nil && g.o.Mounts != nil && !used[at.device] {
			anchor, err = g.renderAnchor(at.device, e.Path)
		}
		if err != nil {
			g.log.Warn("export left out", "export", e.ID, "err", err)
			continue
		}
		ids[e.ID], pseudos[e.Pseudo], used[at.device], devices[e.ID] = true, true, true, at.device
		identities[e.ID] = e.FSID
		text += anchor
		blocks.WriteString(block)
	}
	if err := g.dropAnchors(ctx, used); err != nil {
		return "", err
	}
	if err := g.writeMtab(); err != nil {
		return "", err
	}
	g.anchors.devices, g.anchors.served = devices, used
	fresh, err := g.files.Prepare(identities)
	if err != nil {
		return "", err
	}
	if fresh {
		g.log.Info("key of file handles made", "file", g.files.Key)
	}
	return text + blocks.String(), nil
}

// onRecord says whether there may be clients that had something open or locked
// when the last Ganesha ended. It moves what it reads to v4old.
func (g *Gateway) onRecord() (bool, error) {
	for _, dir := range []string{"v4recov", "v4old"} {
		entries, err := os.ReadDir(filepath.Join(g.o.StateDir, dir))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return false, err
		}
		if len(entries) > 0 {
			return true, nil
		}
	}
	return g.nfs3.OnRecord()
}

func (g *Gateway) renderAnchor(d device, path string) (string, error) {
	a, err := g.bindAnchor(d, path)
	if err != nil {
		return "", err
	}
	return g.o.Versions.renderExport(a)
}

// Stop ends all processes and removes RunDir. StateDir stays unless Forget.
// What is not there is done already.
func (g *Gateway) Stop(ctx context.Context, o StopOptions) error {
	if err := g.lock(ctx); err != nil {
		return err
	}
	defer g.unlock()
	if err := g.nfs3.StopStatd(ctx); err != nil {
		return err
	}
	for _, dir := range []string{nfsdDir, busDir} {
		p, err := process.Find(g.path(dir))
		if err != nil {
			return fmt.Errorf("stop %s: %w", dir, err)
		}
		if p == nil {
			continue
		}
		if err := p.Stop(ctx, g.limits.stop); err != nil {
			return fmt.Errorf("stop %s: %w", dir, err)
		}
	}
	if err := g.nfs3.StopRPCBind(ctx); err != nil {
		return err
	}
	g.hangUp()
	g.remember(nil)
	if err := g.dropAnchors(ctx, nil); err != nil {
		return err
	}
	for _, of := range append(g.nfs3.Processes(), "gateway", "bus") {
		if err := g.o.Starter.Forget(g.name(of)); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(g.o.RunDir); err != nil {
		return err
	}
	if !o.Forget {
		return nil
	}
	return os.RemoveAll(g.o.StateDir)
}

// StopOptions of Stop.
type StopOptions struct {
	Forget bool // remove StateDir too: the network is gone for good
}

// The parts of RunDir.
const (
	confDir = "conf"
	sockDir = "sock"
	busDir  = "bus"
	nfsdDir = "nfsd"
	varDir  = "var"
)

func (g *Gateway) path(parts ...string) string {
	return filepath.Join(append([]string{g.o.RunDir}, parts...)...)
}

func (g *Gateway) socket() string { return g.path(sockDir, "bus") }

// directories makes what both processes need.
func (g *Gateway) directories() error {
	// sun_path of unix(7) holds 107 bytes and a NUL.
	if s := g.socket(); len(s) > 107 {
		return fmt.Errorf("%s: longer than a socket's path can be", s)
	}
	dirs := []string{
		g.o.StateDir, g.path(confDir, "exports"), g.path(sockDir), g.path(busDir), g.path(nfsdDir), g.path(varDir, "cc"),
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	return nil
}

// system is what every program of the distribution needs to run.
func system() []string {
	return []string{
		"/usr", "/lib", "/lib64", "/bin", "/sbin",
		"/etc/ld.so.cache", "/etc/localtime", "/etc/nsswitch.conf", "/etc/passwd", "/etc/group",
	}
}

// name of one of the two processes; the run directory has the network's.
func (g *Gateway) name(of string) process.Name {
	return process.Name{Group: "gateways", Own: of + "-" + filepath.Base(g.o.RunDir)}
}

// busSpec is the private bus. It needs no right but to own its socket.
func (g *Gateway) busSpec() process.Spec {
	return process.Spec{
		Dir:   g.path(busDir),
		Path:  "/usr/bin/dbus-daemon",
		Args:  []string{"--config-file=" + g.path(confDir, "bus.conf"), "--nofork", "--nopidfile", "--nosyslog"},
		NetNS: g.o.NetNS,
		Root: &process.Root{
			System:    system(),
			SystemDir: g.o.System,
			ReadOnly:  []string{g.path(confDir)},
			ReadWrite: []string{g.path(sockDir)},
		},
		Caps:    []string{},
		Limits:  process.Limits{Memory: 64 << 20, Tasks: 16, Files: 1024},
		Name:    g.name("bus"),
		OwnPIDs: true, // uid 0 could signal every process of the host otherwise
	}
}

// ganeshaSpec is Ganesha itself. The seven capabilities are those without
// which it ends at the first create, or refuses every open. Its library for
// RADOS URLs, which it always loads where it is installed, would cost 40 MB.
// Two arenas and a fixed threshold keep the heap from growing to the sum of
// all threads' peaks.
func (g *Gateway) ganeshaSpec(epoch uint32) process.Spec {
	mtab := ""
	if g.o.Mounts != nil {
		mtab = g.mtab()
	}
	return process.Spec{
		Dir:  g.path(nfsdDir),
		Path: nfsdPath,
		Args: []string{
			"-F", "-N", "NIV_EVENT",
			"-f", g.path(confDir, "ganesha.conf"),
			"-L", g.logFile(),
			"-p", g.path(varDir, "pid"),
			"-E", strconv.FormatUint(uint64(epoch), 10),
		},
		Env: append([]string{
			"DBUS_SYSTEM_BUS_ADDRESS=" + busAddress(g.socket()),
			"MALLOC_ARENA_MAX=2",
			"MALLOC_MMAP_THRESHOLD_=131072",
			"MALLOC_TRIM_THRESHOLD_=131072",
			"CAUSEWAY_GRACE=" + strconv.FormatInt(int64(g.o.Grace/time.Second), 10), // of preload/grace.c
		}, g.files.Env()...),
		NetNS: g.o.NetNS,
		Root: &process.Root{
			System:    append(system(), "/etc/netconfig"),
			SystemDir: g.o.System,
			ReadOnly:  []string{"/etc/hosts", "/etc/services", g.o.Library, g.path(confDir), g.path(sockDir)},
			ReadWrite: []string{g.path(varDir), g.o.StateDir},
			Slave:     []string{g.o.Exports},
			Mtab:      mtab,
			Hide: []string{
				"/usr/lib/ganesha/libganesha_rados_urls.so",
				"/usr/lib/x86_64-linux-gnu/ganesha/libganesha_rados_urls.so",
				"/usr/lib64/ganesha/libganesha_rados_urls.so",
			},
		},
		Caps:    []string{"chown", "dac_override", "dac_read_search", "fowner", "fsetid", "setgid", "setuid"},
		Limits:  g.o.Limits,
		Name:    g.name("gateway"),
		OwnPIDs: true, // uid 0 could signal every process of the host otherwise
	}
}
