// Package fault is what the agent's errors are: a kind, which says what a caller
// should do, and a reason, which programs and docs/troubleshooting.md know.
package fault

import (
	"errors"
	"fmt"
	"strings"
)

// A Kind says what a caller should do about an error. agent/rpc gives each its
// gRPC code.
type Kind string

// The kinds.
const (
	Invalid      Kind = "invalid"      // fix the request
	NotFound     Kind = "not_found"    // check the id
	Conflict     Kind = "conflict"     // the id has other settings: choose another, or delete first
	Precondition Kind = "precondition" // change the world, then try again
	Busy         Kind = "busy"         // try again with back-off
	Unavailable  Kind = "unavailable"  // try again with back-off
	Exhausted    Kind = "exhausted"    // tell the operator
	Deadline     Kind = "deadline"     // repeat the same call: the intent stands
	Denied       Kind = "denied"
	Internal     Kind = "internal" // a bug
)

// A Reason is a stable code for one cause, in lower_snake_case.
type Reason string

// An Error is what every verb of the agent returns.
type Error struct {
	Kind     Kind
	Reason   Reason
	Message  string            // what is wrong and, at its end, what to do, for a person
	Metadata map[string]string // for programs; never secret
	Err      error             // the cause, may be nil
}

// Error has the cause first: what a person reads last is what to do. It is one
// line, also where several causes were joined.
func (e *Error) Error() string {
	if e.Err != nil {
		return strings.ReplaceAll(e.Err.Error(), "\n", "; ") + ": " + e.Message
	}
	return e.Message
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// AsError returns err as an Error; one of no kind is Internal.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Kind: Internal, Reason: "internal", Message: "internal error", Err: err}
}

// Permanent tells an error that only the caller or an operator can change from
// one that trying again may.
func (e *Error) Permanent() bool {
	switch e.Kind {
	case Invalid, NotFound, Conflict, Precondition, Denied:
		return true
	}
	return false
}

// Invalidf is an error of a request that can never be.
func Invalidf(reason Reason, format string, args ...any) *Error {
	return &Error{Kind: Invalid, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// Preconditionf is an error of the world, which has to change first.
func Preconditionf(reason Reason, format string, args ...any) *Error {
	return &Error{Kind: Precondition, Reason: reason, Message: fmt.Sprintf(format, args...)}
}
