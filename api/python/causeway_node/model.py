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


class Cache(enum.Enum):
    """What the guest keeps without asking; UNSPECIFIED is the host's."""

    UNSPECIFIED = 0
    AUTO = 1
    ALWAYS = 2
    NEVER = 3
    METADATA = 4


class Locks(enum.Enum):
    """Where locks are kept; UNSPECIFIED is the host's default."""

    UNSPECIFIED = 0
    LOCAL = 1
    SHARED = 2


class LockScope(enum.Enum):
    """Who meets the locks of the guest's programs."""

    UNSPECIFIED = 0
    GUEST = 1
    HOST = 2
    SHARE = 3


class Persistence(enum.Enum):
    """What becomes of the device when the instance is stopped."""

    UNSPECIFIED = 0
    UNKNOWN = 1
    LIVE_ONLY = 2
    PERSISTENT = 3


class Verdict(enum.Enum):
    """What a check of a preflight says."""

    UNSPECIFIED = 0
    PASS = 1
    WARN = 2
    FAIL = 3


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
class Settings:
    """What the device and its virtiofsd do; unset is the host's default.

    docs/virtiofs.md has them. memory is in bytes.
    """

    cache: Cache = Cache.UNSPECIFIED
    xattr: bool | None = None
    posix_acl: bool | None = None
    locks: Locks = Locks.UNSPECIFIED
    queue_size: int = 0
    threads: int = 0
    memory: int = 0
    open_files: int = 0

    @classmethod
    def from_proto(cls, m: Any) -> Settings:
        return cls(
            cache=_member(Cache, m.cache),
            xattr=m.xattr if m.HasField("xattr") else None,
            posix_acl=m.posix_acl if m.HasField("posix_acl") else None,
            locks=_member(Locks, m.locks),
            queue_size=m.queue_size,
            threads=m.threads,
            memory=m.memory,
            open_files=m.open_files,
        )

    def to_proto(self) -> Any:
        """The message of a request."""
        m: Any = node_pb2.DeviceSettings(
            queue_size=self.queue_size,
            threads=self.threads,
            memory=self.memory,
            open_files=self.open_files,
        )
        m.cache, m.locks = self.cache.value, self.locks.value
        if self.xattr is not None:
            m.xattr = self.xattr
        if self.posix_acl is not None:
            m.posix_acl = self.posix_acl
        return m


@dataclasses.dataclass(frozen=True)
class Squash:
    """An id policy: all that the guest makes is one owner's."""

    uid: int
    gid: int

    def to_proto(self) -> Any:
        """The message of a request."""
        return node_pb2.IdPolicy(
            squash=node_pb2.IdSquash(uid=self.uid, gid=self.gid)
        )


@dataclasses.dataclass(frozen=True)
class IdRange:
    """count ids from guest on, which are those from host on."""

    guest: int
    host: int
    count: int


@dataclasses.dataclass(frozen=True)
class IdMap:
    """An id policy: other ids on the share than in the guest."""

    uids: tuple[IdRange, ...]
    gids: tuple[IdRange, ...]

    def to_proto(self) -> Any:
        """The message of a request."""

        def ranges(all: tuple[IdRange, ...]) -> list[Any]:
            return [
                node_pb2.IdRange(guest=r.guest, host=r.host, count=r.count)
                for r in all
            ]

        return node_pb2.IdPolicy(
            map=node_pb2.IdMap(
                uids=ranges(self.uids), gids=ranges(self.gids)
            )
        )


def _ids(m: Any) -> Squash | IdMap | None:
    def ranges(all: Any) -> tuple[IdRange, ...]:
        return tuple(IdRange(r.guest, r.host, r.count) for r in all)

    policy = m.WhichOneof("policy")
    if policy == "squash":
        return Squash(m.squash.uid, m.squash.gid)
    if policy == "map":
        return IdMap(ranges(m.map.uids), ranges(m.map.gids))
    return None


@dataclasses.dataclass(frozen=True)
class Holder:
    """A program that keeps the guest from letting go of a share."""

    pid: int
    command: str


@dataclasses.dataclass(frozen=True)
class Usage:
    """What a virtiofsd takes of what it may, in files and bytes."""

    open_files: int
    open_files_limit: int
    memory: int
    memory_limit: int  # 0 is none


@dataclasses.dataclass(frozen=True)
class Check:
    """A line of a preflight; fix is the command that cures it."""

    name: str
    verdict: Verdict
    message: str = ""
    fix: str = ""
    reason: str = ""

    @classmethod
    def from_proto(cls, m: Any) -> Check:
        return cls(
            m.name, _member(Verdict, m.verdict), m.message, m.fix, m.reason
        )


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
    settings: Settings = Settings()
    ids: Squash | IdMap | None = None

    status: Status = Status()
    instance_uuid: str = ""
    guest: GuestState = GuestState.UNSPECIFIED
    guest_note: str = ""
    holders: tuple[Holder, ...] = ()
    lock_scope: LockScope = LockScope.UNSPECIFIED
    unlocked_users: tuple[str, ...] = ()
    persistence: Persistence = Persistence.UNSPECIFIED
    live_only: str = ""
    usage: Usage | None = None

    @classmethod
    def from_proto(cls, m: Any) -> Attachment:
        usage = None
        if m.HasField("usage"):
            u = m.usage
            usage = Usage(
                u.open_files, u.open_files_limit, u.memory, u.memory_limit
            )
        return cls(
            usage=usage,
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
            settings=Settings.from_proto(m.settings),
            ids=_ids(m.ids),
            status=Status.from_proto(m.status),
            instance_uuid=m.instance_uuid,
            guest=_member(GuestState, m.guest),
            guest_note=m.guest_note,
            holders=tuple(Holder(h.pid, h.command) for h in m.holders),
            lock_scope=_member(LockScope, m.lock_scope),
            unlocked_users=tuple(m.unlocked_users),
            persistence=_member(Persistence, m.persistence),
            live_only=m.live_only,
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
            settings=self.settings.to_proto(),
            ids=None if self.ids is None else self.ids.to_proto(),
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
            if reason in (
                "instance_awaited",
                "instance_not_found",
                "instance_off",
                "released",
            ):
                return ShareStatus.INACTIVE
        if phase is Phase.DEGRADED:
            if reason == "guest_busy":  # being detached, the guest holds it
                return ShareStatus.DETACHING
            if reason in (
                "needs_reset",
                "share_gone",
                "virtiofsd_blocked",
                "virtiofsd_ended",
            ):
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
class Virtiofsd:
    """The host's virtiofsd: flavour "c", "rust", or "" where there is none."""

    flavour: str
    version: str
    abilities: tuple[str, ...] = ()
    message: str = ""


@dataclasses.dataclass(frozen=True)
class Node:
    """The host and its agent; virtiofsd is None where it serves none."""

    hostname: str
    version: str
    in_sync: bool
    drivers: tuple[Driver, ...] = ()
    virtiofsd: Virtiofsd | None = None

    @classmethod
    def from_proto(cls, m: Any) -> Node:
        virtiofsd = None
        if m.HasField("virtiofsd"):
            v = m.virtiofsd
            virtiofsd = Virtiofsd(
                v.flavour, v.version, tuple(v.abilities), v.message
            )
        return cls(
            virtiofsd=virtiofsd,
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
