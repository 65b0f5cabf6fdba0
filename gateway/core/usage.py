"""Token usage, and the meter event that carries it to the Journal."""

from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterEvent:
    """
    The record of one request in the Journal. *id* is permanent: writing it again changes nothing.

    Times are Unix milliseconds (UTC), durations milliseconds; None means it did not happen. *undelivered_tokens* are
    completion tokens that reached the gateway but not the client any more: never billed, kept for reconciliation.
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

    def __post_init__(self) -> None:
        assert self.prompt_tokens >= self.cached_tokens >= 0, f"cached exceeds prompt in {self.id}"
        assert self.completion_tokens >= 0, f"negative completion in {self.id}"
