"""What calls fail with: an exception for each kind of error, and below these
one for each reason that a compute driver decides by.

docs/troubleshooting.md lists all reasons; CausewayError.reason has them.
"""

from __future__ import annotations

from collections.abc import Mapping

import grpc

from causeway_node import rpc_status_pb2

_DETAILS = "grpc-status-details-bin"
_ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo"


class CausewayError(Exception):
    """A call failed.

    reason is the agent's stable code, in lower_snake_case, or "" where the
    agent did not answer; str() is for a person, and says what to do.
    """

    #: The same call may succeed later, with nobody changing anything.
    retryable = False

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.code = code


class InvalidRequest(CausewayError):
    """The request can never be: correct it."""


class NotFound(CausewayError):
    """Check the id, the instance, the source."""


class Conflict(CausewayError):
    """The id has other settings: choose another, or detach first."""


class Precondition(CausewayError):
    """Change the world, then call again."""


class Exhausted(CausewayError):
    """Something has run out: tell the operator."""


class Denied(CausewayError):
    """This user may not call the agent."""


class InternalError(CausewayError):
    """A step failed for an unknown cause, or a bug: see the agent's log."""


class Busy(CausewayError):
    """Call again with back-off."""

    retryable = True


class Unavailable(CausewayError):
    """The agent, or something that it needs, is away: call again."""

    retryable = True


class TimedOut(CausewayError):
    """The time is over and the agent goes on: the same call waits again."""

    retryable = True


class InstanceNotFound(NotFound):
    """libvirt does not know the instance."""


class ShareNotFound(NotFound):
    """The backend does not have the share."""


class UnknownId(NotFound):
    """Nothing has this id."""


class InstanceOff(Precondition):
    """The instance is not running."""


class NoSharedMemory(Precondition):
    """The instance was not started with shared memory."""


class NoFreePort(Precondition):
    """The instance has no PCIe root port left."""


class TagTaken(Precondition):
    """Another attachment of the instance has the tag."""


class GuestBusy(Precondition):
    """The guest does not let the device go."""


class NeedsReset(Precondition):
    """The guest keeps a dead device until the instance is reset."""


class LocksNotShared(Precondition):
    """Another writer would not meet this guest's locks."""


class VirtiofsdUnable(Precondition):
    """This host's virtiofsd cannot do what the settings ask for."""


class OtherSettings(Conflict):
    """The id is there with other settings."""


class NotInSync(Unavailable):
    """The agent has just started."""


_BY_CODE: dict[grpc.StatusCode, type[CausewayError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: Conflict,
    grpc.StatusCode.FAILED_PRECONDITION: Precondition,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Exhausted,
    grpc.StatusCode.PERMISSION_DENIED: Denied,
    grpc.StatusCode.INTERNAL: InternalError,
    grpc.StatusCode.ABORTED: Busy,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: TimedOut,
}

BY_REASON: dict[str, type[CausewayError]] = {
    "guest_busy": GuestBusy,
    "instance_not_found": InstanceNotFound,
    "instance_off": InstanceOff,
    "locks_not_shared": LocksNotShared,
    "needs_reset": NeedsReset,
    "no_free_port": NoFreePort,
    "no_shared_memory": NoSharedMemory,
    "not_in_sync": NotInSync,
    "other_settings": OtherSettings,
    "share_not_found": ShareNotFound,
    "tag_taken": TagTaken,
    "unknown_id": UnknownId,
    "virtiofsd_unable": VirtiofsdUnable,
}


def error(
    code: grpc.StatusCode,
    message: str,
    reason: str = "",
    metadata: Mapping[str, str] | None = None,
) -> CausewayError:
    """Make the exception of a code and a reason."""
    kind = _BY_CODE.get(code, CausewayError)
    by_reason = BY_REASON.get(reason, kind)
    # A reason may come with another code: what to do goes by the code.
    if issubclass(by_reason, kind):
        kind = by_reason
    failure = kind(message, reason=reason, metadata=metadata, code=code)
    if reason == "changed_meanwhile":
        failure.retryable = False  # look again and decide anew
    return failure


def from_rpc(call: grpc.RpcError) -> CausewayError:
    """Make the exception of what gRPC raised."""
    reason, metadata = "", {}
    for key, value in call.trailing_metadata() or ():
        if key != _DETAILS:
            continue
        for detail in rpc_status_pb2.RpcStatus.FromString(value).details:
            if detail.type_url == _ERROR_INFO:
                info = rpc_status_pb2.ErrorInfo.FromString(detail.value)
                reason, metadata = info.reason, dict(info.metadata)
    return error(call.code(), call.details() or "", reason, metadata)
