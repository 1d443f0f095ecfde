package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/integration/lab"
)

// A world is what the agent lives in, and the agent.
type world struct {
	tenant  tenant
	pool    *lab.Pool
	libvirt *lab.Libvirt // nil where no measure needs a guest
	guest   *lab.Guest
	agent   *lab.Agent
	options lab.AgentOptions // of the agent
	conn    *grpc.ClientConn // to the agent
}

// poolSize in MiB. The file is sparse.
const poolSize = 512

type worldOptions struct {
	Guest        bool
	Lease, Grace time.Duration // of gateways
}

func newWorld(ctx context.Context, o worldOptions) (*world, error) {
	w := &world{}
	if err := w.build(ctx, o); err != nil {
		return nil, errors.Join(err, w.close(context.WithoutCancel(ctx)))
	}
	return w, nil
}

func (w *world) build(ctx context.Context, o worldOptions) (err error) {
	if w.tenant, err = newTenant(ctx); err != nil {
		return err
	}
	if w.pool, err = lab.NewPool(ctx, poolSize); err != nil {
		return err
	}
	options := lab.AgentOptions{Lease: o.Lease, Grace: o.Grace, Pools: map[string]string{"default": w.pool.Dir}, LogLevel: "INFO"}
	if options.Programs, err = lab.Build(ctx, lab.BuildOptions{}); err != nil {
		return err
	}
	if o.Guest {
		if w.libvirt, err = lab.StartLibvirt(ctx); err != nil {
			return err
		}
		if w.guest, err = w.libvirt.Boot(ctx, lab.GuestOptions{
			Name: "bench", Bridge: w.tenant.bridge, Addresses: []netip.Prefix{netip.MustParsePrefix(guestAddress + "/24")},
		}); err != nil {
			return err
		}
		options.Libvirt = w.libvirt.URI
	}
	w.options = options
	if w.agent, err = lab.NewAgent(options); err != nil {
		return err
	}
	// A new agent is to be noticed at once.
	at := backoff.Config{BaseDelay: time.Millisecond, Multiplier: 1, MaxDelay: time.Millisecond}
	w.conn, err = grpc.NewClient("unix://"+w.agent.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: at, MinConnectTimeout: time.Second}))
	if err != nil {
		return err
	}
	return w.launch(ctx)
}

// launch starts the agent, and returns when it says that it is in sync.
func (w *world) launch(ctx context.Context) error {
	if err := w.agent.Launch(""); err != nil {
		return err
	}
	node := nodev1.NewNodeClient(w.conn)
	for w.agent.Running() {
		reply, err := node.Get(ctx, &nodev1.GetNodeRequest{})
		if err == nil && reply.GetInSync() {
			return nil
		}
		if err := pause(ctx, 2*time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("the agent ended; its log ends:\n%s", w.agent.Log())
}

func (w *world) close(ctx context.Context) error {
	var errs []error
	if w.conn != nil {
		errs = append(errs, w.conn.Close())
	}
	if w.agent != nil {
		errs = append(errs, w.agent.Close())
	}
	if w.guest != nil {
		errs = append(errs, w.guest.Close())
	}
	if w.libvirt != nil {
		errs = append(errs, w.libvirt.Close())
	}
	if w.pool != nil {
		errs = append(errs, w.pool.Close(ctx))
	}
	return errors.Join(errs...)
}

// gatewayConf is where the agent renders a gateway's configuration.
func (w *world) gatewayConf(network string) string {
	return filepath.Join(w.agent.RunDir, "gateways", network, "conf", "ganesha.conf")
}

// gatewayBus is the socket of a gateway's bus.
func (w *world) gatewayBus(network string) string {
	return filepath.Join(w.agent.RunDir, "gateways", network, "sock", "bus")
}
