package rpc

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-project/causeway/agent/fault"
)

// Domain of every ErrorInfo.
const Domain = "node.causeway"

// Reasons that this package gives itself. All others are the agent's.
const (
	CallerNotAllowed fault.Reason = "caller_not_allowed"
	FieldRequired    fault.Reason = "field_required"  // metadata: field
	FieldTooLong     fault.Reason = "field_too_long"  // metadata: field, limit
	FieldMalformed   fault.Reason = "field_malformed" // metadata: field
	DeadlineExceeded fault.Reason = "deadline"        // as the agent's own
	Canceled         fault.Reason = "canceled"
	ShuttingDown     fault.Reason = "shutting_down"
	InternalError    fault.Reason = "internal"
)

const maxMessage = 2 << 10 // bytes: the status travels in an HTTP/2 header

// code is the table of the node API's error codes.
func code(k fault.Kind) codes.Code {
	switch k {
	case fault.Invalid:
		return codes.InvalidArgument
	case fault.NotFound:
		return codes.NotFound
	case fault.Conflict:
		return codes.AlreadyExists
	case fault.Precondition:
		return codes.FailedPrecondition
	case fault.Busy:
		return codes.Aborted
	case fault.Unavailable:
		return codes.Unavailable
	case fault.Exhausted:
		return codes.ResourceExhausted
	case fault.Deadline:
		return codes.DeadlineExceeded
	case fault.Denied:
		return codes.PermissionDenied
	case fault.Internal:
		return codes.Internal
	}
	return codes.Internal
}

// A failure is an error on its way to the caller.
type failure struct {
	code     codes.Code
	reason   fault.Reason
	message  string
	metadata map[string]string
}

// explain turns what a handler returned into what the caller sees. An
// internal error's text stays here: the caller gets the request's name to look
// for it in the log.
func explain(ctx context.Context, err error) failure {
	var e *fault.Error
	if errors.As(err, &e) && e.Kind != fault.Internal {
		return failure{code: code(e.Kind), reason: e.Reason, message: e.Error(), metadata: e.Metadata}
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return failure{code: codes.DeadlineExceeded, reason: DeadlineExceeded,
			message: "the call's time ran out and the work goes on; repeat the same call to wait for it"}
	case errors.Is(err, context.Canceled):
		return failure{code: codes.Canceled, reason: Canceled,
			message: "the call was given up and the work goes on; repeat the same call to wait for it"}
	}
	if s, ok := status.FromError(err); ok { // from gRPC's own services, or a stream's Send
		return failure{code: s.Code(), message: s.Message()}
	}
	f := failure{code: codes.Internal, reason: InternalError,
		message: fmt.Sprintf("internal error, a bug: report it with the agent's log lines of request %s", requestID(ctx))}
	if e != nil && e.Reason != "" {
		f.reason, f.metadata = e.Reason, e.Metadata
	}
	return f
}

// err builds the gRPC status. The secrets, which came with the request, are
// blotted out of whatever a backend may have echoed.
func (f failure) err(secrets []string) error {
	clean := func(s string) string {
		for _, secret := range secrets {
			s = strings.ReplaceAll(s, secret, "***")
		}
		return text(s)
	}
	s := status.New(f.code, truncate(clean(f.message), maxMessage))
	if f.reason == "" {
		return s.Err()
	}
	info := &errdetails.ErrorInfo{Reason: string(f.reason), Domain: Domain}
	if len(f.metadata) > 0 {
		info.Metadata = make(map[string]string, len(f.metadata))
		for k, v := range f.metadata {
			info.Metadata[text(k)] = truncate(clean(v), maxMessage)
		}
	}
	if detailed, err := s.WithDetails(info); err == nil {
		s = detailed
	}
	return s.Err()
}

// text makes s fit for a protobuf string, which must be UTF-8: paths and the
// output of other programs need not be.
func text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

func truncate(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "..."
}
