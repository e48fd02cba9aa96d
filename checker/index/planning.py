"""What a batch of changes asks of the server: names of keys, packed calls, and the writes the measures' answers imply.

Plain functions of their arguments: `redis.RedisIndex` sends what they return. Three phases:
- `measure_calls`: each change to its measure, whose answer says whether it counts and which keys it touches.
- `plan_writes` and `record_calls`: the newest value per field under each lookup key, one call per key, so that a record
  and the exemptions that belong to it appear together.
- `journal_calls`: the keys of every addition that counts, whether it was known before or not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from checker.core.measure import (
    Addition,
    Change,
    Exemption,
    Removal,
    State,
    Window,
    encode_window,
    exemption_field,
    record_field,
    tombstone,
)
from checker.index.base import Applied
from checker.index.functions import JOURNAL_APPEND, KEY_PUT, MEASURE_ADD, MEASURE_EXEMPT, MEASURE_REMOVE, call
from checker.index.node import pack

KEY_BYTES: Final = 16
_WINDOW_BYTES: Final = len(encode_window(0, Window(0, 0, 0)))
_ENTRY_KEYS: Final = 250  # one entry fills one node (4 kB) of the stream
_APPEND_ENTRIES: Final = 200
_VERDICTS: Final = {1: Applied.APPLIED, 2: Applied.UNCHANGED, 3: Applied.SUPERSEDED}


@dataclass(frozen=True, slots=True)
class Generation:
    number: int
    prefix: bytes  # b"NS:GEN:"
    base_seq: int

    @property
    def key(self) -> bytes:
        return self.prefix + b"k:"

    @property
    def journal(self) -> bytes:
        return self.prefix + b"j"

    @property
    def info(self) -> bytes:
        return self.prefix + b"info"

    def measure(self, measure_id: str) -> bytes:
        return self.prefix + b"m:" + measure_id.encode()


class Plan(NamedTuple):
    """What the measures' answers ask for."""

    applied: list[Applied]
    writes: dict[bytes, dict[bytes, bytes]]  # lookup key -> field -> newest value
    replays: dict[int, list[bytes]]  # change known already -> keys that are written again
    lifted: set[bytes]  # keys that get a tombstone


def measure_calls(generation: Generation, changes: Sequence[Change]) -> tuple[list[bytes], list[bytes]]:
    """First phase: one call per change, on its measure."""
    names, packed = [], []
    for change in changes:
        name = generation.measure(change.measure_id)
        sequence = change.sequence.to_bytes(8, "big")
        if isinstance(change, Addition):
            about = f"{change.court}\0{change.case_number}".encode()
            packed_call = pack((b"FCALL", MEASURE_ADD, b"1", name, sequence, b"".join(change.records), about))
        elif isinstance(change, Removal):
            packed_call = call(MEASURE_REMOVE, name, sequence, bytes([change.state]), change.reason.encode())
        else:
            packed_call = call(
                MEASURE_EXEMPT, name, sequence, encode_window(change.sequence, change.window), b"".join(change.keys)
            )
        names.append(name)
        packed.append(packed_call)
    return names, packed


def plan_writes(changes: Sequence[Change], answers: Sequence[Any]) -> Plan:
    """Second phase, from the measures' answers: which fields to write under which lookup keys."""
    plan = Plan([], {}, {}, set())
    writes = plan.writes
    for place, (change, answer) in enumerate(zip(changes, answers, strict=True)):
        if answer == 1:  # an addition of a measure never seen before: the common case in an import
            plan.applied.append(Applied.APPLIED)
            field = change.measure_id.encode()
            for key, record in change.records.items():  # type: ignore[union-attr] # only additions answer so
                if key in writes:
                    _put(writes, key, field, record)
                else:
                    writes[key] = {field: record}
            continue
        if answer == 3:  # an addition
            plan.applied.append(Applied.SUPERSEDED)
            continue
        verdict = _VERDICTS[answer[0]]
        plan.applied.append(verdict)
        written = _known(plan, change, answer)
        if verdict is Applied.UNCHANGED:
            plan.replays[place] = written
    return plan


def record_calls(key_prefix: bytes, plan: Plan) -> tuple[list[bytes], list[bytes]]:
    """Second phase: one call per lookup key."""
    names = [key_prefix + key for key in plan.writes]
    packed = [
        pack((b"FCALL", KEY_PUT, b"1", name, *[part for pair in fields.items() for part in pair]))
        for name, fields in zip(names, plan.writes.values(), strict=True)
    ]
    return names, packed


def _known(plan: Plan, change: Change, answer: list[Any]) -> list[bytes]:
    """The writes of a change that met a measure with a history. Returns the keys written."""
    writes = plan.writes
    keys = unpacked(answer[1])
    if isinstance(change, Exemption):
        value = encode_window(change.sequence, change.window)
        for key in keys:
            _put(writes, key, exemption_field(change.measure_id, change.sequence), value)
        return keys
    field = record_field(change.measure_id)
    if isinstance(change, Removal):
        record = tombstone(change.sequence, change.state)
        for key in keys:
            _put(writes, key, field, record)
        plan.lifted.update(keys)
        return keys
    for key in keys:
        if key in change.records:
            _put(writes, key, field, change.records[key])
    dropped = unpacked(answer[2])
    for key in dropped:
        _put(writes, key, field, tombstone(change.sequence, State.SHIELDED))
    plan.lifted.update(dropped)
    for sequence, exemption in zip(answer[3::2], answer[4::2], strict=True):
        subset = set(unpacked(exemption[_WINDOW_BYTES:]))
        for key in keys:
            if not subset or key in subset:
                exempted = exemption_field(change.measure_id, int.from_bytes(sequence, "big"))
                _put(writes, key, exempted, exemption[:_WINDOW_BYTES])
    return keys + dropped


def _put(writes: dict[bytes, dict[bytes, bytes]], key: bytes, field: bytes, value: bytes) -> None:
    """Of several writes to one field in a batch only the newest is sent."""
    fields = writes.setdefault(key, {})
    if field not in fields or fields[field][:9] < value[:9]:
        fields[field] = value


def unpacked(keys: bytes) -> list[bytes]:
    return [keys[i : i + KEY_BYTES] for i in range(0, len(keys), KEY_BYTES)]


def journal_calls(name: bytes, changes: Sequence[Change], applied: list[Applied], kept: int) -> list[bytes]:
    """Third phase: the keys of every addition that was not superseded, packed into entries."""
    keys = [
        key
        for change, verdict in zip(changes, applied, strict=True)
        if isinstance(change, Addition) and verdict is not Applied.SUPERSEDED
        for key in change.records
    ]
    entries = [b"".join(keys[i : i + _ENTRY_KEYS]) for i in range(0, len(keys), _ENTRY_KEYS)]
    return [
        call(JOURNAL_APPEND, name, str(kept).encode(), *entries[i : i + _APPEND_ENTRIES])
        for i in range(0, len(entries), _APPEND_ENTRIES)
    ]
