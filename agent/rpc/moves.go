package rpc

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/causeway-project/causeway/agent/move"
	nodev1 "github.com/causeway-project/causeway/api/node/v1"
)

func (s attachments) Prepare(ctx context.Context, r *nodev1.PrepareAttachmentRequest) (*nodev1.PrepareAttachmentResponse, error) {
	want, err := attachmentFrom(r.GetAttachment())
	if err != nil {
		return nil, err
	}
	want.Forced = r.GetForce()
	expires, err := expiryFrom(r.GetExpiresAt())
	if err != nil {
		return nil, err
	}
	got, err := s.agent.Prepare(ctx, want, expires)
	if err != nil {
		return nil, err
	}
	return &nodev1.PrepareAttachmentResponse{Attachment: attachmentTo(got)}, nil
}

func (s attachments) Finish(ctx context.Context, r *nodev1.FinishAttachmentRequest) (*nodev1.FinishAttachmentResponse, error) {
	if err := checkNeeds(need{"id", r.GetId()}); err != nil {
		return nil, err
	}
	got, err := s.agent.Finish(ctx, r.GetId())
	if err != nil {
		return nil, err
	}
	return &nodev1.FinishAttachmentResponse{Attachment: attachmentTo(got)}, nil
}

func (s attachments) Release(ctx context.Context, r *nodev1.ReleaseAttachmentRequest) (*nodev1.ReleaseAttachmentResponse, error) {
	if err := checkNeeds(need{"id", r.GetId()}); err != nil {
		return nil, err
	}
	expires, err := expiryFrom(r.GetExpiresAt())
	if err != nil {
		return nil, err
	}
	got, err := s.agent.Release(ctx, r.GetId(), expires)
	if err != nil {
		return nil, err
	}
	return &nodev1.ReleaseAttachmentResponse{Attachment: attachmentTo(got)}, nil
}

func (s attachments) Rollback(ctx context.Context, r *nodev1.RollbackAttachmentRequest) (*nodev1.RollbackAttachmentResponse, error) {
	if err := checkNeeds(need{"id", r.GetId()}); err != nil {
		return nil, err
	}
	got, err := s.agent.Rollback(ctx, r.GetId())
	if err != nil {
		return nil, err
	}
	return &nodev1.RollbackAttachmentResponse{Attachment: attachmentTo(got)}, nil
}

// expiryFrom leaves it to the agent to refuse one that is missing: zero.
func expiryFrom(t *timestamppb.Timestamp) (time.Time, error) {
	if t == nil {
		return time.Time{}, nil
	}
	if err := t.CheckValid(); err != nil {
		return time.Time{}, malformed("expires_at", "it is no time from the year 1 to 9999; correct it")
	}
	return t.AsTime(), nil
}

func moveTo(m *move.Move) *nodev1.Move {
	if m == nil {
		return nil
	}
	to := &nodev1.Move{Side: nodev1.Move_SIDE_DESTINATION, ExpiresAt: timeTo(m.ExpiresAt)}
	if m.Side == move.Source {
		to.Side = nodev1.Move_SIDE_SOURCE
	}
	return to
}
