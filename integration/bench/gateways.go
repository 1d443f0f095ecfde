package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/causeway-project/causeway/integration/lab"
)

// manyGateways compares gateways that are started at the same time, each for
// the first export of a network that is there, with hand-made ones in
// namespaces that are there: both to the end of the client's first read.
func (b *bench) manyGateways(ctx context.Context) (results []Result, err error) {
	const gateways = 100
	t, err := b.learn(ctx)
	if err == nil {
		err = b.clear(ctx)
	}
	if err != nil {
		return nil, err
	}
	for i := range gateways {
		if err := b.putNetwork(ctx, numbered(i)); err != nil {
			return nil, err
		}
		if _, err := b.directory(scaleName(i, 0)); err != nil {
			return nil, err
		}
	}
	ours, err := together(ctx, gateways, func(ctx context.Context, i int) error {
		if err := b.putExport(ctx, numbered(i), scaleName(i, 0)); err != nil {
			return err
		}
		return b.world.tenant.read(ctx, numbered(i).address, "/"+scaleName(i, 0)+"/file")
	})
	if err != nil {
		return nil, err
	}
	if err := b.clear(ctx); err != nil {
		return nil, err
	}

	hand := make([]*handGateway, gateways)
	address := func(i int) string { return fmt.Sprintf("10.99.0.%d", 120+i) }
	defer func() {
		for _, g := range hand {
			if g != nil {
				err = errors.Join(err, g.stop())
			}
		}
	}()
	for i := range hand {
		client, err := b.world.tenant.on.NewClient(ctx, fmt.Sprintf("hand-%d", i), netip.MustParsePrefix(address(i)+"/24"))
		if err != nil {
			return nil, err
		}
		defer func(c *lab.Client) { err = errors.Join(err, c.Close(context.WithoutCancel(ctx))) }(client)
		e := handExport{id: 1, path: filepath.Join(b.world.pool.Dir, scaleName(i, 0))}
		at := place{dir: filepath.Join(b.dir, fmt.Sprintf("hand-%d", i)), netns: client.NetNS}
		if hand[i], err = newHandGateway(at, t, e); err != nil {
			return nil, err
		}
	}
	raw, err := together(ctx, gateways, func(ctx context.Context, i int) error {
		if err := hand[i].start(); err != nil {
			return err
		}
		return b.world.tenant.read(ctx, address(i)+":2049", handExport{id: 1}.pseudo()+"/file")
	})
	if err != nil {
		return nil, err
	}
	return []Result{beside(fmt.Sprintf("gateway_of_%d_at_once", gateways), ours/gateways, raw/gateways,
		"bus and Ganesha started by hand").want(2)}, nil
}

// together does n things, some at a time, and returns how long all took.
func together(ctx context.Context, n int, do func(ctx context.Context, i int) error) (time.Duration, error) {
	workers, ctx := errgroup.WithContext(ctx)
	workers.SetLimit(scaleCallers)
	start := time.Now()
	for i := range n {
		workers.Go(func() error { return do(ctx, i) })
	}
	err := workers.Wait()
	return time.Since(start), err
}
