package ganesha

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Mounts is what a gateway needs of the host's mount table; drivers/mounts has
// it. The calls are made for directories directly below Options.Exports.
type Mounts interface {
	// Bind attaches a writable clone of the mount that holds the directory
	// source at the directory target, shared, so that the gateway sees it. The
	// same there already is success.
	Bind(source, target string) error

	// Unmount takes away what is mounted at target. Nothing there is success.
	Unmount(ctx context.Context, target string) error

	// Kind says on what file system a directory lies: its source and type, as
	// the kernel's table has them.
	Kind(dir string) (source, fstype string, err error)
}

// Ganesha holds each file system once, by an open directory on that mount of
// it that the first export named (resolve_posix_filesystem in
// src/FSAL/localfs.c, vfs_get_root_handle in FSAL_VFS), and reaches all its
// exports through that one. So, of two exported directories of one local file
// system, the first could not be unmounted before the second was withdrawn
// too, a read-only mount of the first made the second read-only, and a
// writable one the other way round (seen with 4.3).
//
// So there is an anchor for each file system: a further mount of it, which the
// first export there is preceded by, exported to nobody under an id of its
// own, and taken away after the last. It decides nothing about access: what a
// client may write is in the rules alone.
//
// A device is what an anchor stands for. Its number is not used again while
// the anchor is mounted.
type device struct{ major, minor uint32 }

// Anchors have the ids from firstAnchor on, exports those up to MaxExportID.
const (
	firstAnchor = 0xff00
	MaxExportID = firstAnchor - 1
)

const anchorPrefix = ".fs-"

func (d device) String() string { return fmt.Sprintf("%d-%d", d.major, d.minor) }

// anchors is what this handle knows; the directories below Exports and Ganesha
// itself are the truth. Guarded by the gateway's change lock.
type anchors struct {
	ids     map[device]uint16 // nil: the directories were not read yet
	served  map[device]bool   // Ganesha was seen to have it
	devices map[uint16]device // of the exports; nil: Ganesha was not asked yet
}

// anchorExport is the export of an anchor: without a rule nobody sees it.
func (g *Gateway) anchorExport(d device, id uint16) Export {
	return Export{ID: id, Path: g.anchorDir(d, id), Pseudo: "/" + anchorPrefix + d.String(), FSID: 1<<63 | uint64(id)}
}

func (g *Gateway) anchorDir(d device, id uint16) string {
	return filepath.Join(g.o.Exports, fmt.Sprintf("%s%s-%d", anchorPrefix, d, id))
}

// knownAnchors reads the directories once.
func (g *Gateway) knownAnchors() (map[device]uint16, error) {
	if g.anchors.ids != nil {
		return g.anchors.ids, nil
	}
	entries, err := os.ReadDir(g.o.Exports)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	ids := map[device]uint16{}
	for _, e := range entries {
		var d device
		var id uint16
		rest, ok := strings.CutPrefix(e.Name(), anchorPrefix)
		if !ok {
			continue
		}
		if n, err := fmt.Sscanf(rest, "%d-%d-%d", &d.major, &d.minor, &id); n == 3 && err == nil {
			ids[d] = id
		}
	}
	g.anchors.ids, g.anchors.served = ids, map[device]bool{}
	return ids, nil
}

// bindAnchor mounts the anchor of the file system that holds path.
func (g *Gateway) bindAnchor(d device, path string) (Export, error) {
	ids, err := g.knownAnchors()
	if err != nil {
		return Export{}, err
	}
	id, ok := ids[d]
	if !ok {
		if id = freeAnchor(ids); id == 0 {
			return Export{}, fmt.Errorf("more than %d file systems: %w", len(ids), ErrRefused)
		}
	}
	e := g.anchorExport(d, id)
	if err := os.Mkdir(e.Path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return Export{}, err
	}
	ids[d] = id
	// A directory that an earlier crash left may have nothing on it yet; one
	// that has is left alone, whichever of the file system's trees it shows.
	if at, err := directory(e.Path); err != nil || at.device != d {
		if err := g.o.Mounts.Bind(path, e.Path); err != nil {
			return Export{}, fmt.Errorf("anchor: %w", err)
		}
	}
	return e, nil
}

func freeAnchor(ids map[device]uint16) uint16 {
	used := map[uint16]bool{}
	for _, id := range ids {
		used[id] = true
	}
	for id := uint16(0xffff); id >= firstAnchor; id-- {
		if !used[id] {
			return id
		}
	}
	return 0
}

// anchor makes sure that Ganesha has the anchor of e's file system before it
// is told of e.
func (g *Gateway) anchor(ctx context.Context, c *client, d device, e Export) error {
	if g.o.Mounts == nil {
		return nil
	}
	devices, err := g.exportDevices(ctx, c)
	if err != nil {
		return err
	}
	a, err := g.bindAnchor(d, e.Path)
	if err != nil {
		return err
	}
	devices[e.ID] = d
	if g.anchors.served[d] {
		return nil
	}
	now, err := c.show(ctx, g.limits.look, a.ID)
	if err != nil {
		return err
	}
	if now == nil {
		block, err := g.o.Versions.renderExport(a)
		if err != nil {
			return err
		}
		if err := g.writeMtab(); err != nil {
			return err
		}
		if err := g.tell(ctx, c, a, block, nil); err != nil {
			return fmt.Errorf("anchor: %w", err)
		}
	}
	g.anchors.served[d] = true
	return nil
}

// exportDevices says on which file system each export lies; the first time it
// asks Ganesha, which may have been adopted.
func (g *Gateway) exportDevices(ctx context.Context, c *client) (map[uint16]device, error) {
	if g.anchors.devices != nil {
		return g.anchors.devices, nil
	}
	list, err := c.list(ctx, g.limits.look)
	if err != nil {
		return nil, err
	}
	devices := map[uint16]device{}
	for _, e := range list {
		if e.id >= firstAnchor {
			continue
		}
		if g.o.Versions.v3() {
			s, err := c.show(ctx, g.limits.look, e.id)
			if err != nil {
				return nil, err
			}
			if s == nil {
				continue
			}
			e.path = s.Path
		}
		if at, err := directory(e.path); err == nil {
			devices[e.id] = at.device
		}
	}
	g.anchors.devices = devices
	return devices, nil
}

// weigh takes away the anchors on which no export hangs any more.
func (g *Gateway) weigh(ctx context.Context, c *client) error {
	if g.o.Mounts == nil {
		return nil
	}
	ids, err := g.knownAnchors()
	if err != nil || len(ids) == 0 {
		return err
	}
	devices, err := g.exportDevices(ctx, c)
	if err != nil {
		return err
	}
	used := map[device]bool{}
	for _, d := range devices {
		used[d] = true
	}
	for d, id := range ids {
		if used[d] {
			continue
		}
		if err := g.withdraw(ctx, c, id); err != nil {
			return fmt.Errorf("anchor: %w", err)
		}
		if err := g.dropAnchor(ctx, d, id); err != nil {
			return err
		}
	}
	return nil
}

// dropAnchor unmounts an anchor that Ganesha does not have.
func (g *Gateway) dropAnchor(ctx context.Context, d device, id uint16) error {
	dir := g.anchorDir(d, id)
	if err := g.o.Mounts.Unmount(ctx, dir); err != nil {
		return fmt.Errorf("anchor: %w", err)
	}
	// An empty directory alone: no file of a tenant goes with it.
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	delete(g.anchors.ids, d)
	delete(g.anchors.served, d)
	return nil
}

// dropAnchors unmounts those that are not kept, while Ganesha does not run.
func (g *Gateway) dropAnchors(ctx context.Context, keep map[device]bool) error {
	if g.o.Mounts == nil {
		return nil
	}
	ids, err := g.knownAnchors()
	if err != nil {
		return err
	}
	for d, id := range ids {
		if keep[d] {
			continue
		}
		if err := g.dropAnchor(ctx, d, id); err != nil {
			return err
		}
	}
	return nil
}
