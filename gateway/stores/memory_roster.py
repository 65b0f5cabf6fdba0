"""The roster of one gateway: the workers whose beats it knows, and its own work on each."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf

from gateway.core.roster import Beat
from gateway.core.routing import WorkerView


@dataclass(slots=True)
class _Entry:
    """What is known of a worker, until its lease ends."""

    beat: Beat
    ends_s: float
    others_in_flight: int
    suspect_until_s: float = -inf


@dataclass(slots=True)
class _Work:
    """What this gateway has outstanding on a worker; it outlives the worker's lease."""

    tokens: int = 0
    requests: int = 0


@dataclass(slots=True)
class _Page:
    """The views of one pool: made anew only for workers that changed, and looked through only when time is up."""

    views: dict[str, WorkerView] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    listed: tuple[WorkerView, ...] | None = None
    due_s: float = inf  # no lease or suspicion ends before


class MemoryRoster:
    """
    A Roster in memory. *clock* gives monotonic seconds.

    `views` is asked for with every request: it remakes the views of workers that changed since, and copies the rest.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, lease_s: float = 4.0, suspect_s: float = 5.0
    ) -> None:
        self._clock = clock
        self._lease_s = lease_s
        self._suspect_s = suspect_s
        self._entries: dict[str, _Entry] = {}
        self._work: dict[str, _Work] = {}
        self._pages: dict[str, _Page] = {}

    async def beat(self, beat: Beat) -> None:
        self.note(beat, self._lease_s)

    def note(self, beat: Beat, lease_s: float) -> None:
        """Take a beat that is good for *lease_s* from now on."""
        entry = self._entries.get(beat.worker)
        if entry and entry.beat.pool != beat.pool:
            self._strike(beat.worker)
            entry = None
        work = self._work.get(beat.worker)
        others = max(0, beat.running + beat.waiting - (work.requests if work else 0))
        ends_s = self._clock() + lease_s
        if entry:
            entry.beat, entry.ends_s, entry.others_in_flight = beat, ends_s, others
        else:
            self._entries[beat.worker] = _Entry(beat, ends_s, others)
        self._change(beat.worker, ends_s)

    def extend(self, worker: str) -> None:
        """Renew the lease of a worker without a beat of it: there is no way to hear one."""
        entry = self._entries.get(worker)
        if entry:
            entry.ends_s = self._clock() + self._lease_s

    async def forget(self, worker: str) -> None:
        self._strike(worker)

    def views(self, pool: str) -> Sequence[WorkerView]:
        page = self._pages.get(pool)
        if page is None:
            return ()
        if self._clock() >= page.due_s:
            self._look_through(page)
        if page.changed:
            page.views.update((worker, self._view(worker)) for worker in page.changed)
            page.changed.clear()
            page.listed = None
        if page.listed is None:
            page.listed = tuple(page.views.values())
        return page.listed

    def beats(self) -> Sequence[Beat]:
        now_s = self._clock()
        return [entry.beat for entry in self._entries.values() if entry.ends_s > now_s]

    @contextmanager
    def working(self, worker: str, work: int) -> Iterator[None]:
        self._count(worker, work, 1)
        try:
            yield
        finally:
            self._count(worker, -work, -1)

    def suspect(self, worker: str) -> None:
        entry = self._entries.get(worker)
        if entry:
            entry.suspect_until_s = self._clock() + self._suspect_s
            self._change(worker, entry.suspect_until_s)

    def trust(self, worker: str) -> None:
        entry = self._entries.get(worker)
        if entry and entry.suspect_until_s > -inf:
            entry.suspect_until_s = -inf
            self._change(worker)

    async def start(self) -> None:
        """Nothing to start: there is no one to share with."""

    async def aclose(self) -> None:
        """Nothing to stop."""

    def _count(self, worker: str, tokens: int, requests: int) -> None:
        work = self._work.setdefault(worker, _Work())
        work.tokens += tokens
        work.requests += requests
        if not work.requests:
            del self._work[worker]
        self._change(worker)

    def _change(self, worker: str, until_s: float = inf) -> None:
        """Have the view of *worker* made anew, and once more at *until_s*."""
        entry = self._entries.get(worker)
        if entry:
            page = self._pages.setdefault(entry.beat.pool, _Page())
            page.changed.add(worker)
            page.due_s = min(page.due_s, until_s)

    def _look_through(self, page: _Page) -> None:
        """Strike off whose lease has ended, clear whose suspicion has, and find out when to look again."""
        now_s, page.due_s = self._clock(), inf
        for worker in {*page.views, *page.changed}:
            entry = self._entries[worker]
            if entry.ends_s <= now_s:
                self._strike(worker)
                continue
            if -inf < entry.suspect_until_s <= now_s:
                self.trust(worker)
            suspect_until_s = entry.suspect_until_s if entry.suspect_until_s > now_s else inf
            page.due_s = min(page.due_s, entry.ends_s, suspect_until_s)

    def _strike(self, worker: str) -> None:
        entry = self._entries.pop(worker, None)
        if entry:
            page = self._pages[entry.beat.pool]
            page.changed.discard(worker)
            page.views.pop(worker, None)
            page.listed = None
            if not (page.views or page.changed):
                del self._pages[entry.beat.pool]

    def _view(self, worker: str) -> WorkerView:
        entry, work = self._entries[worker], self._work.get(worker)
        beat = entry.beat
        return WorkerView(
            id=worker,
            pool=beat.pool,
            models=frozenset(beat.models),
            url=beat.url,
            state=beat.state,
            engine_key=beat.engine_key,
            max_seqs=beat.max_seqs,
            kv_cache_usage=beat.kv_cache_usage,
            outstanding_tokens=work.tokens if work else 0,
            in_flight=work.requests if work else 0,
            others_in_flight=entry.others_in_flight,
            is_suspect=entry.suspect_until_s > -inf,
        )

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        pools = ", ".join(f"{len(page.views.keys() | page.changed)} in {pool}" for pool, page in self._pages.items())
        return f"<MemoryRoster [{pools or 'no workers'}]>"
