package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
)

// attach compares an attach through the agent with virtiofsd and libvirt by
// hand, both until libvirt says that the device is there. Neither mounts in the
// guest.
func (b *bench) attach(ctx context.Context) ([]Result, error) {
	source, err := b.directory("attach")
	if err != nil {
		return nil, err
	}
	hand, err := openDomain(b.world.libvirt.URI, b.world.guest.Name)
	if err != nil {
		return nil, err
	}
	var ours, raw []time.Duration
	for range b.runs {
		start := time.Now()
		_, err := b.attachments.Attach(ctx, &nodev1.AttachRequest{Attachment: &nodev1.Attachment{
			Id: "bench", Instance: b.world.guest.Name, Connection: connection("attach"), Tag: "bench",
		}})
		if err != nil {
			return nil, errors.Join(err, hand.close())
		}
		ours = append(ours, time.Since(start))
		if _, err := b.attachments.Detach(ctx, &nodev1.DetachRequest{Id: "bench"}); err != nil {
			return nil, errors.Join(err, hand.close())
		}

		start = time.Now()
		d, err := hand.attach(ctx, b.dir, source, "hand")
		if err != nil {
			return nil, errors.Join(fmt.Errorf("attach by hand: %w", err), hand.close())
		}
		raw = append(raw, time.Since(start))
		if err := hand.detach(ctx, d); err != nil {
			return nil, errors.Join(fmt.Errorf("detach by hand: %w", err), hand.close())
		}
	}
	b.log.Info("attach", "ours", spread(ours), "raw", spread(raw))
	return []Result{beside("attach", median(ours), median(raw), "virtiofsd and libvirt by hand").want(1.5)}, hand.close()
}
