package integration

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/integration/lab"
)

// together does n things at once, all of which must succeed, and returns how
// long they took.
func together(t *testing.T, n int, do func(i int) error) time.Duration {
	t.Helper()
	begin := time.Now()
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			if err := do(i); err != nil {
				t.Errorf("%d: %v", i, err)
			}
		})
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return time.Since(begin)
}

// TestFiftyAtOnce makes 40 exports in two networks and 10 attachments of the
// same ten shares at once, and removes them at once.
func TestFiftyAtOnce(t *testing.T) {
	const exports, attachments, shares = 40, 10, 10
	w, ctx := theWorld(t), limited(t, 6*time.Minute)
	red := w.bridge(ctx, t, "br-red")
	redClient := red.plug(ctx, t, "c-red", client4+"/24")
	share := func(i int) string { return fmt.Sprintf("share-%d", i%shares) }
	for i := range shares {
		w.share(t, share(i))
	}
	n := w.started(ctx, t, lab.AgentOptions{})
	network := func(i int) string { return []string{"blue", "red"}[i/shares%2] }
	together(t, 2, func(i int) error {
		name := []string{"blue", "red"}[i]
		_, err := n.networks.Put(ctx, &nodev1.PutNetworkRequest{Network: bridged(name, "br-"+name, gateway4+"/24")})
		return err
	})
	export := func(i int) *nodev1.Export {
		e := exported(fmt.Sprintf("export-%d", i), share(i))
		e.Network = network(i)
		e.ReadOnly = i%4 == 3 // a mount of its own
		return e
	}
	attachment := func(i int) *nodev1.Attachment {
		a := attached(fmt.Sprintf("attachment-%d", i), share(i))
		a.MountAt = fmt.Sprintf("/mnt/%d", i)
		a.ReadOnly = i%5 == 4
		return a
	}
	// Each twice, as a caller repeats what it got no answer to.
	took := together(t, 2*(exports+attachments), func(i int) error {
		if i /= 2; i < exports {
			_, err := n.exports.Put(ctx, &nodev1.PutExportRequest{Export: export(i)})
			return err
		} else {
			_, err := n.attachments.Attach(ctx, &nodev1.AttachRequest{Attachment: attachment(i - exports), Force: true})
			return err
		}
	})
	t.Logf("made after %s", took.Round(time.Millisecond))
	settled := n.state(ctx)
	clients := map[string]*lab.Client{"blue": n.client, "red": redClient}
	for name, from := range clients {
		c := dial(ctx, t, from, gateway4)
		got, err := listing(ctx, c, "/")
		n.must(err)
		if names := strings.Fields(got); len(names) != exports/2 {
			t.Errorf("the gateway of %s shows %d exports: %s", name, len(names), got)
		}
		for i := range exports {
			if network(i) != name {
				continue
			}
			path := export(i).GetId() + "/hello"
			if data, err := c.ReadFile(ctx, path); err != nil || string(data) != "from "+share(i)+"\n" {
				t.Errorf("%s: %s reads %q, %v", name, path, data, err)
			}
		}
		closeClient(ctx, t, c)
	}
	for i, text := range strings.Split(n.in(ctx, "for i in 0 1 2 3 4 5 6 7 8 9; do cat /mnt/$i/hello; done"), "\n") {
		if text != "from "+share(i) {
			t.Errorf("attachment %d reads %q", i, text)
		}
	}
	// An agent that comes to this leaves it alone.
	n.kill()
	n.start(ctx)
	n.unchanged(ctx, settled)

	took = together(t, exports+attachments, func(i int) error {
		if i < exports {
			_, err := n.exports.Delete(ctx, &nodev1.DeleteExportRequest{Id: export(i).GetId()})
			return err
		}
		_, err := n.attachments.Detach(ctx, &nodev1.DetachRequest{Id: attachment(i - exports).GetId()})
		return err
	})
	t.Logf("removed after %s", took.Round(time.Millisecond))
	n.deleteNetwork(ctx, "blue")
	n.deleteNetwork(ctx, "red")
	n.finish(ctx)
}

// A tenantBridge is another bridge, for one test.
type tenantBridge struct{ *lab.Bridge }

func (w *world) bridge(ctx context.Context, t *testing.T, name string) tenantBridge {
	t.Helper()
	b, err := lab.NewBridge(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
	})
	return tenantBridge{b}
}

// plug a client into the bridge, for one test.
func (b tenantBridge) plug(ctx context.Context, t *testing.T, name string, addresses ...string) *lab.Client {
	t.Helper()
	var prefixes []netip.Prefix
	for _, a := range addresses {
		prefixes = append(prefixes, netip.MustParsePrefix(a))
	}
	c, err := b.NewClient(ctx, name, prefixes...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
	})
	return c
}
