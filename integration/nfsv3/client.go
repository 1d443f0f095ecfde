// Package nfsv3 is a small NFSv3 client in user space, for tests of gateways:
// rpcbind (RFC 1833), MOUNT and NFS (RFC 1813) and the lock manager (X/Open
// XNFS, chapter 10), over TCP, with AUTH_SYS. It repeats nothing and keeps no
// state but its connections; every write is FILE_SYNC.
package nfsv3

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/causeway-project/causeway/integration/netspace"
)

// Programs, by the numbers that rpcbind knows them by.
const (
	RPCBind = 100000
	NFS     = 100003
	Mount   = 100005
	Locks   = 100021
)

// ErrRefused: the server knows the program, and not its version.
var ErrRefused = errors.New("version refused")

// Options of a Client.
type Options struct {
	Server    netip.Addr // required
	NetNS     string     // path of the network namespace to connect from; empty is the caller's
	LocalAddr netip.Addr // to connect from; not valid lets the kernel choose
	UID, GID  uint32
	Name      string // of this machine, as the lock manager hears it
}

// A Client is one machine's connections, one for each program. It is for one
// goroutine.
type Client struct {
	o     Options
	conns map[uint32]net.Conn // by program
	xid   uint32
}

// New connects to nothing yet.
func New(o Options) *Client { return &Client{o: o, conns: map[uint32]net.Conn{}} }

// Close hangs up.
func (c *Client) Close() {
	for _, conn := range c.conns {
		_ = conn.Close() // nothing is unwritten
	}
	c.conns = map[uint32]net.Conn{}
}

// Port asks rpcbind where a program listens over TCP; 0 is nowhere.
func (c *Client) Port(ctx context.Context, program, version uint32) (uint16, error) {
	const getPort, tcp = 3, 6
	var arguments encoder
	arguments.u32(program, version, tcp, 0)
	d, err := c.Call(ctx, Procedure{RPCBind, 2, getPort}, arguments.b)
	if err != nil {
		return 0, err
	}
	return uint16(d.u32()), d.err
}

// Ask sends one call to rpcbind in a datagram, and says whether anything came
// back before ctx ended.
func (c *Client) Ask(ctx context.Context, p Procedure, arguments ...uint32) (bool, error) {
	var conn net.Conn
	err := netspace.Do(c.o.NetNS, func() (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, "udp", netip.AddrPortFrom(c.o.Server, 111).String())
		return err
	})
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close() }() // nothing is unwritten
	var m encoder
	m.u32(7, 0, 2, p.Program, p.Version, p.Number, 0, 0, 0, 0)
	m.u32(arguments...)
	if _, err := conn.Write(m.b); err != nil {
		return false, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetReadDeadline(deadline); err != nil {
			return false, err
		}
	}
	_, err = conn.Read(make([]byte, 1024))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return false, nil
	}
	return err == nil, err
}

// connect returns the connection to a program, whose port it asks rpcbind for
// but for those that all the world knows.
func (c *Client) connect(ctx context.Context, program, version uint32) (net.Conn, error) {
	if conn := c.conns[program]; conn != nil {
		return conn, nil
	}
	var port uint16
	switch program {
	case RPCBind:
		port = 111
	case NFS:
		port = 2049
	default:
		var err error
		if port, err = c.Port(ctx, program, version); err != nil {
			return nil, err
		}
		if port == 0 {
			return nil, fmt.Errorf("rpcbind knows no program %d version %d", program, version)
		}
	}
	d := net.Dialer{}
	if c.o.LocalAddr.IsValid() {
		d.LocalAddr = &net.TCPAddr{IP: c.o.LocalAddr.AsSlice()}
	}
	var conn net.Conn
	err := netspace.Do(c.o.NetNS, func() (err error) {
		conn, err = d.DialContext(ctx, "tcp", netip.AddrPortFrom(c.o.Server, port).String())
		return err
	})
	if err != nil {
		return nil, err
	}
	c.conns[program] = conn
	return conn, nil
}

// A Procedure is one of a version of a program.
type Procedure struct{ Program, Version, Number uint32 }

// Call makes one call (RFC 5531) and returns what it answers. ErrRefused is a
// program that does not know the version.
func (c *Client) Call(ctx context.Context, p Procedure, arguments []byte) (*Decoder, error) {
	conn, err := c.connect(ctx, p.Program, p.Version)
	if err != nil {
		return nil, fmt.Errorf("program %d: %w", p.Program, err)
	}
	d, err := c.call(ctx, conn, p, arguments)
	if err != nil {
		if !errors.Is(err, ErrRefused) {
			_ = conn.Close() // it is of no more use
			delete(c.conns, p.Program)
		}
		return nil, fmt.Errorf("program %d version %d procedure %d: %w", p.Program, p.Version, p.Number, err)
	}
	return d, nil
}

func (c *Client) call(ctx context.Context, conn net.Conn, p Procedure, arguments []byte) (*Decoder, error) {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(10 * time.Second)
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, err
	}
	c.xid++
	var cred, m encoder
	cred.u32(0)
	cred.opaque([]byte(c.o.Name))
	cred.u32(c.o.UID, c.o.GID, 0)
	const call, rpcVersion, authSys, authNone = 0, 2, 1, 0
	m.u32(0, c.xid, call, rpcVersion, p.Program, p.Version, p.Number, authSys)
	m.opaque(cred.b)
	m.u32(authNone, 0)
	m.b = append(m.b, arguments...)
	binary.BigEndian.PutUint32(m.b, 1<<31|uint32(len(m.b)-4)) // one record, in one fragment
	if _, err := conn.Write(m.b); err != nil {
		return nil, err
	}
	reply, err := readRecord(conn)
	if err != nil {
		return nil, err
	}
	d := &Decoder{b: reply}
	xid, kind, status := d.u32(), d.u32(), d.u32()
	if xid != c.xid || kind != 1 || status != 0 {
		return nil, fmt.Errorf("reply denied: %x", reply)
	}
	d.u32() // the verifier's flavour
	d.opaque()
	switch accepted := d.u32(); {
	case d.err != nil:
		return nil, d.err
	case accepted == 2: // PROG_MISMATCH
		return nil, ErrRefused
	case accepted != 0:
		return nil, fmt.Errorf("not executed: %d", accepted)
	}
	return d, nil
}

func readRecord(r io.Reader) ([]byte, error) {
	var record []byte
	for {
		var mark uint32
		if err := binary.Read(r, binary.BigEndian, &mark); err != nil {
			return nil, err
		}
		size := mark &^ (1 << 31)
		if size > 2<<20 {
			return nil, fmt.Errorf("a fragment of %d bytes", size)
		}
		part := make([]byte, size)
		if _, err := io.ReadFull(r, part); err != nil {
			return nil, err
		}
		record = append(record, part...)
		if mark != size {
			return record, nil
		}
	}
}

// An encoder writes XDR (RFC 4506).
type encoder struct{ b []byte }

func (e *encoder) u32(vs ...uint32) {
	for _, v := range vs {
		e.b = binary.BigEndian.AppendUint32(e.b, v)
	}
}

func (e *encoder) u64(v uint64) { e.b = binary.BigEndian.AppendUint64(e.b, v) }

func (e *encoder) opaque(p []byte) {
	e.u32(uint32(len(p)))
	e.b = append(e.b, p...)
	e.b = append(e.b, make([]byte, -len(p)&3)...)
}

// A Decoder reads XDR. After an error everything is zero.
type Decoder struct {
	b   []byte
	err error
}

// First is the next number.
func (d *Decoder) First() uint32 { return d.u32() }

func (d *Decoder) take(n int) []byte {
	if d.err != nil || n < 0 || n > len(d.b) {
		d.err = io.ErrUnexpectedEOF
		return nil
	}
	p := d.b[:n]
	d.b = d.b[n:]
	return p
}

func (d *Decoder) u32() uint32 {
	if p := d.take(4); p != nil {
		return binary.BigEndian.Uint32(p)
	}
	return 0
}

func (d *Decoder) opaque() []byte {
	n := int(d.u32())
	p := d.take(n)
	d.take(-n & 3)
	return p
}
