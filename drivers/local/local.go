// Package local is the driver of shares that are directories of a pool on this
// host: a mount is a bind of the directory.
package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/drivers"
	"github.com/causeway-project/causeway/drivers/mounts"
)

const (
	// Kind of this driver.
	Kind = "local"

	// PoolOption is the key of the connection's only option: the pool's name.
	PoolOption = "pool"

	// DefaultPool is meant where the option is missing or empty.
	DefaultPool = "default"
)

// Options of New.
type Options struct {
	// Pools by name, each an absolute path; required, may be empty. A path may
	// be a symbolic link, which is followed at each use: it is the operator's.
	Pools  map[string]string
	Logger *slog.Logger // nil discards
}

// A Driver implements drivers.Mounter, drivers.Prober and drivers.OwnerReporter.
// Its connections have the share's path below the pool as Source ("docs", "team/docs"), the pool's
// name in Options["pool"], and no secret.
//
// It has no drivers.UsageReporter: a plain directory has no size of its own,
// and the pool's would be taken for the share's.
type Driver struct {
	pools map[string]string
	log   *slog.Logger
}

var (
	_ drivers.Mounter       = (*Driver)(nil)
	_ drivers.Prober        = (*Driver)(nil)
	_ drivers.OwnerReporter = (*Driver)(nil)
)

// New refuses a pool without a name or with a path that is not absolute. It
// does not look at the pools: one may be on a disk that comes later.
func New(o Options) (*Driver, error) {
	for name, path := range o.Pools {
		if name == "" {
			return nil, fmt.Errorf("local driver: pool at %s has no name", path)
		}
		if !filepath.IsAbs(path) || strings.ContainsRune(path, 0) {
			return nil, fmt.Errorf("local driver: pool %q: %q is not an absolute path", name, path)
		}
	}
	log := o.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Driver{pools: maps.Clone(o.Pools), log: log.With("driver", Kind)}, nil
}

// Kind is "local".
func (*Driver) Kind() string { return Kind }

// Properties of a directory in a local file system.
//
// Handles are stable: ext4, XFS and btrfs make them of inode number and
// generation, which a bind mount does not change. A pool on a file system
// without handles (overlayfs as it is by default) cannot be exported.
//
// Writing is not shared between hosts, for the directory exists on this one
// only. That a pool may lie on a cluster file system is nothing this driver can
// know. Locks are coherent between all users on this host, gateway included,
// but the property speaks of several hosts, and nobody else would answer.
func (*Driver) Properties() drivers.Properties {
	return drivers.Properties{StableHandles: true, SharedWrite: false, CoherentLocks: false}
}

// Probe tells whether the share's directory is there.
func (d *Driver) Probe(ctx context.Context, c drivers.Connection) error {
	dir, err := d.open(ctx, c)
	if err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	return unix.Close(dir)
}

// Owner looks at the share's directory.
func (d *Driver) Owner(ctx context.Context, c drivers.Connection) (drivers.Owner, error) {
	dir, err := d.open(ctx, c)
	if err != nil {
		return drivers.Owner{}, fmt.Errorf("owner: %w", err)
	}
	defer func() { _ = unix.Close(dir) }()
	var st unix.Stat_t
	if err := unix.Fstat(dir, &st); err != nil {
		return drivers.Owner{}, fmt.Errorf("owner of share %q: %w", c.Source, err)
	}
	return drivers.Owner{UID: st.Uid, GID: st.Gid, Mode: fs.FileMode(st.Mode).Perm(), Path: filepath.Join(d.pools[poolName(c)], c.Source)}, nil
}

// Mount binds the share's directory at r.Target; see mounts.Bind. ctx is
// asked before the work begins, which is a few system calls.
func (d *Driver) Mount(ctx context.Context, r drivers.MountRequest) error {
	dir, err := d.open(ctx, r.Connection)
	if err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	defer func() { _ = unix.Close(dir) }()
	if err := mounts.Bind(dir, r.Target, mounts.BindOptions{ReadOnly: r.ReadOnly}); err != nil {
		return fmt.Errorf("mount share %q: %w", r.Connection.Source, err)
	}
	d.log.DebugContext(ctx, "share mounted", "share", r.Connection.Source, "target", r.Target)
	return nil
}

// open resolves the share to a descriptor. A pool whose own directory is
// missing is ErrUnreachable, not ErrNotFound: its disk is not mounted, the
// shares may well be there, and trying again later is right.
func (d *Driver) open(ctx context.Context, c drivers.Connection) (int, error) {
	if err := ctx.Err(); err != nil {
		return -1, err
	}
	if err := d.Validate(c); err != nil {
		return -1, err
	}
	name := poolName(c)
	pool := d.pools[name]
	dir, err := mounts.OpenBeneath(pool, c.Source)
	if err == nil {
		return dir, nil
	}
	var missing *mounts.RootError
	if errors.As(err, &missing) {
		if errors.Is(err, fs.ErrNotExist) {
			return -1, fmt.Errorf("pool %q: directory %s is not there, make it or mount its disk: %w", name, pool, drivers.ErrUnreachable)
		}
		return -1, fmt.Errorf("pool %q: %w: %w", name, drivers.ErrUnreachable, err)
	}
	return -1, fmt.Errorf("share in pool %q: %w", name, err)
}

// Unmount takes the mount at target away, and leaves the directory.
func (d *Driver) Unmount(ctx context.Context, target string) error {
	if err := mounts.Unmount(ctx, target); err != nil {
		return err
	}
	d.log.DebugContext(ctx, "share unmounted", "target", target)
	return nil
}

// Mounts lists the mounts directly below root, whoever made them.
func (*Driver) Mounts(ctx context.Context, root string) ([]drivers.Mounted, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	all, err := mounts.Below(root)
	if err != nil {
		return nil, err
	}
	root = filepath.Clean(root)
	byTarget := make(map[string]drivers.Mounted)
	for _, m := range all {
		if filepath.Dir(m.Target) != root || m.Target == root {
			continue
		}
		// Of several at one target the last is the topmost.
		byTarget[m.Target] = drivers.Mounted{Target: m.Target, ReadOnly: m.ReadOnly, Gone: m.Gone}
	}
	return slices.SortedFunc(maps.Values(byTarget), func(a, b drivers.Mounted) int {
		return strings.Compare(a.Target, b.Target)
	}), nil
}
