package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/integration/lab"
)

// manyInstances that get a share at once.
const manyInstances = 10

// attach compares attaches and detaches through the agent with virtiofsd and
// libvirt by hand: to one instance, and to several at once. Attaches are until
// libvirt says that the device is there, without a mount in the guest; detaches
// until it says that the device is gone, and the daemon has ended.
func (b *bench) attach(ctx context.Context) (results []Result, err error) {
	guests := []*lab.Guest{b.world.guest}
	results, err = b.attachTo(ctx, guests, "")
	if err != nil {
		return results, err
	}
	var boots errgroup.Group
	more := make([]*lab.Guest, manyInstances-1)
	for i := range more {
		boots.Go(func() (err error) {
			more[i], err = b.world.libvirt.Boot(ctx, lab.GuestOptions{Name: fmt.Sprintf("bench-%d", i+2), Ports: 2})
			return err
		})
	}
	err = boots.Wait()
	defer func() {
		for _, g := range more {
			if g != nil {
				err = errors.Join(err, g.Close())
			}
		}
	}()
	if err != nil {
		return results, err
	}
	many, err := b.attachTo(ctx, append(guests, more...), fmt.Sprintf("_of_%d_at_once", manyInstances))
	return append(results, many...), err
}

// attachTo attaches to each of the guests at once, and detaches again.
func (b *bench) attachTo(ctx context.Context, guests []*lab.Guest, suffix string) (results []Result, err error) {
	source, err := b.directory("attach")
	if err != nil {
		return nil, err
	}
	hands := make([]*handDomain, len(guests))
	devices := make([]*handDevice, len(guests))
	defer func() {
		for _, h := range hands {
			if h != nil {
				err = errors.Join(err, h.close())
			}
		}
	}()
	for i, g := range guests {
		if hands[i], err = openDomain(b.world.libvirt.URI, g.Name); err != nil {
			return nil, err
		}
	}
	// all does something with each guest at once, and returns how long it took.
	all := func(to *[]time.Duration, do func(i int) error) error {
		start := time.Now()
		var calls errgroup.Group
		for i := range guests {
			calls.Go(func() error { return do(i) })
		}
		err := calls.Wait()
		*to = append(*to, time.Since(start))
		return err
	}
	id := func(i int) string { return fmt.Sprintf("bench-%d", i) }
	var in, out, handIn, handOut []time.Duration
	for range b.runs {
		err := errors.Join(
			all(&in, func(i int) error {
				_, err := b.attachments.Attach(ctx, &nodev1.AttachRequest{Attachment: &nodev1.Attachment{
					Id: id(i), Instance: guests[i].Name, Connection: connection("attach"), Tag: "bench", ReadOnly: len(guests) > 1,
				}})
				return err
			}),
			all(&out, func(i int) error {
				_, err := b.attachments.Detach(ctx, &nodev1.DetachRequest{Id: id(i)})
				return err
			}))
		if err != nil {
			return nil, err
		}
		err = all(&handIn, func(i int) (err error) {
			devices[i], err = hands[i].attach(ctx, handShare{dir: b.dir, source: source, tag: fmt.Sprintf("hand-%d", i)})
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("attach by hand: %w", err)
		}
		if err := all(&handOut, func(i int) error { return hands[i].detach(ctx, devices[i]) }); err != nil {
			return nil, fmt.Errorf("detach by hand: %w", err)
		}
	}
	b.log.Info("attach", "guests", len(guests), "ours", spread(in), "raw", spread(handIn))
	b.log.Info("detach", "guests", len(guests), "ours", spread(out), "raw", spread(handOut))
	return []Result{
		beside("attach"+suffix, median(in), median(handIn), "virtiofsd and libvirt by hand").want(1.5),
		beside("detach"+suffix, median(out), median(handOut), "libvirt by hand").want(1.5),
	}, nil
}

// mounted compares an attach with a mount in the guest, until the guest has
// it mounted, with the same by hand: the mount is tried until the guest sees
// the device.
func (b *bench) mounted(ctx context.Context) (results []Result, err error) {
	source, err := b.directory("mounted")
	if err != nil {
		return nil, err
	}
	hand, err := openDomain(b.world.libvirt.URI, b.world.guest.Name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, hand.close()) }()
	var ours, raw []time.Duration
	for range b.runs {
		start := time.Now()
		if err := b.attachMounted(ctx, "mounted"); err != nil {
			return nil, err
		}
		ours = append(ours, time.Since(start))
		if _, err := b.attachments.Detach(ctx, &nodev1.DetachRequest{Id: "mounted"}); err != nil {
			return nil, err
		}

		const at = "/mnt/hand"
		start = time.Now()
		d, err := hand.attach(ctx, handShare{dir: b.dir, source: source, tag: "hand"})
		if err != nil {
			return nil, fmt.Errorf("attach by hand: %w", err)
		}
		if err := hand.mount(ctx, "hand", at); err != nil {
			return nil, fmt.Errorf("mount by hand: %w", err)
		}
		raw = append(raw, time.Since(start))
		if err := hand.run(ctx, "umount", at); err != nil {
			return nil, err
		}
		if err := hand.detach(ctx, d); err != nil {
			return nil, fmt.Errorf("detach by hand: %w", err)
		}
	}
	b.log.Info("attach to mounted", "ours", spread(ours), "raw", spread(raw))
	return []Result{beside("attach_to_mounted", median(ours), median(raw), "by hand, with the guest agent").want(1.5)}, nil
}

// attachMounted attaches a directory of the pool and mounts it in the guest.
func (b *bench) attachMounted(ctx context.Context, name string) error {
	answer, err := b.attachments.Attach(ctx, &nodev1.AttachRequest{Attachment: &nodev1.Attachment{
		Id: name, Instance: b.world.guest.Name, Connection: connection(name), Tag: name, MountAt: "/mnt/" + name,
	}})
	if err != nil {
		return err
	}
	if is := answer.GetAttachment().GetGuest(); is != nodev1.GuestState_GUEST_STATE_MOUNTED {
		return fmt.Errorf("attachment %s is %v in the guest", name, is)
	}
	return nil
}
