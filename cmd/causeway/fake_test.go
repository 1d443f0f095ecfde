package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
)

// fakeAgent is a node API over a few objects. It notes what changes it was
// asked for.
type fakeAgent struct {
	nodev1.UnimplementedAttachmentsServer
	nodev1.UnimplementedNetworksServer
	nodev1.UnimplementedExportsServer
	nodev1.UnimplementedNodeServer

	mu          sync.Mutex
	asked       []string
	err         error // of every call, if set
	slow        bool  // changes end with the caller's deadline
	attachments []*nodev1.Attachment
	networks    []*nodev1.Network
	exports     []*nodev1.Export
	node        *nodev1.GetNodeResponse
	checks      []*nodev1.Check
	watches     [][]*nodev1.WatchResponse // one for each Watch; the last stays open
}

func noon() time.Time { return time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC) }

func since(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(noon().Add(-d)) }

// agentError is one as agent/rpc makes it.
func agentError(code codes.Code, reason, message string) error {
	s, err := status.New(code, message).WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: "node.causeway"})
	if err != nil {
		panic(err)
	}
	return s.Err()
}

func newFakeAgent() *fakeAgent {
	ready := &nodev1.Status{Generation: 2, ObservedGeneration: 2, Phase: nodev1.Phase_PHASE_READY, Since: since(90 * time.Second)}
	docs := &nodev1.Connection{BackendKind: "local", Source: "docs"}
	return &fakeAgent{
		attachments: []*nodev1.Attachment{
			{Id: "docs-vm1", Instance: "vm1", Connection: docs, Tag: "docs", MountAt: "/mnt/docs", Status: ready,
				InstanceUuid: "8c5b4ff3-6d52-4d4c-9bb1-000000000001", Guest: nodev1.GuestState_GUEST_STATE_MOUNTED,
				Settings: &nodev1.DeviceSettings{Cache: nodev1.Cache_CACHE_AUTO, Xattr: proto.Bool(true), PosixAcl: proto.Bool(false),
					Locks: nodev1.Locks_LOCKS_LOCAL, QueueSize: 1024, Threads: 1, OpenFiles: 1 << 20},
				Ids: &nodev1.IdPolicy{Policy: &nodev1.IdPolicy_Map{Map: &nodev1.IdMap{
					Uids: []*nodev1.IdRange{{Host: 100000, Count: 65536}}, Gids: []*nodev1.IdRange{{Guest: 5, Host: 6, Count: 7}}}}},
				LockScope: nodev1.LockScope_LOCK_SCOPE_GUEST, UnlockedUsers: []string{"attachment/docs-vm2", "export/docs"}, Forced: true,
				Persistence: nodev1.Persistence_PERSISTENCE_PERSISTENT},
			{Id: "hostile", Instance: "vm\x1b[31m2\n", Tag: "x", ReadOnly: true,
				Connection: &nodev1.Connection{BackendKind: "local", Source: "a\u202eb\x7f\u0085", Options: map[string]string{"k\n2": "v\x07", "k1": "v"}},
				Status: &nodev1.Status{Generation: 1, Phase: nodev1.Phase_PHASE_FAILED, Since: since(50 * time.Hour), Attempts: 3,
					Reason: "instance_off", Message: "instance is off\x1b]0;owned\x07\nstart it"},
				Guest:       nodev1.GuestState_GUEST_STATE_UNKNOWN,
				Persistence: nodev1.Persistence_PERSISTENCE_LIVE_ONLY, LiveOnly: "no hook\x1b[2J"},
		},
		networks: []*nodev1.Network{
			{Id: "blue", Plug: &nodev1.Network_Bridge{Bridge: &nodev1.BridgePlug{Bridge: "br-blue"}}, Addresses: []string{"10.77.0.2/24", "fd77::2/64"},
				Routes: []*nodev1.Route{{Destination: "0.0.0.0/0", Via: "10.77.0.1"}}, Mac: "02:00:00:00:00:01", Status: ready,
				Gateway: &nodev1.Gateway{Running: true, Pid: 4711, Restarts: 1, Exports: 1, Version: "4.3", StartedAt: since(3 * time.Hour)}},
			{Id: "red", Plug: &nodev1.Network_Bridge{Bridge: &nodev1.BridgePlug{Bridge: "br-red"}}, Addresses: []string{"10.77.0.2/24"}, Mtu: 1400,
				Status: ready, Gateway: &nodev1.Gateway{}},
		},
		exports: []*nodev1.Export{
			{Id: "docs", Network: "blue", Connection: docs, Pseudo: "/docs", Status: ready, ExportId: 7,
				Rules: []*nodev1.AccessRule{
					{Id: "r-1a2b3c4d5e", Client: "10.77.0.0/24", Level: nodev1.Level_LEVEL_RW, Squash: nodev1.Squash_SQUASH_ROOT, AnonymousUid: proto.Uint32(65534), AnonymousGid: proto.Uint32(65534),
						Sec: []nodev1.Sec{nodev1.Sec_SEC_SYS}, State: nodev1.RuleState_RULE_STATE_ACTIVE, CreatedAt: since(time.Hour), ExpiresAt: since(-2 * time.Hour),
						Metadata: map[string]string{"ticket": "7", "by": "x\x1b[31m"}},
					{Id: "audit", Client: "::/0", AllowEveryone: true, Level: nodev1.Level_LEVEL_RO, Squash: nodev1.Squash_SQUASH_NONE, Priority: 10,
						Sec: []nodev1.Sec{nodev1.Sec_SEC_SYS, nodev1.Sec_SEC_KRB5P}, State: nodev1.RuleState_RULE_STATE_DENYING, ExpiresAt: since(time.Minute),
						Reason: "access_rule_expired", Message: "it has expired"},
				},
				Locations: []string{"10.77.0.2:/docs", "[fd77::2]:/docs"}},
		},
		node: &nodev1.GetNodeResponse{
			Hostname: "hv1", Version: "v0.1.0", InSync: true, StartedAt: since(time.Hour),
			Drivers: []*nodev1.Driver{{Kind: "local", Abilities: []string{"probe"}, StableHandles: true, CoherentLocks: true}},
			Mounts: []*nodev1.Mount{{Name: "cw-m1", BackendKind: "local", Source: "docs", Path: "/run/causeway/mounts/cw-m1",
				Users: []string{"attachment/docs-vm1", "export/docs"}, Status: ready}},
			Subsystems: []*nodev1.Subsystem{
				{Name: "ledger", Verdict: nodev1.Verdict_VERDICT_PASS},
				{Name: "libvirt", Verdict: nodev1.Verdict_VERDICT_WARN, Message: "not reachable"},
			},
			Virtiofsd: &nodev1.Virtiofsd{Path: "/usr/libexec/virtiofsd", Flavour: "rust", Version: "1.13.2", Abilities: []string{"cache_auto", "xattr"}},
		},
		checks: []*nodev1.Check{
			{Name: "root", Verdict: nodev1.Verdict_VERDICT_PASS, Message: "runs as root"},
			{Name: "virtiofsd", Verdict: nodev1.Verdict_VERDICT_PASS, Message: "/usr/libexec/virtiofsd"},
		},
	}
}

// watching sets what is watched next, and how the last watch ends.
func (f *fakeAgent) watching(err error, turns ...[]*nodev1.WatchResponse) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watches, f.err = turns, err
}

func (f *fakeAgent) change(ctx context.Context, what string, m proto.Message) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	data, err := protojson.Marshal(m)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	for _, c := range data { // protojson varies its spaces
		if c != ' ' {
			b.WriteByte(c)
		}
	}
	f.asked = append(f.asked, what+" "+b.String())
	if f.slow {
		<-ctx.Done()
		return ctx.Err()
	}
	return f.err
}

func find[T interface{ GetId() string }](f *fakeAgent, all []T, id string) (T, error) {
	for _, item := range all {
		if item.GetId() == id {
			return item, f.err
		}
	}
	var none T
	return none, agentError(codes.NotFound, "unknown_id", "no object has the id "+id+"; check it")
}

func (f *fakeAgent) Attach(ctx context.Context, r *nodev1.AttachRequest) (*nodev1.AttachResponse, error) {
	return &nodev1.AttachResponse{Attachment: f.attachments[0]}, f.change(ctx, "attach", r)
}

func (f *fakeAgent) Detach(ctx context.Context, r *nodev1.DetachRequest) (*nodev1.DetachResponse, error) {
	return &nodev1.DetachResponse{}, f.change(ctx, "detach", r)
}

func (f *fakeAgent) PrepareStart(ctx context.Context, r *nodev1.PrepareStartRequest) (*nodev1.PrepareStartResponse, error) {
	return &nodev1.PrepareStartResponse{}, f.change(ctx, "prepare-start", r)
}

func (f *fakeAgent) Repair(ctx context.Context, r *nodev1.RepairAttachmentRequest) (*nodev1.RepairAttachmentResponse, error) {
	return &nodev1.RepairAttachmentResponse{Attachment: f.attachments[0]}, f.change(ctx, "repair", r)
}

func (f *fakeAgent) Prepare(ctx context.Context, r *nodev1.PrepareAttachmentRequest) (*nodev1.PrepareAttachmentResponse, error) {
	return &nodev1.PrepareAttachmentResponse{Attachment: f.attachments[0]}, f.change(ctx, "prepare", r)
}

func (f *fakeAgent) Finish(ctx context.Context, r *nodev1.FinishAttachmentRequest) (*nodev1.FinishAttachmentResponse, error) {
	return &nodev1.FinishAttachmentResponse{Attachment: f.attachments[0]}, f.change(ctx, "finish", r)
}

func (f *fakeAgent) Release(ctx context.Context, r *nodev1.ReleaseAttachmentRequest) (*nodev1.ReleaseAttachmentResponse, error) {
	return &nodev1.ReleaseAttachmentResponse{Attachment: f.attachments[0]}, f.change(ctx, "release", r)
}

func (f *fakeAgent) Rollback(ctx context.Context, r *nodev1.RollbackAttachmentRequest) (*nodev1.RollbackAttachmentResponse, error) {
	return &nodev1.RollbackAttachmentResponse{Attachment: f.attachments[0]}, f.change(ctx, "rollback", r)
}

// The services have methods of the same names: one type each.
type (
	attachmentServer struct{ *fakeAgent }
	networkServer    struct{ *fakeAgent }
	exportServer     struct{ *fakeAgent }
	nodeServer       struct{ *fakeAgent }
)

func (s attachmentServer) Get(_ context.Context, r *nodev1.GetAttachmentRequest) (*nodev1.GetAttachmentResponse, error) {
	a, err := find(s.fakeAgent, s.attachments, r.GetId())
	return &nodev1.GetAttachmentResponse{Attachment: a}, err
}

func (s attachmentServer) List(_ context.Context, r *nodev1.ListAttachmentsRequest) (*nodev1.ListAttachmentsResponse, error) {
	resp := &nodev1.ListAttachmentsResponse{}
	for _, a := range s.attachments {
		if r.GetInstance() == "" || a.GetInstance() == r.GetInstance() {
			resp.Attachments = append(resp.Attachments, a)
		}
	}
	return resp, s.err
}

func (s networkServer) Put(ctx context.Context, r *nodev1.PutNetworkRequest) (*nodev1.PutNetworkResponse, error) {
	return &nodev1.PutNetworkResponse{Network: s.networks[0]}, s.change(ctx, "put", r)
}

func (s networkServer) Update(ctx context.Context, r *nodev1.UpdateNetworkRequest) (*nodev1.UpdateNetworkResponse, error) {
	return &nodev1.UpdateNetworkResponse{Network: s.networks[0]}, s.change(ctx, "update", r)
}

func (s networkServer) Delete(ctx context.Context, r *nodev1.DeleteNetworkRequest) (*nodev1.DeleteNetworkResponse, error) {
	return &nodev1.DeleteNetworkResponse{}, s.change(ctx, "delete", r)
}

func (s networkServer) Get(_ context.Context, r *nodev1.GetNetworkRequest) (*nodev1.GetNetworkResponse, error) {
	n, err := find(s.fakeAgent, s.networks, r.GetId())
	return &nodev1.GetNetworkResponse{Network: n}, err
}

func (s networkServer) List(context.Context, *nodev1.ListNetworksRequest) (*nodev1.ListNetworksResponse, error) {
	return &nodev1.ListNetworksResponse{Networks: s.networks}, s.err
}

func (s exportServer) Put(ctx context.Context, r *nodev1.PutExportRequest) (*nodev1.PutExportResponse, error) {
	return &nodev1.PutExportResponse{Export: s.exports[0]}, s.change(ctx, "put", r)
}

func (s exportServer) Delete(ctx context.Context, r *nodev1.DeleteExportRequest) (*nodev1.DeleteExportResponse, error) {
	return &nodev1.DeleteExportResponse{}, s.change(ctx, "delete", r)
}

func (s exportServer) Get(_ context.Context, r *nodev1.GetExportRequest) (*nodev1.GetExportResponse, error) {
	e, err := find(s.fakeAgent, s.exports, r.GetId())
	return &nodev1.GetExportResponse{Export: e}, err
}

func (s exportServer) PutRule(ctx context.Context, r *nodev1.PutRuleRequest) (*nodev1.PutRuleResponse, error) {
	return &nodev1.PutRuleResponse{Rule: s.exports[0].GetRules()[0]}, s.change(ctx, "put rule", r)
}

func (s exportServer) DeleteRule(ctx context.Context, r *nodev1.DeleteRuleRequest) (*nodev1.DeleteRuleResponse, error) {
	return &nodev1.DeleteRuleResponse{}, s.change(ctx, "delete rule", r)
}

func (s exportServer) GetRule(_ context.Context, r *nodev1.GetRuleRequest) (*nodev1.GetRuleResponse, error) {
	e, err := find(s.fakeAgent, s.exports, r.GetExport())
	if err != nil {
		return nil, err
	}
	rule, err := find(s.fakeAgent, e.GetRules(), r.GetId())
	return &nodev1.GetRuleResponse{Rule: rule}, err
}

func (s exportServer) ListRules(_ context.Context, r *nodev1.ListRulesRequest) (*nodev1.ListRulesResponse, error) {
	e, err := find(s.fakeAgent, s.exports, r.GetExport())
	return &nodev1.ListRulesResponse{Rules: e.GetRules()}, err
}

func (s exportServer) RecoverRules(ctx context.Context, r *nodev1.RecoverRulesRequest) (*nodev1.RecoverRulesResponse, error) {
	return &nodev1.RecoverRulesResponse{Export: s.exports[0]}, s.change(ctx, "recover rules", r)
}

func (s exportServer) List(_ context.Context, r *nodev1.ListExportsRequest) (*nodev1.ListExportsResponse, error) {
	if r.GetNetwork() == "red" {
		return &nodev1.ListExportsResponse{}, s.err
	}
	return &nodev1.ListExportsResponse{Exports: s.exports}, s.err
}

func (s attachmentServer) Preflight(_ context.Context, r *nodev1.PreflightAttachmentRequest) (*nodev1.PreflightAttachmentResponse, error) {
	checks := s.checks
	if r.GetAttachment().GetInstance() == "full" {
		checks = []*nodev1.Check{
			{Name: "instance", Verdict: nodev1.Verdict_VERDICT_PASS, Message: "it runs"},
			{Name: "ports", Verdict: nodev1.Verdict_VERDICT_FAIL, Message: "no free PCIe root port", Fix: "virsh shutdown full", Reason: "no_free_port"},
		}
	}
	return &nodev1.PreflightAttachmentResponse{Checks: checks}, s.err
}

func (s nodeServer) Get(context.Context, *nodev1.GetNodeRequest) (*nodev1.GetNodeResponse, error) {
	return s.node, s.err
}

func (s nodeServer) Preflight(context.Context, *nodev1.PreflightRequest) (*nodev1.PreflightResponse, error) {
	return &nodev1.PreflightResponse{Checks: s.checks}, s.err
}

func (s nodeServer) Watch(_ *nodev1.WatchRequest, stream grpc.ServerStreamingServer[nodev1.WatchResponse]) error {
	s.mu.Lock()
	turn := s.watches[0]
	s.watches = s.watches[1:]
	last, failure := len(s.watches) == 0, s.err
	s.mu.Unlock()
	for _, r := range turn {
		if err := stream.Send(r); err != nil {
			return err
		}
	}
	if !last {
		return agentError(codes.Aborted, "watch_overrun", "too slow; watch again")
	}
	if failure != nil {
		return failure
	}
	<-stream.Context().Done()
	return nil
}

// serve returns the socket.
func (f *fakeAgent) serve(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cw-cli-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.WaitForHandlers(true))
	nodev1.RegisterGatewaysServer(server, &gatewayServer{fakeAgent: f})
	nodev1.RegisterAttachmentsServer(server, attachmentServer{f})
	nodev1.RegisterNetworksServer(server, networkServer{f})
	nodev1.RegisterExportsServer(server, exportServer{f})
	nodev1.RegisterNodeServer(server, nodeServer{f})
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return socket
}

// ran is what a command did.
type ran struct {
	code     int
	out, err string
}

func runCLI(ctx context.Context, socket, stdin string, args ...string) ran {
	var out, errs bytes.Buffer
	c := &cli{in: strings.NewReader(stdin), out: &out, errs: &errs, now: noon}
	code := c.run(ctx, args, "unix://"+socket)
	return ran{code, out.String(), errs.String()}
}
