package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/causeway-project/causeway/agent"
	"github.com/causeway-project/causeway/agent/engine"
	"github.com/causeway-project/causeway/agent/gateway"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/agent/preflight"
	"github.com/causeway-project/causeway/drivers"
	"github.com/causeway-project/causeway/drivers/local"
	"github.com/causeway-project/causeway/drivers/mounts"
	"github.com/causeway-project/causeway/ganesha"
	"github.com/causeway-project/causeway/netns"
	"github.com/causeway-project/causeway/virtiofs"
	"github.com/causeway-project/causeway/virtiofs/hook"
	"github.com/causeway-project/causeway/virtiofs/virtiofsd"
)

// build makes the core out of the concrete parts that the configuration names.
func build(cfg config, log *slog.Logger) (core, error) {
	sup := newSupervisor(cfg.Supervisor, log)
	starter := sup.starter(cfg.Launcher)
	pool, err := local.New(local.Options{Pools: cfg.Local.Pools, Logger: log})
	if err != nil {
		return nil, err
	}
	registry, err := drivers.NewRegistry(pool)
	if err != nil {
		return nil, err
	}
	hostname, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	n := &node{log: log, networks: netns.New(netns.Options{Logger: log, VSCtl: cfg.OVS.Command, OVSDB: cfg.OVS.Database}), supervisor: sup}
	daemons := &virtiofsd.Daemons{Starter: starter, Keeper: cfg.Keeper, Limits: cfg.Virtiofsd.Limits.limits(), Logger: log}
	vd := virtiofsDaemons{d: daemons, systemd: sup.units != nil}
	o := agent.Options{
		Options: engine.Options{
			StateDir:   cfg.StateDir,
			RunDir:     cfg.RunDir,
			Drivers:    registry,
			Mounts:     mountTable{},
			Namespaces: n.networks,
			Daemons:    vd,
			Settings:   cfg.Virtiofsd.settings(),
			Instances:  noLibvirt{},
			Servers: func(p gateway.Place) parts.Server {
				return ganesha.New(ganesha.Options{
					RunDir: p.RunDir, StateDir: p.StateDir, Exports: p.Exports, NetNS: p.NetNS, Settings: p.Settings, Versions: p.Versions,
					Library: cfg.library(),
					Lease:   time.Duration(cfg.Gateway.Lease), Grace: time.Duration(cfg.Gateway.Grace),
					Limits: cfg.Gateway.Limits.limits(), Mounts: mountTable{}, Starter: starter, Logger: log.With("network", p.Network),
				})
			},
			Resync:      time.Duration(cfg.Resync),
			CallTimeout: time.Duration(cfg.CallTimeout),
			Logger:      log,
		},
		CheckVersions: canServe,
		Checks:        hostChecks(cfg, vd),
		Subsystems:    n.subsystems,
		Hostname:      hostname,
		Version:       version(),
	}
	if cfg.Libvirt.Enabled {
		n.libvirt = virtiofs.New(virtiofs.Options{URI: cfg.Libvirt.URI, Logger: log, Changed: func(e virtiofs.Event) {
			n.Agent.InstanceChanged(parts.InstanceEvent{UUID: e.Instance, Rebooted: e.Rebooted})
		}, Strays: func(count int) { n.Agent.StraysTaken(count) }})
		o.Instances = instances{h: n.libvirt}
		o.Checks = append(o.Checks, n.checkLibvirt, checkHook, confinement{host: n.libvirt, runDir: cfg.RunDir, root: "/"}.check)
	}
	if n.Agent, err = agent.New(o); err != nil {
		return nil, err
	}
	return n, nil
}

// A node is the agent and what tells it to look again.
type node struct {
	*agent.Agent
	log        *slog.Logger
	networks   *netns.Host
	supervisor *supervisor
	libvirt    *virtiofs.Host // nil when switched off
}

// settleChanges gathers a burst of kernel events into one look.
const settleChanges = 200 * time.Millisecond

// Run until ctx ends.
func (n *node) Run(ctx context.Context) error {
	defer n.supervisor.close()
	g, ctx := errgroup.WithContext(ctx)
	if n.libvirt != nil {
		g.Go(func() error { return n.libvirt.Run(ctx) })
		// The first look at the attachments wants libvirt's answer, and does
		// not wait long for a libvirtd that is away.
		for deadline := time.Now().Add(connectPatience); n.libvirt.Connected() != nil && time.Now().Before(deadline); {
			if !wait(ctx, 5*time.Millisecond) {
				break
			}
		}
	}
	g.Go(func() error { return n.Agent.Run(ctx) })
	g.Go(func() error { return n.watch(ctx, "networks", n.networks.Watch, n.NetworksChanged) })
	g.Go(func() error { return n.watch(ctx, "mounts", mounts.Watch, n.MountsChanged) })
	return g.Wait()
}

// connectPatience bounds the wait for libvirt at start.
const connectPatience = 2 * time.Second

// watch calls look after each burst of changes. A kernel that cannot be
// watched is looked at by the resync alone.
func (n *node) watch(ctx context.Context, what string, watch func(context.Context, func()) error, look func()) error {
	changed := make(chan struct{}, 1)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		for ctx.Err() == nil {
			err := watch(ctx, func() {
				select {
				case changed <- struct{}{}:
				default:
				}
			})
			if err != nil && ctx.Err() == nil {
				n.log.Warn("changes cannot be watched and are found by the resync, trying again", "what", what, "err", err)
				wait(ctx, 10*time.Second)
			}
		}
		return nil
	})
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-changed:
			}
			if !wait(ctx, settleChanges) {
				return nil
			}
			select {
			case <-changed:
			default:
			}
			look()
		}
	})
	return g.Wait()
}

func (n *node) subsystems() []model.Subsystem {
	all := []model.Subsystem{n.supervisor.subsystem(), nfs3Subsystem()}
	if n.libvirt == nil {
		return all
	}
	s := model.Subsystem{Name: "libvirt", Verdict: model.Pass}
	if err := n.libvirt.Connected(); err != nil {
		s.Verdict = model.Warn
		s.Message = "gateways work, attachments wait: " + err.Error()
	}
	return append(all, s)
}

// nfs3Subsystem passes without NFSv3 too: no network has it that has not asked.
func nfs3Subsystem() model.Subsystem {
	s := model.Subsystem{Name: "nfsv3", Verdict: model.Pass}
	if err := canServe(ganesha.Versions{ganesha.NFS3}); err != nil {
		s.Message = "networks that ask for it are refused: " + err.Error()
	}
	return s
}

func checkNFS3(context.Context) model.Check {
	if err := canServe(ganesha.Versions{ganesha.NFS3}); err != nil {
		return model.Check{Name: "nfsv3", Verdict: model.Warn, Message: err.Error(), Fix: "apt-get install rpcbind nfs-common, where networks are to have NFSv3"}
	}
	return model.Check{Name: "nfsv3", Verdict: model.Pass, Message: "networks may ask for it"}
}

// canServe says whether the host has what versions of NFS need.
func canServe(v ganesha.Versions) error { return v.Check("") }

func (n *node) checkLibvirt(context.Context) model.Check {
	if err := n.libvirt.Connected(); err != nil {
		return model.Check{Name: "libvirt", Verdict: model.Fail, Message: err.Error(), Fix: "systemctl start libvirtd, or set libvirt.enabled to false"}
	}
	return model.Check{Name: "libvirt", Verdict: model.Pass, Message: "connected"}
}

// checkHook warns only: without the hook attachments are live alone.
func checkHook(context.Context) model.Check {
	check := model.Check{Name: "libvirt-hook", Verdict: model.Warn}
	switch state, err := (hook.Place{}).State(); {
	case err != nil:
		check.Message, check.Fix = err.Error(), "ls -l "+hook.Program
	case state == hook.Missing:
		check.Message = "shares are plugged in anew after each start of an instance, since libvirt does not tell of it before; over its restart running instances go on"
		check.Fix = "mkdir -p " + filepath.Dir(hook.Program) + " && ln -s /usr/share/causeway/libvirt-hook " + hook.Program + " && systemctl restart libvirtd"
	case state == hook.Unread:
		check.Message = "libvirt was started before its hook was installed, and may not run it; over its restart running instances go on"
		check.Fix = "systemctl restart libvirtd"
	default:
		check.Verdict, check.Message = model.Pass, hook.Program+" tells of instances that are about to start"
	}
	return check
}

// hostChecks are those of the programs and directories that the agent uses.
func hostChecks(cfg config, daemons virtiofsDaemons) []func(context.Context) model.Check {
	program := func(name, path, fix string) func(context.Context) model.Check {
		return func(context.Context) model.Check {
			if _, err := os.Stat(path); err != nil {
				return model.Check{Name: name, Verdict: model.Fail, Message: err.Error(), Fix: fix}
			}
			return model.Check{Name: name, Verdict: model.Pass, Message: path}
		}
	}
	checks := []func(context.Context) model.Check{
		func(context.Context) model.Check {
			if os.Geteuid() != 0 {
				return model.Check{Name: "root", Verdict: model.Fail, Message: "the agent mounts and makes namespaces", Fix: "run it as root, under its systemd unit"}
			}
			return model.Check{Name: "root", Verdict: model.Pass, Message: "runs as root"}
		},
		program("launcher", cfg.Launcher, "install causeway-launch, or set launcher in the configuration"),
		program("keeper", cfg.Keeper, "install causeway-keeper beside causeway-launch, or set keeper in the configuration"),
		program("library", cfg.library(), "install "+ganesha.Library+" beside causeway-launch"),
		program("ganesha", "/usr/bin/ganesha.nfsd", "apt-get install nfs-ganesha nfs-ganesha-vfs"),
		program("dbus", "/usr/bin/dbus-daemon", "apt-get install dbus-daemon"),
		checkNFS3,
		checkNeighbours,
		func(ctx context.Context) model.Check {
			p, err := daemons.Program(ctx)
			if err != nil {
				return model.Check{Name: "virtiofsd", Verdict: model.Fail, Message: err.Error(), Fix: "apt-get install qemu-system-common, or virtiofsd where there is such a package"}
			}
			return model.Check{Name: "virtiofsd", Verdict: model.Pass, Message: fmt.Sprintf("%s: flavour %s, version %s", p.Path, p.Flavour, p.Version)}
		},
		func(ctx context.Context) model.Check {
			p, err := daemons.Program(ctx)
			if err != nil {
				return model.Check{Name: "open-files", Verdict: model.Warn, Message: err.Error()}
			}
			return preflight.OpenFiles(p).Check
		},
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Local.Pools)) {
		dir := cfg.Local.Pools[name]
		checks = append(checks, func(context.Context) model.Check {
			check := model.Check{Name: "pool " + name, Verdict: model.Pass, Message: dir}
			if st, err := os.Stat(dir); err != nil || !st.IsDir() {
				check.Verdict, check.Message, check.Fix = model.Fail, fmt.Sprintf("%s is not a directory", dir), "mkdir -p "+dir+", or mount the pool there"
			}
			return check
		})
	}
	return checks
}

// enoughNeighbours lets 16 networks of a /22 come to know all their machines.
const enoughNeighbours = 16384

func checkNeighbours(context.Context) model.Check {
	check := model.Check{Name: "neighbours", Verdict: model.Pass, Message: fmt.Sprintf("the host's table has room for %d", netns.NeighbourTable())}
	if netns.NeighbourTable() < enoughNeighbours {
		check.Verdict = model.Warn
		check.Message += ", which hostile networks could fill for everybody"
		check.Fix = "sysctl -w net.ipv4.neigh.default.gc_thresh3=65536 net.ipv6.neigh.default.gc_thresh3=65536, then restart the agent"
	}
	return check
}
