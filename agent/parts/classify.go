package parts

import (
	"context"
	"errors"
	"io/fs"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/drivers"
	"github.com/causeway-project/causeway/ganesha"
	"github.com/causeway-project/causeway/netns"
	"github.com/causeway-project/causeway/netns/plug"
)

// Classify gives an error of the parts that do the work its kind and reason. A
// backend's "permission denied" is not the caller's.
func Classify(err error) *fault.Error {
	var e *fault.Error
	if errors.As(err, &e) {
		return e
	}
	for _, c := range []struct {
		is      error
		kind    fault.Kind
		reason  fault.Reason
		message string
	}{
		{drivers.ErrNotFound, fault.NotFound, fault.ShareNotFound, "the share is not there: create it, or correct the source"},
		{drivers.ErrSource, fault.Invalid, fault.BadSource, "the source cannot be used: correct it"},
		{drivers.ErrAccess, fault.Precondition, fault.ShareAccess, "the backend refused the credentials: check them at the backend"},
		{drivers.ErrUnreachable, fault.Unavailable, fault.BackendAway, "the backend does not answer: it will be tried again"},
		{drivers.ErrBusy, fault.Busy, fault.MountBusy, "the mount is in use: it will be tried again"},
		{drivers.ErrExhausted, fault.Exhausted, fault.BackendFull, "the backend has no room: free some"},
		{plug.ErrNoBridge, fault.Precondition, fault.NoBridge, "the bridge is not on this host: create it, or name another"},
		{plug.ErrNoDevice, fault.Precondition, fault.NoDevice, "the device cannot carry the network: cure it, or name another"},
		{plug.ErrMTU, fault.Invalid, fault.BadMTU, "give a smaller MTU, or 0 for the device's"},
		{plug.ErrNoVLANs, fault.Precondition, fault.NoVLANs, "the bridge mixes VLANs: turn its filtering on, or leave the tag out"},
		{plug.ErrTaken, fault.Precondition, fault.PlugTaken, "somebody else has it: free it, or name another"},
		{plug.ErrNoNamespace, fault.Precondition, fault.NoNamespace, "whoever provides the namespace and its interface must do so first"},
		{plug.ErrUnsupported, fault.Precondition, fault.PlugUnsupported, "this host lacks what the plug needs"},
		{netns.ErrAddressInUse, fault.Precondition, fault.AddressInUse, "another machine on the network has the address: choose another"},
		{ganesha.ErrUnprotected, fault.Precondition, fault.HandlesUnprotected, "clients could forge file handles: install causeway-preload.so beside causeway-launch, for the Ganesha that is installed"},
		{ganesha.ErrVersion, fault.Precondition, fault.NoNFSVersion, "this host cannot serve that version of NFS: leave it out, or cure it"},
		{ganesha.ErrRefused, fault.Precondition, fault.ExportRefused, "Ganesha refused the export: see its log in the gateway's run directory"},
		{ganesha.ErrPath, fault.Precondition, fault.PathUnusable, "the share's file system cannot be exported over NFS"},
		{ganesha.ErrBlocked, fault.Unavailable, fault.GatewayBlocked, "the gateway's clients wait for a backend that does not answer: it is left alone, and goes on when the backend does"},
		{ganesha.ErrNotRunning, fault.Unavailable, fault.GatewayDown, "the gateway does not answer: it is being started again"},
		{context.DeadlineExceeded, fault.Unavailable, fault.StepTimeout, "a step did not end in time: it will be tried again"},
		{fs.ErrPermission, fault.Internal, fault.StepFailed, "a step was not permitted: does the agent run as root?"},
	} {
		if errors.Is(err, c.is) {
			return &fault.Error{Kind: c.kind, Reason: c.reason, Message: c.message, Err: err}
		}
	}
	return &fault.Error{Kind: fault.Internal, Reason: fault.StepFailed, Message: "a step failed: it will be tried again", Err: err}
}
