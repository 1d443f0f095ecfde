from google.protobuf import timestamp_pb2 as _timestamp_pb2
from . import rules_pb2 as _rules_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

CACHE_ALWAYS: Cache
CACHE_AUTO: Cache
CACHE_METADATA: Cache
CACHE_NEVER: Cache
CACHE_UNSPECIFIED: Cache
DESCRIPTOR: _descriptor.FileDescriptor
GUEST_STATE_DEVICE_ONLY: GuestState
GUEST_STATE_MOUNTED: GuestState
GUEST_STATE_UNKNOWN: GuestState
GUEST_STATE_UNSPECIFIED: GuestState
LOCKS_LOCAL: Locks
LOCKS_SHARED: Locks
LOCKS_UNSPECIFIED: Locks
LOCK_SCOPE_GUEST: LockScope
LOCK_SCOPE_HOST: LockScope
LOCK_SCOPE_SHARE: LockScope
LOCK_SCOPE_UNSPECIFIED: LockScope
PERSISTENCE_LIVE_ONLY: Persistence
PERSISTENCE_PERSISTENT: Persistence
PERSISTENCE_UNKNOWN: Persistence
PERSISTENCE_UNSPECIFIED: Persistence
PHASE_DEGRADED: Phase
PHASE_FAILED: Phase
PHASE_PENDING: Phase
PHASE_READY: Phase
PHASE_REMOVING: Phase
PHASE_UNSPECIFIED: Phase
PHASE_WORKING: Phase
VERDICT_FAIL: Verdict
VERDICT_PASS: Verdict
VERDICT_UNSPECIFIED: Verdict
VERDICT_WARN: Verdict

class AttachRequest(_message.Message):
    __slots__ = ["attachment", "force"]
    ATTACHMENT_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    attachment: Attachment
    force: bool
    def __init__(self, attachment: _Optional[_Union[Attachment, _Mapping]] = ..., force: bool = ...) -> None: ...

class AttachResponse(_message.Message):
    __slots__ = ["attachment"]
    ATTACHMENT_FIELD_NUMBER: _ClassVar[int]
    attachment: Attachment
    def __init__(self, attachment: _Optional[_Union[Attachment, _Mapping]] = ...) -> None: ...

class Attachment(_message.Message):
    __slots__ = ["connection", "forced", "guest", "guest_note", "holders", "id", "ids", "instance", "instance_uuid", "live_only", "lock_scope", "mount_at", "move", "persistence", "read_only", "removal_forced", "settings", "status", "tag", "unlocked_users", "usage"]
    CONNECTION_FIELD_NUMBER: _ClassVar[int]
    FORCED_FIELD_NUMBER: _ClassVar[int]
    GUEST_FIELD_NUMBER: _ClassVar[int]
    GUEST_NOTE_FIELD_NUMBER: _ClassVar[int]
    HOLDERS_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_UUID_FIELD_NUMBER: _ClassVar[int]
    LIVE_ONLY_FIELD_NUMBER: _ClassVar[int]
    LOCK_SCOPE_FIELD_NUMBER: _ClassVar[int]
    MOUNT_AT_FIELD_NUMBER: _ClassVar[int]
    MOVE_FIELD_NUMBER: _ClassVar[int]
    PERSISTENCE_FIELD_NUMBER: _ClassVar[int]
    READ_ONLY_FIELD_NUMBER: _ClassVar[int]
    REMOVAL_FORCED_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    UNLOCKED_USERS_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    connection: Connection
    forced: bool
    guest: GuestState
    guest_note: str
    holders: _containers.RepeatedCompositeFieldContainer[Holder]
    id: str
    ids: IdPolicy
    instance: str
    instance_uuid: str
    live_only: str
    lock_scope: LockScope
    mount_at: str
    move: Move
    persistence: Persistence
    read_only: bool
    removal_forced: bool
    settings: DeviceSettings
    status: Status
    tag: str
    unlocked_users: _containers.RepeatedScalarFieldContainer[str]
    usage: Usage
    def __init__(self, id: _Optional[str] = ..., instance: _Optional[str] = ..., connection: _Optional[_Union[Connection, _Mapping]] = ..., tag: _Optional[str] = ..., read_only: bool = ..., mount_at: _Optional[str] = ..., status: _Optional[_Union[Status, _Mapping]] = ..., instance_uuid: _Optional[str] = ..., guest: _Optional[_Union[GuestState, str]] = ..., settings: _Optional[_Union[DeviceSettings, _Mapping]] = ..., ids: _Optional[_Union[IdPolicy, _Mapping]] = ..., lock_scope: _Optional[_Union[LockScope, str]] = ..., unlocked_users: _Optional[_Iterable[str]] = ..., forced: bool = ..., holders: _Optional[_Iterable[_Union[Holder, _Mapping]]] = ..., guest_note: _Optional[str] = ..., removal_forced: bool = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., persistence: _Optional[_Union[Persistence, str]] = ..., live_only: _Optional[str] = ..., move: _Optional[_Union[Move, _Mapping]] = ...) -> None: ...

class BridgePlug(_message.Message):
    __slots__ = ["bridge", "vlan"]
    BRIDGE_FIELD_NUMBER: _ClassVar[int]
    VLAN_FIELD_NUMBER: _ClassVar[int]
    bridge: str
    vlan: int
    def __init__(self, bridge: _Optional[str] = ..., vlan: _Optional[int] = ...) -> None: ...

class Check(_message.Message):
    __slots__ = ["fix", "message", "name", "reason", "verdict"]
    FIX_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    fix: str
    message: str
    name: str
    reason: str
    verdict: Verdict
    def __init__(self, name: _Optional[str] = ..., verdict: _Optional[_Union[Verdict, str]] = ..., message: _Optional[str] = ..., fix: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class Connection(_message.Message):
    __slots__ = ["backend_kind", "options", "secret", "source"]
    class OptionsEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    BACKEND_KIND_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    backend_kind: str
    options: _containers.ScalarMap[str, str]
    secret: bytes
    source: str
    def __init__(self, backend_kind: _Optional[str] = ..., source: _Optional[str] = ..., options: _Optional[_Mapping[str, str]] = ..., secret: _Optional[bytes] = ...) -> None: ...

class DeleteExportRequest(_message.Message):
    __slots__ = ["id"]
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class DeleteExportResponse(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class DeleteNetworkRequest(_message.Message):
    __slots__ = ["id"]
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class DeleteNetworkResponse(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class DeleteRuleRequest(_message.Message):
    __slots__ = ["export", "id"]
    EXPORT_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    export: str
    id: str
    def __init__(self, export: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...

class DeleteRuleResponse(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class DetachRequest(_message.Message):
    __slots__ = ["force", "id"]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    force: bool
    id: str
    def __init__(self, id: _Optional[str] = ..., force: bool = ...) -> None: ...

class DetachResponse(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class DeviceSettings(_message.Message):
    __slots__ = ["cache", "locks", "memory", "open_files", "posix_acl", "queue_size", "threads", "xattr"]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    LOCKS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    OPEN_FILES_FIELD_NUMBER: _ClassVar[int]
    POSIX_ACL_FIELD_NUMBER: _ClassVar[int]
    QUEUE_SIZE_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    XATTR_FIELD_NUMBER: _ClassVar[int]
    cache: Cache
    locks: Locks
    memory: int
    open_files: int
    posix_acl: bool
    queue_size: int
    threads: int
    xattr: bool
    def __init__(self, cache: _Optional[_Union[Cache, str]] = ..., xattr: bool = ..., posix_acl: bool = ..., locks: _Optional[_Union[Locks, str]] = ..., queue_size: _Optional[int] = ..., threads: _Optional[int] = ..., memory: _Optional[int] = ..., open_files: _Optional[int] = ...) -> None: ...

class Drift(_message.Message):
    __slots__ = ["at", "count", "what"]
    AT_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    at: _timestamp_pb2.Timestamp
    count: int
    what: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, count: _Optional[int] = ..., at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., what: _Optional[_Iterable[str]] = ...) -> None: ...

class Driver(_message.Message):
    __slots__ = ["abilities", "coherent_locks", "kind", "shared_write", "stable_handles"]
    ABILITIES_FIELD_NUMBER: _ClassVar[int]
    COHERENT_LOCKS_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SHARED_WRITE_FIELD_NUMBER: _ClassVar[int]
    STABLE_HANDLES_FIELD_NUMBER: _ClassVar[int]
    abilities: _containers.RepeatedScalarFieldContainer[str]
    coherent_locks: bool
    kind: str
    shared_write: bool
    stable_handles: bool
    def __init__(self, kind: _Optional[str] = ..., abilities: _Optional[_Iterable[str]] = ..., stable_handles: bool = ..., shared_write: bool = ..., coherent_locks: bool = ...) -> None: ...

class Export(_message.Message):
    __slots__ = ["connection", "export_id", "id", "locations", "network", "pseudo", "read_only", "rules", "status"]
    CONNECTION_FIELD_NUMBER: _ClassVar[int]
    EXPORT_ID_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    LOCATIONS_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    PSEUDO_FIELD_NUMBER: _ClassVar[int]
    READ_ONLY_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    connection: Connection
    export_id: int
    id: str
    locations: _containers.RepeatedScalarFieldContainer[str]
    network: str
    pseudo: str
    read_only: bool
    rules: _containers.RepeatedCompositeFieldContainer[_rules_pb2.AccessRule]
    status: Status
    def __init__(self, id: _Optional[str] = ..., network: _Optional[str] = ..., connection: _Optional[_Union[Connection, _Mapping]] = ..., rules: _Optional[_Iterable[_Union[_rules_pb2.AccessRule, _Mapping]]] = ..., pseudo: _Optional[str] = ..., read_only: bool = ..., status: _Optional[_Union[Status, _Mapping]] = ..., locations: _Optional[_Iterable[str]] = ..., export_id: _Optional[int] = ...) -> None: ...

class FinishAttachmentRequest(_message.Message):
    __slots__ = ["id"]
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class FinishAttachmentResponse(_message.Message):
    __slots__ = ["attachment"]
    ATTACHMENT_FIELD_NUMBER: _ClassVar[int]
    attachment: Attachment
    def __init__(self, attachment: _Optional[_Union[Attachment, _Mapping]] = ...) -> None: ...

class Gateway(_message.Message):
    __slots__ = ["exports", "pid", "restarts", "running", "started_at", "version"]
    EXPORTS_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    exports: int
    pid: int
    restarts: int
    running: bool
    started_at: _timestamp_pb2.Timestamp
    version: str
    def __init__(self, running: bool = ..., pid: _Optional[int] = ..., restarts: _Optional[int] = ..., started_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., exports: _Optional[int] = ..., version: _Optional[str] = ...) -> None: ...

class GetAttachmentRequest(_message.Message):
    __slots__ = ["id"]
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class GetAttachmentResponse(_message.Message):
    __slots__ = ["attachment"]
    ATTACHMENT_FIELD_NUMBER: _ClassVar[int]
    attachment: Attachment
    def __init__(self, attachment: _Optional[_Union[Attachment, _Mapping]] = ...) -> None: ...

class GetExportRequest(_message.Message):
    __slots__ = ["id"]
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class GetExportResponse(_message.Message):
    __slots__ = ["export"]
    EXPORT_FIELD_NUMBER: _ClassVar[int]
    export: Export
    def __init__(self, export: _Optional[_Union[Export, _Mapping]] = ...) -> None: ...

class GetNetworkRequest(_message.Message):
    __slots__ = ["id"]
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class GetNetworkResponse(_message.Message):
    __slots__ = ["network"]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    network: Network
    def __init__(self, network: _Optional[_Union[Network, _Mapping]] = ...) -> None: ...

class GetNodeRequest(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class GetNodeResponse(_message.Message):
    __slots__ = ["damaged_records", "drivers", "hostname", "in_sync", "mounts", "started_at", "subsystems", "version", "virtiofsd"]
    DAMAGED_RECORDS_FIELD_NUMBER: _ClassVar[int]
    DRIVERS_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    IN_SYNC_FIELD_NUMBER: _ClassVar[int]
    MOUNTS_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    SUBSYSTEMS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    VIRTIOFSD_FIELD_NUMBER: _ClassVar[int]
    damaged_records: _containers.RepeatedScalarFieldContainer[str]
    drivers: _containers.RepeatedCompositeFieldContainer[Driver]
    hostname: str
    in_sync: bool
    mounts: _containers.RepeatedCompositeFieldContainer[Mount]
    started_at: _timestamp_pb2.Timestamp
    subsystems: _containers.RepeatedCompositeFieldContainer[Subsystem]
    version: str
    virtiofsd: Virtiofsd
    def __init__(self, hostname: _Optional[str] = ..., version: _Optional[str] = ..., in_sync: bool = ..., started_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., drivers: _Optional[_Iterable[_Union[Driver, _Mapping]]] = ..., mounts: _Optional[_Iterable[_Union[Mount, _Mapping]]] = ..., damaged_records: _Optional[_Iterable[str]] = ..., subsystems: _Optional[_Iterable[_Union[Subsystem, _Mapping]]] = ..., virtiofsd: _Optional[_Union[Virtiofsd, _Mapping]] = ...) -> None: ...

class GetRuleRequest(_message.Message):
    __slots__ = ["export", "id"]
    EXPORT_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    export: str
    id: str
    def __init__(self, export: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...

class GetRuleResponse(_message.Message):
    __slots__ = ["rule"]
    RULE_FIELD_NUMBER: _ClassVar[int]
    rule: _rules_pb2.AccessRule
    def __init__(self, rule: _Optional[_Union[_rules_pb2.AccessRule, _Mapping]] = ...) -> None: ...

class Holder(_message.Message):
    __slots__ = ["command", "pid"]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    command: str
    pid: int
    def __init__(self, pid: _Optional[int] = ..., command: _Optional[str] = ...) -> None: ...

class IdMap(_message.Message):
    __slots__ = ["gids", "uids"]
    GIDS_FIELD_NUMBER: _ClassVar[int]
    UIDS_FIELD_NUMBER: _ClassVar[int]
    gids: _containers.RepeatedCompositeFieldContainer[IdRange]
    uids: _containers.RepeatedCompositeFieldContainer[IdRange]
    def __init__(self, uids: _Optional[_Iterable[_Union[IdRange, _Mapping]]] = ..., gids: _Optional[_Iterable[_Union[IdRange, _Mapping]]] = ...) -> None: ...

class IdPolicy(_message.Message):
    __slots__ = ["map", "squash"]
    MAP_FIELD_NUMBER: _ClassVar[int]
    SQUASH_FIELD_NUMBER: _ClassVar[int]
    map: IdMap
    squash: IdSquash
    def __init__(self, squash: _Optional[_Union[IdSquash, _Mapping]] = ..., map: _Optional[_Union[IdMap, _Mapping]] = ...) -> None: ...

class IdRange(_message.Message):
    __slots__ = ["count", "guest", "host"]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    GUEST_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    count: int
    guest: int
    host: int
    def __init__(self, guest: _Optional[int] = ..., host: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class IdSquash(_message.Message):
    __slots__ = ["gid", "uid"]
    GID_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    gid: int
    uid: int
    def __init__(self, uid: _Optional[int] = ..., gid: _Optional[int] = ...) -> None: ...

class ListAttachmentsRequest(_message.Message):
    __slots__ = ["instance"]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    instance: str
    def __init__(self, instance: _Optional[str] = ...) -> None: ...

class ListAttachmentsResponse(_message.Message):
    __slots__ = ["attachments"]
    ATTACHMENTS_FIELD_NUMBER: _ClassVar[int]
    attachments: _containers.RepeatedCompositeFieldContainer[Attachment]
    def __init__(self, attachments: _Optional[_Iterable[_Union[Attachment, _Mapping]]] = ...) -> None: ...

class ListExportsRequest(_message.Message):
    __slots__ = ["network"]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    network: str
    def __init__(self, network: _Optional[str] = ...) -> None: ...

class ListExportsResponse(_message.Message):
    __slots__ = ["exports"]
    EXPORTS_FIELD_NUMBER: _ClassVar[int]
    exports: _containers.RepeatedCompositeFieldContainer[Export]
    def __init__(self, exports: _Optional[_Iterable[_Union[Export, _Mapping]]] = ...) -> None: ...

class ListNetworksRequest(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class ListNetworksResponse(_message.Message):
    __slots__ = ["networks"]
    NETWORKS_FIELD_NUMBER: _ClassVar[int]
    networks: _containers.RepeatedCompositeFieldContainer[Network]
    def __init__(self, networks: _Optional[_Iterable[_Union[Network, _Mapping]]] = ...) -> None: ...

class ListRulesRequest(_message.Message):
    __slots__ = ["export"]
    EXPORT_FIELD_NUMBER: _ClassVar[int]
    export: str
    def __init__(self, export: _Optional[str] = ...) -> None: ...

class ListRulesResponse(_message.Message):
    __slots__ = ["rules"]
    RULES_FIELD_NUMBER: _ClassVar[int]
    rules: _containers.RepeatedCompositeFieldContainer[_rules_pb2.AccessRule]
    def __init__(self, rules: _Optional[_Iterable[_Union[_rules_pb2.AccessRule, _Mapping]]] = ...) -> None: ...

class MacvlanPlug(_message.Message):
    __slots__ = ["device"]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    device: str
    def __init__(self, device: _Optional[str] = ...) -> None: ...

class Mount(_message.Message):
    __slots__ = ["backend_kind", "name", "path", "read_only", "source", "status", "users"]
    BACKEND_KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    READ_ONLY_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    USERS_FIELD_NUMBER: _ClassVar[int]
    backend_kind: str
    name: str
    path: str
    read_only: bool
    source: str
    status: Status
    users: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., backend_kind: _Optional[str] = ..., source: _Optional[str] = ..., path: _Optional[str] = ..., read_only: bool = ..., users: _Optional[_Iterable[str]] = ..., status: _Optional[_Union[Status, _Mapping]] = ...) -> None: ...

class Move(_message.Message):
    __slots__ = ["expires_at", "side"]
    class Side(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = []
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    SIDE_DESTINATION: Move.Side
    SIDE_FIELD_NUMBER: _ClassVar[int]
    SIDE_SOURCE: Move.Side
    SIDE_UNSPECIFIED: Move.Side
    expires_at: _timestamp_pb2.Timestamp
    side: Move.Side
    def __init__(self, side: _Optional[_Union[Move.Side, str]] = ..., expires_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Network(_message.Message):
    __slots__ = ["addresses", "bridge", "drift", "gateway", "id", "mac", "macvlan", "mtu", "nfs_versions", "none", "ovs", "routes", "status", "vlan", "vxlan"]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    BRIDGE_FIELD_NUMBER: _ClassVar[int]
    DRIFT_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    MACVLAN_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    MTU_FIELD_NUMBER: _ClassVar[int]
    NFS_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    NONE_FIELD_NUMBER: _ClassVar[int]
    OVS_FIELD_NUMBER: _ClassVar[int]
    ROUTES_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    VLAN_FIELD_NUMBER: _ClassVar[int]
    VXLAN_FIELD_NUMBER: _ClassVar[int]
    addresses: _containers.RepeatedScalarFieldContainer[str]
    bridge: BridgePlug
    drift: Drift
    gateway: Gateway
    id: str
    mac: str
    macvlan: MacvlanPlug
    mtu: int
    nfs_versions: _containers.RepeatedScalarFieldContainer[str]
    none: NonePlug
    ovs: OvsPlug
    routes: _containers.RepeatedCompositeFieldContainer[Route]
    status: Status
    vlan: VlanPlug
    vxlan: VxlanPlug
    def __init__(self, id: _Optional[str] = ..., bridge: _Optional[_Union[BridgePlug, _Mapping]] = ..., vlan: _Optional[_Union[VlanPlug, _Mapping]] = ..., vxlan: _Optional[_Union[VxlanPlug, _Mapping]] = ..., macvlan: _Optional[_Union[MacvlanPlug, _Mapping]] = ..., ovs: _Optional[_Union[OvsPlug, _Mapping]] = ..., none: _Optional[_Union[NonePlug, _Mapping]] = ..., addresses: _Optional[_Iterable[str]] = ..., routes: _Optional[_Iterable[_Union[Route, _Mapping]]] = ..., mtu: _Optional[int] = ..., mac: _Optional[str] = ..., nfs_versions: _Optional[_Iterable[str]] = ..., status: _Optional[_Union[Status, _Mapping]] = ..., gateway: _Optional[_Union[Gateway, _Mapping]] = ..., drift: _Optional[_Union[Drift, _Mapping]] = ...) -> None: ...

class NonePlug(_message.Message):
    __slots__ = ["interface", "namespace"]
    INTERFACE_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    interface: str
    namespace: str
    def __init__(self, namespace: _Optional[str] = ..., interface: _Optional[str] = ...) -> None: ...

class OvsPlug(_message.Message):
    __slots__ = ["bridge", "interface_id", "vlan"]
    BRIDGE_FIELD_NUMBER: _ClassVar[int]
    INTERFACE_ID_FIELD_NUMBER: _ClassVar[int]
    VLAN_FIELD_NUMBER: _ClassVar[int]
    bridge: str
    interface_id: str
    vlan: int
    def __init__(self, bridge: _Optional[str] = ..., interface_id: _Optional[str] = ..., vlan: _Optional[int] = ...) -> None: ...

class PreflightAttachmentRequest(_message.Message):
    __slots__ = ["attachment"]
    ATTACHMENT_FIELD_NUMBER: _ClassVar[int]
    attachment: Attachment
    def __init__(self, attachment: _Optional[_Union[Attachment, _Mapping]] = ...) -> None: ...

class PreflightAttachmentResponse(_message.Message):
    __slots__ = ["checks"]
    CHECKS_FIELD_NUMBER: _ClassVar[int]
    checks: _containers.RepeatedCompositeFieldContainer[Check]
    def __init__(self, checks: _Optional[_Iterable[_Union[Check, _Mapping]]] = ...) -> None: ...

class PreflightRequest(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class PreflightResponse(_message.Message):
    __slots__ = ["checks"]
    CHECKS_FIELD_NUMBER: _ClassVar[int]
    checks: _containers.RepeatedCompositeFieldContainer[Check]
    def __init__(self, checks: _Optional[_Iterable[_Union[Check, _Mapping]]] = ...) -> None: ...

class PrepareAttachmentRequest(_message.Message):
    __slots__ = ["attachment", "expires_at", "force"]
    ATTACHMENT_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    attachment: Attachment
    expires_at: _timestamp_pb2.Timestamp
    force: bool
    def __init__(self, attachment: _Optional[_Union[Attachment, _Mapping]] = ..., expires_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., force: bool = ...) -> None: ...

class PrepareAttachmentResponse(_message.Message):
    __slots__ = ["attachment"]
    ATTACHMENT_FIELD_NUMBER: _ClassVar[int]
    attachment: Attachment
    def __init__(self, attachment: _Optional[_Union[Attachment, _Mapping]] = ...) -> None: ...

class PrepareStartRequest(_message.Message):
    __slots__ = ["instance", "instance_uuid", "sockets", "user"]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_UUID_FIELD_NUMBER: _ClassVar[int]
    SOCKETS_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    instance: str
    instance_uuid: str
    sockets: _containers.RepeatedScalarFieldContainer[str]
    user: str
    def __init__(self, instance: _Optional[str] = ..., instance_uuid: _Optional[str] = ..., sockets: _Optional[_Iterable[str]] = ..., user: _Optional[str] = ...) -> None: ...

class PrepareStartResponse(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class PutExportRequest(_message.Message):
    __slots__ = ["export"]
    EXPORT_FIELD_NUMBER: _ClassVar[int]
    export: Export
    def __init__(self, export: _Optional[_Union[Export, _Mapping]] = ...) -> None: ...

class PutExportResponse(_message.Message):
    __slots__ = ["export"]
    EXPORT_FIELD_NUMBER: _ClassVar[int]
    export: Export
    def __init__(self, export: _Optional[_Union[Export, _Mapping]] = ...) -> None: ...

class PutNetworkRequest(_message.Message):
    __slots__ = ["network"]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    network: Network
    def __init__(self, network: _Optional[_Union[Network, _Mapping]] = ...) -> None: ...

class PutNetworkResponse(_message.Message):
    __slots__ = ["network"]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    network: Network
    def __init__(self, network: _Optional[_Union[Network, _Mapping]] = ...) -> None: ...

class PutRuleRequest(_message.Message):
    __slots__ = ["export", "rule"]
    EXPORT_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    export: str
    rule: _rules_pb2.AccessRule
    def __init__(self, export: _Optional[str] = ..., rule: _Optional[_Union[_rules_pb2.AccessRule, _Mapping]] = ...) -> None: ...

class PutRuleResponse(_message.Message):
    __slots__ = ["rule"]
    RULE_FIELD_NUMBER: _ClassVar[int]
    rule: _rules_pb2.AccessRule
    def __init__(self, rule: _Optional[_Union[_rules_pb2.AccessRule, _Mapping]] = ...) -> None: ...

class RecoverRulesRequest(_message.Message):
    __slots__ = ["export"]
    EXPORT_FIELD_NUMBER: _ClassVar[int]
    export: str
    def __init__(self, export: _Optional[str] = ...) -> None: ...

class RecoverRulesResponse(_message.Message):
    __slots__ = ["export"]
    EXPORT_FIELD_NUMBER: _ClassVar[int]
    export: Export
    def __init__(self, export: _Optional[_Union[Export, _Mapping]] = ...) -> None: ...

class ReleaseAttachmentRequest(_message.Message):
    __slots__ = ["expires_at", "id"]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    expires_at: _timestamp_pb2.Timestamp
    id: str
    def __init__(self, id: _Optional[str] = ..., expires_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ReleaseAttachmentResponse(_message.Message):
    __slots__ = ["attachment"]
    ATTACHMENT_FIELD_NUMBER: _ClassVar[int]
    attachment: Attachment
    def __init__(self, attachment: _Optional[_Union[Attachment, _Mapping]] = ...) -> None: ...

class RepairAttachmentRequest(_message.Message):
    __slots__ = ["id"]
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class RepairAttachmentResponse(_message.Message):
    __slots__ = ["attachment"]
    ATTACHMENT_FIELD_NUMBER: _ClassVar[int]
    attachment: Attachment
    def __init__(self, attachment: _Optional[_Union[Attachment, _Mapping]] = ...) -> None: ...

class RollbackAttachmentRequest(_message.Message):
    __slots__ = ["id"]
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class RollbackAttachmentResponse(_message.Message):
    __slots__ = ["attachment"]
    ATTACHMENT_FIELD_NUMBER: _ClassVar[int]
    attachment: Attachment
    def __init__(self, attachment: _Optional[_Union[Attachment, _Mapping]] = ...) -> None: ...

class Route(_message.Message):
    __slots__ = ["destination", "via"]
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    VIA_FIELD_NUMBER: _ClassVar[int]
    destination: str
    via: str
    def __init__(self, destination: _Optional[str] = ..., via: _Optional[str] = ...) -> None: ...

class Status(_message.Message):
    __slots__ = ["attempts", "generation", "message", "observed_generation", "phase", "reason", "since"]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    OBSERVED_GENERATION_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    attempts: int
    generation: int
    message: str
    observed_generation: int
    phase: Phase
    reason: str
    since: _timestamp_pb2.Timestamp
    def __init__(self, generation: _Optional[int] = ..., observed_generation: _Optional[int] = ..., phase: _Optional[_Union[Phase, str]] = ..., since: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., attempts: _Optional[int] = ...) -> None: ...

class Subsystem(_message.Message):
    __slots__ = ["message", "name", "verdict"]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    message: str
    name: str
    verdict: Verdict
    def __init__(self, name: _Optional[str] = ..., verdict: _Optional[_Union[Verdict, str]] = ..., message: _Optional[str] = ...) -> None: ...

class UpdateNetworkRequest(_message.Message):
    __slots__ = ["generation", "network"]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    generation: int
    network: Network
    def __init__(self, network: _Optional[_Union[Network, _Mapping]] = ..., generation: _Optional[int] = ...) -> None: ...

class UpdateNetworkResponse(_message.Message):
    __slots__ = ["network"]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    network: Network
    def __init__(self, network: _Optional[_Union[Network, _Mapping]] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ["memory", "memory_limit", "open_files", "open_files_limit"]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    MEMORY_LIMIT_FIELD_NUMBER: _ClassVar[int]
    OPEN_FILES_FIELD_NUMBER: _ClassVar[int]
    OPEN_FILES_LIMIT_FIELD_NUMBER: _ClassVar[int]
    memory: int
    memory_limit: int
    open_files: int
    open_files_limit: int
    def __init__(self, open_files: _Optional[int] = ..., open_files_limit: _Optional[int] = ..., memory: _Optional[int] = ..., memory_limit: _Optional[int] = ...) -> None: ...

class Virtiofsd(_message.Message):
    __slots__ = ["abilities", "flavour", "message", "path", "version"]
    ABILITIES_FIELD_NUMBER: _ClassVar[int]
    FLAVOUR_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    abilities: _containers.RepeatedScalarFieldContainer[str]
    flavour: str
    message: str
    path: str
    version: str
    def __init__(self, path: _Optional[str] = ..., flavour: _Optional[str] = ..., version: _Optional[str] = ..., abilities: _Optional[_Iterable[str]] = ..., message: _Optional[str] = ...) -> None: ...

class VlanPlug(_message.Message):
    __slots__ = ["device", "id"]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    device: str
    id: int
    def __init__(self, device: _Optional[str] = ..., id: _Optional[int] = ...) -> None: ...

class VxlanPlug(_message.Message):
    __slots__ = ["device", "id", "local", "peers", "port"]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    device: str
    id: int
    local: str
    peers: _containers.RepeatedScalarFieldContainer[str]
    port: int
    def __init__(self, id: _Optional[int] = ..., device: _Optional[str] = ..., local: _Optional[str] = ..., peers: _Optional[_Iterable[str]] = ..., port: _Optional[int] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class WatchResponse(_message.Message):
    __slots__ = ["attachment", "export", "network", "type"]
    class Type(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = []
    ATTACHMENT_FIELD_NUMBER: _ClassVar[int]
    EXPORT_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    TYPE_DELETED: WatchResponse.Type
    TYPE_FIELD_NUMBER: _ClassVar[int]
    TYPE_PUT: WatchResponse.Type
    TYPE_SYNCED: WatchResponse.Type
    TYPE_UNSPECIFIED: WatchResponse.Type
    attachment: Attachment
    export: Export
    network: Network
    type: WatchResponse.Type
    def __init__(self, type: _Optional[_Union[WatchResponse.Type, str]] = ..., attachment: _Optional[_Union[Attachment, _Mapping]] = ..., network: _Optional[_Union[Network, _Mapping]] = ..., export: _Optional[_Union[Export, _Mapping]] = ...) -> None: ...

class Phase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class Cache(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class Locks(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class LockScope(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class Persistence(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class GuestState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
