"""
When workers that are starting will be ready: as their agents say, else as starts of their pool took before.

An agent knows its download's pace and what loading took on its host; a pool's own starts, seen from outside, are what
is left for agents that start an engine for the first time.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from gateway.core.eta import Coming
from gateway.core.roster import Beat, WorkerState

GAIN = 0.3  # of the latest start: images, disks and models change from one day to the next
OVERDUE_SHARE = 0.1  # a start that takes longer than expected is expected to take this much of its time so far again

STARTING = frozenset({WorkerState.STARTING, WorkerState.DOWNLOADING, WorkerState.LOADING, WorkerState.WARMING})


@dataclass(slots=True)
class _Start:
    """
    A start under way. One that was under way when this gateway began to look is not learnt from.

    *ready_s* is when its agent last said it will be ready.
    """

    pool: str
    began_s: float
    is_whole: bool
    slots: int
    ready_s: float | None = None

    def hear(self, beat: Beat, now_s: float) -> None:
        """Take what the worker says of itself now."""
        self.slots = beat.max_seqs
        self.ready_s = None if beat.ready_in_s is None else now_s + beat.ready_in_s


@dataclass(slots=True)
class _Pool:
    """*lead_s* passes from asking for a worker to its first beat; *asked* are the times of those that are to come."""

    start_s: float | None = None
    lead_s: float | None = None
    slots_each: float = 0.0
    asked: deque[float] = field(default_factory=deque)


class Starts:
    """
    The starts of workers as this gateway sees them, from a worker's first beat to its readiness.

    Times are of one clock that goes forward, in seconds. `look` is asked for about once a second: it costs a look-up
    for each worker there is.
    """

    def __init__(self) -> None:
        self._under_way: dict[str, _Start] = {}
        self._pools: dict[str, _Pool] = {}
        self._has_looked = False

    def look(self, beats: Iterable[Beat], now_s: float) -> None:
        """Take the last beat of every worker that is listed."""
        seen = set()
        for beat in beats:
            if beat.state in STARTING:
                seen.add(beat.worker)
                if beat.worker not in self._under_way:
                    self._begin(beat, now_s)
                self._under_way[beat.worker].hear(beat, now_s)
            elif beat.state is WorkerState.READY and beat.worker in self._under_way:
                self._learn(self._under_way.pop(beat.worker), beat, now_s)
        for gone in self._under_way.keys() - seen:
            del self._under_way[gone]
        self._has_looked = True

    def ask(self, pool: str, workers: int, now_s: float) -> None:
        """Note that so many workers are asked for of which nothing was heard yet: somebody starts them from now on."""
        if not workers and pool not in self._pools:
            return
        asked = self._pools.setdefault(pool, _Pool()).asked
        while len(asked) > workers:
            asked.popleft()
        asked.extend([now_s] * (workers - len(asked)))

    def expect(self, pool: str, start_s: float | None, lead_s: float = 0.0, slots_each: float = 0.0) -> None:
        """Go by what others know of the pool's starts, until one is seen here."""
        known = self._pools.setdefault(pool, _Pool())
        if known.start_s is None and start_s is not None:
            known.start_s, known.lead_s = start_s, lead_s
        known.slots_each = known.slots_each or slots_each

    def coming(self, pool: str, now_s: float) -> list[Coming]:
        """List when the workers of *pool* that are starting or asked for will be ready, where that is known."""
        known = self._pools.get(pool) or _Pool()
        slots_each = max(1, round(known.slots_each))
        under_way = [start for start in self._under_way.values() if start.pool == pool]
        expected = [(_ready_s(start, known.start_s, now_s), start.slots or slots_each) for start in under_way]
        if known.start_s is not None:
            whole_s = known.start_s + (known.lead_s or 0.0)
            expected += [(now_s + _left_s(whole_s, now_s - asked_s), slots_each) for asked_s in known.asked]
        return [Coming(ready_s, slots) for ready_s, slots in expected if ready_s is not None]

    def under_way_s(self, pool: str, now_s: float) -> list[float]:
        """List in how many seconds the workers of *pool* that beat and are starting will be ready, where known."""
        known = self._pools.get(pool) or _Pool()
        starts = [start for start in self._under_way.values() if start.pool == pool]
        expected = [_ready_s(start, known.start_s, now_s) for start in starts]
        return [ready_s - now_s for ready_s in expected if ready_s is not None]

    def start_s(self, pool: str) -> float | None:
        """Tell how long it takes from asking for a worker to its readiness; None while no start was seen."""
        known = self._pools.get(pool)
        return None if known is None or known.start_s is None else known.start_s + (known.lead_s or 0.0)

    def learnt(self, pool: str) -> tuple[float | None, float, float]:
        """Give what `expect` takes of a pool: the start, what passes before its first beat, a worker's places."""
        known = self._pools.get(pool) or _Pool()
        return known.start_s, known.lead_s or 0.0, known.slots_each

    def _begin(self, beat: Beat, now_s: float) -> None:
        """Note a start whose first beat has come; the longest asked for is taken to be this one."""
        pool = self._pools.setdefault(beat.pool, _Pool())
        if pool.asked:
            pool.lead_s = _learnt(pool.lead_s, now_s - pool.asked.popleft())
        self._under_way[beat.worker] = _Start(beat.pool, now_s, self._has_looked, beat.max_seqs)

    def _learn(self, start: _Start, beat: Beat, now_s: float) -> None:
        pool = self._pools.setdefault(beat.pool, _Pool())
        pool.slots_each += (GAIN if pool.slots_each else 1.0) * (beat.max_seqs - pool.slots_each)
        if start.is_whole:
            pool.start_s = _learnt(pool.start_s, now_s - start.began_s)

    def __repr__(self) -> str:
        return f"<Starts [{len(self._under_way)} under way, {len(self._pools)} pools known]>"


def _learnt(known_s: float | None, took_s: float) -> float:
    return took_s if known_s is None else known_s + GAIN * (took_s - known_s)


def _ready_s(start: _Start, known_s: float | None, now_s: float) -> float | None:
    if start.ready_s is not None:
        return max(start.ready_s, now_s)
    return None if known_s is None else now_s + _left_s(known_s, now_s - start.began_s)


def _left_s(expected_s: float, elapsed_s: float) -> float:
    return max(expected_s - elapsed_s, OVERDUE_SHARE * elapsed_s)
