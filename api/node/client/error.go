package client

import (
	"errors"
	"fmt"
	"maps"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// An Error is what a call failed with.
type Error struct {
	Code codes.Code
	// Reason is the agent's stable code for the cause, in lower_snake_case, as
	// docs/troubleshooting.md lists them. Empty where the agent did not answer.
	Reason   string
	Message  string            // for a person
	Metadata map[string]string // of the reason, for programs

	err error // of gRPC; an *Unreached joined to it where no agent answered
}

func (e *Error) Error() string { return e.Message }

// Unwrap finds an *Unreached.
func (e *Error) Unwrap() error { return e.err }

// GRPCStatus lets status.FromError, status.Code and status.Convert see the call's status.
func (e *Error) GRPCStatus() *status.Status {
	s, _ := status.FromError(e.err)
	return s
}

// Retryable is true where the same call may succeed later, with nobody
// changing anything: the agent or something it needs is away, busy or slow.
func (e *Error) Retryable() bool {
	switch e.Code {
	case codes.Unavailable, codes.DeadlineExceeded:
		return true
	case codes.Aborted:
		return e.Reason != "changed_meanwhile" // look again and decide anew
	}
	return false
}

func retryable(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Retryable()
}

// Unreached says that no agent answered at the socket.
type Unreached struct {
	Socket string // its path
	Err    error  // fs.ErrNotExist, fs.ErrPermission, syscall.ECONNREFUSED ...
}

func (u *Unreached) Error() string { return fmt.Sprintf("connect to the agent: %v", u.Err) }

// Unwrap returns the failure to connect.
func (u *Unreached) Unwrap() error { return u.Err }

// explain makes an *Error of what gRPC returned.
func (c *Client) explain(err error) error {
	if err == nil {
		return nil
	}
	s, _ := status.FromError(err)
	e := &Error{Code: s.Code(), Message: s.Message(), err: err}
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			e.Reason, e.Metadata = info.GetReason(), maps.Clone(info.GetMetadata())
		}
	}
	if u := c.dialed.Load(); u != nil && e.Code == codes.Unavailable && e.Reason == "" {
		e.Message, e.err = u.Error(), &unanswered{u, err}
	}
	return e
}

// unanswered is a call that reached nobody.
type unanswered struct {
	*Unreached
	call error
}

func (u *unanswered) Unwrap() []error { return []error{u.Unreached, u.call} }

// away says that nobody answered, or that the agent lacks something for now.
func away(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == codes.Unavailable
}
