"""The data plane's view of the Directory: polled, held in memory, kept on disk for a start without the database."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import structlog

from gateway.core.directory import Snapshot
from gateway.errors import StoreUnavailable
from gateway.ports.directory import DirectoryStore
from gateway.stores.directory_file import load_snapshot, save_snapshot

FRESH_S_MIN = 1.0  # a revoked key may work for as long
FRESH_POLLS = 4
BACKOFF_S_MAX = 2.0  # what waits longer for a database that is back only serves stale keys
SAVE_DELAY_S = 1.0  # changes come in bursts; one write serves them all
SAVE_SHARE = 20  # and writing takes at most a twentieth of one core: 200,000 keys need about a second

_Result = TypeVar("_Result")
log = structlog.get_logger()


class DirectoryFollower:
    """
    The `DirectoryReader` of one process. Its snapshot is replaced whole, never altered.

    When the store is away the last snapshot stays; `is_fresh` and `age_s` tell how old it is.
    """

    def __init__(self, store: DirectoryStore, path: Path, *, poll_s: float = 0.25) -> None:
        self._store = store
        self._path = path
        self._poll_s = poll_s
        self._snapshot = Snapshot()
        self._polled_at: float | None = None
        self._saved_version = 0
        self._save_due_at = 0.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="directory")
        self._saver = ThreadPoolExecutor(1, thread_name_prefix="directory-save")
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()

    def __repr__(self) -> str:
        state = "fresh" if self.is_fresh else "stale"
        return f"<DirectoryFollower {state} at version {self._snapshot.version} [{len(self._snapshot.keys)} keys]>"

    @property
    def snapshot(self) -> Snapshot:
        return self._snapshot

    @property
    def age_s(self) -> float:
        """How long ago the store last answered; infinite if it never did."""
        return float("inf") if self._polled_at is None else time.monotonic() - self._polled_at

    @property
    def is_fresh(self) -> bool:
        """Whether the snapshot is what the store has, but for the last moments."""
        return self.age_s <= max(FRESH_S_MIN, FRESH_POLLS * self._poll_s)

    async def start(self) -> None:
        """Load what is kept on disk, ask the store once, and begin following it. A store that is away is logged."""
        self._snapshot = await self._in_thread(self._thread, load_snapshot, self._path)
        self._saved_version = self._snapshot.version
        try:
            await self.refresh()
        except StoreUnavailable as error:
            version, is_empty = self._snapshot.version, not self._snapshot.keys
            log.warning("directory_starts_without_store", version=version, is_empty=is_empty, error=str(error))
        self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._keep_saved())]

    async def refresh(self) -> None:
        """Read the latest changes now. Raises StoreUnavailable; the snapshot stays then."""
        self._snapshot = await self._in_thread(self._thread, self._poll)
        self._polled_at = time.monotonic()

    async def aclose(self) -> None:
        """Stop following; write the snapshot if it is newer than the one on disk."""
        self._stopping.set()
        await asyncio.gather(*self._tasks)
        self._thread.shutdown(wait=False)
        self._saver.shutdown(wait=False)

    def _poll(self) -> Snapshot:
        changes = self._store.changes_since(self._snapshot.version)
        if changes is None:
            return self._snapshot
        base = self._snapshot if 0 < self._snapshot.version < changes.version else Snapshot()
        return base.apply(changes)

    async def _follow(self) -> None:
        wait_s = self._poll_s
        while not await self._stops_within(wait_s):
            try:
                await self.refresh()
                wait_s = self._poll_s
            except StoreUnavailable as error:
                log.warning("directory_store_unavailable", version=self._snapshot.version, error=str(error))
                wait_s = min(2 * wait_s, BACKOFF_S_MAX)
            except Exception:  # the supervisor of this loop: without it revoked keys would work for ever
                log.exception("directory_poll_failed")
                wait_s = min(2 * wait_s, BACKOFF_S_MAX)

    async def _keep_saved(self) -> None:
        wait_s = SAVE_DELAY_S
        while not await self._stops_within(wait_s):
            wait_s = await self._save()
        await self._save()

    async def _save(self) -> float:
        """Write the snapshot if it has changed; gives how long to wait before the next time."""
        snapshot, started_at = self._snapshot, time.monotonic()
        if snapshot.version == self._saved_version:
            return SAVE_DELAY_S
        try:
            await self._in_thread(self._saver, save_snapshot, self._path, snapshot)
        except OSError as error:
            log.warning("directory_not_saved", path=str(self._path), error=str(error))
        else:
            self._saved_version = snapshot.version
        return max(SAVE_DELAY_S, SAVE_SHARE * (time.monotonic() - started_at))

    async def _stops_within(self, wait_s: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), wait_s)
        return self._stopping.is_set()

    async def _in_thread(self, thread: ThreadPoolExecutor, work: Callable[..., _Result], *args: object) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(thread, work, *args)
