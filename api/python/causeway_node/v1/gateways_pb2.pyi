from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ClientStatistics(_message.Message):
    __slots__ = ["address", "read", "requests", "seen", "write"]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    READ_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    SEEN_FIELD_NUMBER: _ClassVar[int]
    WRITE_FIELD_NUMBER: _ClassVar[int]
    address: str
    read: Transfers
    requests: int
    seen: _timestamp_pb2.Timestamp
    write: Transfers
    def __init__(self, address: _Optional[str] = ..., seen: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., read: _Optional[_Union[Transfers, _Mapping]] = ..., write: _Optional[_Union[Transfers, _Mapping]] = ..., requests: _Optional[int] = ...) -> None: ...

class ExportStatistics(_message.Message):
    __slots__ = ["export", "export_id", "read", "write"]
    EXPORT_FIELD_NUMBER: _ClassVar[int]
    EXPORT_ID_FIELD_NUMBER: _ClassVar[int]
    READ_FIELD_NUMBER: _ClassVar[int]
    WRITE_FIELD_NUMBER: _ClassVar[int]
    export: str
    export_id: int
    read: Transfers
    write: Transfers
    def __init__(self, export: _Optional[str] = ..., export_id: _Optional[int] = ..., read: _Optional[_Union[Transfers, _Mapping]] = ..., write: _Optional[_Union[Transfers, _Mapping]] = ...) -> None: ...

class GatewayStatistics(_message.Message):
    __slots__ = ["at", "clients", "error", "exports", "network"]
    AT_FIELD_NUMBER: _ClassVar[int]
    CLIENTS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    EXPORTS_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    at: _timestamp_pb2.Timestamp
    clients: _containers.RepeatedCompositeFieldContainer[ClientStatistics]
    error: str
    exports: _containers.RepeatedCompositeFieldContainer[ExportStatistics]
    network: str
    def __init__(self, network: _Optional[str] = ..., at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., exports: _Optional[_Iterable[_Union[ExportStatistics, _Mapping]]] = ..., clients: _Optional[_Iterable[_Union[ClientStatistics, _Mapping]]] = ..., error: _Optional[str] = ...) -> None: ...

class GatewayStatisticsRequest(_message.Message):
    __slots__ = ["clients", "network"]
    CLIENTS_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    clients: int
    network: str
    def __init__(self, network: _Optional[str] = ..., clients: _Optional[int] = ...) -> None: ...

class GatewayStatisticsResponse(_message.Message):
    __slots__ = ["gateways"]
    GATEWAYS_FIELD_NUMBER: _ClassVar[int]
    gateways: _containers.RepeatedCompositeFieldContainer[GatewayStatistics]
    def __init__(self, gateways: _Optional[_Iterable[_Union[GatewayStatistics, _Mapping]]] = ...) -> None: ...

class Transfers(_message.Message):
    __slots__ = ["bytes", "errors", "operations", "time"]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    bytes: int
    errors: int
    operations: int
    time: _duration_pb2.Duration
    def __init__(self, operations: _Optional[int] = ..., errors: _Optional[int] = ..., bytes: _Optional[int] = ..., time: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...
