package integration

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-project/causeway/agent/crashpoint"
	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/integration/lab"
	"github.com/causeway-project/causeway/integration/netspace"
	"github.com/causeway-project/causeway/integration/nfs41"
)

// Further addresses that the gateway may have on the bridge blue.
const (
	later4 = "10.77.0.3"
	later6 = "fd77::3"
)

func (n *node) updateNetwork(ctx context.Context, network *nodev1.Network) *nodev1.Network {
	n.t.Helper()
	r, err := n.networks.Update(ctx, &nodev1.UpdateNetworkRequest{Network: network})
	n.must(err)
	if s := r.GetNetwork().GetStatus(); s.GetPhase() != nodev1.Phase_PHASE_READY || s.GetObservedGeneration() != s.GetGeneration() {
		n.t.Errorf("after the update the status is %v", s)
	}
	return r.GetNetwork()
}

// undisturbed fails the test if a client had to connect anew.
func undisturbed(t *testing.T, c *nfs41.Client) {
	t.Helper()
	if s := c.Stats(); s.Connects != 1 || s.Sessions != 1 {
		t.Errorf("a client had to connect anew: %+v", s)
	}
}

// TestNewAddresses changes a network's addresses, MTU and MAC under its
// clients. Those of what stays do not notice.
func TestNewAddresses(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 6*time.Minute)
	dir := w.share(t, "docs")
	n := w.started(ctx, t, quick)
	n.putNetwork(ctx, blueNetwork())
	n.putExport(ctx, exported("docs", "docs"))
	gateway := n.gateway(ctx, "blue")
	old := dialAs(ctx, t, n.client, gateway4, "old")

	n.updateNetwork(ctx, bridged("blue", "br-blue", gateway4+"/24", gateway6+"/64", later4+"/24", later6+"/64"))
	c4, c6 := dialAs(ctx, t, n.client, later4, "later4"), dialAs(ctx, t, n.client, later6, "later6")
	s4, s6 := scribble(ctx, t, c4, "/docs/by4"), scribble(ctx, t, c6, "/docs/by6")
	if data, err := old.ReadFile(ctx, "/docs/hello"); err != nil || string(data) != "from docs\n" {
		t.Errorf("hello reads %q, %v", data, err)
	}
	undisturbed(t, old)

	// The first address of each prefix goes: its clients are cut, no others.
	n.updateNetwork(ctx, bridged("blue", "br-blue", later4+"/24", later6+"/64"))
	short, cancel := context.WithTimeout(ctx, time.Second) // silence is what is looked for
	defer cancel()
	if data, err := old.ReadFile(short, "/docs/hello"); err == nil {
		t.Errorf("over an address that was removed hello reads %q", data)
	}
	old.Abandon()
	r, err := n.exports.Get(ctx, &nodev1.GetExportRequest{Id: "docs"})
	n.must(err)
	if diff := cmp.Diff([]string{later4 + ":/docs", "[" + later6 + "]:/docs"}, r.GetExport().GetLocations()); diff != "" {
		t.Errorf("locations (-want +got):\n%s", diff)
	}

	// What other machines have is refused, and nothing changes.
	settled, addresses := n.state(ctx), n.inGateway(ctx, "ip", "-o", "address", "show", "scope", "global")
	for _, taken := range []string{client4 + "/24", client6 + "/64"} {
		_, err := n.networks.Update(ctx, &nodev1.UpdateNetworkRequest{Network: bridged("blue", "br-blue", taken)})
		if got, _, message := refusalOf(err); got != (refusal{codes.FailedPrecondition, "address_in_use"}) {
			t.Errorf("update to %s: %v %s", taken, got, message)
		}
		n.unchanged(ctx, settled)
		if now := n.inGateway(ctx, "ip", "-o", "address", "show", "scope", "global"); now != addresses {
			t.Errorf("addresses were\n%s and are\n%s", addresses, now)
		}
	}

	// One family goes, and comes; the interface has another hardware address.
	other := bridged("blue", "br-blue", later4+"/24")
	other.Mtu, other.Mac = 1400, "02:77:00:00:00:99"
	n.updateNetwork(ctx, other)
	s4.more(ctx, 20)
	other.Addresses = append(other.Addresses, later6+"/64")
	n.updateNetwork(ctx, other)
	s4.more(ctx, 20)
	s6.more(ctx, 20)
	out, err := n.client.Command(ctx, "ip", "neighbour", "show", later4).CombinedOutput()
	if err != nil || !strings.Contains(string(out), other.Mac) {
		t.Errorf("the client's neighbour is %s, %v", out, err)
	}

	s4.finish(ctx, filepath.Join(dir, "by4"))
	s6.finish(ctx, filepath.Join(dir, "by6"))
	undisturbed(t, c4)
	if stats := c6.Stats(); stats.Lost != 0 {
		t.Errorf("state of the client by IPv6: %+v", stats)
	}
	if now := n.gateway(ctx, "blue"); now.GetPid() != gateway.GetPid() || now.GetRestarts() != 0 {
		t.Errorf("the gateway is %v, was %v", now, gateway)
	}
	closeClient(ctx, t, c4)
	closeClient(ctx, t, c6)
	n.deleteExport(ctx, "docs")
	n.deleteNetwork(ctx, "blue")
	n.finish(ctx)
}

// TestMoved plugs a network into another bridge, from which its clients are
// reached through a cable between the two. They hear of the new place, and get
// their open files and locks back; also where the agent is killed when nothing
// is left at the old place and nothing made at the new one.
func TestMoved(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 6*time.Minute)
	programs, err := lab.Build(ctx, lab.BuildOptions{CrashPoints: true})
	if err != nil {
		t.Fatal(err)
	}
	dir := w.share(t, "docs")
	o := quick
	o.Programs = programs
	n := w.started(ctx, t, o)
	n.must(cable(ctx, n))
	t.Cleanup(func() { n.must(cut(context.WithoutCancel(ctx), n)) })

	mac := n.putNetwork(ctx, blueNetwork()).GetMac()
	e := n.putExport(ctx, exported("docs", "docs"))
	c4, c6 := dialAs(ctx, t, n.client, gateway4, "by4"), dialAs(ctx, t, n.client, gateway6, "by6")
	other := dialAs(ctx, t, n.client, gateway4, "other")
	s4, s6 := scribble(ctx, t, c4, "/docs/by4"), scribble(ctx, t, c6, "/docs/by6")
	n.must(n.guest.MountNFS(ctx, lab.NFSMount{Server: gateway4, Path: "/docs", Client: guest4, At: "/mnt/nfs"}))
	inGuest, err := n.guest.StartWriter(ctx, "/mnt/nfs/guest", 5*time.Millisecond)
	n.must(err)
	for i, move := range []struct {
		name, bridge string
		killed       crashpoint.Point
	}{
		{"elsewhere", "br-two", ""},
		{"back, killed between", "br-blue", crashpoint.At(crashpoint.StepBegin, "namespace", "create")},
	} {
		s4.more(ctx, 20)
		s6.more(ctx, 20)
		n.must(inGuest.WaitMore(ctx, 10))
		n.must(inGuest.Mark(ctx))
		heard := listen(ctx, t, n.client)
		to := bridged("blue", move.bridge, gateway4+"/24", gateway6+"/64")
		begin := time.Now()
		if move.killed != "" {
			n.kill()
			n.must(n.Launch(string(move.killed)))
			n.must(n.WaitInSync(ctx))
			if _, err := n.networks.Update(ctx, &nodev1.UpdateNetworkRequest{Network: to}); err == nil {
				t.Errorf("%s: the agent was to die", move.name)
			}
			n.must(n.WaitKilled(ctx))
			n.start(ctx)
		}
		if got := n.updateNetwork(ctx, to); got.GetMac() != mac || got.GetStatus().GetGeneration() != int64(i+2) {
			t.Errorf("%s: the network is %v", move.name, got)
		}
		s4.more(ctx, 20)
		s6.more(ctx, 20)
		n.must(inGuest.WaitMore(ctx, 10))
		p, err := inGuest.Progress(ctx)
		n.must(err)
		t.Logf("%s: after %s all clients write; the slowest line of the guest took %s", move.name, time.Since(begin).Round(time.Millisecond), p.Longest)
		for _, c := range []*nfs41.Client{c4, c6} {
			if stats := c.Stats(); stats.Reclaimed != i+1 || stats.Lost != 0 {
				t.Errorf("%s: %+v, want every file reclaimed each time", move.name, stats)
			}
		}
		s4.locked(ctx, other)
		s6.locked(ctx, other)
		until(ctx, t, "the new place is not announced", func() (bool, error) {
			missing := slices.DeleteFunc([]string{gateway4, gateway6}, func(a string) bool { return heard(a) == mac })
			return len(missing) == 0, fmt.Errorf("of %q", missing)
		})
		if !n.isPort(ctx, move.bridge) {
			t.Errorf("%s: the gateway is no port of %s", move.name, move.bridge)
		}
		r, err := n.exports.Get(ctx, &nodev1.GetExportRequest{Id: "docs"})
		n.must(err)
		if r.GetExport().GetExportId() != e.GetExportId() || r.GetExport().GetStatus().GetGeneration() != 1 {
			t.Errorf("%s: the export is %v, was %v", move.name, r.GetExport(), e)
		}
	}

	// Only there it is seen that another machine has the address: it comes back.
	_, err = n.networks.Update(ctx, &nodev1.UpdateNetworkRequest{Network: bridged("blue", "br-two", client4+"/24")})
	if got, _, message := refusalOf(err); got != (refusal{codes.FailedPrecondition, "address_in_use"}) {
		t.Errorf("update to %s on br-two: %v %s", client4, got, message)
	}
	s4.more(ctx, 20)
	s6.more(ctx, 20)
	if !n.isPort(ctx, "br-blue") {
		t.Error("the gateway did not come back to br-blue")
	}

	_, longest := s4.finish(ctx, filepath.Join(dir, "by4"))
	s6.finish(ctx, filepath.Join(dir, "by6"))
	t.Logf("in user space the slowest line took %s", longest.Round(time.Millisecond))
	p, err := inGuest.Stop(ctx)
	n.must(err)
	checkFile(t, filepath.Join(dir, "guest"), p.Lines)
	n.in(ctx, "umount /mnt/nfs")
	for _, c := range []*nfs41.Client{c4, c6, other} {
		closeClient(ctx, t, c)
	}
	n.deleteExport(ctx, "docs")
	n.deleteNetwork(ctx, "blue")
	n.finish(ctx)
}

// TestCarried has a host lose all but the state directory of its agent, and
// another agent go on with that: what a gateway is to its clients lies there,
// and in nothing else.
func TestCarried(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 6*time.Minute)
	dir := w.share(t, "docs")
	o := quick
	o.Name = "second"
	second := w.node(ctx, t, o)
	first := w.started(ctx, t, quick)
	first.putNetwork(ctx, blueNetwork())
	first.putExport(ctx, exported("docs", "docs"))
	c, other := dial(ctx, t, w.client, gateway4), dialAs(ctx, t, w.client, gateway6, "other")
	s := scribble(ctx, t, c, "/docs/scribe")
	s.more(ctx, 20)

	first.scrub()
	second.must(os.CopyFS(second.StateDir, os.DirFS(first.StateDir)))
	second.start(ctx)
	s.more(ctx, 20)
	if stats := c.Stats(); stats.Reclaimed != 1 || stats.Lost != 0 {
		t.Errorf("%+v, want the file reclaimed", stats)
	}
	s.locked(ctx, other)
	_, longest := s.finish(ctx, filepath.Join(dir, "scribe"))
	t.Logf("the slowest line took %s", longest.Round(time.Millisecond))
	closeClient(ctx, t, c)
	closeClient(ctx, t, other)
	second.deleteExport(ctx, "docs")
	second.deleteNetwork(ctx, "blue")
	second.finish(ctx)
}

// isPort says whether the one gateway there is is on a bridge.
func (n *node) isPort(ctx context.Context, bridge string) bool {
	n.t.Helper()
	link := n.one(ctx, "link ")
	out, err := exec.CommandContext(ctx, "ip", "-o", "link", "show", "dev", link).CombinedOutput()
	n.must(err)
	return strings.Contains(string(out), " master "+bridge+" ")
}

// listen hears who says, unasked, where an address is: gratuitous ARP (RFC
// 5227, 3) and unsolicited neighbour advertisements to all nodes (RFC 4861,
// 7.2.6). The answer is the hardware address that was said last.
func listen(ctx context.Context, t *testing.T, from *lab.Client) (heard func(address string) string) {
	t.Helper()
	fd := -1
	err := netspace.Do(from.NetNS, func() (err error) {
		all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(all))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	said := map[string]string{}
	var ended sync.WaitGroup
	listening, stop := context.WithCancel(ctx)
	ended.Go(func() {
		for frame := make([]byte, 2048); listening.Err() == nil; {
			if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 50); err != nil && !errors.Is(err, unix.EINTR) {
				return
			}
			k, err := unix.Read(fd, frame)
			if err != nil {
				continue // nothing came, or the interface went down
			}
			if a, mac, ok := announcement(frame[:k]); ok {
				mu.Lock()
				said[a.String()] = mac.String()
				mu.Unlock()
			}
		}
	})
	t.Cleanup(func() {
		stop()
		ended.Wait()
		_ = unix.Close(fd)
	})
	return func(address string) string {
		mu.Lock()
		defer mu.Unlock()
		return said[address]
	}
}

// announcement takes an Ethernet frame apart.
func announcement(f []byte) (a netip.Addr, mac net.HardwareAddr, ok bool) {
	const ethernet, ipv6 = 14, 40
	switch {
	case len(f) >= ethernet+28 && f[12] == 0x08 && f[13] == 0x06:
		arp := f[ethernet:]
		if !bytes.Equal(arp[14:18], arp[24:28]) {
			return a, nil, false // somebody asks
		}
		return netip.AddrFrom4([4]byte(arp[14:18])), slices.Clone(net.HardwareAddr(arp[8:14])), true
	case len(f) >= ethernet+ipv6+32 && f[12] == 0x86 && f[13] == 0xdd && f[ethernet+6] == unix.IPPROTO_ICMPV6:
		const advertisement, solicited, target = 136, 0x40, 2
		icmp := f[ethernet+ipv6:]
		if icmp[0] != advertisement || icmp[4]&solicited != 0 || icmp[24] != target {
			return a, nil, false
		}
		return netip.AddrFrom16([16]byte(icmp[8:24])), slices.Clone(net.HardwareAddr(icmp[26:32])), true
	}
	return a, nil, false
}
