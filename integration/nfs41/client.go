// Package nfs41 is a small NFSv4.1 client in user space, for tests and
// measurements of gateways on machines that have no kernel client.
//
// It speaks RFC 8881 with the XDR of RFC 5662 over TCP: sessions with one slot,
// AUTH_SYS, no delegations, no back channel, no pNFS; every write is FILE_SYNC4.
// Like a kernel's hard mount it hides a server's death: it connects again, comes
// back as the same client, reclaims its open files and locks, and repeats the
// operation until the caller's context ends.
//
//	   Dial            connection lost: send the same slot again
//	    v                +------------+
//	[connected] ------> [session] <---+---> operation done
//	    ^                   |  BADSESSION, STALE_CLIENTID ...
//	    |                   v
//	    +--- EXCHANGE_ID, CREATE_SESSION, and after a loss of state
//	         OPEN(CLAIM_PREVIOUS) and LOCK(reclaim) of each file,
//	         RECLAIM_COMPLETE
//
// An operation that is not idempotent (Remove, Mkdir, O_EXCL) may be answered
// NOENT or EXIST if the server died between doing it and saying so, as with any
// NFS client.
package nfs41

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Options of a Client.
type Options struct {
	Address   string     // required: host:port, the host an IP address
	Owner     string     // required: the client owner, co_ownerid; two clients of one server with the same one expel each other
	NetNS     string     // path of the network namespace to connect from; "" is the caller's
	LocalAddr netip.Addr // source address; invalid lets the kernel choose
	UID, GID  uint32
	Groups    []uint32 // auxiliary groups, at most 16
	Minor     uint32   // 1 or 2; 0 is 2
	Timing    Timing   // zero is Quick()
	Log       *slog.Logger
}

// Timing says how long a Client waits before it tries again.
type Timing struct {
	Retry    time.Duration // first wait after GRACE or DELAY; doubles
	RetryMax time.Duration // longest such wait
	Refused  time.Duration // first wait after a connection refused, or reset before it brought an answer; doubles up to ten times
	Connect  time.Duration // limit of one attempt to connect; 0 leaves it to the kernel's SYN timer, whose first interval is 1 s
	Reply    time.Duration // limit of one call; then the connection is made anew
}

// Quick notices a change at once, to measure the server and not the client.
func Quick() Timing {
	return Timing{Retry: 5 * time.Millisecond, RetryMax: 20 * time.Millisecond,
		Refused: 5 * time.Millisecond, Connect: 50 * time.Millisecond, Reply: 10 * time.Second}
}

// Linux waits as the kernel's client does (NFS4_POLL_RETRY_MIN and _MAX of
// fs/nfs/nfs4proc.c; XS_TCP_INIT_REEST_TO of net/sunrpc/xprtsock.c, which
// xs_data_ready alone takes back; 6.1).
func Linux() Timing {
	return Timing{Retry: 100 * time.Millisecond, RetryMax: 15 * time.Second,
		Refused: 3 * time.Second, Reply: 60 * time.Second}
}

// Stats counts what a Client had to do to hide the server's restarts.
type Stats struct {
	Connects  int // connections made, the first included
	Sessions  int // sessions made, the first included
	Reclaimed int // files reclaimed with CLAIM_PREVIOUS
	Lost      int // files whose state was lost: opened again at their next use, locks gone
}

// A Client is one NFSv4.1 client with one session. Its methods may be called
// from several goroutines; calls go one after the other, but a call that waits
// for GRACE or DELAY lets others pass.
type Client struct {
	o        Options
	verifier [8]byte
	stop     context.CancelFunc
	renewals sync.WaitGroup

	slot chan struct{} // holds one token: whoever has it owns all below

	conn net.Conn // nil: not connected
	// fruitless: the last connection, if it came about, has brought no answer
	// yet. A server that dies may still take a connection, only to reset it.
	fruitless bool
	refused   time.Duration // next wait after a fruitless one
	refusal   error         // of the last attempt; may be nil

	xid      uint32
	clientID uint64
	known    bool // the server has said RECLAIM_COMPLETE to clientID
	session  [16]byte
	alive    bool // session is believed to be good
	seq      uint32
	used     time.Time // of the lease
	owners   uint32
	files    map[*File]struct{}
	stats    Stats
}

// Dial connects, retrying until ctx ends, and makes a session. Close it.
func Dial(ctx context.Context, o Options) (*Client, error) {
	if o.Minor == 0 {
		o.Minor = 2
	}
	if o.Timing == (Timing{}) {
		o.Timing = Quick()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	c := &Client{o: o, slot: make(chan struct{}, 1), files: map[*File]struct{}{}}
	rand.Read(c.verifier[:]) // never fails
	c.slot <- struct{}{}

	var lease uint32
	err := c.do(ctx, func(e *encoder) {
		e.walk(nil)
		e.op(opGetattr)
		e.u32(1, 1<<attrLeaseTime)
	}, func(d *decoder) error {
		if err := d.walked(nil); err != nil {
			return err
		}
		a, err := d.getattr()
		lease = a.lease
		return err
	})
	if err != nil {
		c.drop()
		return nil, fmt.Errorf("dial %s: %w", o.Address, err)
	}
	renew, stop := context.WithCancel(context.WithoutCancel(ctx))
	c.stop = stop
	c.renewals.Go(func() { c.renew(renew, time.Duration(lease)*time.Second/3) })
	return c, nil
}

// Close gives up the session and the client's record at the server, so that no
// later grace period waits for it. Files that are open are closed. It fails
// when ctx ends before the server answers.
func (c *Client) Close(ctx context.Context) error {
	c.stop()
	c.renewals.Wait()
	if err := c.acquire(ctx); err != nil {
		return fmt.Errorf("close %s: %w", c.o.Address, err)
	}
	defer c.release()
	defer c.drop()
	for f := range c.files {
		// The server answers CLIENTID_BUSY to DESTROY_CLIENTID while there is state.
		err := c.doLocked(ctx, f.encodeClose, decodeClose)
		if err != nil && !lostState(err) {
			return fmt.Errorf("close %s: %w", f.name, err)
		}
		delete(c.files, f)
	}
	// The next two go without a SEQUENCE and are not repeated: see that there
	// is a session first.
	if err := c.doLocked(ctx, func(*encoder) {}, func(*decoder) error { return nil }); err != nil {
		return fmt.Errorf("close %s: %w", c.o.Address, err)
	}
	d, err := c.call(ctx, c.encodeDestroySession)
	if err == nil {
		err = d.op(opDestroySession)
	}
	if err == nil {
		d, err = c.call(ctx, func(e *encoder) {
			e.op(opDestroyClientID)
			e.u64(c.clientID)
		})
	}
	if err == nil {
		err = d.op(opDestroyClientID)
	}
	if err != nil {
		return fmt.Errorf("close %s: %w", c.o.Address, err)
	}
	return nil
}

// Abandon closes the connection and says nothing, like a machine that loses
// its power: the server keeps the client's state until its lease ends.
func (c *Client) Abandon() {
	c.stop()
	c.renewals.Wait()
	<-c.slot
	defer c.release()
	c.drop()
}

// Pause keeps the client silent until resume, like a machine that is paused: it
// renews no lease, and its operations wait.
func (c *Client) Pause(ctx context.Context) (resume func(), err error) {
	if err := c.acquire(ctx); err != nil {
		return nil, fmt.Errorf("pause %s: %w", c.o.Address, err)
	}
	return sync.OnceFunc(c.release), nil
}

// Stats so far.
func (c *Client) Stats() Stats {
	<-c.slot
	defer c.release()
	return c.stats
}

// renew keeps the lease while nobody uses the client (RFC 8881 section 8.3).
func (c *Client) renew(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if c.acquire(ctx) != nil {
			return
		}
		idle := time.Since(c.used)
		c.release()
		if idle < every {
			continue
		}
		if err := c.do(ctx, func(*encoder) {}, func(*decoder) error { return nil }); err != nil && ctx.Err() == nil {
			c.o.Log.Warn("lease not renewed", "err", err)
		}
	}
}

func (c *Client) acquire(ctx context.Context) error {
	select {
	case <-c.slot:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *Client) release() { c.slot <- struct{}{} }

func (c *Client) drop() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// wait doubles delay after sleeping it, up to limit.
func wait(ctx context.Context, delay *time.Duration, limit time.Duration) error {
	t := time.NewTimer(*delay)
	defer t.Stop()
	*delay = min(2**delay, limit)
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// do executes operations behind a SEQUENCE, and recovers and repeats as long
// as that may help. build may be called several times.
func (c *Client) do(ctx context.Context, build func(*encoder), parse func(*decoder) error) error {
	delay := c.o.Timing.Retry
	for {
		if err := c.acquire(ctx); err != nil {
			return err
		}
		err := c.doLocked(ctx, build, parse)
		c.release()
		if !errors.Is(err, GRACE) && !errors.Is(err, DELAY) {
			return err
		}
		if late := wait(ctx, &delay, c.o.Timing.RetryMax); late != nil {
			return fmt.Errorf("%w: %w", late, err)
		}
	}
}

// doLocked is do without waiting for GRACE or DELAY. It keeps the slot while a
// lost connection leaves open whether the call was executed: only the same
// call may use its sequence number again (RFC 8881 section 2.10.6.1).
func (c *Client) doLocked(ctx context.Context, build func(*encoder), parse func(*decoder) error) error {
	delay := time.Duration(0) // a new session is made at once, a second one after a while
	for {
		err := c.ready(ctx)
		if err == nil {
			err = c.once(ctx, build, parse)
		}
		switch {
		case errors.Is(err, errLost):
			c.drop()
			c.o.Log.Debug("connection lost", "err", err)
			if ctx.Err() != nil {
				c.alive = false // the slot's state is unknown, and nobody will ask
				return fmt.Errorf("%w: %w", context.Cause(ctx), err)
			}
		case lostSession(err):
			c.alive = false
			c.o.Log.Debug("session lost", "err", err)
			if late := wait(ctx, &delay, c.o.Timing.RetryMax); late != nil {
				return fmt.Errorf("%w: %w", late, err)
			}
			delay = max(delay, c.o.Timing.Retry)
		default:
			return err
		}
	}
}

func lostSession(err error) bool {
	var s Status
	return errors.As(err, &s) && slices.Contains([]Status{BADSESSION, DEADSESSION, BADSLOT, NOT_BOUND,
		SEQ_MISORDERED, RETRY_UNCACHED_REP, STALE_CLIENTID}, s)
}

// once executes operations behind a SEQUENCE (RFC 8881 section 18.46) on slot 0.
func (c *Client) once(ctx context.Context, build func(*encoder), parse func(*decoder) error) error {
	d, err := c.call(ctx, func(e *encoder) {
		var rest encoder
		build(&rest)
		e.op(opSequence)
		e.fixed(c.session[:])
		e.u32(c.seq, 0, 0) // sequence, slot, highest slot
		if rest.large {
			// To cache it is refused, REP_TOO_BIG_TO_CACHE. Asked for again it
			// is RETRY_UNCACHED_REP, and done anew in a new session.
			e.u32(0)
		} else {
			e.u32(1)
		}
		e.ops += rest.ops
		e.b = append(e.b, rest.b...)
	})
	if err != nil {
		return err
	}
	if err := d.op(opSequence); err != nil {
		return err // the sequence number is not used up
	}
	c.seq++
	c.used = time.Now()
	d.fixed(len(c.session))
	d.fixed(5 * 4) // sequence, slots, and flags, of which nothing follows that an operation does not say too
	if err := parse(d); err != nil {
		return err
	}
	return d.err
}
