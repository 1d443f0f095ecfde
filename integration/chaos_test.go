package integration

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/integration/lab"
	"github.com/causeway-project/causeway/integration/nfs41"
	"github.com/causeway-project/causeway/integration/wait"
)

// A thing that the chaos puts and deletes. Each has one goroutine that does so.
type thing struct {
	network    *nodev1.Network
	export     *nodev1.Export
	attachment *nodev1.Attachment
	wanted     bool // as the last call said, whatever its answer
}

func (x *thing) call(ctx context.Context, n *node) error {
	var err error
	switch {
	case x.network != nil && x.wanted:
		_, err = n.networks.Put(ctx, &nodev1.PutNetworkRequest{Network: x.network})
		if r, _, _ := refusalOf(err); r.reason == "other_settings" {
			_, err = n.networks.Update(ctx, &nodev1.UpdateNetworkRequest{Network: x.network})
		}
	case x.network != nil:
		_, err = n.networks.Delete(ctx, &nodev1.DeleteNetworkRequest{Id: x.network.GetId()})
	case x.export != nil && x.wanted:
		_, err = n.exports.Put(ctx, &nodev1.PutExportRequest{Export: x.export})
	case x.export != nil:
		_, err = n.exports.Delete(ctx, &nodev1.DeleteExportRequest{Id: x.export.GetId()})
	case x.wanted:
		_, err = n.attachments.Attach(ctx, &nodev1.AttachRequest{Attachment: x.attachment, Force: true})
	default:
		_, err = n.attachments.Detach(ctx, &nodev1.DetachRequest{Id: x.attachment.GetId()})
	}
	return err
}

func (x *thing) String() string {
	return fmt.Sprintf("%s%s%s wanted=%v", x.network.GetId(), x.export.GetId(), x.attachment.GetId(), x.wanted)
}

// A chaos is one random run.
type chaos struct {
	*node
	red    *lab.Client
	things [][]*thing // by goroutine; networks are the first's
}

// The rules that exports change between; the first lets nobody write.
var chaosLevels = []nodev1.Level{nodev1.Level_LEVEL_RO, nodev1.Level_LEVEL_RW}

func chaosNetwork(id string) *nodev1.Network {
	return bridged(id, "br-"+id, gateway4+"/24", gateway6+"/64")
}

func newChaos(n *node, red *lab.Client) *chaos {
	c := &chaos{node: n, red: red}
	c.things = append(c.things, []*thing{{network: chaosNetwork("blue")}, {network: chaosNetwork("red")}})
	for i := range 3 {
		var mine []*thing
		for j, network := range []string{"blue", "red"} {
			e := exported(fmt.Sprintf("e%d%d", i, j), fmt.Sprintf("chaos%d", i+j))
			e.Network = network
			mine = append(mine, &thing{export: e})
		}
		a := attached(fmt.Sprintf("a%d", i), fmt.Sprintf("chaos%d", i))
		a.ReadOnly = i == 2
		if i != 1 {
			a.MountAt = "/mnt/" + a.GetId()
		}
		c.things = append(c.things, append(mine, &thing{attachment: a}))
	}
	return c
}

// TestChaos calls verbs at random while everything that can break is broken at
// random. Afterwards the same calls have to lead to the same host as without.
//
// CAUSEWAY_CHAOS_SEED repeats a run's choices, though not their timing;
// CAUSEWAY_CHAOS_SECONDS is how long it breaks things, and with
// CAUSEWAY_CHAOS_GUESTS it kills virtiofsd and guests too.
func TestChaos(t *testing.T) {
	seed := fromEnv(t, "CAUSEWAY_CHAOS_SEED", 4)
	length := time.Duration(fromEnv(t, "CAUSEWAY_CHAOS_SECONDS", 20)) * time.Second
	t.Logf("CAUSEWAY_CHAOS_SEED=%d CAUSEWAY_CHAOS_SECONDS=%v", seed, length.Seconds())
	w, ctx := theWorld(t), limited(t, length+6*time.Minute)
	for i := range 4 {
		w.share(t, fmt.Sprintf("chaos%d", i))
	}
	red, err := lab.NewBridge(ctx, "br-red")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = red.Close(context.WithoutCancel(ctx)) })
	client, err := red.NewClient(ctx, "c-red", netip.MustParsePrefix(client4+"/24"), netip.MustParsePrefix(client6+"/64"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close(context.WithoutCancel(ctx)) })

	o := quick
	o.Resync = 20 * time.Second
	n := w.started(ctx, t, o)
	n.must(cable(ctx, n))
	t.Cleanup(func() { n.must(cut(context.WithoutCancel(ctx), n)) })
	c := newChaos(n, client)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("what went wrong last:\n%s", c.complaints(context.WithoutCancel(ctx)))
		}
	})
	c.run(ctx, uint64(seed), length)
	c.converge(ctx)
	got := n.state(ctx)
	c.check(ctx)
	firewalls := c.firewalls(ctx)
	c.leaks(ctx)

	// The host without chaos.
	c.removeAll(ctx)
	n.settles(ctx, n.before)
	c.restore(ctx)
	n.settles(ctx, got)
	if diff := cmp.Diff(c.firewalls(ctx), firewalls); diff != "" {
		t.Errorf("firewalls (-without chaos +after it):\n%s", diff)
	}
	c.removeAll(ctx)
	n.finish(ctx)
}

func fromEnv(t *testing.T, name string, otherwise int) int {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	v, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// run breaks things for a while.
func (c *chaos) run(ctx context.Context, seed uint64, length time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	var wg sync.WaitGroup
	answers := make([]map[string]int, len(c.things))
	for i, mine := range c.things {
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		answers[i] = map[string]int{}
		wg.Go(func() {
			for ctx.Err() == nil {
				err := c.verb(ctx, random, mine)
				r, _, _ := refusalOf(err)
				answers[i][strings.TrimSpace(r.code.String()+" "+r.reason)]++
				if err != nil {
					pause(ctx, 50*time.Millisecond)
				}
				if i == 0 {
					pause(ctx, time.Duration(random.IntN(2000))*time.Millisecond)
				}
			}
		})
	}
	done := c.disturb(ctx, rand.New(rand.NewPCG(seed, 99)))
	wg.Wait()
	total := map[string]int{}
	for _, m := range answers {
		for answer, n := range m {
			total[answer] += n
		}
	}
	c.t.Logf("answers %v", total)
	c.t.Logf("disturbances %v", done)
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// verb is one call for one of a goroutine's things.
func (c *chaos) verb(ctx context.Context, r *rand.Rand, mine []*thing) error {
	x := mine[r.IntN(len(mine))]
	x.wanted = r.IntN(3) > 0
	if x.export != nil {
		c.rules(x, chaosLevels[r.IntN(2)])
	}
	if x.network != nil {
		x.network = chaosNetwork(x.network.GetId())
		if r.IntN(2) > 0 {
			x.network.Addresses = append(x.network.Addresses[r.IntN(2):], later4+"/24")
		}
		if x.network.GetId() == "blue" && r.IntN(2) > 0 {
			x.network.GetBridge().Bridge = "br-two"
		}
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(1+r.IntN(6))*time.Second)
	defer cancel()
	return c.answer(x, x.call(ctx, c.node))
}

func (c *chaos) rules(x *thing, level nodev1.Level) {
	for _, rule := range x.export.GetRules() {
		rule.Level = level
	}
}

// answer fails the test where the agent owns up to a bug.
func (c *chaos) answer(x *thing, err error) error {
	if code := status.Code(err); code == codes.Internal || code == codes.Unknown {
		c.t.Errorf("%v: %v", x, err)
	}
	return err
}

// disturb breaks something, again and again, and counts what.
func (c *chaos) disturb(ctx context.Context, r *rand.Rand) map[string]int {
	done := map[string]int{}
	signal := func(name string, s syscall.Signal) func() error {
		return func() error {
			if pids := pidsNamed(c.RunDir, name); len(pids) > 0 {
				pid := pids[r.IntN(len(pids))]
				if err := syscall.Kill(pid, s); err != nil || s != syscall.SIGSTOP {
					return ignore(err, syscall.ESRCH)
				}
				pause(ctx, time.Duration(100+r.IntN(1500))*time.Millisecond)
				return ignore(syscall.Kill(pid, syscall.SIGCONT), syscall.ESRCH)
			}
			return nil
		}
	}
	one := func(pattern string, f func(string) error) func() error {
		return func() error {
			if found, err := filepath.Glob(pattern); err != nil || len(found) == 0 {
				return err
			} else {
				return f(found[r.IntN(len(found))])
			}
		}
	}
	rarely := func(f func() error) func() error {
		return func() error {
			if r.IntN(4) > 0 {
				return nil
			}
			return f()
		}
	}
	unmount := func(path string) error {
		_ = syscall.Unmount(path, syscall.MNT_DETACH) // it may just go
		return nil
	}
	whole := context.WithoutCancel(ctx) // what is begun is finished
	actions := map[string]func() error{
		"agent":         func() error { return errors.Join(c.Kill(), c.Start(whole)) },
		"agent again":   func() error { return errors.Join(c.Kill(), c.Launch(""), c.Kill(), c.Start(whole)) },
		"ganesha":       signal("ganesha.nfsd", syscall.SIGKILL),
		"bus":           signal("dbus-daemon", syscall.SIGKILL),
		"ganesha stops": signal("ganesha.nfsd", syscall.SIGSTOP),
		"libvirtd":      rarely(func() error { return errors.Join(c.libvirt.Kill(), c.libvirt.Start(whole)) }),
		"link": one("/sys/class/net/cw*", func(path string) error {
			_ = exec.CommandContext(whole, "ip", "link", "delete", filepath.Base(path)).Run() // it may just go
			return nil
		}),
		"firewall": one("/run/netns/cw-*", func(path string) error {
			_ = exec.CommandContext(whole, "nsenter", "--net="+path, "nft", "flush", "ruleset").Run()
			return nil
		}),
		"view": one(filepath.Join(c.RunDir, "exports/*/*"), unmount),
	}
	// A virtiofsd that dies with a request in flight wedges its guest, or takes
	// QEMU along; only a reset helps then, which nobody does by itself.
	if os.Getenv("CAUSEWAY_CHAOS_GUESTS") != "" {
		actions["virtiofsd"] = signal("virtiofsd", syscall.SIGKILL)
		actions["guest"] = rarely(rarely(func() error { return errors.Join(c.guest.Destroy(), c.guest.Start(whole)) }))
	}
	names := slices.Sorted(maps.Keys(actions))
	for ctx.Err() == nil {
		name := names[r.IntN(len(names))]
		if err := actions[name](); err != nil {
			c.t.Errorf("%s: %v", name, err)
			return done
		}
		done[name]++
		pause(ctx, time.Duration(r.IntN(1200))*time.Millisecond)
	}
	return done
}

func ignore(err, known error) error {
	if errors.Is(err, known) {
		return nil
	}
	return err
}

// pidsNamed finds the agent's children of one program.
func pidsNamed(run, name string) []int {
	return slices.DeleteFunc(pidsBelow(run), func(pid int) bool {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		program, _, _ := strings.Cut(string(data), "\x00")
		return err != nil || filepath.Base(program) != name
	})
}

// all things, networks first.
func (c *chaos) all() []*thing { return slices.Concat(c.things...) }

// converge repeats every last call until it succeeds.
func (c *chaos) converge(ctx context.Context) {
	c.t.Helper()
	begin := time.Now()
	for _, x := range c.all() {
		if x.network != nil || strings.HasPrefix(x.export.GetId(), "e0") {
			x.wanted = true // so that every network has a gateway
		}
		if x.network != nil {
			x.network = chaosNetwork(x.network.GetId())
		}
		c.repeat(ctx, x)
	}
	c.t.Logf("converged in %s", time.Since(begin).Round(time.Millisecond))
}

// repeat one call until it succeeds.
func (c *chaos) repeat(ctx context.Context, x *thing) {
	c.t.Helper()
	ctx, cancel := context.WithTimeoutCause(ctx, 3*wait.Long, fmt.Errorf("not within %s", 3*wait.Long))
	defer cancel()
	until(ctx, c.t, x.String(), func() (bool, error) {
		once, cancel := context.WithTimeout(ctx, 15*time.Second)
		defer cancel()
		err := c.answer(x, x.call(once, c.node))
		return err == nil, err
	})
}

func (c *chaos) removeAll(ctx context.Context) {
	c.t.Helper()
	wanted := c.wanted()
	for _, x := range slices.Backward(c.all()) {
		x.wanted = false
		c.repeat(ctx, x)
	}
	for x := range wanted {
		x.wanted = wanted[x] // for restore
	}
}

func (c *chaos) wanted() map[*thing]bool {
	m := map[*thing]bool{}
	for _, x := range c.all() {
		m[x] = x.wanted
	}
	return m
}

func (c *chaos) restore(ctx context.Context) {
	c.t.Helper()
	for _, x := range c.all() {
		if x.wanted {
			c.repeat(ctx, x)
		}
	}
}

// check looks at everything as a client and as the guest.
func (c *chaos) check(ctx context.Context) {
	c.t.Helper()
	clients := map[string]*nfs41.Client{}
	for _, x := range c.all() {
		switch {
		case x.export != nil:
			network := x.export.GetNetwork()
			if clients[network] == nil {
				from := c.client
				if network == "red" {
					from = c.red
				}
				clients[network] = dial(ctx, c.t, from, gateway4)
				defer closeClient(ctx, c.t, clients[network])
			}
			c.checkExport(ctx, clients[network], x)
		case x.attachment.GetMountAt() != "" && x.wanted:
			c.reads(ctx, x.attachment)
		}
	}
}

// reads waits until the guest reads what is in a share.
func (n *node) reads(ctx context.Context, a *nodev1.Attachment) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, wait.Long)
	defer cancel()
	// An unmount that a delete had begun in the guest goes on, and is found out.
	until(ctx, n.t, a.GetId()+" in the guest", func() (bool, error) {
		got, err := n.guest.Shell(ctx, "cat "+a.GetMountAt()+"/hello")
		return strings.TrimSpace(got) == "from "+a.GetConnection().GetSource(), err
	})
}

// firewalls of the networks, without counters. Inside a namespace only a full
// look finds that one is missing.
func (c *chaos) firewalls(ctx context.Context) (rules []string) {
	c.t.Helper()
	for _, network := range []string{"blue", "red"} {
		until(ctx, c.t, "no firewall in "+network, func() (bool, error) {
			out, err := exec.CommandContext(ctx, "nsenter", "--net=/run/netns/cw-"+network, "nft", "--terse", "list", "ruleset").CombinedOutput()
			if err != nil || len(out) == 0 {
				return false, fmt.Errorf("%w: %s", err, out)
			}
			rules = append(rules, string(out))
			return true, nil
		})
	}
	return rules
}

func (c *chaos) checkExport(ctx context.Context, client *nfs41.Client, x *thing) {
	c.t.Helper()
	path := "/" + x.export.GetId()
	data, err := client.ReadFile(ctx, path+"/hello")
	if !x.wanted {
		if !errors.Is(err, nfs41.NOENT) {
			c.t.Errorf("%v: hello reads %q, %v", x, data, err)
		}
		return
	}
	if want := "from " + x.export.GetConnection().GetSource() + "\n"; err != nil || string(data) != want {
		c.t.Errorf("%v: hello reads %q, %v, want %q", x, data, err, want)
	}
	err = client.WriteFile(ctx, path+"/new", []byte("new"), 0o644)
	if level := x.export.GetRules()[0].GetLevel(); level == nodev1.Level_LEVEL_RW && err != nil || level == nodev1.Level_LEVEL_RO && !errors.Is(err, nfs41.ROFS) {
		c.t.Errorf("%v: level %v, write: %v", x, level, err)
	}
}

// leaks lets one agent do 200 verbs that come to nothing, and compares its
// descriptors and goroutines.
func (c *chaos) leaks(ctx context.Context) {
	c.t.Helper()
	c.must(c.Restart(ctx))
	wanted := c.wanted()
	round := func() (calls int) {
		for _, x := range c.all() {
			if x.network != nil {
				continue
			}
			if x.attachment != nil && calls%3 > 0 {
				continue // they are slow
			}
			for _, w := range []bool{!wanted[x], wanted[x]} {
				x.wanted = w
				c.repeat(ctx, x)
				calls++
			}
		}
		return calls
	}
	round()
	fds, goroutines := c.counts(ctx)
	calls := 0
	for calls < 200 {
		calls += round()
	}
	settled, cancel := context.WithTimeout(ctx, wait.Long)
	defer cancel()
	until(settled, c.t, fmt.Sprintf("after %d verbs, of %d descriptors and %d goroutines", calls, fds, goroutines), func() (bool, error) {
		f, g := c.counts(ctx)
		return f <= fds+2 && g <= goroutines+2, fmt.Errorf("now %d and %d", f, g)
	})
}

// complaints are the objects' states and the last warnings of the agent.
func (c *chaos) complaints(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var states []string
	for _, x := range c.all() {
		var answer fmt.Stringer
		var err error
		switch {
		case x.network != nil:
			answer, err = c.networks.Get(ctx, &nodev1.GetNetworkRequest{Id: x.network.GetId()})
		case x.export != nil:
			answer, err = c.exports.Get(ctx, &nodev1.GetExportRequest{Id: x.export.GetId()})
		default:
			answer, err = c.attachments.Get(ctx, &nodev1.GetAttachmentRequest{Id: x.attachment.GetId()})
		}
		states = append(states, fmt.Sprintf("%v: %v %v\n", x, answer, err))
	}
	data, err := os.ReadFile(c.LogFile())
	if err != nil {
		return err.Error()
	}
	var lines []string
	for line := range strings.Lines(string(data)) {
		if strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR") {
			lines = append(lines, line)
		}
	}
	return strings.Join(append(states, lines[max(0, len(lines)-50):]...), "")
}

// counts the agent's descriptors and goroutines.
func (c *chaos) counts(ctx context.Context) (fds, goroutines int) {
	c.t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.PID()))
	c.must(err)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.HTTP+"/metrics", nil)
	c.must(err)
	answer, err := http.DefaultClient.Do(request)
	c.must(err)
	defer func() { _ = answer.Body.Close() }()
	for s := bufio.NewScanner(answer.Body); s.Scan(); {
		if v, is := strings.CutPrefix(s.Text(), "go_goroutines "); is {
			goroutines, err = strconv.Atoi(v)
			c.must(err)
		}
	}
	return len(list), goroutines
}
