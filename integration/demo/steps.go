package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/causeway-project/causeway/integration/lab"
	"github.com/causeway-project/causeway/integration/nfs41"
)

// The addresses of both tenants: the gateway's, and that of the guest of one
// and the client of the other.
const (
	gateway4, gateway6 = "10.77.0.2", "fd77::2"
	member4, member6   = "10.77.0.5", "fd77::5"
)

func members() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix(member4 + "/24"), netip.MustParsePrefix(member6 + "/64")}
}

// Where the guest has the share.
const (
	overNFS      = "/mnt/nfs"
	overVirtiofs = "/mnt/docs"
)

// greeting goes into a file of the share.
const greeting = "hello from vm1"

// poolSize in MiB. The file is sparse.
const poolSize = 512

// bootLimit is a guest's, under software emulation on a busy machine.
const bootLimit = 2 * time.Minute

// causeway runs a command line, as it is typed, and returns what it printed.
func (d *demo) causeway(ctx context.Context, line string) (stdout string) {
	d.step(ctx, "$ causeway "+line, func(ctx context.Context) error {
		r, err := d.agent.CLI(ctx, strings.Fields(line)...)
		if err == nil && r.Code != 0 {
			err = fmt.Errorf("exit code %d: %s", r.Code, strings.TrimSpace(r.Stderr))
		}
		stdout = r.Stdout
		return err
	})
	return stdout
}

// machine makes what a hypervisor has, and starts the agent.
func (d *demo) machine(ctx context.Context) {
	d.heading("A hypervisor")
	d.step(ctx, "a pool, btrfs on a loop file, with the shares docs and plans", d.makePool)
	var blue, red *lab.Bridge
	d.step(ctx, "bridges of two tenants, blue and red", func(ctx context.Context) (err error) {
		if blue, err = d.bridge(ctx, "br-blue"); err != nil {
			return err
		}
		if red, err = d.bridge(ctx, "br-red"); err != nil {
			return err
		}
		if d.client, err = red.NewClient(ctx, "red", members()...); err != nil {
			return err
		}
		d.atEnd(d.client.Close)
		return nil
	})
	d.step(ctx, "libvirt", func(ctx context.Context) (err error) {
		if d.libvirt, err = lab.StartLibvirt(ctx); err != nil {
			return err
		}
		d.atEnd(func(context.Context) error { return d.libvirt.Close() })
		return nil
	})
	d.stepWithin(ctx, bootLimit, "guest vm1, with a network card on br-blue, boots", func(ctx context.Context) (err error) {
		d.guest, err = d.libvirt.Boot(ctx, lab.GuestOptions{Name: "vm1", Bridge: blue.Name, Addresses: members()})
		if err != nil {
			return err
		}
		d.atEnd(func(context.Context) error { return d.guest.Close() })
		return nil
	})
	d.step(ctx, "causeway-agent", d.startAgent)
}

func (d *demo) makePool(ctx context.Context) (err error) {
	if d.pool, err = lab.NewPool(ctx, poolSize); err != nil {
		return err
	}
	d.atEnd(d.pool.Close)
	for _, share := range []string{"docs", "plans"} {
		if err := os.Mkdir(filepath.Join(d.pool.Dir, share), 0o755); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) bridge(ctx context.Context, name string) (*lab.Bridge, error) {
	b, err := lab.NewBridge(ctx, name)
	if err != nil {
		return nil, err
	}
	d.atEnd(b.Close)
	return b, nil
}

// startAgent starts those programs that 'make build' has built.
func (d *demo) startAgent(ctx context.Context) error {
	root, err := lab.Repo()
	if err != nil {
		return err
	}
	programs := lab.Installed(filepath.Join(root, "bin"))
	for _, p := range []string{programs.Agent, programs.CLI, programs.Launch, programs.Keep} {
		if _, err := os.Stat(p); err != nil {
			return fmt.Errorf("make build brings it: %w", err)
		}
	}
	a, err := lab.NewAgent(lab.AgentOptions{
		Programs: programs,
		Pools:    map[string]string{"default": d.pool.Dir},
		Libvirt:  d.libvirt.URI,
	})
	if err != nil {
		return err
	}
	d.agent, d.log = a, a.LogFile()
	d.atEnd(func(context.Context) error { return a.Close() })
	if err := a.Start(ctx); err != nil {
		return err
	}
	d.before, err = a.HostState(ctx, d.libvirt)
	return err
}

// overNFS publishes a share, and the guest's kernel mounts it and writes.
func (d *demo) overNFS(ctx context.Context) {
	d.heading("A share, by NFS")
	d.causeway(ctx, "network create blue --bridge br-blue --address "+gateway4+"/24 --address "+gateway6+"/64")
	d.causeway(ctx, "export create docs --network blue --source local:docs --allow 10.77.0.0/24=rw,squash=none")
	d.step(ctx, "vm1# mount -t nfs4 -o vers=4.2 "+gateway4+":/docs "+overNFS, func(ctx context.Context) error {
		return d.guest.MountNFS(ctx, lab.NFSMount{Server: gateway4, Path: "/docs", Client: member4, At: overNFS})
	})
	d.step(ctx, "vm1# echo "+greeting+" >"+overNFS+"/hello", func(ctx context.Context) error {
		if _, err := d.guest.Shell(ctx, "grep -q ' "+overNFS+" nfs4 .*vers=4.2,' /proc/mounts"); err != nil {
			return fmt.Errorf("the mount is not NFSv4.2: %w", err)
		}
		_, err := d.guest.Shell(ctx, "echo "+greeting+" >"+overNFS+"/hello")
		return err
	})
}

// overVirtiofs attaches the same share to the running guest.
func (d *demo) overVirtiofs(ctx context.Context) {
	d.heading("The same share, by virtiofs")
	d.causeway(ctx, "attachment create docs-vm1 --instance vm1 --source local:docs --tag docs --force --mount-at "+overVirtiofs)
	d.step(ctx, "vm1# cat "+overVirtiofs+"/hello", func(ctx context.Context) error {
		if _, err := d.guest.Shell(ctx, "grep -q ' "+overVirtiofs+" virtiofs ' /proc/mounts"); err != nil {
			return fmt.Errorf("the mount is not virtiofs: %w", err)
		}
		text, err := d.guest.Exec(ctx, "cat", overVirtiofs+"/hello")
		if err == nil && text != greeting+"\n" {
			err = fmt.Errorf("vm1 reads %q, and wrote %q", text, greeting)
		}
		return err
	})
	d.note("%s", greeting)
}

// silence is how long the other tenant's client waits for an answer of a
// gateway that must not answer; blue's answers in less than a millisecond.
const silence = 300 * time.Millisecond

// otherTenant has the same addresses on another bridge, and must see nothing.
func (d *demo) otherTenant(ctx context.Context) {
	d.heading("Another tenant, with the same addresses")
	d.causeway(ctx, "network create red --bridge br-red --address "+gateway4+"/24 --address "+gateway6+"/64")
	d.step(ctx, "before red has an export, nobody answers "+gateway4+" or "+gateway6, d.nobodyAnswers)
	d.causeway(ctx, "export create plans --network red --source local:plans --allow 10.77.0.0/24=rw --allow fd77::/64=rw")
	d.step(ctx, "red's client, by IPv4 and IPv6, sees plans and finds no docs", func(ctx context.Context) error {
		return errors.Join(d.seesOnlyPlans(ctx, gateway4), d.seesOnlyPlans(ctx, gateway6))
	})
}

func (d *demo) nobodyAnswers(ctx context.Context) error {
	for _, address := range []string{gateway4, gateway6} {
		ctx, cancel := context.WithTimeout(ctx, silence)
		c, err := d.dial(ctx, address)
		cancel()
		if err == nil {
			c.Abandon()
			return fmt.Errorf("a server answers at %s", address)
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
	}
	return nil
}

func (d *demo) dial(ctx context.Context, address string) (*nfs41.Client, error) {
	return nfs41.Dial(ctx, nfs41.Options{
		Address: net.JoinHostPort(address, "2049"), Owner: "red-" + address, NetNS: d.client.NetNS,
	})
}

func (d *demo) seesOnlyPlans(ctx context.Context, address string) (err error) {
	c, err := d.dial(ctx, address)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close(ctx)) }()
	entries, err := c.ReadDir(ctx, "/")
	if err != nil {
		return err
	}
	if len(entries) != 1 || entries[0].Name != "plans" {
		return fmt.Errorf("red's gateway lists %v, want plans only", entries)
	}
	if _, err := c.ReadDir(ctx, "/plans"); err != nil {
		return err
	}
	if _, err := c.Stat(ctx, "/docs"); !errors.Is(err, nfs41.NOENT) {
		return fmt.Errorf("red's client asks for blue's /docs, and the answer is %v, want %v", err, nfs41.NOENT)
	}
	return nil
}

// removal deletes everything again.
func (d *demo) removal(ctx context.Context) {
	d.heading("Everything is removed")
	d.causeway(ctx, "attachment delete docs-vm1")
	d.step(ctx, "vm1# umount "+overNFS, func(ctx context.Context) error {
		return d.guest.Unmount(ctx, overNFS)
	})
	d.causeway(ctx, "export delete docs")
	d.causeway(ctx, "export delete plans")
	d.causeway(ctx, "network delete blue")
	d.causeway(ctx, "network delete red")
	d.step(ctx, "the agent stops, and the host is as before", func(ctx context.Context) error {
		if err := d.nothingLeft(ctx); err != nil {
			return err
		}
		if err := d.agent.Stop(); err != nil {
			return err
		}
		return d.nothingLeft(ctx)
	})
}

// nothingLeft fails if the host has what it had not before the first command.
func (d *demo) nothingLeft(ctx context.Context) error {
	now, err := d.agent.HostState(ctx, d.libvirt)
	if err != nil {
		return err
	}
	if diff := now.Diff(d.before); diff != "" {
		return fmt.Errorf("the host has changed:\n%s", diff)
	}
	return nil
}
