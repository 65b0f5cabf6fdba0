"""
What a caller wishes of the queue and the bill, read from its request's headers. It owns their names, forms, limits.

Headers that people write are taken at their word or refused; those that an SDK sends by itself are used or ignored.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from math import isfinite
from typing import TypeVar

from gateway.core.directory import SERVICE_CLASSES, ServiceClass
from gateway.core.outcome import Outcome
from gateway.errors import Refused

CLASS_HEADER = "X-Sluice-Class"
DEADLINE_HEADER = "X-Request-Deadline-Ms"
EVENTS_HEADER = "X-Queue-Events"
RECEIPT_HEADER = "X-Sluice-Receipt"
DEADLINE_MS_MAX = 86_400_000  # a day: what may take longer is no request but a job

_Value = TypeVar("_Value")
_READ_TIMEOUT = b"x-stainless-read-timeout"  # OpenAI's Python SDK: after so many seconds of silence it hangs up
_WHOLE_NUMBER = re.compile(rb"[0-9]{1,8}")
_SHOWN_CHARS_MAX = 64
_GO = re.compile(rb"OpenAI/Go ([0-9]{1,9})(?:\.([0-9]{1,9}))?")
_GO_SKIPS_COMMENTS = (3, 43)  # the first version that survives the blank line after a comment


class QueueEvents(Enum):
    """What a stream is sent while it waits: nothing, SSE comments, or events that a program can read."""

    NONE = "none"
    COMMENTS = "comments"
    EVENTS = "events"


class Receipt(Enum):
    """Whether a receipt comes with the answer; of a stream as a comment, or as a chunk that an SDK passes on."""

    NONE = "false"
    COMMENT = "true"
    CHUNK = "chunk"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """
    What a caller wishes of the queue and the bill, checked and complete.

    *wait_s_max* counts from the request's arrival to its first byte; None leaves it to the class. *is_old_go* marks an
    SDK that breaks on the blank line after a comment.
    """

    service_class: ServiceClass
    wait_s_max: float | None = None
    events: QueueEvents = QueueEvents.COMMENTS
    is_old_go: bool = False
    receipt: Receipt = Receipt.NONE


_EVENTS = {events.value: events for events in QueueEvents}
_RECEIPTS = {receipt.value: receipt for receipt in Receipt}


def read_wishes(headers: dict[bytes, bytes], most_urgent: ServiceClass) -> Wishes:
    """
    Read the wishes of a caller whose requests may be *most_urgent* at most; names of *headers* are lower case.

    Raises Refused: BAD_REQUEST for a value that cannot be, CLASS_NOT_ALLOWED for a class above the caller's.
    """
    return Wishes(
        service_class=_service_class(headers, most_urgent),
        wait_s_max=_wait_s_max(headers),
        events=_one_of(headers, EVENTS_HEADER, _EVENTS) or QueueEvents.COMMENTS,
        is_old_go=_is_old_go(headers.get(b"user-agent", b"")),
        receipt=_one_of(headers, RECEIPT_HEADER, _RECEIPTS) or Receipt.NONE,
    )


def _service_class(headers: dict[bytes, bytes], most_urgent: ServiceClass) -> ServiceClass:
    wished = _one_of(headers, CLASS_HEADER, SERVICE_CLASSES)
    if wished is None:
        return most_urgent
    if wished < most_urgent:
        message = (
            f"{CLASS_HEADER} asks for {wished.label!r}, but this key may have {most_urgent.label!r} at most. "
            f"Ask for that or a less urgent one, or have your operator raise the class of the key and its tenant."
        )
        raise Refused(Outcome.CLASS_NOT_ALLOWED, message, param=CLASS_HEADER)
    return wished


def _wait_s_max(headers: dict[bytes, bytes]) -> float | None:
    given = _value(headers, DEADLINE_HEADER)
    if given is None:
        return _read_timeout_s(headers.get(_READ_TIMEOUT, b""))
    deadline_ms = int(given) if _WHOLE_NUMBER.fullmatch(given) else 0
    if not 1 <= deadline_ms <= DEADLINE_MS_MAX:
        raise _unusable(DEADLINE_HEADER, given, f"a whole number of milliseconds from 1 to {DEADLINE_MS_MAX}")
    return deadline_ms / 1000


def _read_timeout_s(given: bytes) -> float | None:
    """Read what the SDK sent; whatever makes no sense is ignored, since its user did not write it."""
    try:
        timeout_s = float(given)
    except ValueError:
        return None
    return min(timeout_s, DEADLINE_MS_MAX / 1000) if isfinite(timeout_s) and timeout_s > 0 else None


def _is_old_go(user_agent: bytes) -> bool:
    version = _GO.match(user_agent)
    return version is not None and (int(version[1]), int(version[2] or 0)) < _GO_SKIPS_COMMENTS


def _one_of(headers: dict[bytes, bytes], name: str, known: Mapping[str, _Value]) -> _Value | None:
    given = _value(headers, name)
    if given is None:
        return None
    found = known.get(given.decode("latin-1").lower())
    if found is None:
        raise _unusable(name, given, f"one of {', '.join(known)}")
    return found


def _value(headers: dict[bytes, bytes], name: str) -> bytes | None:
    value = headers.get(name.lower().encode())
    return None if value is None else value.strip()


def _unusable(name: str, given: bytes, form: str) -> Refused:
    shown = given[:_SHOWN_CHARS_MAX].decode("latin-1")
    return Refused(Outcome.BAD_REQUEST, f"{name} is {shown!r}; it must be {form}.", param=name)
