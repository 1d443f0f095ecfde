package nfs41

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Operation numbers, RFC 5662 (nfs_opnum4).
const (
	opClose           = 4
	opCommit          = 5
	opCreate          = 6
	opGetattr         = 9
	opGetfh           = 10
	opLock            = 12
	opLocku           = 14
	opLookup          = 15
	opLookupp         = 16
	opOpen            = 18
	opPutfh           = 22
	opPutrootfh       = 24
	opRead            = 25
	opReaddir         = 26
	opRemove          = 28
	opWrite           = 38
	opBindConn        = 41
	opExchangeID      = 42
	opCreateSession   = 43
	opDestroySession  = 44
	opSequence        = 53
	opDestroyClientID = 57
	opReclaimComplete = 58
)

// An encoder writes XDR, RFC 4506, and counts the operations of a COMPOUND.
type encoder struct {
	b     []byte
	ops   uint32
	large bool // has an operation whose answer is large, and which can be repeated
}

func (e *encoder) op(code uint32) {
	e.ops++
	e.large = e.large || code == opRead || code == opReaddir
	e.u32(code)
}

func (e *encoder) u32(values ...uint32) {
	for _, v := range values {
		e.b = binary.BigEndian.AppendUint32(e.b, v)
	}
}

func (e *encoder) u64(values ...uint64) {
	for _, v := range values {
		e.b = binary.BigEndian.AppendUint64(e.b, v)
	}
}

func (e *encoder) fixed(p []byte) {
	e.b = append(e.b, p...)
	for range -len(p) & 3 {
		e.b = append(e.b, 0)
	}
}

func (e *encoder) opaque(p []byte) {
	e.u32(uint32(len(p)))
	e.fixed(p)
}

// putfh makes fh the current file handle.
func (e *encoder) putfh(fh []byte) {
	e.op(opPutfh)
	e.opaque(fh)
}

// walk makes the object at names, below the pseudo root, the current file
// handle.
func (e *encoder) walk(names []string) {
	e.op(opPutrootfh)
	for _, name := range names {
		e.op(opLookup)
		e.opaque([]byte(name))
	}
}

var errShort = errors.New("reply is too short")

// A decoder reads XDR. After the first short read every value is zero and err
// is set.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) u32() uint32 {
	if p := d.fixed(4); p != nil {
		return binary.BigEndian.Uint32(p)
	}
	return 0
}

func (d *decoder) u64() uint64 {
	if p := d.fixed(8); p != nil {
		return binary.BigEndian.Uint64(p)
	}
	return 0
}

// fixed returns n bytes of the reply itself, not a copy.
func (d *decoder) fixed(n int) []byte {
	padded := n + (-n & 3)
	if d.err == nil && (n < 0 || padded > len(d.b)) {
		d.err = errShort
	}
	if d.err != nil {
		return nil
	}
	p := d.b[:n:n]
	d.b = d.b[padded:]
	return p
}

func (d *decoder) opaque() []byte { return d.fixed(int(d.u32())) }

// op begins the result of one operation, and returns its Status if that is not
// OK. The reply ends at the first failed operation.
func (d *decoder) op(code uint32) error {
	got, status := d.u32(), Status(d.u32())
	if d.err != nil {
		return d.err
	}
	if status != 0 {
		return status
	}
	if got != code {
		return fmt.Errorf("answer to operation %d is for operation %d", code, got)
	}
	return nil
}

func (d *decoder) walked(names []string) error {
	if err := d.op(opPutrootfh); err != nil {
		return err
	}
	for range names {
		if err := d.op(opLookup); err != nil {
			return err
		}
	}
	return nil
}

// A stateid, RFC 8881 section 3.3.12: a sequence number and twelve bytes.
type stateid [16]byte

func (d *decoder) stateid() (s stateid) {
	copy(s[:], d.fixed(len(s)))
	return s
}
