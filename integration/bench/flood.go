package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/integration/attack"
	"github.com/causeway-project/causeway/integration/lab"
	"github.com/causeway-project/causeway/integration/netspace"
)

// The hostile tenant's network, beside the bench's own.
const (
	villainAddress = "10.98.0.9"
	floodedAddress = "10.98.0.2" // of the agent's gateway
	holeAddress    = "10.98.0.3" // of a machine that drops what it gets
)

// floodRound is how long a client is watched at a time.
const floodRound = 150 * time.Millisecond

// A flood goes on until ctx ends, against the gateway or the hole.
type flood struct {
	name, peer string
	run        func(ctx context.Context, to target) error
}

type target struct {
	address netip.Addr
	mac     net.HardwareAddr
}

// floods compares how long a tenant's reads take while another tenant floods
// its gateway, and while it floods a machine that drops everything: what the
// hostile machine itself costs this host's CPUs, and its network, is in both.
// The rates are paced; the gateway gets many times what its firewall takes.
func (b *bench) floods(ctx context.Context) (results []Result, err error) {
	cleanup := context.WithoutCancel(ctx)
	on, err := lab.NewBridge(ctx, "br-flood")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, on.Close(cleanup)) }()
	villain, err := on.NewClient(ctx, "villain", netip.MustParsePrefix(villainAddress+"/16"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, villain.Close(cleanup)) }()
	hole, err := on.NewClient(ctx, "hole", netip.MustParsePrefix(holeAddress+"/16"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, hole.Close(cleanup)) }()
	closed := hole.Command(ctx, "nft", "add table inet hole; add chain inet hole input { type filter hook input priority 0; policy drop; }; "+
		"add rule inet hole input tcp dport 2049 accept")
	if out, err := closed.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("close the hole: %w: %s", err, out)
	}
	victim, flooded := numbered(1), network{id: "flooded", prefix: floodedAddress + "/16"}
	for _, name := range []string{"victim", "flooded"} {
		if _, err := b.directory(name); err != nil {
			return nil, err
		}
	}
	if err := b.putNetwork(ctx, victim); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.deleteNetwork(cleanup, victim)) }()
	_, err = b.networks.Put(ctx, &nodev1.PutNetworkRequest{Network: &nodev1.Network{
		Id: flooded.id, Plug: &nodev1.Network_Bridge{Bridge: &nodev1.BridgePlug{Bridge: on.Name}}, Addresses: []string{flooded.prefix},
	}})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.deleteNetwork(cleanup, flooded)) }()
	for name, n := range map[string]network{"victim": victim, "flooded": flooded} {
		if err := b.putExport(ctx, n, name); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, b.deleteExport(cleanup, name)) }()
	}
	gateway, err := targetOf(ctx, floodedAddress, lab.Client{NetNS: "/run/netns/cw-" + flooded.id})
	if err != nil {
		return nil, err
	}
	nothing, err := targetOf(ctx, holeAddress, *hole)
	if err != nil {
		return nil, err
	}
	stop, err := listenIn(hole)
	if err != nil {
		return nil, err
	}
	defer stop()
	wire, err := attack.Open(villain.NetNS, "eth0")
	if err != nil {
		return nil, err
	}
	defer wire.Close()
	c, err := b.world.tenant.dial(ctx, victim.address, quick())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close(cleanup)) }()
	watch := func(samples *[]time.Duration) error {
		for end := time.Now().Add(floodRound); time.Now().Before(end); {
			begin := time.Now()
			if _, err := c.ReadFile(ctx, "/victim/file"); err != nil {
				return err
			}
			*samples = append(*samples, time.Since(begin))
		}
		return nil
	}
	for _, f := range floodsOf(wire, villain) {
		var quiet, beside, ours []time.Duration
		for range b.runs {
			if err := watch(&quiet); err != nil {
				return results, err
			}
			if err := f.during(ctx, nothing, func() error { return watch(&beside) }); err != nil {
				return results, fmt.Errorf("%s of the hole: %w", f.name, err)
			}
			if err := f.during(ctx, gateway, func() error { return watch(&ours) }); err != nil {
				return results, fmt.Errorf("%s: %w", f.name, err)
			}
		}
		b.log.Info(f.name, "quiet", spread(quiet), "beside", spread(beside), "ours", spread(ours))
		results = append(results, f.result(median(ours), median(beside)))
	}
	return results, nil
}

func (f flood) result(ours, raw time.Duration) Result {
	return beside("read_beside_"+f.name, ours, raw, f.peer).want(1.2)
}

// during runs watch while the flood goes on.
func (f flood) during(ctx context.Context, to target, watch func() error) error {
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan error)
	go func() { ended <- f.run(ctx, to) }()
	err := watch()
	stop()
	return errors.Join(err, <-ended)
}

func floodsOf(wire *attack.Wire, villain *lab.Client) []flood {
	packets := func(packet func(i int, to target) []byte) func(context.Context, target) error {
		return func(ctx context.Context, to target) error {
			i := 0
			return paced(ctx, func() error {
				for range 200 {
					i++
					if err := wire.Send(to.mac, packet(i, to)); err != nil {
						return err
					}
				}
				return nil
			})
		}
	}
	own := netip.MustParseAddr(villainAddress)
	return []flood{
		{"half-open_sessions_20000_per_s", "the same at a machine that drops them", packets(func(i int, to target) []byte {
			from := netip.AddrFrom4([4]byte{10, 98, byte(1 + i/250%250), byte(1 + i%250)})
			return attack.TCP(netip.AddrPortFrom(from, uint16(i)), netip.AddrPortFrom(to.address, to.port()), attack.SYN, nil)
		})},
		{"echo_requests_20000_per_s", "the same at a machine that drops them", packets(func(_ int, to target) []byte {
			return attack.ICMP(own, to.address, 8, make([]byte, 1000))
		})},
		{"datagrams_20000_per_s", "the same at a machine that drops them", packets(func(i int, to target) []byte {
			return attack.UDP(netip.AddrPortFrom(own, uint16(i)), netip.AddrPortFrom(to.address, 2049), make([]byte, 1000))
		})},
		{"connections_300_per_s", "the same at a listener that closes them", func(ctx context.Context, to target) error {
			return netspace.Do(villain.NetNS, func() error {
				return paced(ctx, func() error {
					for range 3 {
						d := net.Dialer{Timeout: 5 * time.Millisecond}
						c, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(to.address, 2049).String())
						if err != nil {
							continue // that is what the firewall is for
						}
						if err := c.Close(); err != nil {
							return err
						}
					}
					return nil
				})
			})
		}},
	}
}

// port is that of NFS, and one that is closed where nobody should answer.
func (t target) port() uint16 {
	if t.address.String() == holeAddress {
		return 9
	}
	return 2049
}

// paced takes a step each 10 ms, on one CPU, until ctx ends.
func paced(ctx context.Context, step func() error) error {
	runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine, or with Inside's
	var cpu unix.CPUSet
	cpu.Set(runtime.NumCPU() - 1)
	if err := unix.SchedSetaffinity(0, &cpu); err != nil {
		return fmt.Errorf("pin the hostile machine: %w", err)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := step(); err != nil {
				return err
			}
		}
	}
}

func targetOf(ctx context.Context, address string, at lab.Client) (target, error) {
	out, err := at.Command(ctx, "ip", "-brief", "link", "show", "eth0").Output()
	words := strings.Fields(string(out))
	if err != nil {
		return target{}, fmt.Errorf("find the MAC of %s: %w", address, err)
	}
	if len(words) < 3 {
		return target{}, fmt.Errorf("find the MAC of %s in %q: there is none", address, out)
	}
	mac, err := net.ParseMAC(words[2])
	return target{netip.MustParseAddr(address), mac}, err
}

// listenIn accepts connections to port 2049 of a machine, and closes them.
func listenIn(c *lab.Client) (stop func(), err error) {
	var l net.Listener
	err = netspace.Do(c.NetNS, func() (err error) {
		l, err = net.Listen("tcp4", ":2049")
		return err
	})
	if err != nil {
		return nil, err
	}
	ended := make(chan bool)
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	return func() { l.Close(); <-ended }, nil
}
