package nfs41

import (
	"fmt"
	"io/fs"
	"math/bits"
)

// Attribute numbers, RFC 8881 section 5.8.
const (
	attrType      = 1
	attrSize      = 4
	attrFSID      = 8
	attrLeaseTime = 10
	attrRdError   = 11
	attrFileID    = 20
	attrMode      = 33
	attrOwner     = 36
	attrGroup     = 37

	wanted0 = 1<<attrType | 1<<attrSize | 1<<attrFSID | 1<<attrFileID
	wanted1 = 1<<(attrMode-32) | 1<<(attrOwner-32) | 1<<(attrGroup-32)
)

// A Type of file, nfs_ftype4 of RFC 8881 section 2.2 (XDR in RFC 5662).
type Type uint32

// The types that an export may hold.
const (
	Regular   Type = 1
	Directory Type = 2
	Symlink   Type = 5
)

// Attr of a file.
type Attr struct {
	Type   Type
	Size   uint64 // bytes
	FSID   [2]uint64
	FileID uint64
	Mode   fs.FileMode // permission bits
	Owner  string      // as the server sends it: with numeric owners the uid in decimal
	Group  string
	Err    error // of a directory's entry that the server could not look at

	lease uint32 // seconds
}

func (d *decoder) getattr() (Attr, error) {
	if err := d.op(opGetattr); err != nil {
		return Attr{}, err
	}
	return d.attr()
}

// attr reads a fattr4: a bitmap, and the values in the order of their numbers.
func (d *decoder) attr() (a Attr, err error) {
	words := make([]uint32, min(d.u32(), 8))
	for i := range words {
		words[i] = d.u32()
	}
	values := decoder{b: d.opaque(), err: d.err}
	for i, word := range words {
		for ; word != 0; word &= word - 1 {
			switch number := i*32 + bits.TrailingZeros32(word); number {
			case attrType:
				a.Type = Type(values.u32())
			case attrSize:
				a.Size = values.u64()
			case attrFSID:
				a.FSID = [2]uint64{values.u64(), values.u64()}
			case attrLeaseTime:
				a.lease = values.u32()
			case attrRdError:
				if s := Status(values.u32()); s != 0 {
					a.Err = s
				}
			case attrFileID:
				a.FileID = values.u64()
			case attrMode:
				a.Mode = fs.FileMode(values.u32() & 0o777)
			case attrOwner:
				a.Owner = string(values.opaque())
			case attrGroup:
				a.Group = string(values.opaque())
			default:
				return a, fmt.Errorf("attribute %d was not asked for", number)
			}
		}
	}
	return a, values.err
}
