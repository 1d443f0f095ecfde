package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-project/causeway/api/node/client"
)

// The exit codes; the help of the root command explains them.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitConflict    = 4
	exitTryAgain    = 5
	exitNotAllowed  = 6
	exitInterrupted = 130
)

// A failure is an error with its exit code.
type failure struct {
	exit    int
	message string
}

func (f *failure) Error() string { return f.message }

func usage(format string, args ...any) *failure {
	return &failure{exitUsage, fmt.Sprintf(format, args...)}
}

func failed(format string, args ...any) *failure {
	return &failure{exitFailed, fmt.Sprintf(format, args...)}
}

func exitCode(c codes.Code) int {
	switch c {
	case codes.OK:
		return exitOK
	case codes.InvalidArgument:
		return exitUsage
	case codes.NotFound:
		return exitNotFound
	case codes.AlreadyExists, codes.FailedPrecondition:
		return exitConflict
	case codes.Unavailable, codes.DeadlineExceeded, codes.Aborted:
		return exitTryAgain
	case codes.PermissionDenied:
		return exitNotAllowed
	}
	return exitFailed
}

// unreachable explains why nobody answered at the socket.
func unreachable(t task, u *client.Unreached) *failure {
	path, err := u.Socket, u.Err
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &failure{exitTryAgain, fmt.Sprintf(
			"%s: the agent is not there: %s does not exist; start it with 'systemctl start causeway-agent', or name its socket with --socket", t.doing, path)}
	case errors.Is(err, syscall.ECONNREFUSED):
		return &failure{exitTryAgain, fmt.Sprintf(
			"%s: no agent listens at %s; start it with 'systemctl start causeway-agent'", t.doing, path)}
	case errors.Is(err, fs.ErrPermission):
		return &failure{exitNotAllowed, fmt.Sprintf(
			"%s: %s may not be used by this user; run as root, or join the group of the socket", t.doing, path)}
	}
	return &failure{exitTryAgain, fmt.Sprintf("%s: connect to the agent: %v; see 'systemctl status causeway-agent'", t.doing, err)}
}

// explain makes the error of a call fit for a person. What the agent itself
// says ends in what to do; where gRPC speaks, that is added here.
func (c *cli) explain(ctx context.Context, t task, err error) *failure {
	var f *failure
	if errors.As(err, &f) {
		return f
	}
	s, isStatus := status.FromError(err)
	if !isStatus {
		return failed("%s: %v", t.doing, err)
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		message := t.doing + ": interrupted"
		if t.giveUp != "" {
			message += "; the agent goes on with what it had begun: give it up with '" + t.giveUp + "'"
		}
		return &failure{exitInterrupted, message}
	}
	message := t.doing + ": " + s.Message()
	switch {
	case reason(s) == "":
		message = t.doing + ": " + c.plain(t, s)
	case s.Code() == codes.DeadlineExceeded && t.giveUp != "":
		message += "; or give it up with '" + t.giveUp + "'"
	}
	return &failure{exitCode(s.Code()), message}
}

// plain words for a status that did not come from the agent's own code.
func (c *cli) plain(t task, s *status.Status) string {
	switch s.Code() {
	case codes.DeadlineExceeded:
		m := fmt.Sprintf("the agent did not finish within %s", c.timeout)
		if t.giveUp != "" {
			return m + " and goes on; run the same command again to wait, or give it up with '" + t.giveUp + "'"
		}
		return m + "; try again with a longer --timeout, and see 'causeway node show'"
	case codes.Unavailable:
		return "the agent went away (" + s.Message() + "); run the same command again"
	case codes.Unimplemented:
		return "the agent does not know this call; use the causeway that came with it"
	case codes.ResourceExhausted:
		return s.Message() + "; ask for less at once"
	}
	return s.Message() + "; see 'journalctl -u causeway-agent'"
}

// reason is the agent's stable code for the error, if it was the agent's.
func reason(s *status.Status) string {
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}
