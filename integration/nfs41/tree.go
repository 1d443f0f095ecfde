package nfs41

import (
	"context"
	"fmt"
	"io/fs"
	"strings"
)

// Paths begin at the pseudo root of the server, which Ganesha assembles from
// the Pseudo paths of its exports: "/share/dir/file", "/" or "".

func split(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}

func splitParent(path string) (dir []string, name string, err error) {
	names := split(path)
	if len(names) == 0 {
		return nil, "", fs.ErrInvalid
	}
	last := len(names) - 1
	return names[:last], names[last], nil
}

// Stat is GETATTR.
func (c *Client) Stat(ctx context.Context, path string) (a Attr, err error) {
	names := split(path)
	err = c.do(ctx, func(e *encoder) {
		e.walk(names)
		e.op(opGetattr)
		e.u32(2, wanted0, wanted1)
	}, func(d *decoder) (err error) {
		if err := d.walked(names); err != nil {
			return err
		}
		a, err = d.getattr()
		return err
	})
	if err != nil {
		return Attr{}, fmt.Errorf("stat %s: %w", path, err)
	}
	return a, nil
}

// An Entry of a directory.
type Entry struct {
	Name string
	Attr
}

// ReadDir is READDIR (RFC 8881 section 18.23), to the end.
func (c *Client) ReadDir(ctx context.Context, path string) ([]Entry, error) {
	var (
		names    = split(path)
		entries  []Entry
		page     []Entry
		cookie   uint64
		verifier [8]byte
		done     bool
	)
	for !done {
		var next uint64
		err := c.do(ctx, func(e *encoder) {
			page, next = nil, cookie
			e.walk(names)
			e.op(opReaddir)
			e.u64(cookie)
			e.fixed(verifier[:])
			e.u32(8<<10, 32<<10) // bytes of names, and of all
			e.u32(2, wanted0|1<<attrRdError, wanted1)
		}, func(d *decoder) error {
			if err := d.walked(names); err != nil {
				return err
			}
			if err := d.op(opReaddir); err != nil {
				return err
			}
			copy(verifier[:], d.fixed(len(verifier)))
			for d.u32() == 1 {
				next = d.u64()
				name := string(d.opaque())
				attr, err := d.attr()
				if err != nil {
					return err
				}
				page = append(page, Entry{name, attr})
			}
			done = d.u32() == 1
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("read directory %s: %w", path, err)
		}
		entries, cookie = append(entries, page...), next
	}
	return entries, nil
}

// Mkdir is CREATE (RFC 8881 section 18.4) of a directory.
func (c *Client) Mkdir(ctx context.Context, path string, mode fs.FileMode) error {
	dir, name, err := splitParent(path)
	if err == nil {
		err = c.do(ctx, func(e *encoder) {
			e.walk(dir)
			e.op(opCreate)
			e.u32(uint32(Directory))
			e.opaque([]byte(name))
			e.u32(2, 0, 1<<(attrMode-32))
			e.u32(4, uint32(mode.Perm()))
		}, func(d *decoder) error {
			if err := d.walked(dir); err != nil {
				return err
			}
			return d.op(opCreate)
		})
	}
	if err != nil {
		return fmt.Errorf("make directory %s: %w", path, err)
	}
	return nil
}

// Remove removes a file or an empty directory.
func (c *Client) Remove(ctx context.Context, path string) error {
	dir, name, err := splitParent(path)
	if err == nil {
		err = c.do(ctx, func(e *encoder) {
			e.walk(dir)
			e.op(opRemove)
			e.opaque([]byte(name))
		}, func(d *decoder) error {
			if err := d.walked(dir); err != nil {
				return err
			}
			return d.op(opRemove)
		})
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}

// ReadFile opens, reads and closes a file.
func (c *Client) ReadFile(ctx context.Context, path string) ([]byte, error) {
	f, err := c.Open(ctx, path, OpenOptions{Access: Read})
	if err != nil {
		return nil, err
	}
	defer f.Close(ctx)
	var data []byte
	for {
		p := make([]byte, chunk)
		n, err := f.ReadAt(ctx, p, uint64(len(data)))
		data = append(data, p[:n]...)
		if err != nil {
			return data, err
		}
		if n < len(p) {
			return data, nil
		}
	}
}

// WriteFile makes or replaces a file.
func (c *Client) WriteFile(ctx context.Context, path string, data []byte, mode fs.FileMode) error {
	f, err := c.Open(ctx, path, OpenOptions{Access: Write, Create: Truncate, Mode: mode})
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(ctx, data, 0); err != nil {
		f.Close(ctx)
		return err
	}
	return f.Close(ctx)
}
