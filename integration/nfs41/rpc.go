package nfs41

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/causeway-project/causeway/integration/netspace"
)

// errLost: the connection, or the server behind it, went away; whether the
// call was executed is not known.
var errLost = errors.New("connection lost")

// connect dials the server, from inside the namespace if there is one.
func connect(ctx context.Context, o Options) (net.Conn, error) {
	dialer := net.Dialer{Timeout: o.Timing.Connect}
	if o.LocalAddr.IsValid() {
		dialer.LocalAddr = &net.TCPAddr{IP: o.LocalAddr.AsSlice()}
	}
	var conn net.Conn
	err := netspace.Do(o.NetNS, func() (err error) {
		// A socket belongs to the namespace of the thread that makes it, and
		// Dial makes it on the caller's thread.
		conn, err = dialer.DialContext(ctx, "tcp", o.Address)
		return err
	})
	return conn, err
}

// call sends one COMPOUND (RFC 8881 section 16.2) and reads its answer: the
// results, from the first operation's on. An error that is errLost leaves the
// connection useless.
func (c *Client) call(ctx context.Context, build func(*encoder)) (*decoder, error) {
	conn := c.conn
	deadline := time.Now().Add(c.o.Timing.Reply)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, fmt.Errorf("%w: %w", errLost, err)
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	c.xid++
	if _, err := conn.Write(c.request(build)); err != nil {
		return nil, fmt.Errorf("%w: %w", errLost, err)
	}
	for {
		record, err := readRecord(conn)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errLost, err)
		}
		c.fruitless = false
		if d := (&decoder{b: record}); d.u32() == c.xid {
			return results(d)
		}
	}
}

// request is an ONC RPC call (RFC 5531 section 9) with AUTH_SYS credentials
// (appendix A) as one fragment (section 11).
func (c *Client) request(build func(*encoder)) []byte {
	var body, cred, msg encoder
	build(&body)

	cred.u32(0)
	cred.opaque([]byte("causeway"))
	cred.u32(c.o.UID, c.o.GID, uint32(len(c.o.Groups)))
	cred.u32(c.o.Groups...)

	const msgCall, rpcVersion, program, version, procCompound, authSys, authNone = 0, 2, 100003, 4, 1, 1, 0
	msg.u32(0) // the length, below
	msg.u32(c.xid, msgCall, rpcVersion, program, version, procCompound, authSys)
	msg.opaque(cred.b)
	msg.u32(authNone, 0)
	msg.opaque(nil) // tag
	msg.u32(c.o.Minor, body.ops)
	msg.b = append(msg.b, body.b...)
	binary.BigEndian.PutUint32(msg.b, lastFragment|uint32(len(msg.b)-4))
	return msg.b
}

const (
	lastFragment = 1 << 31
	maxReply     = 4 << 20
)

func readRecord(r io.Reader) ([]byte, error) {
	var record []byte
	for {
		var head [4]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return nil, err
		}
		mark := binary.BigEndian.Uint32(head[:])
		n := int(mark &^ lastFragment)
		if len(record)+n > maxReply {
			return nil, fmt.Errorf("reply of over %d bytes", maxReply)
		}
		fragment := make([]byte, n)
		if _, err := io.ReadFull(r, fragment); err != nil {
			return nil, err
		}
		record = append(record, fragment...)
		if mark&lastFragment != 0 {
			return record, nil
		}
	}
}

// results checks the header of a reply whose xid is read.
func results(d *decoder) (*decoder, error) {
	if kind := d.u32(); kind != 1 && d.err == nil {
		return nil, fmt.Errorf("not a reply: message type %d", kind)
	}
	if state := d.u32(); state != 0 && d.err == nil {
		return nil, fmt.Errorf("call rejected: %d, %d", d.u32(), d.u32())
	}
	d.u32()
	d.opaque() // the verifier
	if state := d.u32(); state != 0 && d.err == nil {
		return nil, fmt.Errorf("call not executed: accept status %d", state)
	}
	status := Status(d.u32())
	d.opaque() // tag
	n := d.u32()
	if d.err == nil && n == 0 && status != 0 {
		return nil, status // MINOR_VERS_MISMATCH has no results
	}
	return d, d.err
}
