package nfs41

import (
	"context"
	"fmt"
	"slices"
)

// What follows works on file handles as they are on the wire, be they from the
// server or made up: a server has to judge each for itself. Nothing is opened;
// reads and writes are those of the anonymous state (RFC 8881 section 8.2.3).

// Handle is GETFH of path.
func (c *Client) Handle(ctx context.Context, path string) (fh []byte, err error) {
	names := split(path)
	err = c.do(ctx, func(e *encoder) {
		e.walk(names)
		e.op(opGetfh)
	}, func(d *decoder) error {
		if err := d.walked(names); err != nil {
			return err
		}
		if err := d.op(opGetfh); err != nil {
			return err
		}
		fh = slices.Clone(d.opaque())
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("handle of %s: %w", path, err)
	}
	return fh, nil
}

// StatHandle is GETATTR of a handle.
func (c *Client) StatHandle(ctx context.Context, fh []byte) (a Attr, err error) {
	err = c.do(ctx, func(e *encoder) {
		e.putfh(fh)
		e.op(opGetattr)
		e.u32(2, wanted0, wanted1)
	}, func(d *decoder) (err error) {
		if err := d.op(opPutfh); err != nil {
			return err
		}
		a, err = d.getattr()
		return err
	})
	if err != nil {
		return Attr{}, fmt.Errorf("stat %x: %w", fh, err)
	}
	return a, nil
}

// Parent is LOOKUPP and GETFH of a directory's handle.
func (c *Client) Parent(ctx context.Context, fh []byte) (parent []byte, err error) {
	err = c.do(ctx, func(e *encoder) {
		e.putfh(fh)
		e.op(opLookupp)
		e.op(opGetfh)
	}, func(d *decoder) error {
		for _, op := range []uint32{opPutfh, opLookupp, opGetfh} {
			if err := d.op(op); err != nil {
				return err
			}
		}
		parent = slices.Clone(d.opaque())
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("parent of %x: %w", fh, err)
	}
	return parent, nil
}

// ReadHandle is one READ of at most n bytes from the start of a file.
func (c *Client) ReadHandle(ctx context.Context, fh []byte, n uint32) (data []byte, err error) {
	err = c.do(ctx, func(e *encoder) {
		e.putfh(fh)
		e.op(opRead)
		e.fixed(make([]byte, len(stateid{})))
		e.u64(0)
		e.u32(n)
	}, func(d *decoder) error {
		if err := d.op(opPutfh); err != nil {
			return err
		}
		if err := d.op(opRead); err != nil {
			return err
		}
		d.u32() // end of the file
		data = slices.Clone(d.opaque())
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read %x: %w", fh, err)
	}
	return data, nil
}

// WriteHandle is one WRITE to the start of a file.
func (c *Client) WriteHandle(ctx context.Context, fh, data []byte) error {
	const fileSync = 2
	err := c.do(ctx, func(e *encoder) {
		e.putfh(fh)
		e.op(opWrite)
		e.fixed(make([]byte, len(stateid{})))
		e.u64(0)
		e.u32(fileSync)
		e.opaque(data)
	}, func(d *decoder) error {
		if err := d.op(opPutfh); err != nil {
			return err
		}
		return d.op(opWrite)
	})
	if err != nil {
		return fmt.Errorf("write %x: %w", fh, err)
	}
	return nil
}
