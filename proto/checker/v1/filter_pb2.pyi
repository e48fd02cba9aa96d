import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CentreState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CENTRE_STATE_UNSPECIFIED: _ClassVar[CentreState]
    CENTRE_STATE_REACHABLE: _ClassVar[CentreState]
    CENTRE_STATE_UNREACHABLE: _ClassVar[CentreState]
    CENTRE_STATE_SIGNED_OFF: _ClassVar[CentreState]
CENTRE_STATE_UNSPECIFIED: CentreState
CENTRE_STATE_REACHABLE: CentreState
CENTRE_STATE_UNREACHABLE: CentreState
CENTRE_STATE_SIGNED_OFF: CentreState

class Position(_message.Message):
    __slots__ = ("journal_id", "entry")
    JOURNAL_ID_FIELD_NUMBER: _ClassVar[int]
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    journal_id: bytes
    entry: int
    def __init__(self, journal_id: _Optional[bytes] = ..., entry: _Optional[int] = ...) -> None: ...

class GetManifestRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetManifestResponse(_message.Message):
    __slots__ = ("manifest", "signature", "rulebook")
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    RULEBOOK_FIELD_NUMBER: _ClassVar[int]
    manifest: bytes
    signature: bytes
    rulebook: bytes
    def __init__(self, manifest: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., rulebook: _Optional[bytes] = ...) -> None: ...

class Manifest(_message.Message):
    __slots__ = ("epoch", "position", "feed_sequence", "feed_time", "key_id", "derivation", "error_rate", "size", "sha256", "centre_id", "key_check", "count", "rulebook_version", "rulebook_sha256", "build_time")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    FEED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    FEED_TIME_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    DERIVATION_FIELD_NUMBER: _ClassVar[int]
    ERROR_RATE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    CENTRE_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_CHECK_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    RULEBOOK_VERSION_FIELD_NUMBER: _ClassVar[int]
    RULEBOOK_SHA256_FIELD_NUMBER: _ClassVar[int]
    BUILD_TIME_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    position: Position
    feed_sequence: int
    feed_time: _timestamp_pb2.Timestamp
    key_id: str
    derivation: str
    error_rate: float
    size: int
    sha256: bytes
    centre_id: bytes
    key_check: bytes
    count: int
    rulebook_version: str
    rulebook_sha256: bytes
    build_time: _timestamp_pb2.Timestamp
    def __init__(self, epoch: _Optional[int] = ..., position: _Optional[_Union[Position, _Mapping]] = ..., feed_sequence: _Optional[int] = ..., feed_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., key_id: _Optional[str] = ..., derivation: _Optional[str] = ..., error_rate: _Optional[float] = ..., size: _Optional[int] = ..., sha256: _Optional[bytes] = ..., centre_id: _Optional[bytes] = ..., key_check: _Optional[bytes] = ..., count: _Optional[int] = ..., rulebook_version: _Optional[str] = ..., rulebook_sha256: _Optional[bytes] = ..., build_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class GetSnapshotRequest(_message.Message):
    __slots__ = ("epoch", "offset", "centre_id")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    CENTRE_ID_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    offset: int
    centre_id: bytes
    def __init__(self, epoch: _Optional[int] = ..., offset: _Optional[int] = ..., centre_id: _Optional[bytes] = ...) -> None: ...

class SnapshotChunk(_message.Message):
    __slots__ = ("offset", "data")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    offset: int
    data: bytes
    def __init__(self, offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class WatchChangesRequest(_message.Message):
    __slots__ = ("position",)
    POSITION_FIELD_NUMBER: _ClassVar[int]
    position: Position
    def __init__(self, position: _Optional[_Union[Position, _Mapping]] = ...) -> None: ...

class WatchChangesResponse(_message.Message):
    __slots__ = ("additions", "heartbeat", "reset")
    ADDITIONS_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    RESET_FIELD_NUMBER: _ClassVar[int]
    additions: Additions
    heartbeat: Heartbeat
    reset: Reset
    def __init__(self, additions: _Optional[_Union[Additions, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., reset: _Optional[_Union[Reset, _Mapping]] = ...) -> None: ...

class Additions(_message.Message):
    __slots__ = ("keys", "base", "position", "seal")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    SEAL_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedScalarFieldContainer[bytes]
    base: Position
    position: Position
    seal: bytes
    def __init__(self, keys: _Optional[_Iterable[bytes]] = ..., base: _Optional[_Union[Position, _Mapping]] = ..., position: _Optional[_Union[Position, _Mapping]] = ..., seal: _Optional[bytes] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("position", "feed_time", "feed_sequence", "gap_since", "sent_time", "silence", "epoch", "centre_id", "rulebook_sha256", "signing_off", "seal")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    FEED_TIME_FIELD_NUMBER: _ClassVar[int]
    FEED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    GAP_SINCE_FIELD_NUMBER: _ClassVar[int]
    SENT_TIME_FIELD_NUMBER: _ClassVar[int]
    SILENCE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    CENTRE_ID_FIELD_NUMBER: _ClassVar[int]
    RULEBOOK_SHA256_FIELD_NUMBER: _ClassVar[int]
    SIGNING_OFF_FIELD_NUMBER: _ClassVar[int]
    SEAL_FIELD_NUMBER: _ClassVar[int]
    position: Position
    feed_time: _timestamp_pb2.Timestamp
    feed_sequence: int
    gap_since: _timestamp_pb2.Timestamp
    sent_time: _timestamp_pb2.Timestamp
    silence: _duration_pb2.Duration
    epoch: int
    centre_id: bytes
    rulebook_sha256: bytes
    signing_off: bool
    seal: bytes
    def __init__(self, position: _Optional[_Union[Position, _Mapping]] = ..., feed_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., feed_sequence: _Optional[int] = ..., gap_since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., sent_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., silence: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., epoch: _Optional[int] = ..., centre_id: _Optional[bytes] = ..., rulebook_sha256: _Optional[bytes] = ..., signing_off: _Optional[bool] = ..., seal: _Optional[bytes] = ...) -> None: ...

class Reset(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class ReportStatusRequest(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: EdgeStatus
    def __init__(self, status: _Optional[_Union[EdgeStatus, _Mapping]] = ...) -> None: ...

class ReportStatusResponse(_message.Message):
    __slots__ = ("time",)
    TIME_FIELD_NUMBER: _ClassVar[int]
    time: _timestamp_pb2.Timestamp
    def __init__(self, time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class EdgeStatus(_message.Message):
    __slots__ = ("edge_id", "name", "version", "centre_id", "epoch", "position", "feed_sequence", "lag", "centre", "checks", "hits", "false_positives", "stand_ins", "advice_waiting", "advice_dropped", "canary_in_filter", "canary_time", "rulebook_version", "overlay", "alarms")
    EDGE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CENTRE_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    FEED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LAG_FIELD_NUMBER: _ClassVar[int]
    CENTRE_FIELD_NUMBER: _ClassVar[int]
    CHECKS_FIELD_NUMBER: _ClassVar[int]
    HITS_FIELD_NUMBER: _ClassVar[int]
    FALSE_POSITIVES_FIELD_NUMBER: _ClassVar[int]
    STAND_INS_FIELD_NUMBER: _ClassVar[int]
    ADVICE_WAITING_FIELD_NUMBER: _ClassVar[int]
    ADVICE_DROPPED_FIELD_NUMBER: _ClassVar[int]
    CANARY_IN_FILTER_FIELD_NUMBER: _ClassVar[int]
    CANARY_TIME_FIELD_NUMBER: _ClassVar[int]
    RULEBOOK_VERSION_FIELD_NUMBER: _ClassVar[int]
    OVERLAY_FIELD_NUMBER: _ClassVar[int]
    ALARMS_FIELD_NUMBER: _ClassVar[int]
    edge_id: str
    name: str
    version: str
    centre_id: bytes
    epoch: int
    position: Position
    feed_sequence: int
    lag: _duration_pb2.Duration
    centre: CentreState
    checks: int
    hits: int
    false_positives: int
    stand_ins: int
    advice_waiting: int
    advice_dropped: int
    canary_in_filter: bool
    canary_time: _timestamp_pb2.Timestamp
    rulebook_version: str
    overlay: int
    alarms: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, edge_id: _Optional[str] = ..., name: _Optional[str] = ..., version: _Optional[str] = ..., centre_id: _Optional[bytes] = ..., epoch: _Optional[int] = ..., position: _Optional[_Union[Position, _Mapping]] = ..., feed_sequence: _Optional[int] = ..., lag: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., centre: _Optional[_Union[CentreState, str]] = ..., checks: _Optional[int] = ..., hits: _Optional[int] = ..., false_positives: _Optional[int] = ..., stand_ins: _Optional[int] = ..., advice_waiting: _Optional[int] = ..., advice_dropped: _Optional[int] = ..., canary_in_filter: _Optional[bool] = ..., canary_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., rulebook_version: _Optional[str] = ..., overlay: _Optional[int] = ..., alarms: _Optional[_Iterable[str]] = ...) -> None: ...

class GetEdgeKeysRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetEdgeKeysResponse(_message.Message):
    __slots__ = ("key_file",)
    KEY_FILE_FIELD_NUMBER: _ClassVar[int]
    key_file: bytes
    def __init__(self, key_file: _Optional[bytes] = ...) -> None: ...
