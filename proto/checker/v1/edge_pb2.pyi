import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from proto.checker.v1 import check_pb2 as _check_pb2
from proto.checker.v1 import filter_pb2 as _filter_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WatchAdviceRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Advice(_message.Message):
    __slots__ = ("decision_id", "answer", "ask_time")
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    ASK_TIME_FIELD_NUMBER: _ClassVar[int]
    decision_id: str
    answer: _check_pb2.CheckResponse
    ask_time: _timestamp_pb2.Timestamp
    def __init__(self, decision_id: _Optional[str] = ..., answer: _Optional[_Union[_check_pb2.CheckResponse, _Mapping]] = ..., ask_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: _filter_pb2.EdgeStatus
    def __init__(self, status: _Optional[_Union[_filter_pb2.EdgeStatus, _Mapping]] = ...) -> None: ...
