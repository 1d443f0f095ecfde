// Package client calls the node API of this host's agent over its unix socket.
//
// It is for programs such as a compute service: calls are tried again while the
// agent is away, errors carry the agent's reason, and a watch goes on over what
// interrupts it. Every call may be repeated, since ids are the caller's own;
// docs/nova.md has the order of calls that a compute driver makes.
package client

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
)

// DefaultSocket is where the agent listens unless its configuration says
// otherwise.
const DefaultSocket = "unix:///run/causeway/agent.sock"

// DefaultTimeout bounds a call whose context has no deadline.
const DefaultTimeout = time.Minute

const maxReceived = 64 << 20 // bytes, as the agent sends at most

// Options of a Client.
type Options struct {
	Socket string // "/path", "unix:/path" or "unix:///path"; DefaultSocket if empty

	// Once gives an error of the code UNAVAILABLE back at once. Otherwise such
	// a call is tried again with back-off for as long as its context lasts.
	Once bool
}

// A Client is a connection to the agent. It survives the agent's restarts, and
// may be used by many goroutines at once.
//
// The errors of all calls, but for those of streams, are of the type *Error.
// A call whose context has no deadline gets DefaultTimeout.
type Client struct {
	Attachments nodev1.AttachmentsClient
	Networks    nodev1.NetworksClient
	Exports     nodev1.ExportsClient
	Gateways    nodev1.GatewaysClient
	Node        nodev1.NodeClient

	conn   *grpc.ClientConn
	socket string // its path
	once   bool
	dialed atomic.Pointer[Unreached] // why it is not connected, if it failed to
}

// New makes a client. It connects with the first call.
func New(o Options) (*Client, error) {
	if o.Socket == "" {
		o.Socket = DefaultSocket
	}
	path, err := SocketPath(o.Socket)
	if err != nil {
		return nil, err
	}
	c := &Client{socket: path, once: o.Once}
	c.conn, err = grpc.NewClient("passthrough:///agent",
		grpc.WithTransportCredentials(insecure.NewCredentials()), // the kernel tells the agent who calls
		grpc.WithAuthority("localhost"),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReceived)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return c.dial(ctx) }),
		grpc.WithUnaryInterceptor(c.call),
		// gRPC's own pauses grow to two minutes, too long for a restart.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: minPause, Multiplier: 2, Jitter: 0.2, MaxDelay: maxPause},
			MinConnectTimeout: 5 * time.Second,
		}))
	if err != nil {
		return nil, fmt.Errorf("client of %s: %w", path, err)
	}
	c.Attachments = nodev1.NewAttachmentsClient(c.conn)
	c.Networks = nodev1.NewNetworksClient(c.conn)
	c.Exports = nodev1.NewExportsClient(c.conn)
	c.Gateways = nodev1.NewGatewaysClient(c.conn)
	c.Node = nodev1.NewNodeClient(c.conn)
	return c, nil
}

// Close ends the connection, and the calls that are under way.
func (c *Client) Close() error { return c.conn.Close() }

// SocketPath takes the path out of any form in which Options has a socket.
func SocketPath(socket string) (string, error) {
	path := strings.TrimPrefix(strings.TrimPrefix(socket, "unix:"), "//")
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("socket %q is not the absolute path of a unix socket; use for example %s", socket, DefaultSocket)
	}
	return path, nil
}

// dial remembers why it failed, since gRPC tells that in words alone.
func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.socket)
	if err != nil {
		c.dialed.Store(&Unreached{Socket: c.socket, Err: err})
		return nil, err
	}
	c.dialed.Store(nil)
	return conn, nil
}

// call is around every unary call.
func (c *Client) call(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultTimeout)
		defer cancel()
	}
	for attempt := 0; ; attempt++ {
		err := c.explain(invoke(ctx, method, req, reply, conn, opts...))
		if c.once || !away(err) || !rest(ctx, attempt) {
			return err
		}
	}
}

const (
	minPause = 50 * time.Millisecond
	maxPause = 2 * time.Second
)

// rest is the pause before another attempt. False where ctx ends before: the
// last error then tells more than that time is over.
func rest(ctx context.Context, attempt int) bool {
	pause := min(minPause<<min(attempt, 10), maxPause)
	pause = pause/2 + rand.N(pause/2)
	if end, bounded := ctx.Deadline(); bounded && time.Until(end) < pause {
		return false
	}
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
