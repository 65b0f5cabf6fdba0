"""
The spool's bytes: how records are framed, and how they are found again in a damaged file.

A frame is u32 length, u32 CRC-32 of the payload (both little-endian), payload; the payload is compact JSON that starts
with the record's kind. Pure: no files, no clock.
"""

import json
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from gateway.core.usage import MeterEvent, Usage

OPEN, PROGRESS, CLOSE = "O", "P", "C"
PAYLOAD_BYTES_MAX = 1 << 16  # an event has about 600 bytes; a larger length field is damage
_TEXT_CHARS_MAX = 256  # 11 texts of that many characters, 12 bytes each at worst when escaped, are 34 KiB

_HEAD = struct.Struct("<II")
_KIND = re.compile(rb'\["[OPC]",')  # cannot occur inside a JSON text, where quotes are escaped
_FIELDS = tuple(MeterEvent.__dataclass_fields__)
_values: Callable[[MeterEvent], tuple[Any, ...]] = attrgetter(*_FIELDS)
_dumps = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


@dataclass(frozen=True, slots=True)
class Opened:
    """A request was dispatched at *at_ms*; *event* has no usage and no ending yet."""

    at_ms: int
    event: MeterEvent


@dataclass(frozen=True, slots=True)
class Progressed:
    """An open request had delivered *usage* by *at_ms*."""

    at_ms: int
    event_id: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class Closed:
    """A request ended; this is its final event."""

    event: MeterEvent


Record = Opened | Progressed | Closed


@dataclass(slots=True)
class Scan:
    """
    What a segment's bytes held.

    *damage* lists unreadable stretches as (offset, length); *torn_bytes* is an unreadable end of the kind that a write
    cut short by a crash leaves, in which nothing was ever acknowledged. *size* is that of all.
    """

    size: int = 0

    records: list[Record] = field(default_factory=list)
    damage: list[tuple[int, int]] = field(default_factory=list)
    torn_bytes: int = 0

    @property
    def damaged_bytes(self) -> int:
        """The length of all damage."""
        return sum(length for _, length in self.damage)


def encode_open(event: MeterEvent, at_ms: int) -> bytes:
    """Frame an OPEN."""
    return _frame([OPEN, at_ms, event_to_json(event)])


def encode_progress(event_id: str, usage: Usage, at_ms: int) -> bytes:
    """Frame a PROGRESS."""
    return _frame([PROGRESS, at_ms, event_id, [usage.prompt, usage.completion, usage.cached, usage.reasoning]])


def encode_close(event: MeterEvent) -> bytes:
    """Frame a CLOSE."""
    return _frame([CLOSE, event_to_json(event)])


def scan(data: bytes) -> Scan:
    """Read all good records of a segment, looking for the next good one after each stretch of damage."""
    found = Scan(len(data))
    offset = 0
    while offset < len(data):
        payload = _payload_at(data, offset)
        record = _decode(payload) if payload is not None else None
        if payload is not None and record is not None:
            found.records.append(record)
            offset += _HEAD.size + len(payload)
            continue
        resumed = _next_good(data, offset + 1)
        if resumed is None and _is_cut_write(data[offset:]):
            found.torn_bytes = len(data) - offset
            break
        end = len(data) if resumed is None else resumed
        found.damage.append((offset, end - offset))
        offset = end
    return found


def event_to_json(event: MeterEvent) -> dict[str, Any]:
    """Give an event's fields."""
    return dict(zip(_FIELDS, _values(event), strict=True))


def event_from_json(data: dict[str, Any]) -> MeterEvent:
    """Build an event; fields that a newer version added are left out, so that going back a version loses no tokens."""
    return MeterEvent(**{name: value for name, value in data.items() if name in MeterEvent.__dataclass_fields__})


def _frame(record: list[Any]) -> bytes:
    payload = _dumps(record).encode()
    if len(payload) > PAYLOAD_BYTES_MAX:
        payload = _dumps([_clip(part) for part in record]).encode()
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def _clip(part: Any) -> Any:
    if isinstance(part, dict):
        return {name: _clip(value) for name, value in part.items()}
    return part[:_TEXT_CHARS_MAX] if isinstance(part, str) else part


def _payload_at(data: bytes, offset: int) -> bytes | None:
    start = offset + _HEAD.size
    if start > len(data):
        return None
    length, crc = _HEAD.unpack_from(data, offset)
    if not 0 < length <= PAYLOAD_BYTES_MAX or start + length > len(data):
        return None
    payload = data[start : start + length]
    return payload if zlib.crc32(payload) == crc else None


def _next_good(data: bytes, offset: int) -> int | None:
    for match in _KIND.finditer(data, offset + _HEAD.size):
        at = match.start() - _HEAD.size
        payload = _payload_at(data, at)
        if payload is not None and _decode(payload) is not None:
            return at
    return None


def _is_cut_write(rest: bytes) -> bool:
    """
    Tell a write that was cut short from damage, in an end of a file that no good record follows.

    Cut short is a frame that says it is longer than what is there, and whose JSON is not whole; or one that ends in
    zeroes, as pages do that never reached the disk. A whole frame that does not read was written, and rotted since.
    """
    if len(rest) < _HEAD.size or rest.endswith(b"\0"):
        return True
    length, _ = _HEAD.unpack_from(rest)
    return bool(length > len(rest) - _HEAD.size and not _is_json(rest[_HEAD.size :]))


def _is_json(payload: bytes) -> bool:
    try:
        json.loads(payload)
    except ValueError:
        return False
    return True


def _decode(payload: bytes) -> Record | None:
    """Read a payload; None for one whose CRC is right but that this version does not understand."""
    try:
        kind, *rest = json.loads(payload)
        if kind == OPEN:
            return Opened(rest[0], event_from_json(rest[1]))
        if kind == PROGRESS:
            prompt, completion, cached, reasoning = rest[2]
            return Progressed(rest[0], rest[1], Usage(prompt, completion, cached, reasoning))
        return Closed(event_from_json(rest[0])) if kind == CLOSE else None
    except (ValueError, TypeError, LookupError, AttributeError, AssertionError):
        return None
