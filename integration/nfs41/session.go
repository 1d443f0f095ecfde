package nfs41

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
)

// ready connects and makes a session, if that is needed, until ctx ends.
func (c *Client) ready(ctx context.Context) error {
	delay := c.o.Timing.Retry
	for {
		err := c.establish(ctx)
		if err == nil {
			return nil
		}
		if errors.Is(err, errLost) {
			c.drop()
		} else if !errors.Is(err, DELAY) && !lostSession(err) {
			return err
		}
		c.o.Log.Debug("session not made", "err", err)
		if late := wait(ctx, &delay, c.o.Timing.RetryMax); late != nil {
			return fmt.Errorf("%w: %w", late, err)
		}
	}
}

func (c *Client) establish(ctx context.Context) error {
	for c.conn == nil {
		if c.fruitless {
			if late := wait(ctx, &c.refused, 10*c.o.Timing.Refused); late != nil {
				return fmt.Errorf("%w: %w", late, cmp.Or(c.refusal, errLost))
			}
		} else {
			c.refused = c.o.Timing.Refused
		}
		conn, err := connect(ctx, c.o)
		c.fruitless, c.refusal = true, err
		if err == nil {
			c.conn = conn
			c.stats.Connects++
			break
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		c.o.Log.Debug("not connected", "err", err)
		var timeout net.Error
		switch {
		case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET),
			errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		case errors.As(err, &timeout) && timeout.Timeout():
			c.fruitless = false // it took its time already
		default:
			return err // no such namespace, no such source address
		}
	}
	if c.alive {
		return nil
	}
	return c.newSession(ctx)
}

// newSession is EXCHANGE_ID (RFC 8881 section 18.35) and CREATE_SESSION
// (18.36), and the recovery of state if the server has lost it (8.4.2).
func (c *Client) newSession(ctx context.Context) error {
	d, err := c.call(ctx, func(e *encoder) {
		e.op(opExchangeID)
		e.fixed(c.verifier[:])
		e.opaque([]byte(c.o.Owner))
		e.u32(0, 0, 0) // no flags, SP4_NONE, no implementation id
	})
	if err != nil {
		return err
	}
	if err := d.op(opExchangeID); err != nil {
		return fmt.Errorf("exchange id: %w", err)
	}
	id, seq := d.u64(), d.u32()
	const confirmed = 1 << 31 // EXCHGID4_FLAG_CONFIRMED_R: the server knows us and our state
	same := d.u32()&confirmed != 0 && id == c.clientID
	kept := same && c.known
	if d.err != nil {
		return d.err
	}

	if same {
		// Of two sessions the older would make DESTROY_CLIENTID answer
		// CLIENTID_BUSY one day. It can only be destroyed from a connection
		// that is bound to it (RFC 8881 section 18.37.3). Mostly it is gone
		// already: the answers are of no interest.
		if _, err := c.call(ctx, func(e *encoder) {
			const fore = 1 // CDFC4_FORE
			e.op(opBindConn)
			e.fixed(c.session[:])
			e.u32(fore, 0)
		}); err != nil {
			return err
		}
		if _, err := c.call(ctx, c.encodeDestroySession); err != nil {
			return err
		}
	}
	d, err = c.call(ctx, func(e *encoder) {
		e.op(opCreateSession)
		e.u64(id)
		e.u32(seq, 0)
		for range 2 {
			// header padding, request, reply and cached reply sizes, operations, slots, RDMA
			e.u32(0, 2<<20, 2<<20, 64<<10, 64, 1, 0)
		}
		e.u32(0x40000000, 1, 0) // callbacks: a program number, one flavor, AUTH_NONE
	})
	if err != nil {
		return err
	}
	if err := d.op(opCreateSession); err != nil {
		return fmt.Errorf("create session: %w", err)
	}
	copy(c.session[:], d.fixed(len(c.session)))
	if d.err != nil {
		return d.err
	}
	c.stats.Sessions++
	c.clientID, c.seq, c.known = id, 1, kept
	if !kept {
		if err := c.reclaim(ctx); err != nil {
			return err
		}
	}
	c.alive = true
	return nil
}

// reclaim takes back every open file after the server lost them, and ends with
// RECLAIM_COMPLETE (RFC 8881 section 18.51), for which the grace period waits.
func (c *Client) reclaim(ctx context.Context) error {
	for f := range c.files {
		if !f.open {
			continue
		}
		err := c.reclaimFile(ctx, f)
		if errors.Is(err, errLost) || lostSession(err) || errors.Is(err, DELAY) {
			return err
		}
		if err != nil {
			c.o.Log.Warn("file not reclaimed", "file", f.name, "err", err)
			f.open, f.lock = false, nil
			c.stats.Lost++
			continue
		}
		c.stats.Reclaimed++
	}
	err := c.once(ctx, func(e *encoder) {
		e.op(opReclaimComplete)
		e.u32(0)
	}, func(d *decoder) error { return d.op(opReclaimComplete) })
	if err != nil && !errors.Is(err, COMPLETE_ALREADY) {
		return fmt.Errorf("reclaim complete: %w", err)
	}
	c.known = true
	return nil
}

func (c *Client) reclaimFile(ctx context.Context, f *File) error {
	err := c.once(ctx, func(e *encoder) { f.encodeOpen(e, claimPrevious) }, func(d *decoder) error {
		state, fh, err := decodeReopen(d)
		if err == nil && !bytes.Equal(fh, f.fh) {
			err = errors.New("another file came back")
		}
		f.state = state
		return err
	})
	if err != nil || f.lock == nil {
		return err
	}
	return c.once(ctx, func(e *encoder) {
		e.putfh(f.fh)
		f.encodeLock(e, f.lock, true)
	}, func(d *decoder) error {
		if err := d.op(opPutfh); err != nil {
			return err
		}
		return f.decodeLock(d, f.lock)
	})
}

func (c *Client) encodeDestroySession(e *encoder) {
	e.op(opDestroySession)
	e.fixed(c.session[:])
}
