"""Tells the holds what the Journal says each budget has spent, and which of this gateway's requests are in that."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import structlog

from gateway.core.binding import Bindings
from gateway.core.budgets import Budget
from gateway.core.holds import Base, BudgetAsk
from gateway.core.periods import account
from gateway.core.spending import Counter, period_ms
from gateway.core.usage import MeterEvent
from gateway.errors import StoreUnavailable
from gateway.ports.budgets import BudgetStore
from gateway.ports.directory import DirectoryReader
from gateway.ports.holds import Holds
from gateway.ports.journal import Appended, EngineReading, Journal

EVERY_S = 1.0  # what other gateways shipped is known as soon
PAUSE_S = 0.05  # between two readings however fast batches are shipped

log = structlog.get_logger()

Listener = Callable[[Sequence[tuple[Budget, Counter]]], Awaitable[None]]


class BudgetFeed:
    """
    Reads counters from the Journal's store and posts those that changed, each second and after each batch shipped.

    An account keeps its part of a request in `spent` until a base has come that has the request in it: what counts
    twice for a moment errs on the safe side. *listener* is told of counters of the present that changed.
    """

    def __init__(
        self,
        store: BudgetStore,
        directory: DirectoryReader,
        now_ms: Callable[[], int],
        listener: Listener | None = None,
    ) -> None:
        self._store = store
        self._directory = directory
        self._now_ms = now_ms
        self._listener = listener
        self._holds: Holds | None = None
        self._versions: dict[str, int] = {}
        self._shipped: list[MeterEvent] = []
        self._dead: list[str] = []
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._is_failing = False

    def __repr__(self) -> str:
        return f"<BudgetFeed {len(self._versions)} accounts [{len(self._shipped)} events to post]>"

    async def read_bases(self, asks: Sequence[BudgetAsk]) -> Sequence[Base]:
        """Read the bases of accounts, as `ports/holds.ReadBases`."""
        periods, ids = {ask.begins_ms for ask in asks}, {ask.id for ask in asks}
        found = await asyncio.to_thread(self._store.counters, periods, ids)
        counters = {account(each.budget, each.period_ms): each for each in found}
        return [_base(ask.tenant, ask.account, counters.get(ask.account)) for ask in asks]

    def took(self, events: Sequence[MeterEvent]) -> None:
        """Hear that *events* are in the Journal, new or replayed. From any thread."""
        self._loop.call_soon_threadsafe(self._take, events)

    def forget(self, owner: str) -> None:
        """Hear that all events of the dead *owner* are in the Journal: the next bases have them."""
        self._dead.append(owner)
        self._news.set()

    async def start(self, holds: Holds) -> None:
        """Post all bases of the present to *holds*, then go on; a store that is away is logged."""
        self._holds = holds
        await self._turn()
        self._task = asyncio.create_task(self._run(), name="budget_feed")

    async def aclose(self) -> None:
        """Post what was shipped last, and stop."""
        if self._task:
            self._task.cancel()
            await asyncio.wait({self._task})
            await self._turn()

    def _take(self, events: Sequence[MeterEvent]) -> None:
        if self._directory.snapshot.budgets:
            self._shipped += events
            self._news.set()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(PAUSE_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(EVERY_S):
                    await self._news.wait()
            self._news.clear()
            await self._turn()

    async def _turn(self) -> None:
        try:
            await self._feed()
            self._is_failing = False
        except StoreUnavailable as error:
            if not self._is_failing:
                log.warning("budget_bases_not_read", reason=str(error))
            self._is_failing = True
        except Exception:  # the supervisor of this loop: without it hard budgets would refuse all, for good
            log.exception("budget_feed_failed")

    async def _feed(self) -> None:
        declared = self._directory.snapshot.budgets
        if not declared and not self._dead:
            return
        assert self._holds, "started before its first turn"
        shipped, dead = self._shipped[:], self._dead[:]
        touched = dict(_accounts(declared, shipped))
        now = _present(declared, self._now_ms())
        wanted = now | touched
        found = await asyncio.to_thread(self._store.counters, {at_ms for _, at_ms in wanted.values()})
        counters = {account(each.budget, each.period_ms): each for each in found}
        changed = {name for name in wanted if self._is_news(name, counters.get(name))}
        bases = [_base(wanted[name][0].tenant, name, counters.get(name)) for name in sorted(changed | touched.keys())]
        if bases or shipped:
            await self._holds.post(bases, [event.id for event in shipped])
        await self._bury(dead, declared)
        del self._shipped[: len(shipped)], self._dead[: len(dead)]
        await self._tell([(now[name][0], counters[name]) for name in sorted(changed & now.keys() & counters.keys())])
        self._versions = {name: counters[name].version if name in counters else 0 for name in wanted}

    def _is_news(self, name: str, counter: Counter | None) -> bool:
        return self._versions.get(name) != (counter.version if counter else 0)

    async def _bury(self, owners: Sequence[str], declared: Mapping[str, Budget]) -> None:
        for owner in owners:
            assert self._holds, "started before its first turn"
            await self._holds.forget(owner, {budget.tenant for budget in declared.values()})

    async def _tell(self, changed: Sequence[tuple[Budget, Counter]]) -> None:
        if changed and self._listener:
            await self._listener(changed)


class FedJournal:
    """A `Journal` that tells the feed what it has committed, replays included."""

    def __init__(self, journal: Journal, feed: BudgetFeed) -> None:
        self._journal = journal
        self._feed = feed

    def append(self, events: Sequence[MeterEvent]) -> Appended:
        appended = self._journal.append(events)
        self._feed.took(events)
        return appended

    def append_readings(self, readings: Sequence[EngineReading]) -> None:
        self._journal.append_readings(readings)


def _present(declared: Mapping[str, Budget], now_ms: int) -> dict[str, tuple[Budget, int]]:
    """Give the accounts of all budgets in the periods of now: budget and beginning of the period."""
    alive = ((budget, period_ms(budget, now_ms)) for budget in declared.values() if not budget.is_removed)
    return {account(budget.id, at_ms): (budget, at_ms) for budget, at_ms in alive}


def _accounts(
    declared: Mapping[str, Budget], events: Collection[MeterEvent]
) -> Iterator[tuple[str, tuple[Budget, int]]]:
    """Give the accounts that *events* are part of; also of budgets that were removed meanwhile."""
    bindings = Bindings[Budget].of(replace(budget, is_removed=False) for budget in declared.values())
    for event in events:
        for budget in bindings.bind(event.tenant, event.project, event.key, event.model):
            at_ms = period_ms(budget, event.arrived_ms)
            yield account(budget.id, at_ms), (budget, at_ms)


def _base(tenant: str, name: str, counter: Counter | None) -> Base:
    return Base(tenant, name, counter.version, counter.spent) if counter else Base(tenant, name, 0, 0)
