"""The way of a meter event: spool on local disk, then the Journal in SQL."""

from collections.abc import Awaitable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.core.prices import PriceVersion
from gateway.core.rating import Rated
from gateway.core.statement import UsageSum
from gateway.core.usage import MeterEvent, Usage


class Spool(Protocol):
    """
    This process's append-only file of meter events. What is CLOSEd here reaches the Journal exactly once.

    `progress` and `note` are buffered and never block; they become durable with the next group commit (≤ 50 ms later).
    """

    def check(self) -> None:
        """Raise StoreUnavailable, saying why, if no request may be dispatched now: one need not wait in line then."""

    def open(self, event: MeterEvent) -> Awaitable[None]:
        """
        Note at dispatch that *event*'s request may cost something; usage and ending are still empty in it.

        If this process dies before `close`, whoever recovers the spool settles the event at its last progress, as
        `interrupted`. Raises StoreUnavailable at once if the disk cannot take it: then the request must not be
        dispatched. What it gives may be awaited until the note is durable (raises StoreUnavailable if the disk
        fails): before that nothing may reach the client, or a crash could make delivered tokens vanish from the books.
        The disk works while the engine does, so the wait is over before there is anything to deliver.
        """

    def progress(self, event_id: str, usage: Usage) -> None:
        """Note what an open stream has delivered so far; cumulative, the largest counts."""

    async def close(self, event: MeterEvent) -> None:
        """
        Write the final event; returns once it is durable. Idempotent by `event.id`: the first one counts.

        If the disk fails it waits until the disk takes the event again or the Journal has it, whichever comes first:
        an answer that got its last byte must be on the books whatever dies then. Cancelling the wait does not undo
        the write: the event stays in memory and is written with the next commit.
        """

    def note(self, event: MeterEvent) -> None:
        """Write the event of a request that was never dispatched (a denial); does not wait for the disk."""


class SpoolHealth(Protocol):
    """What metrics and /readyz show of the spool and its shipper."""

    @property
    def backlog_events(self) -> int:
        """Closed events not yet committed in the Journal."""

    @property
    def backlog_age_s(self) -> float:
        """Age of the oldest of them; 0 when there is none."""

    @property
    def is_shipping(self) -> bool:
        """Whether the last attempt to write to the Journal succeeded."""

    @property
    def is_writable(self) -> bool:
        """Whether requests may be dispatched: the last commit to the disk succeeded and its budget is not used up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReading:
    """
    Cumulative token counters of one engine process, as its agent read them. Keyed by (worker, started_ms, read_ms).

    *started_ms* is the engine's own process start: counters begin at zero there. `probe_*` are the tokens of the
    agent's own readiness requests, which no tenant pays. *prompt_tokens* counts prompt × n, cached ones too.
    """

    worker: str
    pool: str
    started_ms: int
    read_ms: int
    prompt_tokens: int
    completion_tokens: int
    probe_prompt_tokens: int
    probe_completion_tokens: int


@dataclass(frozen=True, slots=True)
class Appended:
    """How many events of a batch were *new*, and those, with what they cost."""

    new: int
    rated: tuple[Rated, ...] = ()


class Journal(Protocol):
    """Meter events for good. Blocking: call it from a thread. Raises StoreUnavailable within its time limit."""

    def append(self, events: Sequence[MeterEvent]) -> Appended:
        """
        Write *events*, rated, with all that follows from them (rollups, budgets, transfers), in one transaction.

        Idempotent by `event.id`, also for a batch that was written in part before, or by another gateway at the same
        time: what is not new changes nothing. The same id must always come with the same `arrived_ms`.
        """

    def append_readings(self, readings: Sequence[EngineReading]) -> None:
        """Write engine readings in one transaction; replaying one changes nothing."""


class JournalReader(Protocol):
    """
    The Journal as finance reads it; a read-only database role is enough. Blocking: call it from a thread.

    Intervals are half-open, [from_ms, to_ms), in Unix milliseconds. All raise StoreUnavailable within their time limit.
    """

    def usage_of_parts(
        self,
        parts: Sequence[tuple[int, int]],
        by: Collection[str] = (),
        *,
        tenant: str | None = None,
        key: str | None = None,
    ) -> Sequence[Sequence[UsageSum]]:
        """
        Sum the events that arrived in each interval by any of tenant, project, key, model, pool, in one transaction.

        Only *tenant*'s, or only those of *key*, if given. A model that there is not counts as no model.
        """

    def prices_of(self, ids: Collection[str]) -> Mapping[str, PriceVersion]:
        """Give the price versions with these ids, as far as there are any."""

    def event(self, event_id: str) -> MeterEvent | None:
        """Find one event."""

    def known(self, event_ids: Sequence[str]) -> Collection[str]:
        """Give those of *event_ids* that the Journal has."""

    def knows_tenant(self, tenant: str) -> bool:
        """Whether there is such a tenant, or ever was an event of it."""
