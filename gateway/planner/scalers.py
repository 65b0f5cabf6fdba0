"""
What decides how many workers there are, in virtual time: the gateway's own scaler, and Kubernetes' autoscaler.

The HorizontalPodAutoscaler is modelled as Kubernetes documents it: every 15 s ceil(now × metric ÷ target), nothing
within a tolerance of 0.1, up by the larger of 4 pods and 100 % per 15 s at once, down by at most 100 % per 15 s to the
highest recommendation of the last 300 s. Pods that are not ready count as using no CPU on the way up, and not at all on
the way down. Its two metrics:

*hpa-cpu*: utilisation of the CPU that an engine's pod requests. An engine's scheduler loop takes one core as long as it
has a single sequence, however many it has; its API server takes TOKEN_CPU_S a token beside that. The request is what a
full engine takes, and the target the highest at which a full one is out of tolerance: a lower one never lets go.

*hpa-waiting*: `num_requests_waiting` of all engines, WAITING_TARGET for each pod (AverageValue). A plan's requests wait
in the gateway's line instead, which counts the same.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.core.scaling import ArrivalRate, Demand, Scaler, ScaleRules, WorkerRate, WorkRate
from gateway.planner.clairvoyant import engine_s
from gateway.planner.engine import Pace
from gateway.planner.fleet import Size, Worker
from gateway.planner.load import Request

SURPLUS_S = 300.0  # how long workers are too many before one is stopped: KEDA's default
SYNC_S = 15.0
TOLERANCE = 0.1
UP_PODS, UP_SHARE = 4, 1.0
DOWN_WINDOW_S = 300.0
CPU_TARGET = 0.9  # 1 ÷ 0.9 is out of tolerance, 1 ÷ 0.92 is not
LOOP_CORES, IDLE_CORES, TOKEN_CPU_S = 1.0, 0.05, 60e-6  # estimates of an engine on a GPU, not measured here
CPU_WINDOW_S = 15.0  # metrics-server's resolution
WAITING_TARGET = 5.0  # as in the examples of vLLM's production stack


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The pool at a moment: its line, and the workers that are not leaving."""

    waiting: int
    in_flight: int
    backlog_tokens: int
    workers: Sequence[Worker]


class PoolScaler(Protocol):
    """Says how many workers there should be, once a second; told of work that comes and is done."""

    def arrive(self, now_s: float, work: int) -> None: ...
    def serve(self, now_s: float, work: int) -> None: ...
    def wanted(self, now_s: float, pool: Pool) -> int: ...


class _Deaf:
    """A scaler that goes by the pool alone."""

    def arrive(self, now_s: float, work: int) -> None:
        """Nothing is done with it."""

    def serve(self, now_s: float, work: int) -> None:
        """Nothing is done with it."""


class PerRequests(_Deaf):
    """A worker for so many requests as it takes at once, waiting or in flight; fewer after SURPLUS_S."""

    def __init__(self, size: Size, pace: Pace) -> None:
        self._size, self._pace = size, pace
        self._surplus_since_s: float | None = None

    def wanted(self, now_s: float, pool: Pool) -> int:
        requests, now = pool.waiting + pool.in_flight, len(pool.workers)
        wanted = bounded(math.ceil(requests / self._pace.max_num_seqs), self._size)
        if now <= wanted:
            self._surplus_since_s = None
            return wanted
        if self._surplus_since_s is None:
            self._surplus_since_s = now_s
        if now_s - self._surplus_since_s < SURPLUS_S:
            return now
        self._surplus_since_s = now_s
        return wanted


class ByWork:
    """
    The gateway's own: core/scaling.py, told what a gateway is told. Work counts as served when its request ends.

    *known* is what a worker was seen to do on another day.
    """

    def __init__(self, size: Size, pace: Pace, known: float) -> None:
        self._size, self._pace = size, pace
        self._rules = ScaleRules(workers_min=size.workers, workers_max=size.most)
        self._scaler, self._rate = Scaler(), WorkerRate(known)
        self._arrivals, self._served = ArrivalRate(), WorkRate()

    def arrive(self, now_s: float, work: int) -> None:
        """Note work that comes."""
        self._arrivals.add(work, now_s)

    def serve(self, now_s: float, work: int) -> None:
        """Note work that is done."""
        self._served.add(work, now_s)

    def wanted(self, now_s: float, pool: Pool) -> int:
        starting = [one.ready_s - now_s for one in pool.workers if one.ready_s > now_s]
        ready = len(pool.workers) - len(starting)
        slots = ready * self._pace.max_num_seqs
        self._rate.observe(now_s, self._served.per_s(now_s), ready, min(pool.in_flight, slots), slots)
        demand = Demand(
            arrival_rate=self._arrivals.per_s(now_s),
            backlog_tokens=pool.backlog_tokens,
            waiting=pool.waiting,
            in_flight=pool.in_flight,
            rate_per_worker=self._rate.per_s,
            ready=ready,
            starting=len(starting),
            ready_in_s=starting,
            start_s=self._size.cold_start_s,
        )
        return self._scaler.decide(now_s, demand, self._rules).desired


class Hpa(_Deaf):
    """The HorizontalPodAutoscaler; *recommend* gives what the metric asks for, before all limits."""

    def __init__(self, size: Size, recommend: Callable[[float, Pool], int]) -> None:
        self._size = size
        self._recommend = recommend
        self._next_s = 0.0
        self._recent: deque[tuple[float, int]] = deque()
        self._last: int | None = None

    def wanted(self, now_s: float, pool: Pool) -> int:
        asked = self._recommend(now_s, pool)
        if now_s < self._next_s:
            return len(pool.workers) if self._last is None else self._last
        self._next_s = now_s + SYNC_S
        self._recent.append((now_s, asked))
        while self._recent[0][0] < now_s - DOWN_WINDOW_S:
            self._recent.popleft()
        now = len(pool.workers)
        up_max = max(now + UP_PODS, math.ceil(now * (1 + UP_SHARE)))
        stable = max(asked, min(now, max(count for _, count in self._recent)))
        self._last = bounded(min(stable, up_max), self._size)
        return self._last


class CpuMetric:
    """Utilisation of the CPU of engines' pods, averaged as metrics-server does."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._seen: deque[tuple[float, dict[int, float]]] = deque()
        self._request = self._cores(1.0, pace.max_num_seqs)

    def __call__(self, now_s: float, pool: Pool) -> int:
        """Recommend by the documented formula, not-ready pods set aside."""
        ready = [worker for worker in pool.workers if worker.ready_s <= now_s]
        self._note(now_s, ready)
        now = len(pool.workers)
        if not ready:
            return now
        use = sum(self._use(now_s, worker) for worker in ready) / self._request
        ratio = use / len(ready) / CPU_TARGET
        if ratio > 1:
            ratio = max(1.0, use / now / CPU_TARGET)  # those that are not ready use nothing
            return now if ratio <= 1 + TOLERANCE else math.ceil(ratio * now)
        return now if ratio >= 1 - TOLERANCE else math.ceil(ratio * len(ready))

    def _note(self, now_s: float, ready: Sequence[Worker]) -> None:
        self._seen.append((now_s, {worker.number: worker.engine.busy_until(now_s) for worker in ready}))
        while len(self._seen) > 2 and self._seen[1][0] <= now_s - CPU_WINDOW_S:
            self._seen.popleft()

    def _use(self, now_s: float, worker: Worker) -> float:
        began_s, busy = next((at_s, known) for at_s, known in self._seen if worker.number in known)
        past_s = now_s - began_s
        if past_s <= 0:
            return IDLE_CORES
        return self._cores((worker.engine.busy_until(now_s) - busy[worker.number]) / past_s, worker.in_flight)

    def _cores(self, busy: float, sequences: int) -> float:
        step_s = self._pace.inter_token_s + self._pace.inter_token_s_per_seq * sequences
        return IDLE_CORES + busy * LOOP_CORES + sequences / step_s * TOKEN_CPU_S


def waiting_metric(_: float, pool: Pool) -> int:
    """Recommend a pod for each WAITING_TARGET requests that wait, out of tolerance."""
    now = len(pool.workers)
    ratio = pool.waiting / WAITING_TARGET / max(1, now)
    return now if abs(1 - ratio) <= TOLERANCE else math.ceil(pool.waiting / WAITING_TARGET)


def bounded(workers: int, size: Size) -> int:
    """Keep *workers* within a pool's size."""
    return min(max(workers, size.workers), size.most)


def make_scaler(name: str | None, size: Size, pace: Pace, requests: Sequence[Request]) -> PoolScaler:
    """Make a scaler by its name in SCALERS; None is one by requests, as pools have that count them."""
    return SCALERS[name](size, pace, requests) if name else PerRequests(size, pace)


def _known(pace: Pace, requests: Sequence[Request]) -> float:
    """Give the work per second of a worker that is always full of such requests."""
    return sum(one.work for one in requests) / sum(engine_s(one, pace) for one in requests)


SCALERS: Mapping[str, Callable[[Size, Pace, Sequence[Request]], PoolScaler]] = {
    "sluice": lambda size, pace, requests: ByWork(size, pace, _known(pace, requests)),
    "hpa-cpu": lambda size, pace, _: Hpa(size, CpuMetric(pace)),
    "hpa-waiting": lambda size, _, __: Hpa(size, waiting_metric),
}
