package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/causeway-project/causeway/integration/nfs41"
)

// The load of the throughput: as many clients as two processors keep busy,
// each with a file that fits the pool beside the peer's.
const (
	streams    = 2
	streamSize = 32 << 20
	block      = 512 << 10 // of one READ or WRITE
)

// A side is a gateway and how its clients reach it.
type side struct {
	netns   string // the clients'
	address string
	pseudo  string // of the export
}

// data compares the agent's gateway with a hand-made one in what it carries
// and in what it needs: bytes in and out, and memory before and after. The
// hand-made one serves over loopback, without a bridge between.
func (b *bench) data(ctx context.Context) (results []Result, err error) {
	t, err := b.learn(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"data", "data-hand"} {
		if _, err := b.directory(name); err != nil {
			return nil, err
		}
	}
	n := numbered(1)
	if err := b.putNetwork(ctx, n); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.deleteNetwork(ctx, n)) }()
	if err := b.putExport(ctx, n, "data"); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.deleteExport(ctx, "data")) }()
	e := handExport{id: 1, path: filepath.Join(b.world.pool.Dir, "data-hand")}
	g, err := newHandGateway(b.handPlace(), t, e)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, g.stop()) }()
	if err := g.start(); err != nil {
		return nil, err
	}
	ours := side{netns: b.world.tenant.client, address: n.address, pseudo: "/data"}
	raw := side{netns: b.world.tenant.hand, address: handAddress, pseudo: e.pseudo()}
	for _, s := range []side{ours, raw} {
		if err := b.world.tenant.read(ctx, s.address, s.pseudo+"/file"); err != nil {
			return nil, err
		}
	}

	pid, err := b.gatewayPID(ctx, n, 0)
	if err != nil {
		return nil, err
	}
	weigh := func(when string) error {
		our, err := b.residentMemory(ctx, pid)
		if err != nil {
			return err
		}
		peer, err := b.residentMemory(ctx, g.ganesha.Process.Pid)
		if err != nil {
			return err
		}
		r := besideValue("gateway_memory_"+when, our, peer, "MB")
		r.Peer = "Ganesha tuned by hand"
		results = append(results, r.want(1.2))
		if when == "idle" {
			results = append(results, alone("gateway_memory_idle_alone", our, "MB").want(12))
		}
		return nil
	}
	if err := weigh("idle"); err != nil {
		return results, err
	}
	through, err := b.throughput(ctx, ours, raw)
	if err != nil {
		return results, err
	}
	results = append(results, through...)
	return results, weigh("after_io")
}

// throughput alternates between the two, so that what else happens on the
// machine meets both.
func (b *bench) throughput(ctx context.Context, ours, raw side) ([]Result, error) {
	type rates struct{ write, read []float64 }
	var of [2]rates
	for round := range b.runs + 1 {
		for i, s := range []side{ours, raw} {
			write, read, err := s.stream(ctx)
			if err != nil {
				return nil, fmt.Errorf("through %s: %w", s.address, err)
			}
			if round > 0 { // the first one makes the files
				of[i].write, of[i].read = append(of[i].write, write), append(of[i].read, read)
			}
		}
	}
	var results []Result
	for _, m := range []struct {
		name      string
		ours, raw []float64
	}{{"write", of[0].write, of[1].write}, {"read", of[0].read, of[1].read}} {
		r := besideValue("throughput_"+m.name, median(m.ours), median(m.raw), "MB/s")
		r.Peer, r.Better = "by hand over loopback", "higher"
		results = append(results, r.want(0.95))
	}
	return results, nil
}

// stream writes and reads files from several clients at once, and returns MB/s.
// Writes are committed after the clock has stopped: the disk is not what is
// measured.
func (s side) stream(ctx context.Context) (write, read float64, err error) {
	var files []*nfs41.File
	for i := range streams {
		c, err := nfs41.Dial(ctx, nfs41.Options{Address: s.address, NetNS: s.netns, Owner: fmt.Sprintf("bench-%d", i)})
		if err != nil {
			return 0, 0, err
		}
		defer func() { err = errors.Join(err, c.Close(ctx)) }()
		f, err := c.Open(ctx, fmt.Sprintf("%s/stream-%d", s.pseudo, i),
			nfs41.OpenOptions{Access: nfs41.ReadWrite, Create: nfs41.Unchecked, Mode: 0o600, Unstable: true})
		if err != nil {
			return 0, 0, err
		}
		defer func() { err = errors.Join(err, f.Close(ctx)) }()
		files = append(files, f)
	}
	all := func(do func(f *nfs41.File, p []byte, offset uint64) (int, error)) (float64, error) {
		start := time.Now()
		var clients errgroup.Group
		for _, f := range files {
			clients.Go(func() error {
				p := make([]byte, block)
				for offset := uint64(0); offset < streamSize; offset += block {
					if n, err := do(f, p, offset); err != nil || n != block {
						return fmt.Errorf("%d of %d bytes: %w", n, block, err)
					}
				}
				return nil
			})
		}
		err := clients.Wait()
		return streams * streamSize / 1e6 / time.Since(start).Seconds(), err
	}
	write, err = all(func(f *nfs41.File, p []byte, offset uint64) (int, error) { return f.WriteAt(ctx, p, offset) })
	if err != nil {
		return 0, 0, err
	}
	for _, f := range files {
		if err := f.Sync(ctx); err != nil {
			return 0, 0, err
		}
	}
	read, err = all(func(f *nfs41.File, p []byte, offset uint64) (int, error) { return f.ReadAt(ctx, p, offset) })
	return write, read, err
}
