package nfs41

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
)

// chunk is the most that one READ or WRITE carries, in bytes.
const chunk = 512 << 10

// Access that an open file gives.
type Access uint32

// The bits of share_access, RFC 8881 section 18.16.
const (
	Read      Access = 1
	Write     Access = 2
	ReadWrite Access = 3
)

// Create says what Open does with the name.
type Create int

// Ways to open.
const (
	Existing  Create = iota // the file must be there
	Unchecked               // it is made if it is not there
	Truncate                // the same, and emptied if it is
	Exclusive               // it must not be there (GUARDED4)
)

// OpenOptions of one file.
type OpenOptions struct {
	Access   Access // required
	Create   Create
	Mode     fs.FileMode // of a file that is made
	Unstable bool        // what is written is on stable storage after Sync, and not before
}

// A File is an open file. It stays usable through restarts of the server. One
// goroutine at a time.
type File struct {
	c      *Client
	name   string
	access Access
	owner  uint32
	fh     []byte

	stability uint32  // of writes
	writer    *uint64 // verifier of the server that took the writes since Sync; nil: none

	// Owned by whoever has c.slot:
	state stateid
	open  bool  // state is believed to be good
	lock  *lock // nil: none held
}

// A lock of one byte range.
type lock struct {
	offset, length uint64
	state          stateid
}

// Kinds of claim, open_claim_type4.
const (
	claimNull     = 0
	claimPrevious = 1
	claimFH       = 4
)

// Open is OPEN (RFC 8881 section 18.16) with CLAIM_NULL.
func (c *Client) Open(ctx context.Context, path string, o OpenOptions) (*File, error) {
	f, err := c.openFile(ctx, path, o)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return f, nil
}

func (c *Client) openFile(ctx context.Context, path string, o OpenOptions) (*File, error) {
	dir, name, err := splitParent(path)
	if err != nil {
		return nil, err
	}
	if err := c.acquire(ctx); err != nil {
		return nil, err
	}
	c.owners++ // an owner each, so that each file is closed for itself
	f := &File{c: c, name: path, access: o.Access, owner: c.owners, stability: fileSync}
	if o.Unstable {
		f.stability = unstable
	}
	c.release()
	err = c.do(ctx, func(e *encoder) {
		e.walk(dir)
		f.encodeOwner(e)
		f.encodeHow(e, o)
		e.u32(claimNull)
		e.opaque([]byte(name))
		e.op(opGetfh)
	}, func(d *decoder) (err error) {
		if err := d.walked(dir); err != nil {
			return err
		}
		if f.state, f.fh, err = decodeOpen(d); err != nil {
			return err
		}
		f.fh = slices.Clone(f.fh)
		f.open = true
		c.files[f] = struct{}{}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (f *File) encodeOwner(e *encoder) {
	const noDelegation = 0x400 // OPEN4_SHARE_ACCESS_WANT_NO_DELEG
	e.op(opOpen)
	e.u32(0, uint32(f.access)|noDelegation, 0)
	e.u64(f.c.clientID)
	e.u32(4, f.owner)
}

func (f *File) encodeHow(e *encoder, o OpenOptions) {
	const noCreate, create, unchecked, guarded = 0, 1, 0, 1
	mode := uint32(o.Mode.Perm())
	switch o.Create {
	case Existing:
		e.u32(noCreate)
	case Exclusive:
		e.u32(create, guarded, 2, 0, 1<<(attrMode-32), 4, mode)
	case Truncate:
		e.u32(create, unchecked, 2, 1<<attrSize, 1<<(attrMode-32), 12)
		e.u64(0)
		e.u32(mode)
	default:
		e.u32(create, unchecked, 2, 0, 1<<(attrMode-32), 4, mode)
	}
}

// encodeOpen opens the file again by its handle.
func (f *File) encodeOpen(e *encoder, claim uint32) {
	e.putfh(f.fh)
	f.encodeOwner(e)
	e.u32(0, claim)
	if claim == claimPrevious {
		e.u32(0) // we had no delegation
	}
	e.op(opGetfh)
}

func decodeReopen(d *decoder) (stateid, []byte, error) {
	if err := d.op(opPutfh); err != nil {
		return stateid{}, nil, err
	}
	return decodeOpen(d)
}

// decodeOpen reads the results of OPEN and GETFH.
func decodeOpen(d *decoder) (state stateid, fh []byte, err error) {
	if err := d.op(opOpen); err != nil {
		return state, nil, err
	}
	state = d.stateid()
	d.fixed(4 + 8 + 8 + 4) // change info, flags
	for range min(d.u32(), 8) {
		d.u32() // attributes set
	}
	const none, noneExt, contention, resource = 0, 3, 1, 2
	switch kind := d.u32(); kind {
	case none:
	case noneExt:
		if why := d.u32(); why == contention || why == resource {
			d.u32()
		}
	default:
		return state, nil, fmt.Errorf("delegation %d was not asked for", kind)
	}
	if err := d.op(opGetfh); err != nil {
		return state, nil, err
	}
	fh = d.opaque()
	return state, fh, d.err
}

// do executes operations on the file, which it opens again first if the server
// has lost its state.
func (f *File) do(ctx context.Context, build func(*encoder), parse func(*decoder) error) error {
	for attempt := 0; ; attempt++ {
		err := f.reopen(ctx)
		if err == nil {
			err = f.c.do(ctx, func(e *encoder) {
				e.putfh(f.fh)
				build(e)
			}, func(d *decoder) error {
				err := d.op(opPutfh)
				if err == nil {
					err = parse(d)
				}
				if lostState(err) && f.open {
					f.open, f.lock = false, nil
					f.c.stats.Lost++
				}
				return err
			})
		}
		if !lostState(err) || attempt == 3 {
			return err
		}
	}
}

func lostState(err error) bool {
	var s Status
	return errors.As(err, &s) && slices.Contains([]Status{STALE_STATEID, OLD_STATEID, BAD_STATEID, EXPIRED, ADMIN_REVOKED}, s)
}

func (f *File) reopen(ctx context.Context) error {
	if err := f.c.acquire(ctx); err != nil {
		return err
	}
	open := f.open
	f.c.release()
	if open {
		return nil
	}
	return f.c.do(ctx, func(e *encoder) { f.encodeOpen(e, claimFH) },
		func(d *decoder) (err error) {
			if f.state, _, err = decodeReopen(d); err == nil {
				f.open = true
			}
			return err
		})
}

// ReadAt is READ (RFC 8881 section 18.22). Fewer bytes than asked for and no
// error is the end of the file.
func (f *File) ReadAt(ctx context.Context, p []byte, offset uint64) (int, error) {
	n := 0
	for n < len(p) {
		want := min(len(p)-n, chunk)
		var data []byte
		var end bool
		err := f.do(ctx, func(e *encoder) {
			e.op(opRead)
			e.fixed(f.state[:])
			e.u64(offset + uint64(n))
			e.u32(uint32(want))
		}, func(d *decoder) error {
			if err := d.op(opRead); err != nil {
				return err
			}
			end, data = d.u32() == 1, d.opaque()
			return nil
		})
		if err != nil {
			return n, fmt.Errorf("read %s: %w", f.name, err)
		}
		n += copy(p[n:], data)
		if end || len(data) == 0 {
			break
		}
	}
	return n, nil
}

// stable_how4.
const (
	unstable = 0
	fileSync = 2
)

// WriteAt is WRITE (RFC 8881 section 18.32) with FILE_SYNC4: what it has
// written is on stable storage, unless the file was opened Unstable.
func (f *File) WriteAt(ctx context.Context, p []byte, offset uint64) (int, error) {
	n := 0
	for n < len(p) {
		part := p[n:min(len(p), n+chunk)]
		var count uint32
		err := f.do(ctx, func(e *encoder) {
			e.op(opWrite)
			e.fixed(f.state[:])
			e.u64(offset + uint64(n))
			e.u32(f.stability)
			e.opaque(part)
		}, func(d *decoder) error {
			if err := d.op(opWrite); err != nil {
				return err
			}
			count = d.u32()
			if how := d.u32(); how < f.stability && d.err == nil {
				return fmt.Errorf("not committed: stability %d", how)
			}
			return f.tookBy(d)
		})
		if err == nil && (count == 0 || int(count) > len(part)) {
			err = fmt.Errorf("%d of %d bytes written", count, len(part))
		}
		if err != nil {
			return n, fmt.Errorf("write %s: %w", f.name, err)
		}
		n += int(count)
	}
	return n, nil
}

// Sync is COMMIT (RFC 8881 section 18.3) of the whole file. It fails where the
// server has restarted since the first write that it is for: a kernel would
// write again what it kept, this client keeps nothing.
func (f *File) Sync(ctx context.Context) error {
	err := f.do(ctx, func(e *encoder) {
		e.op(opCommit)
		e.u64(0)
		e.u32(0)
	}, func(d *decoder) error {
		if err := d.op(opCommit); err != nil {
			return err
		}
		return f.tookBy(d)
	})
	if err != nil {
		return fmt.Errorf("sync %s: %w", f.name, err)
	}
	f.writer = nil
	return nil
}

// tookBy reads a write verifier and compares it with the last one.
func (f *File) tookBy(d *decoder) error {
	verifier := d.u64()
	if d.err != nil || f.stability == fileSync {
		return d.err
	}
	if f.writer != nil && *f.writer != verifier {
		f.writer = nil
		return errors.New("the server restarted, and may have lost what was written")
	}
	f.writer = &verifier
	return nil
}

// Lock takes an exclusive lock on a byte range (RFC 8881 section 18.10), and
// does not wait for it: DENIED. A file holds one lock at most; it is reclaimed
// with the file.
func (f *File) Lock(ctx context.Context, offset, length uint64) error {
	l := &lock{offset: offset, length: length}
	taken := false
	err := f.do(ctx, func(e *encoder) {
		if taken = f.lock != nil; !taken {
			f.encodeLock(e, l, false)
		}
	}, func(d *decoder) error {
		if taken {
			return errors.New("a lock is held")
		}
		return f.decodeLock(d, l)
	})
	if err != nil {
		return fmt.Errorf("lock %s: %w", f.name, err)
	}
	return nil
}

// Unlock releases the lock; NOENT if it was lost, or never taken.
func (f *File) Unlock(ctx context.Context) error {
	err := f.do(ctx, func(e *encoder) {
		if f.lock == nil {
			return
		}
		e.op(opLocku)
		e.u32(writeLock, 0)
		e.fixed(f.lock.state[:])
		e.u64(f.lock.offset, f.lock.length)
	}, func(d *decoder) error {
		if f.lock == nil {
			return NOENT
		}
		if err := d.op(opLocku); err != nil {
			return err
		}
		f.lock = nil
		return nil
	})
	if err != nil {
		return fmt.Errorf("unlock %s: %w", f.name, err)
	}
	return nil
}

const writeLock = 2 // WRITE_LT

func (f *File) encodeLock(e *encoder, l *lock, reclaim bool) {
	e.op(opLock)
	e.u32(writeLock)
	if reclaim {
		e.u32(1)
	} else {
		e.u32(0)
	}
	e.u64(l.offset, l.length)
	e.u32(1, 0) // a new lock owner, sequence of the open
	e.fixed(f.state[:])
	e.u32(0)
	e.u64(f.c.clientID)
	e.u32(4, f.owner)
}

func (f *File) decodeLock(d *decoder, l *lock) error {
	if err := d.op(opLock); err != nil {
		return err
	}
	l.state = d.stateid()
	f.lock = l
	return nil
}

// Close is CLOSE (RFC 8881 section 18.2). The File is of no use afterwards,
// whatever the answer.
func (f *File) Close(ctx context.Context) error {
	// Without LOCKU first the server may answer LOCKS_HELD.
	unlock := f.Unlock(ctx)
	if errors.Is(unlock, NOENT) {
		unlock = nil
	}
	err := f.c.do(ctx, func(e *encoder) {
		f.encodeClose(e)
		delete(f.c.files, f) // a restart from here on loses nothing that we want
	}, decodeClose)
	if err != nil && !lostState(err) {
		err = fmt.Errorf("close %s: %w", f.name, err)
		return errors.Join(unlock, err)
	}
	return unlock
}

func (f *File) encodeClose(e *encoder) {
	e.putfh(f.fh)
	e.op(opClose)
	e.u32(0)
	e.fixed(f.state[:])
}

func decodeClose(d *decoder) error {
	if err := d.op(opPutfh); err != nil {
		return err
	}
	return d.op(opClose)
}
