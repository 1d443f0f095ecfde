package rpc

import (
	"context"

	"google.golang.org/grpc"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/model"
	nodev1 "github.com/causeway-project/causeway/api/node/v1"
)

type attachments struct {
	nodev1.UnsafeAttachmentsServer
	agent Attachments
}

func (s attachments) Attach(ctx context.Context, r *nodev1.AttachRequest) (*nodev1.AttachResponse, error) {
	want, err := attachmentFrom(r.GetAttachment())
	if err != nil {
		return nil, err
	}
	want.Forced = r.GetForce()
	got, err := s.agent.Attach(ctx, want)
	if err != nil {
		return nil, err
	}
	return &nodev1.AttachResponse{Attachment: attachmentTo(got)}, nil
}

func (s attachments) Detach(ctx context.Context, r *nodev1.DetachRequest) (*nodev1.DetachResponse, error) {
	if err := checkNeeds(need{"id", r.GetId()}); err != nil {
		return nil, err
	}
	detach := s.agent.Detach
	if r.GetForce() {
		detach = s.agent.ForceDetach
	}
	if err := detach(ctx, r.GetId()); err != nil {
		return nil, err
	}
	return &nodev1.DetachResponse{}, nil
}

func (s attachments) Get(ctx context.Context, r *nodev1.GetAttachmentRequest) (*nodev1.GetAttachmentResponse, error) {
	if err := checkNeeds(need{"id", r.GetId()}); err != nil {
		return nil, err
	}
	got, err := s.agent.Attachment(ctx, r.GetId())
	if err != nil {
		return nil, err
	}
	return &nodev1.GetAttachmentResponse{Attachment: attachmentTo(got)}, nil
}

func (s attachments) List(ctx context.Context, r *nodev1.ListAttachmentsRequest) (*nodev1.ListAttachmentsResponse, error) {
	got, err := s.agent.Attachments(ctx, r.GetInstance())
	if err != nil {
		return nil, err
	}
	return &nodev1.ListAttachmentsResponse{Attachments: each(got, attachmentTo)}, nil
}

func (s attachments) Repair(ctx context.Context, r *nodev1.RepairAttachmentRequest) (*nodev1.RepairAttachmentResponse, error) {
	if err := checkNeeds(need{"id", r.GetId()}); err != nil {
		return nil, err
	}
	got, err := s.agent.RepairAttachment(ctx, r.GetId())
	if err != nil {
		return nil, err
	}
	return &nodev1.RepairAttachmentResponse{Attachment: attachmentTo(got)}, nil
}

func (s attachments) Preflight(ctx context.Context, r *nodev1.PreflightAttachmentRequest) (*nodev1.PreflightAttachmentResponse, error) {
	want, err := draftFrom(r.GetAttachment())
	if err != nil {
		return nil, err
	}
	got, err := s.agent.PreflightAttachment(ctx, want)
	if err != nil {
		return nil, err
	}
	return &nodev1.PreflightAttachmentResponse{Checks: each(got, checkTo)}, nil
}

func (s attachments) PrepareStart(ctx context.Context, r *nodev1.PrepareStartRequest) (*nodev1.PrepareStartResponse, error) {
	if err := checkNeeds(need{"instance", r.GetInstance()}, need{"instance_uuid", r.GetInstanceUuid()}); err != nil {
		return nil, err
	}
	// Whoever else could call it could keep libvirt's answers from the agent.
	if who, known := caller(ctx); !known || who.UID != 0 && who.UID != ownUID() {
		return nil, &fault.Error{Kind: fault.Denied, Reason: CallerNotAllowed, Message: "this call is for libvirt's hook: only root may make it"}
	}
	err := s.agent.PrepareStart(ctx, model.Start{Instance: r.GetInstance(), UUID: r.GetInstanceUuid(), Sockets: r.GetSockets(), User: r.GetUser()})
	if err != nil {
		return nil, err
	}
	return &nodev1.PrepareStartResponse{}, nil
}

type networks struct {
	nodev1.UnsafeNetworksServer
	agent Networks
}

func (s networks) Put(ctx context.Context, r *nodev1.PutNetworkRequest) (*nodev1.PutNetworkResponse, error) {
	want, err := networkFrom(r.GetNetwork())
	if err != nil {
		return nil, err
	}
	got, err := s.agent.PutNetwork(ctx, want)
	if err != nil {
		return nil, err
	}
	return &nodev1.PutNetworkResponse{Network: networkTo(got)}, nil
}

func (s networks) Update(ctx context.Context, r *nodev1.UpdateNetworkRequest) (*nodev1.UpdateNetworkResponse, error) {
	want, err := networkFrom(r.GetNetwork())
	if err != nil {
		return nil, err
	}
	got, err := s.agent.UpdateNetwork(ctx, want, r.GetGeneration())
	if err != nil {
		return nil, err
	}
	return &nodev1.UpdateNetworkResponse{Network: networkTo(got)}, nil
}

func (s networks) Delete(ctx context.Context, r *nodev1.DeleteNetworkRequest) (*nodev1.DeleteNetworkResponse, error) {
	if err := checkNeeds(need{"id", r.GetId()}); err != nil {
		return nil, err
	}
	if err := s.agent.DeleteNetwork(ctx, r.GetId()); err != nil {
		return nil, err
	}
	return &nodev1.DeleteNetworkResponse{}, nil
}

func (s networks) Get(ctx context.Context, r *nodev1.GetNetworkRequest) (*nodev1.GetNetworkResponse, error) {
	if err := checkNeeds(need{"id", r.GetId()}); err != nil {
		return nil, err
	}
	got, err := s.agent.Network(ctx, r.GetId())
	if err != nil {
		return nil, err
	}
	return &nodev1.GetNetworkResponse{Network: networkTo(got)}, nil
}

func (s networks) List(ctx context.Context, _ *nodev1.ListNetworksRequest) (*nodev1.ListNetworksResponse, error) {
	got, err := s.agent.Networks(ctx)
	if err != nil {
		return nil, err
	}
	return &nodev1.ListNetworksResponse{Networks: each(got, networkTo)}, nil
}

type exports struct {
	nodev1.UnsafeExportsServer
	agent Exports
}

func (s exports) Put(ctx context.Context, r *nodev1.PutExportRequest) (*nodev1.PutExportResponse, error) {
	want, err := exportFrom(r.GetExport())
	if err != nil {
		return nil, err
	}
	got, err := s.agent.PutExport(ctx, want)
	if err != nil {
		return nil, err
	}
	return &nodev1.PutExportResponse{Export: exportTo(got)}, nil
}

func (s exports) Delete(ctx context.Context, r *nodev1.DeleteExportRequest) (*nodev1.DeleteExportResponse, error) {
	if err := checkNeeds(need{"id", r.GetId()}); err != nil {
		return nil, err
	}
	if err := s.agent.DeleteExport(ctx, r.GetId()); err != nil {
		return nil, err
	}
	return &nodev1.DeleteExportResponse{}, nil
}

func (s exports) Get(ctx context.Context, r *nodev1.GetExportRequest) (*nodev1.GetExportResponse, error) {
	if err := checkNeeds(need{"id", r.GetId()}); err != nil {
		return nil, err
	}
	got, err := s.agent.Export(ctx, r.GetId())
	if err != nil {
		return nil, err
	}
	return &nodev1.GetExportResponse{Export: exportTo(got)}, nil
}

func (s exports) List(ctx context.Context, r *nodev1.ListExportsRequest) (*nodev1.ListExportsResponse, error) {
	got, err := s.agent.Exports(ctx, r.GetNetwork())
	if err != nil {
		return nil, err
	}
	return &nodev1.ListExportsResponse{Exports: each(got, exportTo)}, nil
}

type node struct {
	nodev1.UnsafeNodeServer
	agent Node
}

func (s node) Get(ctx context.Context, _ *nodev1.GetNodeRequest) (*nodev1.GetNodeResponse, error) {
	got, err := s.agent.Node(ctx)
	if err != nil {
		return nil, err
	}
	return nodeTo(got), nil
}

func (s node) Preflight(ctx context.Context, _ *nodev1.PreflightRequest) (*nodev1.PreflightResponse, error) {
	got, err := s.agent.Preflight(ctx)
	if err != nil {
		return nil, err
	}
	return &nodev1.PreflightResponse{Checks: each(got, checkTo)}, nil
}

func (s node) Watch(_ *nodev1.WatchRequest, stream grpc.ServerStreamingServer[nodev1.WatchResponse]) error {
	return s.agent.Watch(stream.Context(), func(e model.Event) error { return stream.Send(eventTo(e)) })
}

func each[A, B any](as []A, f func(A) B) []B {
	bs := make([]B, 0, len(as))
	for _, a := range as {
		bs = append(bs, f(a))
	}
	return bs
}
