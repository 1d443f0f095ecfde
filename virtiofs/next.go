package virtiofs

import (
	"context"
	"log/slog"
	"time"

	"github.com/causeway-project/causeway/agent/process"
)

// GuestMount mounts the tag at path through the guest agent, making the
// directory, and trying again until the guest sees the device. Already mounted
// there is success. ErrGuestAgent, ErrGuestRefused with the guest's words.
func (h *Host) GuestMount(ctx context.Context, g GuestMount) error { panic("written next") }

// GuestUnmount undoes GuestMount. Not mounted is success. ErrGuestBusy names
// the holders where the guest can tell.
func (h *Host) GuestUnmount(ctx context.Context, g GuestMount) error { panic("written next") }

// A GuestMount is a mount in a guest.
type GuestMount struct {
	Instance string // UUID
	Tag      string
	Path     string
	ReadOnly bool
}

// A Daemon is the virtiofsd of one attachment.
type Daemon struct {
	Dir    string // required: run directory, made and removed here; the socket lies in it
	Source string // required: directory to share
}

// Daemons starts and finds virtiofsd processes.
type Daemons struct {
	Starter *process.Starter
	Binary  string // found when empty: ErrNoVirtiofsd
	Logger  *slog.Logger
}

// Start makes the daemon run and listen, or adopts it. virtiofsd serves one
// connection and then ends, so each attach needs a fresh one.
func (d *Daemons) Start(ctx context.Context, v Daemon) error { panic("written next") }

// Stop ends it and removes its directory. Not there is success.
func (d *Daemons) Stop(ctx context.Context, v Daemon, grace time.Duration) error {
	panic("written next")
}

// Find returns its process, nil where it does not run.
func (d *Daemons) Find(v Daemon) (*process.Process, error) { panic("written next") }

// Socket that QEMU connects to; the same for a directory for ever.
func (v Daemon) Socket() string { return v.Dir + "/sock" }
