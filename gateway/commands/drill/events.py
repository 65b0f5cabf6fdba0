"""
What a client reads in a stream: its place in line, its answer, an error. Tolerant of all that it does not know.

Places come as SSE comments (`: queue position=12 eta_s=34.5 …`) or as events (`event: queue`); see
docs/applications.md. Only the frames that say something are parsed: a crowd of thousands reads in one process.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_WORD = re.compile(rb"(\w+)=(\S+)")
_USAGE_ONLY = b'"choices":[]'


@dataclass(frozen=True, slots=True)
class Place:
    """A place in line as it was told; what was not said is None."""

    position: int | None
    eta_s: float | None


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens of the whole answer."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Failure:
    """An error in OpenAI's form: why the stream ends here."""

    code: str
    error_type: str


class Content:
    """A frame of the answer."""


class Done:
    """The end of the answer."""


Event = Place | Usage | Failure | Content | Done
_CONTENT, _DONE = Content(), Done()


class EventReader:
    """Puts events together from the pieces in which they arrive."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[Event]:
        """Give the events that *piece* completes."""
        data = self._rest + piece if self._rest else piece
        *blocks, self._rest = data.split(b"\n\n")
        for block in blocks:
            event = read_event(block)
            if event is not None:
                yield event


def read_event(block: bytes) -> Event | None:
    """Read one event without its blank line; None if it says nothing to us."""
    if block.startswith(b"data: [DONE]"):
        return _DONE
    if block.startswith(b'data: {"error"'):
        return read_failure(block[len(b"data: ") :])
    if block.startswith(b"data:"):
        return _read_usage(block) or _CONTENT if _USAGE_ONLY in block else _CONTENT
    if block.startswith(b":"):
        return _place(dict(_WORD.findall(block))) if b"queue" in block else None
    return _read_queue_event(block)


def read_failure(body: bytes) -> Failure | None:
    """Read an error body; None if it is not in OpenAI's form."""
    error = _json(body).get("error")
    if not isinstance(error, dict) or not error.get("message") or not error.get("type"):
        return None
    return Failure(str(error.get("code") or error["type"]), str(error["type"]))


def _read_usage(block: bytes) -> Usage | None:
    usage = _json(block[len(b"data:") :]).get("usage") or {}
    if "completion_tokens" not in usage:
        return None
    return Usage(usage.get("prompt_tokens", 0), usage["completion_tokens"])


def _read_queue_event(block: bytes) -> Place | None:
    lines = block.split(b"\n")
    if b"event: queue" not in lines:
        return None
    return _place(_json(b"".join(line[len(b"data:") :] for line in lines if line.startswith(b"data:"))))


def _place(said: dict[Any, Any]) -> Place:
    known = {key.decode() if isinstance(key, bytes) else key: value for key, value in said.items()}
    position = _number(known.get("position"))
    return Place(None if position is None else int(position), _number(known.get("eta_s")))


def _number(value: bytes | str | float | None) -> float | None:
    try:
        return None if value is None else float(value)
    except ValueError:  # "unknown"
        return None


def _json(text: bytes) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}
