"""
This process's spool: meter events on local disk, in a folder that only this process writes.

All state belongs to the event loop. One thread writes and syncs, a batch at a time; whatever arrives meanwhile makes
the next batch. So the cost of a sync is shared by all requests that end while one is running.
"""

import asyncio
import os
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future as ThreadFuture
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import structlog

from gateway.core.usage import MeterEvent, Usage
from gateway.errors import StoreUnavailable
from gateway.stores.spool_backlog import Backlog, Segment
from gateway.stores.spool_format import Closed, encode_close, encode_open, encode_progress, scan
from gateway.stores.spool_open import OpenRequests
from gateway.stores.spool_recovery import settle_lost
from gateway.stores.spool_writer import (
    SEGMENT_SUFFIX,
    SegmentWriter,
    free_bytes,
    keep_aside,
    make_locked_folder,
    segment_path,
)

STORE = "spool"
IDLE_COMMIT_S = 0.05  # the longest that a record nobody waits for stays in memory: else each would cost a sync
RETRY_S = 0.25  # after the disk failed
DISK_LOOK_S = (
    0.5  # between two looks at the disk's free space: a disk that others fill in less fails, and is waited for
)
SEGMENTS_MIN = 4  # the disk budget holds at least this many segments, or it could never shrink
NOTES_PENDING_MAX = 10_000  # denials kept in memory while the disk fails, about 10 MiB
RESERVE = 1.1  # above bytes_max by this factor denials are no longer written; what was dispatched always is
DISK_RESERVE = 0.5  # nor below this part of the free space that is kept for what was dispatched

log = structlog.get_logger()


class SpoolState(Enum):
    """Whether requests may be dispatched, and if not, why."""

    OK = "ok"
    DISK_FAILED = "disk_failed"  # the last write did not succeed
    BUDGET_USED = "budget_used"  # the spool has all the bytes it may have
    DISK_LOW = "disk_low"  # the file system has next to no room left, whoever took it


@dataclass(slots=True, eq=False)
class _Entry:
    """A record on its way to disk: its bytes, how it counts once durable, who waits for it."""

    data: bytes
    count: Callable[[Backlog], None]
    event: MeterEvent | None = None
    waiter: asyncio.Future[None] | None = None


class FileSpool:
    """
    The `Spool` on a local file system. To be used from one event loop; makes and locks its folder at once.

    *commit_interval_ms* is the least time between the starts of two syncs: a lone close is written at once, closes in
    quick succession share a sync. While the file system has less than *free_bytes_min* left no request is dispatched:
    the rest is for the endings of those that were. Raises OSError if the folder cannot be made.
    """

    def __init__(
        self,
        root: Path,
        gateway_id: str,
        *,
        segment_bytes: int = 8 << 20,
        bytes_max: int = 2 << 30,
        free_bytes_min: int = 0,
        commit_interval_ms: float = 0.0,
        memory_events_max: int = 50_000,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.root = root
        self.folder, self._lock = make_locked_folder(root, gateway_id)
        self.backlog = Backlog(memory_events_max)
        self.requests = OpenRequests()
        self.notes_dropped = 0
        self.damaged_bytes = 0
        self.disk_free_bytes = free_bytes(self.folder)
        self._bytes_max = bytes_max
        self._free_bytes_min = free_bytes_min
        self._interval_s = commit_interval_ms / 1000
        self._now_ms = now_ms
        self._writer = SegmentWriter(self.folder, min(segment_bytes, bytes_max // SEGMENTS_MIN))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._pending: list[_Entry] = []
        self._is_committing = False
        self._has_failed = False
        self._timer: asyncio.Handle | None = None
        self._timer_at = 0.0
        self._commit_started_at = 0.0
        self._was_low = False
        self._is_closed = False
        self._look = asyncio.get_running_loop().call_soon(self._look_at_disk)

    def __repr__(self) -> str:
        return f"<FileSpool {self.folder.name} [{len(self._pending)} pending] {self.backlog!r}>"

    @property
    def is_full(self) -> bool:
        """Whether the disk budget is used up."""
        return self.backlog.size >= self._bytes_max

    @property
    def is_low(self) -> bool:
        """Whether the disk has less room left than is kept for requests that are under way."""
        return self.disk_free_bytes < self._free_bytes_min

    @property
    def state(self) -> SpoolState:
        """Whether a request may be dispatched, and if not, why; what is worst comes first."""
        if self._has_failed:
            return SpoolState.DISK_FAILED
        if self.is_full:
            return SpoolState.BUDGET_USED
        return SpoolState.DISK_LOW if self.is_low else SpoolState.OK

    @property
    def is_writable(self) -> bool:
        """Whether a request may be dispatched: the last commit succeeded, and budget and disk have room."""
        return self.state is SpoolState.OK

    def check(self) -> None:
        if (state := self.state) is not SpoolState.OK:
            raise StoreUnavailable(STORE, self._explain(state))

    def open(self, event: MeterEvent) -> asyncio.Future[None]:
        self.check()
        at_ms = self._now_ms()
        self.requests.opened(event, at_ms, time.monotonic())
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        durable.add_done_callback(_look_at)
        data = encode_open(event, at_ms)
        self._append(_Entry(data, lambda _: self._opened(event.id), waiter=durable))
        return durable

    def progress(self, event_id: str, usage: Usage) -> None:
        at_ms = self._now_ms()
        self.requests.progressed(event_id, usage, at_ms)
        data = encode_progress(event_id, usage, at_ms)
        self._append(_Entry(data, lambda backlog: backlog.progressed(event_id)))

    async def close(self, event: MeterEvent) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self.requests.closed(event.id)
        self._append(_closing(event, waiter))
        await waiter

    def note(self, event: MeterEvent) -> None:
        if self._has_room_for_notes():
            self._append(_closing(event))
        else:
            self.notes_dropped += 1

    async def flush(self) -> None:
        """Return once all that was handed in so far is durable; raises StoreUnavailable if the disk fails."""
        if self._pending or self._is_committing:
            waiter = asyncio.get_running_loop().create_future()
            self._append(_Entry(b"", lambda _: None, waiter=waiter))
            await waiter

    def unwritten(self) -> list[MeterEvent]:
        """Give the closed events that are in memory alone, for a process that stops while its disk fails."""
        return [entry.event for entry in self._pending if entry.event]

    def stranded(self) -> list[MeterEvent]:
        """Give the closed events that the disk refuses and that somebody waits for."""
        awaited = (entry for entry in self._pending if self._has_failed and entry.waiter and not entry.waiter.done())
        return [entry.event for entry in awaited if entry.event]

    def kept_elsewhere(self, events: Collection[MeterEvent]) -> None:
        """Note that *events* are in the Journal: nobody waits for the disk any more, which gets them when it can."""
        ids = {event.id for event in events}
        for entry in self._pending:
            if entry.event and entry.event.id in ids and entry.waiter and not entry.waiter.done():
                entry.waiter.set_result(None)

    def read_closed(self, segment: Segment, still_open: Collection[str]) -> list[MeterEvent]:
        """
        Read a sealed segment's events from its file. Blocking; raises OSError.

        A damaged one is kept aside, and requests whose CLOSE was lost in it are settled at their last progress;
        *still_open* are the backlog's `open_ids` of a moment ago.
        """
        path = segment_path(self.folder, segment.number)
        found = scan(path.read_bytes())
        events = [record.event for record in found.records if isinstance(record, Closed)]
        if not (found.damage or found.torn_bytes):
            return events
        log.error("spool_segment_damaged", segment=str(path), damage=found.damage, torn_bytes=found.torn_bytes)
        keep_aside(path)
        self.damaged_bytes += found.damaged_bytes + found.torn_bytes
        return events + settle_lost(sorted(self.folder.glob(f"*{SEGMENT_SUFFIX}")), path, still_open)

    def shipped(self, segment: Segment, count: int) -> None:
        """Note that the first *count* events of *segment* are in the Journal; deletes files that nobody needs now."""
        self.backlog.shipped(segment, count)
        for number in self.backlog.take_deletable():
            self._thread.submit(_unlink, segment_path(self.folder, number))

    async def aclose(self) -> None:
        """
        Write what is pending and unlock the folder; it goes away if all of it is in the Journal.

        Otherwise the next start on this host adopts it. Never raises: what the disk does not take is logged.
        """
        try:
            await self.flush()
        except StoreUnavailable as error:
            log.critical("spool_not_flushed", events=len(self.unwritten()), error=str(error))
        if self._timer:
            self._timer.cancel()
        self._is_closed = True
        self._look.cancel()
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)
        self._writer.close()
        if self.backlog.is_settled and not self._pending:
            shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)

    def _opened(self, event_id: str) -> None:
        self.backlog.opened(event_id)
        self.requests.kept(event_id)

    def _explain(self, state: SpoolState) -> str:
        return {
            SpoolState.DISK_FAILED: "the last write to its disk failed; it is tried again all the time",
            SpoolState.BUDGET_USED: f"its {self._bytes_max} bytes are full of events not yet in the Journal",
            SpoolState.DISK_LOW: f"its disk has {self.disk_free_bytes} bytes free, less than the {self._free_bytes_min}"
            " kept for requests under way",
        }[state]

    def _has_room_for_notes(self) -> bool:
        if self._has_failed and len(self._pending) >= NOTES_PENDING_MAX:
            return False
        has_disk = self.disk_free_bytes >= self._free_bytes_min * DISK_RESERVE
        return has_disk and self.backlog.size < self._bytes_max * RESERVE

    def _look_at_disk(self) -> None:
        loop = asyncio.get_running_loop()
        job = self._thread.submit(free_bytes, self.folder)
        job.add_done_callback(lambda done: loop.call_soon_threadsafe(self._looked, done))

    def _looked(self, job: "ThreadFuture[int]") -> None:
        """Take what the writer's thread saw; a look that failed leaves the last one, as writing fails then too."""
        if job.exception() is None:
            self.disk_free_bytes = job.result()
        if not self._is_closed:
            self._look = asyncio.get_running_loop().call_later(DISK_LOOK_S, self._look_at_disk)
        if self.is_low is not self._was_low:
            self._was_low = self.is_low
            say = log.error if self.is_low else log.info
            say("spool_disk_low" if self.is_low else "spool_disk_has_room", free_bytes=self.disk_free_bytes)

    def _append(self, entry: _Entry) -> None:
        self._pending.append(entry)
        if not self._is_committing and not self._has_failed:
            self._schedule(is_awaited=entry.waiter is not None)

    def _schedule(self, *, is_awaited: bool) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        at = max(now, self._commit_started_at + self._interval_s) if is_awaited else now + IDLE_COMMIT_S
        if self._timer and self._timer_at <= at:
            return
        if self._timer:
            self._timer.cancel()
        self._timer_at = at
        self._timer = loop.call_at(at, self._commit)

    def _commit(self) -> None:
        loop = asyncio.get_running_loop()
        batch, self._pending = self._pending, []
        self._timer = None
        self._is_committing = True
        self._commit_started_at = loop.time()
        job = self._thread.submit(self._writer.append, b"".join([entry.data for entry in batch]))
        job.add_done_callback(lambda done: loop.call_soon_threadsafe(self._committed, batch, done))

    def _committed(self, batch: list[_Entry], job: "ThreadFuture[int]") -> None:
        self._is_committing = False
        error = job.exception()
        if error is not None:
            self._keep_for_retry(batch, error)
            return
        if self._pending:
            self._schedule(is_awaited=any(entry.waiter for entry in self._pending))
        self._count_durable(batch, job.result())

    def _count_durable(self, batch: Sequence[_Entry], number: int) -> None:
        had_failed, self._has_failed = self._has_failed, False
        self.backlog.written(number, sum(len(entry.data) for entry in batch))
        for entry in batch:
            entry.count(self.backlog)
            if entry.waiter and not entry.waiter.done():
                entry.waiter.set_result(None)
        if had_failed:
            log.info("spool_disk_recovered", folder=self.folder.name)

    def _keep_for_retry(self, batch: list[_Entry], error: BaseException) -> None:
        """
        Put *batch* back. Who ends a request waits on: its last byte may not leave before this is durable somewhere.

        The log comes last: it may lie on the same full disk, and raise.
        """
        had_failed, self._has_failed = self._has_failed, True
        for entry in batch:
            if entry.event is not None:
                continue
            if entry.waiter and not entry.waiter.done():
                entry.waiter.set_exception(StoreUnavailable(STORE, str(error)))
            entry.waiter = None
        self._pending = [entry for entry in batch if entry.data] + self._pending
        self._timer = asyncio.get_running_loop().call_later(RETRY_S, self._commit)
        if not had_failed:
            log.error("spool_disk_failed", folder=self.folder.name, error=str(error))


def _look_at(durable: asyncio.Future[None]) -> None:
    """Spare asyncio the complaint about an error nobody asked for: a request may end before it asks."""
    if not durable.cancelled():
        durable.exception()


def _closing(event: MeterEvent, waiter: asyncio.Future[None] | None = None) -> _Entry:
    return _Entry(encode_close(event), lambda backlog: backlog.closed(event), event, waiter)


def _unlink(path: Path) -> None:
    try:
        path.unlink()
    except OSError as error:
        log.warning("spool_segment_not_deleted", segment=str(path), error=str(error))
