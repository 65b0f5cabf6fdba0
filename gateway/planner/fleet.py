"""
The workers of a pool in virtual time: which one gets a request, and when more are started or stopped.

A request goes to the worker with the least work outstanding that has credit for it (core/routing.py's rule); credit is
what core/credit.py starts from: the engine's sequences, and twice a step's prompt tokens.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from gateway.core.credit import PREFILL_STEPS
from gateway.core.eta import Coming
from gateway.core.routing import SAMPLE
from gateway.planner.caches import BlockCache
from gateway.planner.engine import Engine, Pace


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """
    How many workers: *workers* from the beginning on, up to *workers_max* when they are needed.

    Those take *cold_start_s* from the moment of need until they are ready. None is a pool that does not grow.
    """

    workers: int
    workers_max: int | None = None
    cold_start_s: float = 120.0

    @property
    def most(self) -> int:
        """How many workers there may be at most."""
        return max(self.workers, self.workers_max or 0)


@dataclass(slots=True, eq=False)
class Worker:
    """
    One worker and what is outstanding on it. *version* tells the present event of its engine from stale ones.

    *number* counts workers from the first that was started; *cache* holds prefixes where the plan has them.
    """

    number: int
    engine: Engine
    ready_s: float
    cache: BlockCache
    in_flight: int = 0
    work: int = 0
    prefill_tokens: int = 0
    version: int = 0
    is_leaving: bool = False


class Fleet:
    """The workers that there are, ready, starting or leaving, and the time that was paid for them."""

    def __init__(self, size: Size, pace: Pace, dice: random.Random, cache_tokens: int = 0) -> None:
        self._size = size
        self._cache_tokens = cache_tokens
        self._numbers = count()
        self._pace = pace
        self._dice = dice
        self._prefill_tokens_max = PREFILL_STEPS * pace.max_batched_tokens
        self._workers: list[Worker] = []
        self._ready: list[Worker] = []
        self._gone: list[Worker] = []
        self._paid_s, self._paid_until_s = 0.0, 0.0
        self._start(size.workers, 0.0)
        self.refresh(0.0)

    def __repr__(self) -> str:
        return f"<Fleet [{self.ready} ready of {len(self._workers)}]>"

    @property
    def ready(self) -> int:
        """How many workers take requests."""
        return len(self._ready)

    @property
    def slots(self) -> int:
        """How many requests the ready workers take at once."""
        return self.ready * self._pace.max_num_seqs

    @property
    def busy_s(self) -> float:
        """How long engines had work to do, in sum."""
        return sum(worker.engine.busy_s for worker in (*self._workers, *self._gone))

    @property
    def wasted_tokens(self) -> int:
        """Count the prompt tokens that were prefilled for people who did not wait for the first token."""
        return sum(worker.engine.wasted_tokens for worker in (*self._workers, *self._gone))

    def coming(self, now_s: float) -> list[Coming]:
        """List the capacity that is starting."""
        seqs = self._pace.max_num_seqs
        return [Coming(worker.ready_s, seqs) for worker in self._workers if worker.ready_s > now_s]

    def choose(self, prompt_tokens: int, *, needs_credit: bool = True) -> Worker | None:
        """Give the least loaded worker, of those with credit for a prompt; None if there is none now."""
        first = self._dice.randrange(self.ready) if self.ready > SAMPLE else 0
        best = None
        for seen, place in enumerate(range(first - self.ready, first)):
            if best and seen >= SAMPLE:
                break
            worker = self._ready[place]
            is_less = best is None or worker.work < best.work
            if is_less and (not needs_credit or self._has_credit(worker, prompt_tokens)):
                best = worker
        return best

    @property
    def taking(self) -> Sequence[Worker]:
        """The ready workers."""
        return self._ready

    @property
    def staying(self) -> Sequence[Worker]:
        """The workers that are not leaving, ready or starting."""
        return [worker for worker in self._workers if not worker.is_leaving]

    @property
    def paid(self) -> int:
        """How many workers there are, starting and draining ones included."""
        return len(self._workers)

    def follow(self, now_s: float, wanted: int) -> list[float]:
        """Start or stop workers until there are *wanted*; give when those started will be ready."""
        surplus = len(self.staying) - wanted
        if surplus <= 0:
            return self._start(-surplus, now_s + self._size.cold_start_s)
        self._stop(surplus)
        return []

    def refresh(self, now_s: float) -> None:
        """Count anew who is ready and who is gone."""
        self._paid_s += len(self._workers) * (now_s - self._paid_until_s)
        self._paid_until_s = now_s
        self._gone += [worker for worker in self._workers if worker.is_leaving and not worker.in_flight]
        self._workers = [worker for worker in self._workers if not worker.is_leaving or worker.in_flight]
        self._ready = [worker for worker in self._workers if worker.ready_s <= now_s and not worker.is_leaving]

    def paid_s(self, now_s: float) -> float:
        """Sum the time of all workers so far, that of starting and draining included."""
        return self._paid_s + len(self._workers) * (now_s - self._paid_until_s)

    def _has_credit(self, worker: Worker, prompt_tokens: int) -> bool:
        if worker.in_flight >= self._pace.max_num_seqs:
            return False
        return not worker.prefill_tokens or worker.prefill_tokens + prompt_tokens <= self._prefill_tokens_max

    def _start(self, workers: int, ready_s: float) -> list[float]:
        self._workers += [
            Worker(next(self._numbers), Engine(self._pace), ready_s, BlockCache(self._cache_tokens))
            for _ in range(workers)
        ]
        return [ready_s] * min(workers, 1)

    def _stop(self, workers: int) -> None:
        """Let the last ones that were started leave, of those the least loaded."""
        for worker in sorted(self.staying, key=lambda one: (-one.ready_s, one.in_flight))[:workers]:
            worker.is_leaving = True
