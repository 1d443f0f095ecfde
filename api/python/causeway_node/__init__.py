"""Client of the node API of causeway-agent, over the agent's unix socket.

    import causeway_node

    with causeway_node.Client() as agent:
        agent.attach(
            causeway_node.Attachment(
                id="docs-vm1",
                instance="vm1",
                connection=causeway_node.Connection("local", "docs"),
                tag="docs",
            )
        )

Ids are the caller's own, so that every call may be repeated. docs/nova.md has
the order of calls that a compute driver makes.
"""

from causeway_node.client import DEFAULT_SOCKET, Client
from causeway_node.errors import (
    Busy,
    CausewayError,
    Conflict,
    Denied,
    Exhausted,
    GuestBusy,
    InstanceNotFound,
    InstanceOff,
    InternalError,
    InvalidRequest,
    NoFreePort,
    NoSharedMemory,
    NotFound,
    NotInSync,
    Precondition,
    ShareNotFound,
    TagTaken,
    TimedOut,
    Unavailable,
    UnknownId,
)
from causeway_node.model import (
    Attachment,
    Connection,
    Event,
    EventType,
    GuestState,
    Node,
    Phase,
    ShareStatus,
    Status,
)

__all__ = [
    "Attachment",
    "Busy",
    "CausewayError",
    "Client",
    "Conflict",
    "Connection",
    "DEFAULT_SOCKET",
    "Denied",
    "Event",
    "EventType",
    "Exhausted",
    "GuestBusy",
    "GuestState",
    "InstanceNotFound",
    "InstanceOff",
    "InternalError",
    "InvalidRequest",
    "NoFreePort",
    "NoSharedMemory",
    "Node",
    "NotFound",
    "NotInSync",
    "Phase",
    "Precondition",
    "ShareNotFound",
    "ShareStatus",
    "Status",
    "TagTaken",
    "TimedOut",
    "Unavailable",
    "UnknownId",
]
