"""
Spools as a person looks at them, also while their gateways run: nothing here writes, moves or keeps a lock.

A file that is being written may end in the middle of a record, and one that is listed may be gone when it is opened.
"""

import fcntl
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.errors import InvalidInput, NotFoundError
from gateway.stores.spool_format import Closed, Opened, Record, Scan, event_to_json, scan
from gateway.stores.spool_writer import LOCK_NAME, QUARANTINE, QUARANTINED_SUFFIX, SEGMENT_SUFFIX


@dataclass(frozen=True, slots=True)
class SegmentReading:
    """One file: what it holds, and where it does not read, as (offset, length)."""

    path: Path
    size: int
    closed: int
    damage: tuple[tuple[int, int], ...]
    torn_bytes: int


@dataclass(slots=True)
class SpoolReading:
    """One gateway's spool: its segments, how many requests are open in it, when its oldest file was last written."""

    name: str
    is_live: bool
    open: int = 0
    oldest_s: float | None = None
    segments: list[SegmentReading] = field(default_factory=list)

    @property
    def closed(self) -> int:
        return sum(segment.closed for segment in self.segments)

    @property
    def size(self) -> int:
        return sum(segment.size for segment in self.segments)

    @property
    def damaged(self) -> list[SegmentReading]:
        """Segments with damage; the end of the last one, cut short by a crash or just being written, is none."""
        last = self.segments[-1].path if self.segments else None
        return [each for each in self.segments if each.damage or (each.torn_bytes and each.path != last)]


def read_spools(root: Path) -> list[SpoolReading]:
    """Read every spool under *root* to its last byte, in the order of their names."""
    folders = (path for path in root.glob("*") if path.is_dir() and not path.name.startswith("."))
    return [_read_spool(folder) for folder in sorted(folders)]


def read_quarantine(root: Path) -> list[SegmentReading]:
    """Read the damaged segments that are kept under *root*."""
    paths = sorted((root / QUARANTINE).glob(f"*{QUARANTINED_SUFFIX}"))
    return [_describe(path, found) for path in paths if (found := _scan(path)) is not None]


def find_segment(root: Path, name: str) -> Path:
    """
    Find a segment by what it is called in a listing: quarantined, or of a spool as `folder/file`.

    Raises InvalidInput for a name that leads out of *root*, NotFoundError if there is none.
    """
    if ".." in Path(name).parts or Path(name).is_absolute():
        raise InvalidInput(f"{name!r} is not the name of a segment. `sluice spool status` lists them.")
    for path in (root / QUARANTINE / name, root / name):
        if path.is_file() and path.suffix in {SEGMENT_SUFFIX, QUARANTINED_SUFFIX}:
            return path
    raise NotFoundError(f"There is no segment {name!r} under {root}. `sluice spool status` lists them.")


def readable_records(path: Path) -> tuple[list[dict[str, Any]], Scan]:
    """Give a segment's readable records as JSON objects, and what was unreadable. Raises OSError."""
    found = scan(path.read_bytes())
    return [_to_json(record) for record in found.records], found


def _read_spool(folder: Path) -> SpoolReading:
    spool = SpoolReading(folder.name, _is_locked(folder / LOCK_NAME))
    opened: dict[str, None] = {}
    for path in sorted(folder.glob(f"*{SEGMENT_SUFFIX}")):
        found = _scan(path)
        if found is None:
            continue
        spool.segments.append(_describe(path, found))
        with suppress(FileNotFoundError):
            spool.oldest_s = min(spool.oldest_s or float("inf"), path.stat().st_mtime)
        _follow(opened, found.records)
    spool.open = len(opened)
    return spool


def _follow(opened: dict[str, None], records: list[Record]) -> None:
    for record in records:
        if isinstance(record, Opened):
            opened[record.event.id] = None
        elif isinstance(record, Closed):
            opened.pop(record.event.id, None)


def _scan(path: Path) -> Scan | None:
    """Read a segment; None if it is gone, as it was shipped meanwhile."""
    try:
        return scan(path.read_bytes())
    except FileNotFoundError:
        return None


def _describe(path: Path, found: Scan) -> SegmentReading:
    closed = sum(isinstance(record, Closed) for record in found.records)
    return SegmentReading(path, found.size, closed, tuple(found.damage), found.torn_bytes)


def _is_locked(lock: Path) -> bool:
    """Tell whether a process lives that has the lock; one that would take it at this moment tries again later."""
    try:
        descriptor = os.open(lock, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _to_json(record: Record) -> dict[str, Any]:
    if isinstance(record, Closed):
        return {"record": "close", "event": event_to_json(record.event)}
    if isinstance(record, Opened):
        return {"record": "open", "at_ms": record.at_ms, "event": event_to_json(record.event)}
    usage = record.usage
    tokens = {
        "prompt_tokens": usage.prompt,
        "cached_tokens": usage.cached,
        "completion_tokens": usage.completion,
        "reasoning_tokens": usage.reasoning,
    }
    return {"record": "progress", "at_ms": record.at_ms, "id": record.event_id, **tokens}
