package tree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/drivers"
	"github.com/causeway-project/causeway/drivers/mounts"
)

// MountShare mounts the share of a record, by its connection with the secret.
func (t *Tree) MountShare(ctx context.Context, r *intent.Record, conn drivers.Connection) error {
	d, ok := t.o.Drivers.Get(conn.Kind)
	if !ok {
		return fault.Preconditionf(fault.UnknownDriver, "this agent has no driver for %q any more: restore its configuration", conn.Kind)
	}
	target := t.Mount(r.MountName())
	if err := os.Mkdir(target, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return d.Mount(ctx, drivers.MountRequest{Connection: conn, Target: target, ReadOnly: r.MountReadOnly()})
}

// UnmountShare undoes it. Not there is success.
func (t *Tree) UnmountShare(ctx context.Context, r *intent.Record) error {
	target := t.Mount(r.MountName())
	if d, ok := t.o.Drivers.Get(r.Connection().Kind); ok {
		if err := d.Unmount(ctx, target); err != nil {
			return err
		}
	}
	return t.remove(ctx, target)
}

// remove takes away what is mounted at a directory of ours, and the directory.
func (t *Tree) remove(ctx context.Context, target string) error {
	if err := t.o.Mounts.Unmount(ctx, target); err != nil {
		return err
	}
	// os.Remove takes an empty directory alone: should the unmount have lied,
	// no file of a tenant goes with it.
	if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// MakeView shows a share below the directory that its gateway sees.
func (t *Tree) MakeView(id string, e *intent.Export) error {
	target := t.View(e.Network, id)
	if err := t.Share(e.Network, target); err != nil {
		return err
	}
	return t.o.Mounts.BindPath(t.Mount(e.Mount), target, mounts.BindOptions{})
}

// RemoveView undoes it. Not there is success.
func (t *Tree) RemoveView(ctx context.Context, network, id string) error {
	return t.remove(ctx, t.View(network, id))
}

// Share makes the directory that a network's gateway sees, and the
// directories of views below it. The groups of the network and of its shares
// come here at the same time. Without the lock two shared mounts were stacked,
// and a view below the lower one could neither be seen nor taken away; and a
// gateway that was being stopped took the mount from under a new view.
func (t *Tree) Share(network string, views ...string) error {
	t.views.Lock()
	defer t.views.Unlock()
	dir := t.Exports(network)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// Whether a mount is shared takes a search of the whole table. What is
	// mounted there was shared before it was; the gateway's start makes sure.
	sight, err := t.o.Mounts.Peek(dir)
	if err != nil || !sight.Mounted || len(views) == 0 {
		err = t.o.Mounts.Shared(dir)
	}
	if err != nil {
		return err
	}
	for _, v := range views {
		if err := os.Mkdir(v, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// Unshare takes that directory away. A new export's view may have come
// meanwhile: then the directory stays for the gateway that starts again, which
// inUse tells.
func (t *Tree) Unshare(ctx context.Context, network string, inUse func() bool) error {
	t.views.Lock()
	defer t.views.Unlock()
	dir := t.Exports(network)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(entries) > 0 && inUse() {
		return nil
	}
	if len(entries) > 0 {
		return fmt.Errorf("remove %s: there is a view of %s: %w", dir, entries[0].Name(), drivers.ErrBusy)
	}
	return t.remove(ctx, dir)
}
