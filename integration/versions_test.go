package integration

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-project/causeway/agent/process"
	"github.com/causeway-project/causeway/integration/lab"
	"github.com/causeway-project/causeway/integration/nfsv3"
	"github.com/causeway-project/causeway/integration/wait"
)

// v3 is an NFSv3 client in a namespace.
func v3(t *testing.T, from *lab.Client, name string) *nfsv3.Client {
	c := nfsv3.New(nfsv3.Options{Server: netip.MustParseAddr(gateway4), NetNS: from.NetNS, Name: name})
	t.Cleanup(c.Close)
	return c
}

// v3File mounts and opens as a client does that has lost its connections.
func v3File(ctx context.Context, c *nfsv3.Client, path, name string) (nfsv3.Handle, error) {
	c.Close()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	root, err := c.Mount(ctx, path)
	if err != nil {
		return nil, err
	}
	return c.Create(ctx, root, name)
}

// asks says whether rpcbind answers a datagram.
func asks(ctx context.Context, t *testing.T, c *nfsv3.Client, procedure uint32, arguments ...uint32) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	answered, err := c.Ask(ctx, nfsv3.Procedure{Program: nfsv3.RPCBind, Version: 2, Number: procedure}, arguments...)
	if err != nil {
		t.Error(err)
	}
	return answered
}

// TestOlderVersions gives NFSv3 and 4.0 to a network that has a client, kills
// everything that serves them, and takes them away again.
func TestOlderVersions(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 6*time.Minute)
	dir := w.share(t, "docs")
	n := w.started(ctx, t, quick)
	n.putNetwork(ctx, blueNetwork())
	n.putExport(ctx, exported("docs", "docs"))
	c := dial(ctx, t, n.client, gateway4)
	s := scribble(ctx, t, c, "/docs/scribe")
	s.more(ctx, 5)

	// By default there is nothing of it.
	old := v3(t, n.client, "old")
	if _, err := old.Call(ctx, nfsv3.Procedure{Program: nfsv3.NFS, Version: 3}, nil); !errors.Is(err, nfsv3.ErrRefused) {
		t.Errorf("NFSv3 by default: %v", err)
	}
	short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	if _, err := old.Mount(short, "/docs"); !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("rpcbind by default: %v, want silence", err)
	}
	cancel()

	network := blueNetwork()
	network.NfsVersions = []string{"3", "4.0", "4.1", "4.2"}
	if got := n.updateNetwork(ctx, network); !cmp.Equal(got.GetNfsVersions(), network.NfsVersions) {
		t.Errorf("versions are %v", got.GetNfsVersions())
	}
	s.more(ctx, 5)
	f, err := v3File(ctx, old, "/docs", "by-v3")
	if err != nil {
		t.Fatal(err)
	}
	if err := old.Write(ctx, f, 0, []byte("three")); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "by-v3")); err != nil || string(b) != "three" {
		t.Errorf("the file holds %q, %v", b, err)
	}
	if _, err := old.Mount(ctx, "/other"); !errors.Is(err, nfsv3.ACCES) {
		t.Errorf("mount of what is not there: %v", err)
	}

	// Over UDP rpcbind answers look-ups, and neither lists, forwards, nor
	// registers; over TCP it registers nothing either.
	until(ctx, t, "no answer to a look-up", func() (bool, error) { return asks(ctx, t, old, 3, nfsv3.Mount, 3, 6, 0), nil })
	for name, procedure := range map[string]uint32{"list": 4, "forwarded call": 5, "registration": 1, "its end": 2, "null": 0} {
		if asks(ctx, t, old, procedure, 400000, 1, 6, 22) {
			t.Errorf("rpcbind answers to a %s over UDP", name)
		}
	}
	for _, procedure := range []uint32{1, 2} {
		if _, err := old.Call(ctx, nfsv3.Procedure{Program: nfsv3.RPCBind, Version: 2, Number: procedure}, []byte{0, 1, 0x86, 0xa3, 0, 0, 0, 3, 0, 0, 0, 6, 0, 0, 0, 22}); err == nil {
			t.Errorf("rpcbind took procedure %d from a tenant", procedure)
		}
	}
	if port, err := old.Port(ctx, nfsv3.NFS, 3); err != nil || port != 2049 {
		t.Errorf("NFS is at %d, %v", port, err)
	}

	// Whatever ends comes again, and the lock is held all the while.
	mine := nfsv3.Lock{File: f, Process: 1}
	locked := func(reclaim bool) {
		t.Helper()
		mine.Reclaim = reclaim
		until(ctx, t, "it is not locked", func() (bool, error) {
			f, err := v3File(ctx, old, "/docs", "by-v3")
			if err != nil {
				return false, err
			}
			mine.File = f
			got, err := old.Lock(ctx, mine)
			if err == nil && got != nfsv3.Granted {
				err = errors.New("not granted")
			}
			return err == nil, err
		})
	}
	locked(false)
	settled := n.state(ctx)
	for _, name := range []string{"rpcbind", "rpc.statd", "dbus-daemon", "ganesha.nfsd"} {
		before := n.gateway(ctx, "blue").GetPid()
		n.must(syscall.Kill(n.parts()[name], syscall.SIGKILL))
		n.settles(ctx, settled)
		until(ctx, t, name+" did not come again", func() (bool, error) {
			c := v3(t, n.client, "other")
			defer c.Close()
			ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			f, err := v3File(ctx, c, "/docs", "by-v3")
			if err != nil {
				return false, err
			}
			switch got, err := c.Lock(ctx, nfsv3.Lock{File: f, Process: 1}); {
			case err != nil:
				return false, err
			case got == nfsv3.Granted:
				t.Errorf("after the end of %s another has the lock", name)
				return true, nil
			case name == "rpcbind" || name == "rpc.statd":
				return got == nfsv3.Denied, nil
			}
			return true, nil
		})
		alone := name == "rpcbind" || name == "rpc.statd"
		if !alone { // it notices a moment later
			until(ctx, t, "another Ganesha after the end of "+name, func() (bool, error) {
				after := n.gateway(ctx, "blue").GetPid()
				return after != before && after != 0, nil
			})
			n.settles(ctx, settled)
		} else if after := n.gateway(ctx, "blue").GetPid(); after != before {
			t.Errorf("Ganesha was %d before the end of %s, and is %d", before, name, after)
		}
		locked(!alone)
		s.more(ctx, 2)
	}

	// The agent's successor adopts all of them.
	before := n.parts()
	n.kill()
	n.start(ctx)
	n.settles(ctx, settled)
	if d := cmp.Diff(before, n.parts()); d != "" {
		t.Errorf("after a restart of the agent, -before +after:\n%s", d)
	}

	n.updateNetwork(ctx, blueNetwork())
	s.more(ctx, 2)
	old.Close()
	if _, err := old.Call(ctx, nfsv3.Procedure{Program: nfsv3.NFS, Version: 3}, nil); !errors.Is(err, nfsv3.ErrRefused) {
		t.Errorf("NFSv3 when it is taken away: %v", err)
	}
	for name := range n.parts() {
		if name == "rpcbind" || name == "rpc.statd" {
			t.Errorf("%s runs still", name)
		}
	}
	s.finish(ctx, filepath.Join(dir, "scribe"))
	closeClient(ctx, t, c)
	n.deleteExport(ctx, "docs")
	n.deleteNetwork(ctx, "blue")
	n.finish(ctx)
}

// TestOlderVersionsOfTheKernel is the same for a guest's kernel: NFSv3 with
// locks, which it takes again when the gateway was started anew, and NFSv4.0.
func TestOlderVersionsOfTheKernel(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 6*time.Minute)
	dir := w.share(t, "docs")
	n := w.started(ctx, t, quick)
	network := blueNetwork()
	network.NfsVersions = []string{"3", "4.0"}
	n.putNetwork(ctx, network)
	n.putExport(ctx, exported("docs", "docs"))

	n.in(ctx, "rpcbind && rpc.statd -L")
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), wait.Long)
		defer cancel()
		if _, err := n.guest.Shell(ctx, "killall rpc.statd rpcbind"); err != nil {
			t.Error(err)
		}
	})
	mount := lab.NFSMount{Server: gateway4, Path: "/docs", Client: guest4, At: "/mnt/three", Version: "3"}
	n.must(n.guest.MountNFS(ctx, mount))
	if got := n.in(ctx, "cat /mnt/three/hello; grep /mnt/three /proc/mounts | grep -c vers=3"); got != "from docs\n1" {
		t.Errorf("the guest reads %q", got)
	}
	n.in(ctx, "echo kernel >/mnt/three/by-kernel && sync")
	if b, err := os.ReadFile(filepath.Join(dir, "by-kernel")); err != nil || string(b) != "kernel\n" {
		t.Errorf("the file holds %q, %v", b, err)
	}

	// Another client does not get the lock that the writer in the guest holds.
	writer, err := n.guest.StartWriter(ctx, "/mnt/three/by-kernel", 20*time.Millisecond)
	n.must(err)
	other := v3(t, n.client, "other")
	asked := func(want nfsv3.LockStatus) {
		t.Helper()
		until(ctx, t, "the lock is another's", func() (bool, error) {
			f, err := v3File(ctx, other, "/docs", "by-kernel")
			if err != nil {
				return false, err
			}
			got, err := other.Lock(ctx, nfsv3.Lock{File: f, Process: 1})
			if got == nfsv3.Granted && err == nil {
				if want == nfsv3.Denied {
					t.Fatal("another client has it")
				}
				_, err = other.Unlock(ctx, nfsv3.Lock{File: f, Process: 1})
			}
			return got == want && err == nil, err
		})
	}
	asked(nfsv3.Denied)
	n.killGateway(ctx)
	asked(nfsv3.Denied) // after grace, in which the guest asked for it again
	p, err := writer.Stop(ctx)
	n.must(err)
	t.Logf("in the guest: %+v", p)
	asked(nfsv3.Granted)

	n.must(n.guest.Unmount(ctx, mount.At))
	mount.At, mount.Version = "/mnt/four", "4.0"
	n.must(n.guest.MountNFS(ctx, mount))
	n.in(ctx, "echo kernel >/mnt/four/by-kernel; grep /mnt/four /proc/mounts | grep vers=4.0 && echo more >>/mnt/four/by-kernel && sync")
	n.killGateway(ctx)
	if got := n.in(ctx, "echo again >>/mnt/four/by-kernel && cat /mnt/four/by-kernel"); got != "kernel\nmore\nagain" {
		t.Errorf("the guest reads %q", got)
	}
	n.must(n.guest.Unmount(ctx, mount.At))
	n.deleteExport(ctx, "docs")
	n.deleteNetwork(ctx, "blue")
	n.finish(ctx)
}

// parts are the processes of the gateway on blue, by the names of their
// programs.
func (n *node) parts() map[string]int {
	n.t.Helper()
	pids := map[string]int{}
	for _, dir := range []string{"bus", "nfsd", "rpcbind", "statd"} {
		p, err := process.Find(filepath.Join(n.RunDir, "gateways/blue", dir))
		n.must(err)
		if p != nil {
			pids[programOf(p.Identity().PID)] = p.Identity().PID
		}
	}
	return pids
}
