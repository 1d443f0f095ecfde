package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/causeway-project/causeway/integration/lab"
	"github.com/causeway-project/causeway/integration/nfs41"
)

const guestAddress = "10.99.0.5"

// guestStalls are what a guest with the kernel's client sees of one end of its
// gateway each.
type guestStalls struct {
	open []time.Duration // the slowest write and fsync of a file that is open
	new  []time.Duration // the slowest creation of a file
}

// guestRuns are fewer than of other measures: each takes four seconds.
const guestRuns = 10

// stallGuest ends gateways under a Linux guest that writes to a file that it
// has open and locked, and makes others, and sees that nobody else can have the
// lock.
func (b *bench) stallGuest(ctx context.Context) ([]Result, error) {
	if _, err := b.directory("stall"); err != nil {
		return nil, err
	}
	var results []Result
	for _, end := range []struct {
		name   string
		signal syscall.Signal
		runs   int
	}{
		{"killed", syscall.SIGKILL, min(b.runs, guestRuns)},
		{"hung", syscall.SIGSTOP, min(b.runs, guestRuns/2)},
	} {
		var s guestStalls
		for i := 1; len(s.open) < end.runs; i++ {
			if err := b.stallGuestOf(ctx, numbered(i), end.signal, &s); err != nil {
				return results, fmt.Errorf("%s: %w", end.name, err)
			}
		}
		b.log.Info("guest stalled", "end", end.name, "open", s.open, "new", s.new)
		open := alone("stall_of_guest_open_file_"+end.name, milliseconds(median(s.open)), "ms")
		worst := alone(open.Name+"_worst", milliseconds(slices.Max(s.open)), "ms")
		made := alone("stall_of_guest_new_file_"+end.name, milliseconds(median(s.new)), "ms")
		last := alone(made.Name+"_worst", milliseconds(slices.Max(s.new)), "ms")
		if end.signal == syscall.SIGKILL {
			open, worst, last = open.want(300), worst.want(1200), last.want(3000)
		}
		results = append(results, open, worst, made, last)
	}
	return results, nil
}

// stallGuestOf ends one gateway twice, which is as often as the agent starts it
// again without a pause.
func (b *bench) stallGuestOf(ctx context.Context, n network, end syscall.Signal, s *guestStalls) (err error) {
	g := b.world.guest
	if err := b.putNetwork(ctx, n); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.deleteNetwork(ctx, n)) }()
	if err := b.putExport(ctx, n, "stall"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.deleteExport(ctx, "stall")) }()
	server, _, _ := strings.Cut(n.address, ":")
	const at = "/mnt/stall"
	if err := g.MountNFS(ctx, lab.NFSMount{Server: server, Path: "/stall", Client: guestAddress, At: at}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Unmount(ctx, at)) }()
	// The shell's own commands alone: a fork costs an emulated guest 20 ms.
	maker, err := g.Shell(ctx, `exec >/dev/null 2>&1
rm -f /tmp/made
while :; do
	read -r a _ </proc/uptime; : >`+at+`/new; rm `+at+`/new || :; read -r b _ </proc/uptime
	echo "$a $b" >>/tmp/made; usleep 50000
done & echo $! >/tmp/maker`)
	if err != nil {
		return fmt.Errorf("%w: %s", err, maker)
	}
	defer func() {
		_, stopped := g.Shell(ctx, "kill $(cat /tmp/maker); while fuser -s -m "+at+"; do usleep 10000; done")
		err = errors.Join(err, stopped)
	}()
	w, err := g.StartWriter(ctx, at+"/open", 30*time.Millisecond)
	if err != nil {
		return err
	}
	defer func() {
		_, stopped := w.Stop(ctx)
		err = errors.Join(err, stopped)
	}()
	ended := 0
	for range 2 {
		if err := w.WaitMore(ctx, 20); err != nil {
			return err
		}
		pid, err := b.gatewayPID(ctx, n, ended)
		if err != nil {
			return err
		}
		ended = pid
		if err := errors.Join(w.Mark(ctx), pause(ctx, time.Duration(500+rand.IntN(200))*time.Millisecond)); err != nil {
			return err
		}
		if err := syscall.Kill(pid, end); err != nil {
			return err
		}
		if err := b.denied(ctx, n); err != nil {
			return err
		}
		if err := w.WaitMore(ctx, 20); err != nil {
			return err
		}
		p, err := w.Progress(ctx)
		if err != nil {
			return err
		}
		made, err := b.slowestMade(ctx)
		if err != nil {
			return err
		}
		s.open, s.new = append(s.open, p.Longest), append(s.new, made)
	}
	return nil
}

// denied waits until a new client is served and sees that the guest has its
// lock still.
func (b *bench) denied(ctx context.Context, n network) (err error) {
	if err := pause(ctx, 50*time.Millisecond); err != nil {
		return err
	}
	c, err := b.world.tenant.dial(ctx, n.address, quick())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close(ctx)) }()
	f, err := c.Open(ctx, "/stall/open", nfs41.OpenOptions{Access: nfs41.ReadWrite})
	if err != nil {
		return err
	}
	if err := f.Lock(ctx, 0, 1); !errors.Is(err, nfs41.DENIED) {
		return fmt.Errorf("the guest's lock: %v, want it denied to others", err)
	}
	return f.Close(ctx)
}

// slowestMade waits for the creation under way, and returns how long the
// slowest since the last call took, to 10 ms.
func (b *bench) slowestMade(ctx context.Context) (slowest time.Duration, err error) {
	text, err := b.world.guest.Shell(ctx, `before=$(wc -l </tmp/made)
while [ "$(wc -l </tmp/made)" -lt $((before+2)) ]; do usleep 10000; done
mv /tmp/made /tmp/seen; cat /tmp/seen`)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		a, b, _ := strings.Cut(strings.TrimSpace(line), " ")
		begin, err := strconv.ParseFloat(a, 64)
		if err != nil {
			return 0, err
		}
		end, err := strconv.ParseFloat(b, 64)
		if err != nil {
			return 0, err
		}
		slowest = max(slowest, time.Duration((end-begin)*1000)*time.Millisecond)
	}
	return slowest, nil
}
