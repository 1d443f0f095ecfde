package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
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
	tenant tenant
	pool   *lab.Pool
	conn   *grpc.ClientConn
	dir    string
	bin    string
	agent  *exec.Cmd

	libvirt *lab.Libvirt // nil until a guest is needed
	guest   *lab.Guest
}

// poolSize in MiB. The file is sparse.
const poolSize = 512

func newWorld(ctx context.Context, dir string, guest bool) (*world, error) {
	w := &world{dir: dir}
	if err := w.build(ctx, guest); err != nil {
		return nil, errors.Join(err, w.close(context.WithoutCancel(ctx)))
	}
	return w, nil
}

func (w *world) build(ctx context.Context, guest bool) (err error) {
	if w.tenant, err = newTenant(ctx); err != nil {
		return err
	}
	if w.pool, err = lab.NewPool(ctx, poolSize); err != nil {
		return err
	}
	if guest {
		if w.libvirt, err = lab.StartLibvirt(ctx); err != nil {
			return err
		}
		if w.guest, err = w.libvirt.Boot(ctx, lab.GuestOptions{Name: "bench"}); err != nil {
			return err
		}
	}
	root, err := lab.Repo()
	if err != nil {
		return err
	}
	w.bin = filepath.Join(w.dir, "bin")
	for _, p := range []string{"causeway-agent", "causeway-launch"} {
		cmd := exec.CommandContext(ctx, "go", "build", "-o", w.bin+"/", "./cmd/"+p)
		cmd.Dir = root
		if p == "causeway-launch" {
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w: %s", p, err, out)
		}
	}
	conf := fmt.Sprintf(`state_dir: %[1]s/state
run_dir: /run/cw
http: {address: ""}
socket: {group: root}
libvirt: {enabled: %[3]v}
local: {pools: {default: %[2]s}}
`, w.dir, w.pool.Dir, guest)
	if err := os.WriteFile(filepath.Join(w.dir, "agent.yaml"), []byte(conf), 0o644); err != nil {
		return err
	}
	// A new agent is to be noticed at once.
	at := backoff.Config{BaseDelay: time.Millisecond, Multiplier: 1, MaxDelay: time.Millisecond}
	w.conn, err = grpc.NewClient("unix:/run/cw/agent.sock", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: at, MinConnectTimeout: time.Second}))
	if err != nil {
		return err
	}
	if err := w.start(ctx); err != nil {
		return err
	}
	return w.inSync(ctx)
}

func (w *world) inSync(ctx context.Context) error {
	node := nodev1.NewNodeClient(w.conn)
	for {
		reply, err := node.Get(ctx, &nodev1.GetNodeRequest{})
		if err == nil && reply.GetInSync() {
			return nil
		}
		if err := pause(ctx, time.Millisecond); err != nil {
			return err
		}
	}
}

func (w *world) start(context.Context) error {
	log, err := os.OpenFile(filepath.Join(w.dir, "agent.log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	w.agent = exec.Command(filepath.Join(w.bin, "causeway-agent"), "--config", filepath.Join(w.dir, "agent.yaml"))
	w.agent.Stdout, w.agent.Stderr = log, log
	return errors.Join(w.agent.Start(), log.Close())
}

func (w *world) kill() error {
	err := w.agent.Process.Kill()
	_ = w.agent.Wait()
	return err
}

func (w *world) pid() int { return w.agent.Process.Pid }

func (w *world) close(ctx context.Context) error {
	var errs []error
	if w.conn != nil {
		errs = append(errs, w.conn.Close())
	}
	if w.agent != nil {
		errs = append(errs, w.kill())
	}
	if w.guest != nil {
		errs = append(errs, w.guest.Close())
	}
	if w.libvirt != nil {
		errs = append(errs, w.libvirt.Close())
	}
	return errors.Join(errs...)
}

// gatewayConf is where the agent renders a gateway's configuration.
func (w *world) gatewayConf(network string) string {
	return filepath.Join("/run/cw/gateways", network, "conf", "ganesha.conf")
}
