"""What engines counted and what events say they did: the two sides of reconciliation."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.ports.journal import EngineReading

Engine = tuple[str, int]  # a worker's id, and when its engine's process started


@dataclass(frozen=True, slots=True)
class Work:
    """
    What events that ended in an interval say one worker did; requests that no engine saw are not in it.

    *undelivered_tokens* are completion tokens that reached a gateway, but no client. *choices_prompt_tokens* is what an
    engine counts of prompts beyond the bill: all but one for each choice. *cut_requests* were billed for what had been
    delivered when they broke off, *unanswered_requests* for nothing; of what the engine did for either beyond that,
    events know nothing. *retries* are tries, on other workers, before the one that answered.

    An answer that several workers made is billed where it ended. *carried_prompt_tokens* and
    *carried_completion_tokens* are what its engines counted and other sums have not: of the worker that ended it, what
    it read of the answer so far, less what others made of it; of each other one, what it read and made.
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    undelivered_tokens: int = 0
    choices_prompt_tokens: int = 0
    cut_requests: int = 0
    unanswered_requests: int = 0
    retries: int = 0
    carried_prompt_tokens: int = 0
    carried_completion_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class UnderWay:
    """A request that was under way on a worker at some instant; *first_ms* None: nobody saw its first token come."""

    begun_ms: int
    first_ms: int | None
    ended_ms: int
    prompt_tokens: int  # as the engine counts them, once for each choice
    completion_tokens: int


class WorkReader(Protocol):
    """
    Readings and events by worker. Blocking: call it from a thread. All raise StoreUnavailable within their time limit.

    Intervals are half-open, [from_ms, to_ms), in Unix milliseconds.
    """

    def readings_at(self, at_ms: int, engines: Collection[Engine] | None = None) -> Sequence[EngineReading]:
        """
        Give, for each engine process, its last reading at or before *at_ms*; only of *engines* if given.

        With *engines* it looks up one row for each; without, it walks all readings there are.
        """

    def work(self, from_ms: int, to_ms: int, worker: str | None = None) -> Mapping[str, Work]:
        """Sum the events that ended in the interval by worker; only *worker*'s if given."""

    def under_way(self, worker: str, at_ms: int) -> Sequence[UnderWay]:
        """List the requests *worker* was at work on at *at_ms* that have ended within an hour of it."""
