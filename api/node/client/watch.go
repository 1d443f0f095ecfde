package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
)

// Watch yields every object as it is, then an event of TYPE_SYNCED, then each
// change, until ctx ends: that alone, and what trying again cannot cure, is an
// error, of which there is one, at the end.
//
// It begins anew where the agent cut it off for reading too slowly, and unless
// the client has Options.Once, where the agent went away. All objects are
// yielded again then, and TYPE_SYNCED; those that went in the meantime are
// yielded with TYPE_DELETED before it, in the state in which they were last
// seen.
func (c *Client) Watch(ctx context.Context) iter.Seq2[*nodev1.WatchResponse, error] {
	return func(yield func(*nodev1.WatchResponse, error) bool) {
		known := map[string]*nodev1.WatchResponse{}
		for attempt := 0; ; attempt++ {
			synced, err := c.watchOnce(ctx, known, yield)
			if errors.Is(err, errStopped) {
				return
			}
			if synced {
				attempt = 0
			}
			if !c.resumes(err) || !rest(ctx, attempt) {
				yield(nil, err)
				return
			}
		}
	}
}

var errStopped = errors.New("the caller has seen enough")

func (c *Client) resumes(err error) bool {
	var e *Error
	return errors.As(err, &e) && (e.Reason == "watch_overrun" || !c.once && e.Code == codes.Unavailable)
}

// watchOnce reads one stream to its end, and says whether it got as far as
// TYPE_SYNCED. It keeps known as what the caller was told is there.
func (c *Client) watchOnce(ctx context.Context, known map[string]*nodev1.WatchResponse, yield func(*nodev1.WatchResponse, error) bool) (synced bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Node.Watch(ctx, &nodev1.WatchRequest{})
	if err != nil {
		return false, c.explain(err)
	}
	seen := map[string]bool{}
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			err = status.Error(codes.Unavailable, "the stream ended")
		}
		if err != nil {
			return synced, c.explain(err)
		}
		name := objectName(r)
		switch r.GetType() {
		case nodev1.WatchResponse_TYPE_PUT:
			known[name], seen[name] = r, true
		case nodev1.WatchResponse_TYPE_DELETED:
			delete(known, name)
		case nodev1.WatchResponse_TYPE_SYNCED:
			synced = true
			for name, last := range known {
				if !seen[name] {
					delete(known, name)
					if !yield(&nodev1.WatchResponse{Type: nodev1.WatchResponse_TYPE_DELETED, Object: last.GetObject()}, nil) {
						return synced, errStopped
					}
				}
			}
		}
		if !yield(r, nil) {
			return synced, errStopped
		}
	}
}

// objectName tells objects of all kinds apart.
func objectName(r *nodev1.WatchResponse) string {
	switch o := r.GetObject().(type) {
	case *nodev1.WatchResponse_Attachment:
		return "attachment/" + o.Attachment.GetId()
	case *nodev1.WatchResponse_Network:
		return "network/" + o.Network.GetId()
	case *nodev1.WatchResponse_Export:
		return "export/" + o.Export.GetId()
	}
	return ""
}

// WaitInSync returns when the agent takes changes: until then it refuses them
// with UNAVAILABLE, not_in_sync.
func (c *Client) WaitInSync(ctx context.Context) (*nodev1.GetNodeResponse, error) {
	for attempt := 0; ; attempt++ {
		n, err := c.Node.Get(ctx, &nodev1.GetNodeRequest{})
		if err != nil {
			return nil, err
		}
		if n.GetInSync() {
			return n, nil
		}
		if !rest(ctx, attempt) {
			return nil, waited(ctx, "not_in_sync", "the agent is not in sync yet")
		}
	}
}

// WaitAttachment returns an attachment when done says so of it: NOT_FOUND,
// unknown_id, where it is not there. When ctx ends first, the error has ctx's
// code, and the reason for which the attachment was last not ready.
func (c *Client) WaitAttachment(ctx context.Context, id string, done func(*nodev1.Attachment) bool) (*nodev1.Attachment, error) {
	var last *nodev1.Attachment
	for r, err := range c.Watch(ctx) {
		switch a := r.GetAttachment(); {
		case err != nil && last != nil && (ctx.Err() != nil || retryable(err) && !c.once):
			s := last.GetStatus()
			return nil, waited(ctx, s.GetReason(), fmt.Sprintf("attachment %s is %s: %s", id, s.GetPhase(), s.GetMessage()))
		case err != nil:
			return nil, err
		case r.GetType() == nodev1.WatchResponse_TYPE_SYNCED && last == nil:
			return nil, unknown(id)
		case a == nil || a.GetId() != id:
		case r.GetType() == nodev1.WatchResponse_TYPE_DELETED:
			return nil, unknown(id)
		default:
			if last = a; done(a) {
				return a, nil
			}
		}
	}
	return nil, errStopped // Watch ends with an error, unless its caller stops it
}

// Ready is for WaitAttachment: the host is as the last change wants it.
func Ready(a *nodev1.Attachment) bool {
	s := a.GetStatus()
	return s.GetPhase() == nodev1.Phase_PHASE_READY && s.GetObservedGeneration() == s.GetGeneration()
}

func unknown(id string) *Error {
	message := fmt.Sprintf("no attachment has the id %s", id)
	return &Error{Code: codes.NotFound, Reason: "unknown_id", Message: message, err: status.Error(codes.NotFound, message)}
}

func waited(ctx context.Context, reason, message string) *Error {
	s := status.FromContextError(ctx.Err())
	if ctx.Err() == nil {
		s = status.New(codes.DeadlineExceeded, "")
	}
	return &Error{Code: s.Code(), Reason: reason, Message: message, err: status.Error(s.Code(), message)}
}
