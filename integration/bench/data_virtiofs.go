package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
)

// guestStream is what a guest writes and reads at once, in MiB: a second under
// software emulation, of which the guest's clock counts the hundredths.
const guestStream = 64

// dataVirtiofs compares what a guest writes and reads through an attachment
// with a virtiofsd by hand that has the same options, and the memory of both.
func (b *bench) dataVirtiofs(ctx context.Context) (results []Result, err error) {
	for _, name := range []string{"virtiofs", "virtiofs-hand"} {
		if _, err := b.directory(name); err != nil {
			return nil, err
		}
	}
	if err := b.attachMounted(ctx, "virtiofs"); err != nil {
		return nil, err
	}
	defer func() {
		_, end := b.attachments.Detach(ctx, &nodev1.DetachRequest{Id: "virtiofs"})
		err = errors.Join(err, end)
	}()
	hand, err := openDomain(b.world.libvirt.URI, b.world.guest.Name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, hand.close()) }()
	source := b.world.pool.Dir + "/virtiofs-hand"
	d, err := hand.attach(ctx, handShare{dir: b.dir, source: source, tag: "hand"})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, hand.detach(ctx, d)) }()
	const at = "/mnt/hand"
	if err := hand.mount(ctx, "hand", at); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, hand.run(ctx, "umount", at)) }()

	dir, err := b.mountOf(ctx, "virtiofs")
	if err != nil {
		return nil, err
	}
	idle, err := weighBoth("attachment_memory_idle", dir, source)
	if err != nil {
		return nil, err
	}
	var write, read [2][]float64
	for range b.runs {
		for i, mount := range []string{"/mnt/virtiofs", at} {
			w, r, err := b.guestStream(ctx, mount)
			if err != nil {
				return nil, fmt.Errorf("in %s: %w", mount, err)
			}
			write[i], read[i] = append(write[i], w), append(read[i], r)
		}
	}
	used, err := weighBoth("attachment_memory_after_io", dir, source)
	if err != nil {
		return nil, err
	}
	for _, m := range []struct {
		name  string
		rates [2][]float64
	}{{"guest_write", write}, {"guest_read", read}} {
		r := besideValue("virtiofs_"+m.name, median(m.rates[0]), median(m.rates[1]), "MB/s")
		r.Peer, r.Better = "virtiofsd by hand, same options", "higher"
		results = append(results, r.want(0.97))
	}
	return append(results, idle, used), nil
}

// guestStream writes a file and reads it back from the host, and returns MB/s
// by the guest's clock.
func (b *bench) guestStream(ctx context.Context, dir string) (write, read float64, err error) {
	rate := func(script string) (float64, error) {
		out, err := b.world.guest.Shell(ctx, "read from rest < /proc/uptime; "+script+" 2> /dev/null; read to rest < /proc/uptime; echo $from $to")
		if err != nil {
			return 0, err
		}
		var from, to float64
		if _, err := fmt.Sscan(out, &from, &to); err != nil {
			return 0, fmt.Errorf("guest said %q: %w", out, err)
		}
		return guestStream * (1 << 20) / 1e6 / (to - from), nil
	}
	file := dir + "/stream"
	write, err = rate(fmt.Sprintf("dd if=/dev/zero of=%s bs=1M count=%d conv=fsync", file, guestStream))
	if err != nil {
		return 0, 0, err
	}
	if _, err := b.world.guest.Shell(ctx, "echo 3 > /proc/sys/vm/drop_caches"); err != nil {
		return 0, 0, err
	}
	read, err = rate(fmt.Sprintf("dd if=%s of=/dev/null bs=1M", file))
	return write, read, err
}

// weighBoth compares the memory of all processes that serve two directories.
func weighBoth(name, ours, raw string) (Result, error) {
	our, err := weigh(ours)
	if err != nil {
		return Result{}, err
	}
	peer, err := weigh(raw)
	if err != nil {
		return Result{}, err
	}
	r := besideValue(name, our, peer, "MB")
	r.Peer = "virtiofsd by hand, same options"
	return r, nil
}

// weigh adds up the proportional sizes of the processes that serve a directory,
// in MB. The guest's memory, which they map, is not theirs.
func weigh(dir string) (float64, error) {
	pids, err := serving(dir)
	if err != nil {
		return 0, err
	}
	if len(pids) == 0 {
		return 0, fmt.Errorf("nothing serves %q", dir)
	}
	var sum float64
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			return 0, err
		}
		for _, field := range []string{"Pss_Anon:", "Pss_File:"} {
			_, rest, ok := strings.Cut(string(text), field)
			if !ok {
				return 0, fmt.Errorf("process %d: no %s", pid, field)
			}
			kB, err := strconv.ParseFloat(strings.TrimSpace(strings.SplitN(rest, "kB", 2)[0]), 64)
			if err != nil {
				return 0, fmt.Errorf("memory of process %d: %w", pid, err)
			}
			sum += kB * 1024 / 1e6
		}
	}
	return sum, nil
}
