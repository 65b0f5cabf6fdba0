"""
The spools of processes that died: found by their free lock, read whatever is left of them, settled, removed.

Nothing here writes to the Journal; whoever adopts a spool ships its events and calls `discard` after the commit.
"""

import fcntl
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import structlog

from gateway.core.outcome import Outcome
from gateway.core.usage import Flag, MeterEvent, Usage
from gateway.stores.spool_format import CLOSE, OPEN, Closed, Opened, Record, Scan, scan
from gateway.stores.spool_writer import LOCK_NAME, SEGMENT_SUFFIX, keep_aside

log = structlog.get_logger()


@dataclass(slots=True)
class _Unsettled:
    """A request whose CLOSE has not been seen yet."""

    event: MeterEvent
    last_ms: int
    usage: Usage


class AdoptedSpool:
    """
    One dead process's folder, locked by us. All methods block and may raise OSError.

    *events_estimated* is how many events it will give, counted without decoding them; *since_s* is about when the first
    was written, *size* their bytes. *quarantined_segments*, *damaged_bytes* and *torn_bytes* are final once
    `next_batch` has given the last batch.
    """

    def __init__(self, folder: Path, lock: int) -> None:
        self.folder = folder
        self.torn_bytes = 0
        self._lock: int | None = lock
        self._segments = sorted(folder.glob(f"*{SEGMENT_SUFFIX}"))
        self._damaged: dict[Path, int] = {}
        self._events = self.events()
        self._batch: list[MeterEvent] = []
        self.events_estimated = sum(_count_events(path) for path in self._segments)
        self.size = sum(path.stat().st_size for path in self._segments)
        self.since_s = min((path.stat().st_mtime for path in self._segments), default=0.0)

    def __repr__(self) -> str:
        return f"<AdoptedSpool {self.folder.name} [{len(self._segments)} segments]>"

    @property
    def quarantined_segments(self) -> int:
        return len(self._damaged)

    @property
    def damaged_bytes(self) -> int:
        return sum(self._damaged.values())

    def next_batch(self, size: int) -> list[MeterEvent]:
        """Give at most *size* events, the same ones until `committed` is called; none at the end."""
        if not self._batch:
            try:
                self._batch = list(islice(self._events, size))
            except OSError:
                self._events = self.events()  # a generator that raised would look exhausted, and lose the rest
                raise
        return self._batch

    def committed(self) -> None:
        """Go on to the next batch: the last one is in the Journal."""
        self._batch = []

    def events(self) -> Iterator[MeterEvent]:
        """
        Give the closed events in their order, then each open request settled at its last progress.

        A damaged segment gives what is readable before and after the damage.
        """
        unsettled: dict[str, _Unsettled] = {}
        self._damaged.clear()
        for path in self._segments:
            for record in self._read(path).records:
                if isinstance(record, Closed):
                    unsettled.pop(record.event.id, None)
                    yield record.event
                else:
                    _follow(unsettled, record)
        for request in unsettled.values():
            yield settle(request.event, request.usage, request.last_ms)

    def discard(self) -> None:
        """Remove the folder; to be called once all its events are in the Journal. Damaged segments are kept aside."""
        for path in self._damaged:
            keep_aside(path)
        for path in self._segments:
            path.unlink(missing_ok=True)
        (self.folder / LOCK_NAME).unlink(missing_ok=True)
        self.folder.rmdir()
        self.release()

    def release(self) -> None:
        """Give up the lock; the next one to look may adopt what is left."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def _read(self, path: Path) -> Scan:
        found = scan(path.read_bytes())
        is_last = path == self._segments[-1]
        if found.torn_bytes and is_last:
            log.info("spool_tail_torn", segment=str(path), torn_bytes=found.torn_bytes)
            self.torn_bytes = found.torn_bytes
        if found.damage or (found.torn_bytes and not is_last):
            log.error("spool_segment_damaged", segment=str(path), damage=found.damage, torn_bytes=found.torn_bytes)
            self._damaged[path] = found.damaged_bytes + (0 if is_last else found.torn_bytes)
        return found


def adopt(root: Path) -> list[AdoptedSpool]:
    """Lock and give every spool under *root* whose process is dead. Of several that try at once, one gets it."""
    if not root.is_dir():
        return []
    adopted = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        lock = _try_lock(folder / LOCK_NAME)
        if lock is None:
            continue
        try:
            adopted.append(AdoptedSpool(folder, lock))
        except OSError as error:
            log.warning("spool_not_readable", folder=str(folder), error=str(error))
            os.close(lock)
    return adopted


def settle_lost(segments: Sequence[Path], damaged: Path, still_open: Collection[str]) -> list[MeterEvent]:
    """
    Settle the requests of a living spool whose CLOSE may have been in *damaged*: it is in none of *segments*.

    Their OPEN is in *damaged* or before it; *still_open* are those that have not ended. One whose CLOSE was shipped and
    its file deleted is settled too, which the Journal takes for the replay it is. Blocking; raises OSError.
    """
    unsettled: dict[str, _Unsettled] = {}
    for path in segments:
        for record in _records_of(path):
            if isinstance(record, Closed):
                unsettled.pop(record.event.id, None)
            elif path <= damaged or not isinstance(record, Opened):
                _follow(unsettled, record)
    lost = (request for identity, request in unsettled.items() if identity not in still_open)
    return [settle(request.event, request.usage, request.last_ms) for request in lost]


def settle(opened: MeterEvent, usage: Usage, ended_ms: int) -> MeterEvent:
    """Give the final event of a request whose gateway died: what it had delivered for sure, and no more."""
    return replace(
        opened,
        outcome=Outcome.INTERRUPTED.label,
        status=Outcome.INTERRUPTED.status,
        flag=(Flag.INTERRUPTED if usage.total else Flag.NONE).value,
        ended_ms=max(ended_ms, opened.arrived_ms),  # the clock may have been set back
        prompt_tokens=usage.prompt,
        cached_tokens=usage.cached,
        completion_tokens=usage.completion,
        reasoning_tokens=usage.reasoning,
        images=opened.images if usage.prompt else 0,
        audio_ms=opened.audio_ms if usage.prompt else 0,
    )


def _follow(unsettled: dict[str, _Unsettled], record: Record) -> None:
    if isinstance(record, Opened):
        unsettled[record.event.id] = _Unsettled(record.event, record.at_ms, Usage())
    elif not isinstance(record, Closed) and (request := unsettled.get(record.event_id)):
        request.last_ms = max(request.last_ms, record.at_ms)
        request.usage = _larger(request.usage, record.usage)


def _larger(one: Usage, other: Usage) -> Usage:
    return Usage(
        prompt=max(one.prompt, other.prompt),
        completion=max(one.completion, other.completion),
        cached=max(one.cached, other.cached),
        reasoning=max(one.reasoning, other.reasoning),
    )


def _records_of(path: Path) -> list[Record]:
    try:
        return scan(path.read_bytes()).records
    except FileNotFoundError:
        return []  # shipped meanwhile


def _count_events(path: Path) -> int:
    data = path.read_bytes()
    return max(data.count(f'["{CLOSE}",'.encode()), data.count(f'["{OPEN}",'.encode()))


def _try_lock(path: Path) -> int | None:
    """Lock *path* if nobody has it; None if somebody has, or if it was removed by the one who had it."""
    try:
        lock = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_ours = os.fstat(lock).st_ino == path.stat().st_ino
    except (BlockingIOError, FileNotFoundError):
        is_ours = False
    if not is_ours:
        os.close(lock)
        return None
    return lock
