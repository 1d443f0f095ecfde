package integration

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/causeway-project/causeway/integration/lab"
	"github.com/causeway-project/causeway/integration/needs"
	"github.com/causeway-project/causeway/integration/nfs41"
)

// TestMain runs everything inside the namespaces of package lab. Where the
// machine lacks what they need, the tests of a real host skip themselves.
func TestMain(m *testing.M) {
	if lab.Ready() != nil && !needs.OnCI() {
		os.Exit(m.Run())
	}
	os.Exit(lab.Main(m))
}

// A world is the host that all tests of this package share: it is dear to
// make, and no test may leave a trace on it.
type world struct {
	programs *lab.Programs
	libvirt  *lab.Libvirt
	blue     *lab.Bridge
	client   *lab.Client // on blue
	guest    *lab.Guest  // on blue
	pool     *lab.Pool
}

// Addresses on the bridge blue.
const (
	gateway4 = "10.77.0.2"
	gateway6 = "fd77::2"
	guest4   = "10.77.0.5"
	client4  = "10.77.0.9"
	client6  = "fd77::9"
)

// shared makes the world once. It goes with the namespaces.
var shared = sync.OnceValues(newWorld)

func newWorld() (*world, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	w := &world{}
	var err error
	if w.programs, err = lab.Build(ctx, lab.BuildOptions{Race: true}); err != nil {
		return nil, err
	}
	if w.pool, err = lab.NewPool(ctx, 256); err != nil {
		return nil, err
	}
	if w.blue, err = lab.NewBridge(ctx, "br-blue"); err != nil {
		return nil, err
	}
	w.client, err = w.blue.NewClient(ctx, "c-blue", netip.MustParsePrefix(client4+"/24"), netip.MustParsePrefix(client6+"/64"))
	if err != nil {
		return nil, err
	}
	if w.libvirt, err = lab.StartLibvirt(ctx); err != nil {
		return nil, err
	}
	w.guest, err = w.libvirt.Boot(ctx, lab.GuestOptions{
		Name: "vm1", Bridge: w.blue.Name, Ports: 12,
		Addresses: []netip.Prefix{netip.MustParsePrefix(guest4 + "/24"), netip.MustParsePrefix("fd77::5/64")},
	})
	return w, err
}

// theWorld skips the test where there can be none, but never on CI.
func theWorld(t *testing.T) *world {
	t.Helper()
	needs.Met(t, lab.Ready())
	w, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// limited bounds a whole test, so that what hangs is told by name.
func limited(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), limit, errors.New("the test's time is over"))
	t.Cleanup(cancel)
	return ctx
}

// share makes a directory of the pool, with one file, for one test.
func (w *world) share(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(w.pool.Dir, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "hello"), []byte("from "+name+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// dial connects a client in user space from a namespace.
func dial(ctx context.Context, t *testing.T, from *lab.Client, server string) *nfs41.Client {
	t.Helper()
	return dialAs(ctx, t, from, server, t.Name()+" "+from.Name)
}

// dialAs is for several clients in one namespace.
func dialAs(ctx context.Context, t *testing.T, from *lab.Client, server, owner string) *nfs41.Client {
	t.Helper()
	c, err := tryDial(ctx, from, server, owner)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func tryDial(ctx context.Context, from *lab.Client, server, owner string) (*nfs41.Client, error) {
	return nfs41.Dial(ctx, nfs41.Options{
		Address: netip.AddrPortFrom(netip.MustParseAddr(server), 2049).String(), Owner: owner, NetNS: from.NetNS,
	})
}

// closeClient gives up a client's state while its gateway is still there.
func closeClient(ctx context.Context, t *testing.T, c *nfs41.Client) {
	t.Helper()
	if err := c.Close(ctx); err != nil {
		t.Error(err)
	}
}

// listing of a directory by NFS, in one line.
func listing(ctx context.Context, c *nfs41.Client, path string) (string, error) {
	entries, err := c.ReadDir(ctx, path)
	if err != nil {
		return "", err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name)
	}
	slices.Sort(names) // the pseudo root has its own order
	return strings.Join(names, " "), nil
}
