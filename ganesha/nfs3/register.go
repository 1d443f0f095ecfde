package nfs3

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// A service is a version of an RPC program, and where it listens.
type service struct {
	program, version uint32
	port             int
}

var (
	rpcbind = service{100000, 4, RPCBindPort}
	status  = service{100024, 1, StatPort}
)

// nfsPort is the server's.
const nfsPort = 2049

// registered is all that rpcbind knows where nothing went wrong: what
// nfs-ganesha registers (Init_svc in src/MainNFSD/nfs_rpc_dispatcher_thread.c),
// and what rpc.statd does.
func registered() []service {
	return []service{
		{100003, 3, nfsPort}, {100005, 1, MountPort}, {100005, 3, MountPort}, {100021, 4, LockPort}, status,
	}
}

// register tells rpcbind what its predecessor knew: rpcbind keeps nothing when
// it is killed, and nobody registers twice. What is registered already stays.
func (c *Companions) register(ctx context.Context) error {
	conn, err := c.dial(ctx, RPCBindPort)
	if err != nil {
		return fmt.Errorf("register with rpcbind: %w", err)
	}
	defer func() { _ = conn.Close() }() // nothing is unwritten
	for _, s := range registered() {
		netids := []string{"tcp", "tcp6"}
		if s == status {
			netids = append(netids, "udp", "udp6")
		}
		for _, netid := range netids {
			// RPCBPROC_SET of version 4: RFC 1833, section 2.2.1. The answer is
			// a boolean, false where somebody else has registered before.
			if _, err := call(conn, rpcbind, procSet, binding(s, netid)); err != nil {
				return fmt.Errorf("register with rpcbind: %w", err)
			}
		}
	}
	return nil
}

// Procedures of rpcbind.
const (
	procNull = 0
	procSet  = 1
)

// binding is the rpcb structure of RFC 1833, section 2.1. Universal addresses
// end with the two bytes of the port.
func binding(s service, netid string) []byte {
	host := "0.0.0.0"
	if netid[len(netid)-1] == '6' {
		host = "::"
	}
	b := binary.BigEndian.AppendUint32(nil, s.program)
	b = binary.BigEndian.AppendUint32(b, s.version)
	for _, text := range []string{netid, fmt.Sprintf("%s.%d.%d", host, s.port>>8, s.port&0xff), "superuser"} {
		b = appendString(b, text)
	}
	return b
}

func appendString(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	b = append(b, s...)
	return append(b, make([]byte, -len(s)&3)...)
}

// null asks a service whether it answers.
func (c *Companions) null(ctx context.Context, s service) error {
	conn, err := c.dial(ctx, s.port)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // nothing is unwritten
	_, err = call(conn, s, procNull, nil)
	return err
}

func (c *Companions) dial(ctx context.Context, port int) (net.Conn, error) {
	conn, err := c.o.Dial(port)
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(look)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := conn.SetDeadline(deadline); err != nil {
		_ = conn.Close() // it is of no use
		return nil, err
	}
	return conn, nil
}

// maxReply bounds what a companion may answer.
const maxReply = 4096

// call makes one call of ONC RPC (RFC 5531) over TCP, with no credential and no
// verifier, and returns the result.
func call(conn io.ReadWriter, s service, procedure uint32, arguments []byte) ([]byte, error) {
	const xid = 0x43570003
	var m bytes.Buffer
	header := []uint32{0x80000000 | uint32(40+len(arguments)), xid, 0, 2, s.program, s.version, procedure, 0, 0, 0, 0}
	if err := binary.Write(&m, binary.BigEndian, header); err != nil {
		return nil, err
	}
	m.Write(arguments)
	if _, err := conn.Write(m.Bytes()); err != nil {
		return nil, fmt.Errorf("call: %w", err)
	}
	var mark uint32
	if err := binary.Read(conn, binary.BigEndian, &mark); err != nil {
		return nil, fmt.Errorf("reply: %w", err)
	}
	size := mark &^ 0x80000000
	if mark == size || size < 24 || size > maxReply {
		return nil, fmt.Errorf("reply: a record of %#x", mark)
	}
	reply := make([]byte, size)
	if _, err := io.ReadFull(conn, reply); err != nil {
		return nil, fmt.Errorf("reply: %w", err)
	}
	// xid, REPLY, MSG_ACCEPTED, verifier flavour and length, SUCCESS
	want := binary.BigEndian.AppendUint32(nil, xid)
	want = append(want, 0, 0, 0, 1)
	want = append(want, make([]byte, 16)...)
	if !bytes.Equal(reply[:24], want) {
		return nil, errors.New("reply: refused")
	}
	return reply[24:], nil
}
