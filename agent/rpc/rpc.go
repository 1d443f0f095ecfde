// Package rpc serves the node API over gRPC: it checks the shape of requests,
// translates both ways between api/node/v1 and agent, and decides nothing.
//
// Every call goes the same way: who calls (SO_PEERCRED), may that user, is the
// request of a sane size, is what it needs there; then the agent; then its
// error becomes a gRPC status with an ErrorInfo. Calls that change something
// leave one audit line.
package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/causeway-project/causeway/agent/access"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/statistics"
	nodev1 "github.com/causeway-project/causeway/api/node/v1"
)

// Attachments is what the service of that name needs. Every method may be
// repeated; errors are or wrap *fault.Error, or the context's.
type Attachments interface {
	Attach(context.Context, model.Attachment) (model.Attachment, error)
	Detach(ctx context.Context, id string) error
	ForceDetach(ctx context.Context, id string) error
	Attachment(ctx context.Context, id string) (model.Attachment, error)
	Attachments(ctx context.Context, instance string) ([]model.Attachment, error)
	RepairAttachment(ctx context.Context, id string) (model.Attachment, error)
	PreflightAttachment(ctx context.Context, at model.Attachment) ([]model.Check, error)
	PrepareStart(context.Context, model.Start) error
	Moves
}

// Moves is what the service Attachments needs for instances that move.
type Moves interface {
	Prepare(ctx context.Context, at model.Attachment, expires time.Time) (model.Attachment, error)
	Finish(ctx context.Context, id string) (model.Attachment, error)
	Release(ctx context.Context, id string, expires time.Time) (model.Attachment, error)
	Rollback(ctx context.Context, id string) (model.Attachment, error)
}

// Networks is what the service of that name needs; errors as Attachments'.
type Networks interface {
	PutNetwork(context.Context, model.Network) (model.Network, error)
	UpdateNetwork(ctx context.Context, n model.Network, seen int64) (model.Network, error)
	DeleteNetwork(ctx context.Context, id string) error
	Network(ctx context.Context, id string) (model.Network, error)
	Networks(context.Context) ([]model.Network, error)
}

// Exports is what the service of that name needs; errors as Attachments'.
type Exports interface {
	PutExport(context.Context, model.Export) (model.Export, error)
	DeleteExport(ctx context.Context, id string) error
	Export(ctx context.Context, id string) (model.Export, error)
	Exports(ctx context.Context, network string) ([]model.Export, error)
	PutRule(ctx context.Context, export string, r access.Rule) (access.Rule, error)
	DeleteRule(ctx context.Context, export, id string) error
	Rule(ctx context.Context, export, id string) (access.Rule, error)
	Rules(ctx context.Context, export string) ([]access.Rule, error)
	RecoverRules(ctx context.Context, export string) (model.Export, error)
}

// Gateways is what the service of that name needs; errors as Attachments'.
type Gateways interface {
	GatewayStatistics(ctx context.Context, network string, clients int) ([]statistics.Gateway, error)
}

// Node is what the service of that name needs; errors as Attachments'.
type Node interface {
	Node(context.Context) (model.Node, error)
	Preflight(context.Context) ([]model.Check, error)
	// Watch calls send, never twice at once, until ctx ends or send fails.
	Watch(ctx context.Context, send func(model.Event) error) error
}

// An Agent is the whole that a Server serves.
type Agent interface {
	Attachments
	Networks
	Exports
	Gateways
	Node
}

// Options of a Server.
type Options struct {
	Agent  Agent        // required
	Logger *slog.Logger // required

	// Callers beside root and this process's own user: by user, and by any
	// of their groups.
	AllowUIDs []uint32
	AllowGIDs []uint32

	CallTimeout time.Duration // longest time for a call but Watch; 2 minutes by default
	Drain       time.Duration // how long calls may go on after Serve's context ended; 5 s by default
}

const (
	maxReceived = 1 << 20  // bytes: the largest sane request is far below
	maxSent     = 64 << 20 // bytes: a list of tens of thousands of objects
	maxStreams  = 1024     // at once, per connection
)

// A Server serves one agent.
type Server struct {
	agent       Agent
	log         *slog.Logger
	allow       allowed
	callTimeout time.Duration
	drain       time.Duration
	grpc        *grpc.Server
	health      *health.Server
	stopping    chan struct{} // closed by Serve: ends streams
}

// New makes a server that says NOT_SERVING until MarkServing.
func New(o Options) *Server {
	s := &Server{
		agent:       o.Agent,
		log:         o.Logger,
		allow:       newAllowed(o.AllowUIDs, o.AllowGIDs),
		callTimeout: o.CallTimeout,
		drain:       o.Drain,
		health:      health.NewServer(),
		stopping:    make(chan struct{}),
	}
	if s.callTimeout == 0 {
		s.callTimeout = 2 * time.Minute
	}
	if s.drain == 0 {
		s.drain = 5 * time.Second
	}
	s.grpc = grpc.NewServer(
		grpc.Creds(peerCredentials{}),
		grpc.UnaryInterceptor(s.unary),
		grpc.StreamInterceptor(s.stream),
		grpc.MaxRecvMsgSize(maxReceived),
		grpc.MaxSendMsgSize(maxSent),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.WaitForHandlers(true),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 2 * time.Minute, Timeout: 20 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	)
	nodev1.RegisterAttachmentsServer(s.grpc, attachments{agent: s.agent})
	nodev1.RegisterNetworksServer(s.grpc, networks{agent: s.agent})
	nodev1.RegisterExportsServer(s.grpc, exports{agent: s.agent})
	nodev1.RegisterGatewaysServer(s.grpc, gateways{agent: s.agent})
	nodev1.RegisterNodeServer(s.grpc, node{agent: s.agent})
	healthv1.RegisterHealthServer(s.grpc, s.health)
	reflection.Register(s.grpc)
	s.MarkNotServing()
	return s
}

// services that report their health, and "" for the whole.
func services() []string {
	return []string{
		"",
		nodev1.Attachments_ServiceDesc.ServiceName,
		nodev1.Networks_ServiceDesc.ServiceName,
		nodev1.Exports_ServiceDesc.ServiceName,
		nodev1.Node_ServiceDesc.ServiceName,
	}
}

// MarkServing lets gRPC health say that the agent is in sync.
func (s *Server) MarkServing() { s.mark(healthv1.HealthCheckResponse_SERVING) }

// MarkNotServing lets gRPC health say that the agent is not in sync.
func (s *Server) MarkNotServing() { s.mark(healthv1.HealthCheckResponse_NOT_SERVING) }

func (s *Server) mark(status healthv1.HealthCheckResponse_ServingStatus) {
	for _, name := range services() {
		s.health.SetServingStatus(name, status)
	}
}

// Serve answers on l, which must be a unix socket, until ctx ends; then it
// accepts nothing new, ends streams, lets calls go on for Options.Drain, and
// returns nil when the last has returned. It closes l and can be called once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	served := make(chan error, 1)
	go func() { served <- s.grpc.Serve(l) }()
	var err error
	select {
	case err = <-served:
		served = nil
	case <-ctx.Done():
	}
	s.health.Shutdown()
	close(s.stopping)
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		s.grpc.GracefulStop()
	}()
	timer := time.NewTimer(s.drain)
	defer timer.Stop()
	select {
	case <-drained:
	case <-timer.C:
		s.grpc.Stop()
		<-drained
	}
	if served != nil {
		err = <-served
	}
	if err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve node API: %w", err)
	}
	return nil
}

// An allowed set decides who may call.
type allowed struct {
	uids []uint32
	gids []uint32
}

func newAllowed(uids, gids []uint32) allowed {
	return allowed{uids: append([]uint32{0, ownUID()}, uids...), gids: slices.Clone(gids)}
}

func (a allowed) admits(c Caller) bool {
	return slices.Contains(a.uids, c.UID) ||
		slices.ContainsFunc(c.GIDs, func(g uint32) bool { return slices.Contains(a.gids, g) })
}
