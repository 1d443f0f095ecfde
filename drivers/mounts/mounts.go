// Package mounts is the only code that mounts and unmounts in the agent, and
// the guard around every touch below a backend mount.
package mounts

import (
	"context"
	"time"
)

// A Mount is one line of /proc/self/mountinfo.
type Mount struct {
	ID       int
	Target   string
	Root     string // the mounted tree's path in its file system; ends in "//deleted" when that was deleted
	Source   string
	FSType   string
	ReadOnly bool // of the mount or its file system
}

// Below lists the mounts at and below root, parents before children.
func Below(root string) ([]Mount, error) { panic("written next") }

// At returns the topmost mount whose target is exactly target.
func At(target string) (m Mount, ok bool, err error) { panic("written next") }

// Bind attaches a clone of the single mount tree that the open directory dir
// refers to (not what is mounted below it) at target, by file descriptor, so
// that no path is looked up twice.
func Bind(dir int, target string, o BindOptions) error { panic("written next") }

// BindOptions of Bind.
type BindOptions struct {
	ReadOnly bool
}

// BindPath is Bind for a path that only this agent can change.
func BindPath(source, target string, o BindOptions) error { panic("written next") }

// Shared makes dir a mount of itself with shared propagation, so that mounts
// made below it reach its slaves. Already so is success.
func Shared(dir string) error { panic("written next") }

// Unmount takes away every mount at target, topmost first; none there is
// success. A mount in use is drivers.ErrBusy, after a short wait. It never
// detaches lazily.
func Unmount(ctx context.Context, target string) error { panic("written next") }

// OpenBeneath opens the directory path below root with openat2, refusing "..",
// symbolic links, magic links and other mounts on the way.
func OpenBeneath(root, path string) (fd int, err error) { panic("written next") }

// Watch calls changed when the mount table changes, until ctx ends.
func Watch(ctx context.Context, changed func()) error { panic("written next") }

// A Guard runs calls that may hang below a backend mount.
type Guard struct {
	Deadline time.Duration
}

// Do runs touch for the mount that key names, and gives up waiting after the
// deadline: the mount is then stuck, and further calls for it fail at once
// with drivers.ErrUnreachable until the late answer comes.
func (g *Guard) Do(ctx context.Context, key string, touch func() error) error {
	panic("written next")
}

// Stuck lists the keys that have not answered.
func (g *Guard) Stuck() []string { panic("written next") }
