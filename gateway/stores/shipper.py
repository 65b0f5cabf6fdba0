"""
From the spool into the Journal: at least once, in batches, for as long as it takes.

Ids make replays harmless, so the only promise to keep is that nothing leaves the disk before the Journal has it.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from typing import TypeVar

import structlog

from gateway.core.usage import MeterEvent
from gateway.errors import StoreUnavailable
from gateway.ports.journal import EngineReading, Journal
from gateway.stores.open_shipper import OpenShipper
from gateway.stores.spool import FileSpool
from gateway.stores.spool_recovery import AdoptedSpool, adopt
from gateway.stores.spool_writer import count_quarantined

BACKOFF_S_MIN, BACKOFF_S_MAX = 0.2, 5.0
READINGS_MAX = 20_000  # one reading per worker and second: 100 workers for more than three minutes

_Result = TypeVar("_Result")
log = structlog.get_logger()


class Shipper:
    """
    Ships this process's spool, the spools of dead processes on this host, and the engines' readings. `SpoolHealth`.

    *shipped_events* counts what was sent and committed, *replayed_events* how much of that the Journal already had,
    *recovered_events* how much came from dead processes' spools and was new. *opens* tells the database what is open;
    without it, what is open is lost with this host's disk. *on_recovered* is told the folder of each dead process's
    spool once all of its events are in the Journal.
    """

    def __init__(
        self,
        spool: FileSpool,
        journal: Journal,
        opens: OpenShipper | None = None,
        *,
        interval_s: float = 0.5,
        batch: int = 1000,
        adopt_every_s: float = 2.0,
        on_recovered: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.shipped_events = 0
        self.replayed_events = 0
        self.recovered_events = 0
        self.torn_bytes = 0
        self.quarantined_segments = 0
        self.opens = opens
        self._spool = spool
        self._journal = journal
        self._interval_s = interval_s
        self._batch = batch
        self._adopt_every_s = adopt_every_s
        self._on_recovered = on_recovered
        self._damaged_bytes_of_others = 0
        self._adopted: list[AdoptedSpool] = []
        self._readings: deque[EngineReading] = deque(maxlen=READINGS_MAX)
        self._is_shipping = True
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="shipper")
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def __repr__(self) -> str:
        state = "shipping" if self._is_shipping else "waiting for the Journal"
        return f"<Shipper {state} [{self.backlog_events} behind, {len(self._adopted)} adopted spools]>"

    @property
    def backlog_events(self) -> int:
        return self._spool.backlog.events + sum(spool.events_estimated for spool in self._adopted)

    @property
    def backlog_bytes(self) -> int:
        """What the spools take on disk, this process's own and those it recovers."""
        return self._spool.backlog.size + sum(spool.size for spool in self._adopted)

    @property
    def backlog_age_s(self) -> float:
        segment = self._spool.backlog.oldest()
        since = [adopted.since_s for adopted in self._adopted]
        since += [segment.unshipped_since_ms / 1000] if segment else []
        return max(0.0, time.time() - min(since)) if since else 0.0

    @property
    def is_shipping(self) -> bool:
        return self._is_shipping

    @property
    def is_writable(self) -> bool:
        return self._spool.is_writable

    @property
    def notes_dropped(self) -> int:
        """Denials that were not recorded because the spool's disk failed or was full."""
        return self._spool.notes_dropped

    @property
    def damaged_bytes(self) -> int:
        """What was unreadable, other than writes that a crash cut short; the segments it was in are quarantined."""
        return self._damaged_bytes_of_others + self._spool.damaged_bytes

    async def start(self) -> None:
        """Take over what dead processes left, so that the backlog is true from now on, and begin shipping."""
        await self._look_for_orphans()
        self._tasks = [
            asyncio.create_task(self._repeat("ship_spool", self._interval_s, self._ship_spool)),
            asyncio.create_task(self._repeat("ship_orphans", self._adopt_every_s, self._ship_orphans)),
        ]

    def reading(self, reading: EngineReading) -> None:
        """Send an engine's reading along with the next batch; while the Journal is away the newest are kept."""
        self._readings.append(reading)

    async def aclose(self, limit_s: float = 5.0) -> None:
        """Ship what can be shipped within *limit_s*; the next start ships the rest. Then close the spool."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await asyncio.gather(*self._tasks)
                await self._ship_last()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for adopted in self._adopted:
            adopted.release()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _ship_last(self) -> None:
        """Make one last commit and ship it; events that the disk refuses go straight to the Journal."""
        with suppress(StoreUnavailable):
            try:
                await self._spool.flush()
            except StoreUnavailable:
                await self._append(self._spool.unwritten())
            await self._ship_spool()

    async def _repeat(self, name: str, every_s: float, step: Callable[[], Awaitable[None]]) -> None:
        """Run *step* again and again until the stop; wait longer after each failure."""
        backoff_s = BACKOFF_S_MIN
        while not self._stopping.is_set():
            wait_s = every_s
            try:
                await step()
                backoff_s = BACKOFF_S_MIN
            except Exception as error:  # the supervisor of these loops: events must go on being shipped
                self._is_shipping = False
                wait_s, backoff_s = backoff_s, min(2 * backoff_s, BACKOFF_S_MAX)
                if isinstance(error, StoreUnavailable):
                    log.warning("journal_unavailable", step=name, error=str(error), backlog_events=self.backlog_events)
                else:
                    log.exception("shipper_step_failed", step=name)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), wait_s)

    async def _ship_spool(self) -> None:
        await self._ship_stranded()
        await self._ship_readings()
        backlog = self._spool.backlog
        await self._ship_opens()
        while segment := backlog.oldest():
            if segment.spilled:
                backlog.restore(segment, await self._in_thread(self._spool.read_closed, segment, backlog.open_ids))
            events = list(islice(segment.closed, self._batch))
            await self._append(events)
            if self.opens:
                await self.opens.forget(self._in_database, events, are_ours=True)
            self._spool.shipped(segment, len(events))
            await self._ship_opens()

    async def _ship_stranded(self) -> None:
        """Commit what the disk refuses and clients wait for: there it is as durable. The disk gets it later."""
        if stranded := self._spool.stranded():
            await self._append(stranded)
            self._spool.kept_elsewhere(stranded)

    async def _ship_opens(self) -> None:
        if self.opens:
            await self.opens.ship(self._in_database)

    async def _ship_readings(self) -> None:
        while self._readings:
            batch = [self._readings.popleft() for _ in range(min(self._batch, len(self._readings)))]
            try:
                await self._in_database(self._journal.append_readings, batch)
            except StoreUnavailable:
                room = READINGS_MAX - len(self._readings)
                self._readings.extendleft(reversed(batch[-room:] if room else []))
                raise

    async def _ship_orphans(self) -> None:
        await self._look_for_orphans()
        for adopted in list(self._adopted):
            try:
                await self._ship_orphan(adopted)
            except OSError as error:
                log.warning("spool_not_recovered", folder=adopted.folder.name, error=str(error))
                continue
            self._adopted.remove(adopted)
            self._damaged_bytes_of_others += adopted.damaged_bytes
            self.torn_bytes += adopted.torn_bytes
        self.quarantined_segments = await self._in_thread(count_quarantined, self._spool.root)
        if self.opens:
            await self.opens.settle_expired(self._in_database, self._append)

    async def _ship_orphan(self, adopted: AdoptedSpool) -> None:
        while batch := await self._in_thread(adopted.next_batch, self._batch):
            self.recovered_events += await self._append(batch)
            if self.opens:
                await self.opens.forget(self._in_database, batch, are_ours=False)
            adopted.committed()
        await self._in_thread(adopted.discard)
        self._on_recovered(adopted.folder.name)
        log.info("spool_recovered", folder=adopted.folder.name)

    async def _look_for_orphans(self) -> None:
        found = await self._in_thread(adopt, self._spool.root)
        self._adopted.extend(found)

    async def _append(self, events: Sequence[MeterEvent]) -> int:
        appended = await self._in_database(self._journal.append, events)
        self.shipped_events += len(events)
        self.replayed_events += len(events) - appended.new
        if self.opens and appended.new < len(events):
            new = {rated.event.id for rated in appended.rated}
            replayed = [event for event in events if event.id not in new]
            await self.opens.look_for_late(self._in_database, replayed)
        return appended.new

    async def _in_database(self, work: Callable[..., _Result], *args: object) -> _Result:
        result = await self._in_thread(work, *args)
        self._is_shipping = True
        return result

    async def _in_thread(self, work: Callable[..., _Result], *args: object) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)
