package rpc

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/causeway-project/causeway/agent/fault"
	nodev1 "github.com/causeway-project/causeway/api/node/v1"
)

// RequestIDKey is the metadata key under which a caller may name its request.
const RequestIDKey = "x-request-id"

type requestIDContext struct{}

func requestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDContext{}).(string)
	return id
}

// withRequestID takes the caller's name for the request if it is a decent one,
// or invents one.
func withRequestID(ctx context.Context) context.Context {
	id := ""
	if named := metadata.ValueFromIncomingContext(ctx, RequestIDKey); len(named) == 1 && decent(named[0]) {
		id = named[0]
	} else {
		id = rand.Text()[:12]
	}
	return context.WithValue(ctx, requestIDContext{}, id)
}

func decent(id string) bool {
	if id == "" || len(id) > 64 {
		return false
	}
	for _, c := range []byte(id) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return true
}

// LogHandler adds the request's id to every record that is logged with a
// call's context, so that the agent's own lines can be found by it.
func LogHandler(h slog.Handler) slog.Handler { return logHandler{h} }

type logHandler struct{ slog.Handler }

func (h logHandler) Handle(ctx context.Context, r slog.Record) error {
	if id := requestID(ctx); id != "" {
		r = r.Clone()
		r.AddAttrs(slog.String("request", id))
	}
	return h.Handler.Handle(ctx, r)
}

func (h logHandler) WithAttrs(as []slog.Attr) slog.Handler {
	return logHandler{h.Handler.WithAttrs(as)}
}

func (h logHandler) WithGroup(name string) slog.Handler {
	return logHandler{h.Handler.WithGroup(name)}
}

// mutating names the audited verb of each method that changes something.
func mutating(method string) (verb string, ok bool) {
	switch method {
	case nodev1.Attachments_Attach_FullMethodName:
		return "attachment.attach", true
	case nodev1.Attachments_Detach_FullMethodName:
		return "attachment.detach", true
	case nodev1.Attachments_Repair_FullMethodName:
		return "attachment.repair", true
	case nodev1.Attachments_PrepareStart_FullMethodName:
		return "instance.prepare-start", true
	case nodev1.Attachments_Prepare_FullMethodName:
		return "attachment.prepare", true
	case nodev1.Attachments_Finish_FullMethodName:
		return "attachment.finish", true
	case nodev1.Attachments_Release_FullMethodName:
		return "attachment.release", true
	case nodev1.Attachments_Rollback_FullMethodName:
		return "attachment.rollback", true
	case nodev1.Networks_Put_FullMethodName:
		return "network.put", true
	case nodev1.Networks_Update_FullMethodName:
		return "network.update", true
	case nodev1.Networks_Delete_FullMethodName:
		return "network.delete", true
	case nodev1.Exports_Put_FullMethodName:
		return "export.put", true
	case nodev1.Exports_Delete_FullMethodName:
		return "export.delete", true
	case nodev1.Exports_PutRule_FullMethodName:
		return "export.rule.put", true
	case nodev1.Exports_DeleteRule_FullMethodName:
		return "export.rule.delete", true
	case nodev1.Exports_RecoverRules_FullMethodName:
		return "export.rules.recover", true
	}
	return "", false
}

// unary is around every call.
func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	ctx = withRequestID(ctx)
	begun := time.Now()
	m, _ := req.(proto.Message)
	resp, err := s.answer(ctx, m, func(ctx context.Context) (any, error) {
		if err := checkSizes(m); err != nil {
			return nil, err
		}
		ctx, cancel := s.bound(ctx)
		defer cancel()
		return handler(ctx, req)
	})
	s.audit(ctx, info.FullMethod, m, begun, err)
	return resp, err
}

var errStopping = errors.New("agent is stopping")

// stream is around every stream: Watch, reflection and the watch of health. It
// ends when the caller goes, and when the server stops: a watcher would
// otherwise hold up the draining of calls to its end.
func (s *Server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	begun := time.Now()
	ctx, cancel := context.WithCancelCause(withRequestID(ss.Context()))
	waited := make(chan struct{})
	go func() {
		defer close(waited)
		select {
		case <-s.stopping:
			cancel(errStopping)
		case <-ctx.Done():
		}
	}()
	_, err := s.answer(ctx, nil, func(ctx context.Context) (any, error) {
		err := handler(srv, contextStream{ServerStream: ss, ctx: ctx})
		if errors.Is(context.Cause(ctx), errStopping) {
			err = &fault.Error{Kind: fault.Unavailable, Reason: ShuttingDown, Message: "the agent stops; watch again"}
		}
		return nil, err
	})
	cancel(nil)
	<-waited
	s.audit(ctx, info.FullMethod, nil, begun, err)
	return err
}

// contextStream is a stream with the request's id in its context: gRPC hands
// a stream's context over in no other way.
type contextStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s contextStream) Context() context.Context { return s.ctx }

// answer lets the caller in or not, runs call and makes its error a status.
func (s *Server) answer(ctx context.Context, req proto.Message, call func(context.Context) (any, error)) (resp any, err error) {
	who, known := caller(ctx)
	if !known || !s.allow.admits(who) {
		return nil, failure{code: codes.PermissionDenied, reason: CallerNotAllowed,
			message: fmt.Sprintf("user %d may not use this agent; run as root, or have the user or its group allowed in the agent's configuration", who.UID),
		}.err(nil)
	}
	resp, err = recovered(ctx, call)
	if err == nil {
		return resp, nil
	}
	f := explain(ctx, err)
	if f.code == codes.Internal {
		s.log.ErrorContext(ctx, "call failed with an internal error", "err", redact(err.Error(), secretsOf(req)))
	}
	return nil, f.err(secretsOf(req))
}

// recovered makes a panic an internal error: one call's bug must not end the
// calls of everybody else.
func recovered(ctx context.Context, call func(context.Context) (any, error)) (resp any, err error) {
	defer func() {
		if v := recover(); v != nil {
			resp = nil
			err = &fault.Error{Kind: fault.Internal, Reason: InternalError, Message: "panic",
				Err: fmt.Errorf("%v\n%s", v, debug.Stack())}
		}
	}()
	return call(ctx)
}

// bound gives a call its end: ours, or slightly before the caller's. A gRPC
// client stops listening at its own deadline, so that an answer sent then,
// which says what the call was waiting for, would be lost.
func (s *Server) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	end := time.Now().Add(s.callTimeout)
	if theirs, ok := ctx.Deadline(); ok {
		if before := theirs.Add(-min(time.Until(theirs)/10, 500*time.Millisecond)); before.Before(end) {
			end = before
		}
	}
	return context.WithDeadline(ctx, end)
}

// audit writes one line per call that changes something or was refused.
func (s *Server) audit(ctx context.Context, method string, req proto.Message, begun time.Time, err error) {
	st := status.Convert(err)
	verb, changes := mutating(method)
	if !changes {
		if st.Code() != codes.PermissionDenied {
			return
		}
		verb = method
	}
	who, _ := caller(ctx)
	s.log.InfoContext(ctx, "audit",
		"verb", verb,
		"id", truncate(text(objectID(req)), 64),
		"uid", who.UID,
		"pid", who.PID,
		"code", st.Code().String(),
		"reason", reasonOf(st),
		"dur", time.Since(begun),
	)
}
