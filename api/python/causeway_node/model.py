"""What callers ask for and are told, as dataclasses and enums."""

from __future__ import annotations

import dataclasses
import datetime
import enum
from collections.abc import Mapping
from typing import Any

from causeway_node.v1 import node_pb2


class Phase(enum.Enum):
    """How far an object has come."""

    UNSPECIFIED = 0
    PENDING = 1
    WORKING = 2
    READY = 3
    DEGRADED = 4
    REMOVING = 5
    FAILED = 6


class GuestState(enum.Enum):
    """What is known of the mount inside the guest."""

    UNSPECIFIED = 0
    UNKNOWN = 1
    DEVICE_ONLY = 2
    MOUNTED = 3


class EventType(enum.Enum):
    """What an event of a watch says."""

    UNSPECIFIED = 0
    PUT = 1
    DELETED = 2
    SYNCED = 3


class ShareStatus(str, enum.Enum):
    """What Nova knows a share mapping by (nova.objects.fields)."""

    ATTACHING = "attaching"
    INACTIVE = "inactive"
    ACTIVE = "active"
    DETACHING = "detaching"
    ERROR = "error"


def _member(kind: type[Any], number: int) -> Any:
    """Return an enum's member; UNSPECIFIED for one of a newer agent."""
    try:
        return kind(number)
    except ValueError:
        return kind.UNSPECIFIED


@dataclasses.dataclass(frozen=True)
class Status:
    """What the agent knows of an object."""

    phase: Phase = Phase.UNSPECIFIED
    reason: str = ""
    message: str = ""
    generation: int = 0
    observed_generation: int = 0
    attempts: int = 0
    since: datetime.datetime | None = None

    @classmethod
    def from_proto(cls, m: Any) -> Status:
        since = None
        if m.HasField("since"):
            since = m.since.ToDatetime(tzinfo=datetime.timezone.utc)
        return cls(
            phase=_member(Phase, m.phase),
            reason=m.reason,
            message=m.message,
            generation=m.generation,
            observed_generation=m.observed_generation,
            attempts=m.attempts,
            since=since,
        )


@dataclasses.dataclass(frozen=True)
class Connection:
    """How a share is reached. The agent never gives the secret back."""

    backend_kind: str
    source: str
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    secret: bytes = dataclasses.field(default=b"", repr=False)


@dataclasses.dataclass(frozen=True)
class Attachment:
    """A share that an instance has as a virtiofs device.

    What is below status comes from the agent, and is ignored in requests.
    """

    id: str
    instance: str
    connection: Connection
    tag: str
    read_only: bool = False
    mount_at: str = ""

    status: Status = Status()
    instance_uuid: str = ""
    guest: GuestState = GuestState.UNSPECIFIED

    @classmethod
    def from_proto(cls, m: Any) -> Attachment:
        return cls(
            id=m.id,
            instance=m.instance,
            connection=Connection(
                m.connection.backend_kind,
                m.connection.source,
                dict(m.connection.options),
            ),
            tag=m.tag,
            read_only=m.read_only,
            mount_at=m.mount_at,
            status=Status.from_proto(m.status),
            instance_uuid=m.instance_uuid,
            guest=_member(GuestState, m.guest),
        )

    def to_proto(self) -> Any:
        """The message of a request."""
        return node_pb2.Attachment(
            id=self.id,
            instance=self.instance,
            connection=node_pb2.Connection(
                backend_kind=self.connection.backend_kind,
                source=self.connection.source,
                options=dict(self.connection.options),
                secret=self.connection.secret,
            ),
            tag=self.tag,
            read_only=self.read_only,
            mount_at=self.mount_at,
        )

    @property
    def ready(self) -> bool:
        """The host is as the last change wants it."""
        s = self.status
        return (
            s.phase is Phase.READY and s.generation == s.observed_generation
        )

    @property
    def share_status(self) -> ShareStatus:
        """The status of Nova's share mapping; docs/nova.md has the table."""
        phase, reason = self.status.phase, self.status.reason
        if phase is Phase.READY:
            return ShareStatus.ACTIVE
        if phase is Phase.REMOVING:
            return ShareStatus.DETACHING
        if phase is Phase.FAILED:
            return ShareStatus.ERROR
        if phase is Phase.PENDING:
            if reason in ("instance_off", "instance_not_found"):
                return ShareStatus.INACTIVE
        if phase is Phase.DEGRADED:
            if reason == "guest_busy":  # being detached, the guest holds it
                return ShareStatus.DETACHING
            if reason in ("share_gone", "needs_reset", "virtiofsd_ended"):
                return ShareStatus.ERROR
            return ShareStatus.ACTIVE
        return ShareStatus.ATTACHING


@dataclasses.dataclass(frozen=True)
class Driver:
    """What one backend kind can do on this host."""

    kind: str
    abilities: tuple[str, ...] = ()
    shared_write: bool = False
    coherent_locks: bool = False


@dataclasses.dataclass(frozen=True)
class Node:
    """The host and its agent."""

    hostname: str
    version: str
    in_sync: bool
    drivers: tuple[Driver, ...] = ()

    @classmethod
    def from_proto(cls, m: Any) -> Node:
        return cls(
            hostname=m.hostname,
            version=m.version,
            in_sync=m.in_sync,
            drivers=tuple(
                Driver(
                    d.kind,
                    tuple(d.abilities),
                    d.shared_write,
                    d.coherent_locks,
                )
                for d in m.drivers
            ),
        )


@dataclasses.dataclass(frozen=True)
class Event:
    """One event of a watch.

    kind is "attachment", "network", "export", or "" with SYNCED. attachment is
    set for attachments; message is what the agent sent, of any kind.
    """

    type: EventType
    kind: str = ""
    id: str = ""
    attachment: Attachment | None = None
    message: Any = None

    @classmethod
    def from_proto(cls, m: Any) -> Event:
        kind = m.WhichOneof("object") or ""
        attachment = None
        if kind == "attachment":
            attachment = Attachment.from_proto(m.attachment)
        return cls(
            type=_member(EventType, m.type),
            kind=kind,
            id=getattr(m, kind).id if kind else "",
            attachment=attachment,
            message=m,
        )
