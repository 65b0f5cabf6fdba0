"""How long workers take to start, learnt pool by pool, and when those that are starting will be ready."""

from collections.abc import Iterable
from dataclasses import dataclass

from gateway.core.eta import Coming
from gateway.core.roster import Beat, WorkerState

GAIN = 0.3  # of the latest start: images, disks and models change from one day to the next
OVERDUE_SHARE = 0.1  # a start that takes longer than expected is expected to take this much of its time so far again

_STARTING = frozenset({WorkerState.STARTING, WorkerState.LOADING, WorkerState.WARMING})


@dataclass(slots=True)
class _Start:
    """A start under way. One that was under way when this gateway began to look is not learnt from."""

    pool: str
    began_s: float
    is_whole: bool
    slots: int


@dataclass(slots=True)
class _Pool:
    start_s: float | None = None
    slots_each: float = 0.0


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
            if beat.state in _STARTING:
                seen.add(beat.worker)
                start = self._under_way.setdefault(
                    beat.worker, _Start(beat.pool, now_s, self._has_looked, beat.max_seqs)
                )
                start.slots = beat.max_seqs
            elif beat.state is WorkerState.READY and beat.worker in self._under_way:
                self._learn(self._under_way.pop(beat.worker), beat, now_s)
        for gone in self._under_way.keys() - seen:
            del self._under_way[gone]
        self._has_looked = True

    def coming(self, pool: str, now_s: float) -> list[Coming]:
        """List when the workers of *pool* that are starting will be ready; none while no start was seen to its end."""
        known = self._pools.get(pool)
        if known is None or known.start_s is None:
            return []
        return [
            Coming(
                now_s + _left_s(known.start_s, now_s - start.began_s), start.slots or max(1, round(known.slots_each))
            )
            for start in self._under_way.values()
            if start.pool == pool
        ]

    def _learn(self, start: _Start, beat: Beat, now_s: float) -> None:
        pool = self._pools.setdefault(beat.pool, _Pool())
        pool.slots_each += (GAIN if pool.slots_each else 1.0) * (beat.max_seqs - pool.slots_each)
        if start.is_whole:
            took_s = now_s - start.began_s
            pool.start_s = took_s if pool.start_s is None else pool.start_s + GAIN * (took_s - pool.start_s)

    def __repr__(self) -> str:
        return f"<Starts [{len(self._under_way)} under way, {len(self._pools)} pools known]>"


def _left_s(expected_s: float, elapsed_s: float) -> float:
    return max(expected_s - elapsed_s, OVERDUE_SHARE * elapsed_s)
