"""Token usage, and the meter event that carries it to the Journal."""

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class Usage:
    """
    Tokens of one request, cumulative, in the engine's own count.

    *prompt* includes *cached*; *completion* includes *reasoning*. The prompt is counted once however many choices (n).
    """

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    reasoning: int = 0

    @property
    def total(self) -> int:
        return self.prompt + self.completion


class Flag(Enum):
    """By which rule an event's tokens were counted."""

    EXACT = "exact"  # the engine's final usage
    DELIVERED = "delivered"  # the stream was cut: the last cumulative usage that went to the client
    ESTIMATED = "estimated"  # the engine never said: counted by the gateway from what went to the client
    INTERRUPTED = "interrupted"  # the gateway died: the last PROGRESS in its spool
    NONE = "none"  # nothing was dispatched, or nothing came back: no tokens


@dataclass(frozen=True, slots=True)
class Part:
    """
    What *worker* did of an answer that it did not end: it broke off at *ended_ms*, and another one went on.

    *prompt_tokens* are those that it read, the answer's so far included if it had gone on itself; *completion_tokens*
    those that it made, as far as they reached the gateway.
    """

    worker: str
    ended_ms: int
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterEvent:
    """
    The record of one request in the Journal. *id* is permanent: writing it again changes nothing.

    Times are Unix milliseconds (UTC), durations milliseconds; None means it did not happen. *undelivered_tokens* are
    completion tokens that reached the gateway but not the client any more: never billed, kept for reconciliation.
    An answer that broke off was *continued* so many times: *carried_by* holds the parts of the workers before the last,
    as JSON (`parts_from_json`), and the last one was given *carried_tokens* of the answer as a part of its prompt.
    *price* is the id of the price version in force at arrival, empty if there was none. *choices* is n: an engine
    counts the prompt so often, the bill once. *images* and *audio_ms* count parts of the prompt beside their tokens.
    """

    id: str
    tenant: str
    project: str
    key: str
    model: str
    pool: str
    worker: str
    gateway: str
    service_class: str
    outcome: str
    status: int
    flag: str
    is_stream: bool
    attempts: int
    arrived_ms: int
    ended_ms: int
    queue_ms: int | None
    ttft_ms: int | None
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    undelivered_tokens: int
    price: str = ""
    choices: int = 1
    images: int = 0
    audio_ms: int = 0
    continued: int = 0
    carried_tokens: int = 0
    carried_by: str = ""

    def __post_init__(self) -> None:
        assert self.prompt_tokens >= self.cached_tokens >= 0, f"cached exceeds prompt in {self.id}"
        assert self.completion_tokens >= 0, f"negative completion in {self.id}"


def parts_to_json(parts: Sequence[Part]) -> str:
    """Write *parts* for an event; none are the empty text."""
    return json.dumps([astuple(part) for part in parts], separators=(",", ":")) if parts else ""


def parts_from_json(text: str) -> list[Part]:
    """Read what `parts_to_json` wrote."""
    return [Part(*values) for values in json.loads(text)] if text else []
