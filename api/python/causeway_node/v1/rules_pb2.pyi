from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor
LEVEL_RO: Level
LEVEL_RW: Level
LEVEL_UNSPECIFIED: Level
RULE_STATE_ACTIVE: RuleState
RULE_STATE_APPLYING: RuleState
RULE_STATE_DENYING: RuleState
RULE_STATE_ERROR: RuleState
RULE_STATE_QUEUED: RuleState
RULE_STATE_UNSPECIFIED: RuleState
SEC_KRB5: Sec
SEC_KRB5I: Sec
SEC_KRB5P: Sec
SEC_SYS: Sec
SEC_UNSPECIFIED: Sec
SQUASH_ALL: Squash
SQUASH_NONE: Squash
SQUASH_ROOT: Squash
SQUASH_ROOT_ID: Squash
SQUASH_UNSPECIFIED: Squash

class AccessRule(_message.Message):
    __slots__ = ["allow_everyone", "anonymous_gid", "anonymous_uid", "client", "created_at", "expires_at", "id", "level", "message", "metadata", "priority", "reason", "sec", "squash", "state"]
    class MetadataEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ALLOW_EVERYONE_FIELD_NUMBER: _ClassVar[int]
    ANONYMOUS_GID_FIELD_NUMBER: _ClassVar[int]
    ANONYMOUS_UID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SEC_FIELD_NUMBER: _ClassVar[int]
    SQUASH_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    allow_everyone: bool
    anonymous_gid: int
    anonymous_uid: int
    client: str
    created_at: _timestamp_pb2.Timestamp
    expires_at: _timestamp_pb2.Timestamp
    id: str
    level: Level
    message: str
    metadata: _containers.ScalarMap[str, str]
    priority: int
    reason: str
    sec: _containers.RepeatedScalarFieldContainer[Sec]
    squash: Squash
    state: RuleState
    def __init__(self, client: _Optional[str] = ..., level: _Optional[_Union[Level, str]] = ..., squash: _Optional[_Union[Squash, str]] = ..., anonymous_uid: _Optional[int] = ..., anonymous_gid: _Optional[int] = ..., id: _Optional[str] = ..., sec: _Optional[_Iterable[_Union[Sec, str]]] = ..., priority: _Optional[int] = ..., expires_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., metadata: _Optional[_Mapping[str, str]] = ..., allow_everyone: bool = ..., state: _Optional[_Union[RuleState, str]] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., created_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Level(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class Squash(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class Sec(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class RuleState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
