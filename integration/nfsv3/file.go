package nfsv3

import (
	"context"
	"fmt"
)

// A Status is an error of MOUNT or NFS: RFC 1813, sections 2.6 and 5.1.5.
type Status uint32

// Some of them.
const (
	NOENT Status = 2
	ACCES Status = 13
	ROFS  Status = 30
	STALE Status = 70
)

func (s Status) Error() string { return fmt.Sprintf("status %d", uint32(s)) }

// A LockStatus is what the lock manager answers: nlm4_stats.
type LockStatus uint32

// Some of them.
const (
	Granted LockStatus = 0
	Denied  LockStatus = 1
	NoLocks LockStatus = 2
	Blocked LockStatus = 3
	InGrace LockStatus = 4
)

// A Handle names a file.
type Handle []byte

func status(d *Decoder) error {
	s := d.u32()
	switch {
	case d.err != nil:
		return d.err
	case s != 0:
		return Status(s)
	}
	return nil
}

// Mount asks mountd for the handle of a path.
func (c *Client) Mount(ctx context.Context, path string) (Handle, error) {
	var a encoder
	a.opaque([]byte(path))
	d, err := c.Call(ctx, Procedure{Mount, 3, 1}, a.b)
	if err == nil {
		err = status(d)
	}
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", path, err)
	}
	return Handle(d.opaque()), d.err
}

// Exports lists what mountd tells: showmount -e.
func (c *Client) Exports(ctx context.Context) (map[string][]string, error) {
	d, err := c.Call(ctx, Procedure{Mount, 3, 5}, nil)
	if err != nil {
		return nil, err
	}
	exports := map[string][]string{}
	for d.u32() == 1 {
		path := string(d.opaque())
		exports[path] = nil
		for d.u32() == 1 {
			exports[path] = append(exports[path], string(d.opaque()))
		}
	}
	return exports, d.err
}

// Create makes an empty file, or finds it.
func (c *Client) Create(ctx context.Context, dir Handle, name string) (Handle, error) {
	var a encoder
	a.opaque(dir)
	a.opaque([]byte(name))
	a.u32(0, 1, 0o666, 0, 0, 0, 0, 0) // UNCHECKED; the mode, and nothing else
	d, err := c.Call(ctx, Procedure{NFS, 3, 8}, a.b)
	if err == nil {
		err = status(d)
	}
	if err == nil && d.u32() != 1 {
		err = fmt.Errorf("no handle: %w", NOENT)
	}
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", name, err)
	}
	return Handle(d.opaque()), d.err
}

// Owner is the user and group that a file belongs to.
func (c *Client) Owner(ctx context.Context, f Handle) (uid, gid uint32, err error) {
	var a encoder
	a.opaque(f)
	d, err := c.Call(ctx, Procedure{NFS, 3, 1}, a.b)
	if err == nil {
		err = status(d)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("attributes: %w", err)
	}
	d.take(12) // type, mode, links
	return d.u32(), d.u32(), d.err
}

// Write writes p at an offset, to the disk.
func (c *Client) Write(ctx context.Context, f Handle, offset uint64, p []byte) error {
	var a encoder
	a.opaque(f)
	a.u64(offset)
	a.u32(uint32(len(p)), 2) // FILE_SYNC
	a.opaque(p)
	d, err := c.Call(ctx, Procedure{NFS, 3, 7}, a.b)
	if err == nil {
		err = status(d)
	}
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// Read reads up to size bytes from an offset.
func (c *Client) Read(ctx context.Context, f Handle, offset uint64, size uint32) ([]byte, error) {
	var a encoder
	a.opaque(f)
	a.u64(offset)
	a.u32(size)
	d, err := c.Call(ctx, Procedure{NFS, 3, 6}, a.b)
	if err == nil {
		err = status(d)
	}
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	if d.u32() == 1 {
		d.take(84) // attributes
	}
	d.take(8) // count, end of file
	return d.opaque(), d.err
}

// A Lock is of a whole file, exclusive.
type Lock struct {
	File    Handle
	Process int32 // on this machine
	Wait    bool  // an answer of Blocked then stands in a queue
	Reclaim bool  // it was held before the server was started anew
}

// Lock asks for one.
func (c *Client) Lock(ctx context.Context, l Lock) (LockStatus, error) {
	var a encoder
	a.opaque([]byte("cookie"))
	a.u32(flag(l.Wait), 1)
	c.holder(&a, l)
	a.u32(flag(l.Reclaim), 1)
	return c.locks(ctx, 2, a.b)
}

// Unlock gives it back.
func (c *Client) Unlock(ctx context.Context, l Lock) (LockStatus, error) {
	var a encoder
	a.opaque([]byte("cookie"))
	c.holder(&a, l)
	return c.locks(ctx, 4, a.b)
}

func (c *Client) holder(a *encoder, l Lock) {
	a.opaque([]byte(c.o.Name))
	a.opaque(l.File)
	a.opaque(fmt.Appendf(nil, "%d@%s", l.Process, c.o.Name))
	a.u32(uint32(l.Process))
	a.u64(0)
	a.u64(0) // to the end
}

func (c *Client) locks(ctx context.Context, procedure uint32, arguments []byte) (LockStatus, error) {
	d, err := c.Call(ctx, Procedure{Locks, 4, procedure}, arguments)
	if err != nil {
		return 0, err
	}
	d.opaque() // the cookie
	return LockStatus(d.u32()), d.err
}

func flag(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}
