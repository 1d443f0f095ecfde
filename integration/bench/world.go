package main

import (
	"context"
	"path/filepath"

	"google.golang.org/grpc"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
)

// A world is the agent and the guest.
type world struct {
	pool       string // of the local driver, on the disk
	run        string // the agent's run directory
	libvirtURI string
	domain     string
	conn       *grpc.ClientConn
}

func newWorld(ctx context.Context, dir string) (*world, error) { panic("x") }
func (w *world) close(ctx context.Context) error               { panic("x") }
func (w *world) guest(ctx context.Context) error               { panic("x") }
func (w *world) start(ctx context.Context) error               { panic("x") }
func (w *world) kill() error                                   { panic("x") }
func (w *world) pid() int                                      { panic("x") }

// gatewayConf is where the agent renders a gateway's configuration.
func (w *world) gatewayConf(network string) string {
	return filepath.Join(w.run, "gateways", network, "conf", "ganesha.conf")
}

// connection names a directory of the pool.
func (b *bench) connection(name string) *nodev1.Connection {
	return &nodev1.Connection{BackendKind: "local", Source: "bench/" + name}
}
