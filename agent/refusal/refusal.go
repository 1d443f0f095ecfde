// Package refusal has the words for callers whose object cannot be had, made,
// changed or waited for any longer.
package refusal

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/ledger"
	"github.com/causeway-project/causeway/agent/model"
)

// BeingRemoved is of an object that is on its way out.
func BeingRemoved(key model.Key) *fault.Error {
	return &fault.Error{
		Kind: fault.Busy, Reason: fault.BeingRemoved, Metadata: map[string]string{"id": key.ID},
		Message: fmt.Sprintf("%s %s is being removed: wait until it is gone, then create it again", key.Kind, key.ID),
	}
}

// RemovedMeanwhile is of one that somebody else removed.
func RemovedMeanwhile(key model.Key) *fault.Error {
	return &fault.Error{Kind: fault.Busy, Reason: fault.Withdrawn, Message: fmt.Sprintf("%s %s was removed meanwhile", key.Kind, key.ID)}
}

// NotRemoved is of one that somebody else wants to stay.
func NotRemoved(key model.Key) *fault.Error {
	return &fault.Error{Kind: fault.Busy, Reason: fault.Withdrawn, Message: fmt.Sprintf("%s %s is not removed: another call asked for it again meanwhile", key.Kind, key.ID)}
}

// OtherSettings is of one that exists with another of its settings, which what
// names.
func OtherSettings(key model.Key, what string) *fault.Error {
	return &fault.Error{
		Kind: fault.Conflict, Reason: fault.OtherSettings, Metadata: map[string]string{"id": key.ID, "setting": what},
		Message: fmt.Sprintf("%s %s exists with another %s: choose another id, or delete it first", key.Kind, key.ID, what),
	}
}

// UnknownID is of one that is not there.
func UnknownID(key model.Key) *fault.Error {
	return &fault.Error{Kind: fault.NotFound, Reason: fault.UnknownID, Metadata: map[string]string{"id": key.ID},
		Message: fmt.Sprintf("there is no %s %q: list them to see which there are", key.Kind, key.ID)}
}

// Damaged is of one whose ledger file could not be read.
func Damaged(d ledger.Damage) *fault.Error {
	return &fault.Error{
		Kind: fault.Precondition, Reason: fault.RecordDamaged, Metadata: map[string]string{"file": d.Path},
		Message: fmt.Sprintf("the ledger file of %s %s is damaged: restore %s from a backup, or remove it, and restart the agent", d.Kind, d.ID, d.Path),
	}
}

// NotWritten is a failure to write an intent down. Nothing was changed.
func NotWritten(err error) *fault.Error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return &fault.Error{Kind: fault.Exhausted, Reason: fault.LedgerFull,
			Message: "the file system of the state directory is full and nothing was changed: free some space and repeat the call", Err: err}
	}
	return &fault.Error{Kind: fault.Unavailable, Reason: fault.LedgerFailed,
		Message: "the intent could not be written to the state directory and nothing was changed", Err: err}
}

// Kept is a failure to remove a record of which nothing is left on the host.
func Kept(err error) *fault.Error {
	return &fault.Error{Kind: fault.Unavailable, Reason: fault.LedgerFailed,
		Message: "nothing is left on the host, and the record could not be removed from the state directory: it will be tried again", Err: err}
}

// CallEnded is what a caller hears whose context ended first, while his object
// had a status.
func CallEnded(ctx context.Context, key model.Key, s model.Status) *fault.Error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return &fault.Error{Kind: fault.Deadline, Reason: fault.CallTimeout, Message: "the call was cancelled: the intent stands, repeat the call to wait for it", Err: ctx.Err()}
	}
	why := string(s.Phase)
	if s.Message != "" {
		why += ": " + s.Message
	}
	return &fault.Error{
		Kind: fault.Deadline, Reason: fault.CallTimeout, Metadata: map[string]string{"id": key.ID, "waiting_for": string(s.Reason)},
		Message: fmt.Sprintf("%s %s did not settle in time (%s): the intent stands, repeat the call to wait for it", key.Kind, key.ID, why),
	}
}

// NotInSync is of every call that changes the host before that has been seen.
func NotInSync() *fault.Error {
	return &fault.Error{Kind: fault.Unavailable, Reason: fault.NotInSync, Message: "the agent has just started and is still looking at this host: try again in a moment"}
}
