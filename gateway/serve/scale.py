"""
How many workers each pool should have: decided here from what all gateways know, told to whoever scales the pool.

Each gateway puts its share of every pool's demand on a board, reads the others', and decides by core/scaling.py. All
see the same sums, so any one may be asked. Whoever starts and stops workers (`sluice up`, KEDA) follows by long polls.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from gateway.core.demand import Learnt, Share, together
from gateway.core.roster import Beat, WorkerState
from gateway.core.routing import slots
from gateway.core.scaling import Decision, Demand, Scaler, ScaleRules, WorkerRate
from gateway.core.starts import STARTING, Starts
from gateway.ports.demand import DemandBoard
from gateway.ports.roster import Roster
from gateway.serve.loops import repeat
from gateway.serve.work_meter import WorkMeter

DECIDE_S = 0.5  # how often: a first request that another gateway has is known here within twice that
SCALED_S = 30.0  # a scaler that has not asked for so long is gone
WAIT_S_MAX = 30.0  # of a long poll: below the idle limits of what stands in between
TELL_LEARNT = 20  # rounds between two times that what was learnt is put on the board

# A failed engine's agent starts it again: it is no worker more to start, and nobody knows when it is ready.
_ON_THE_WAY = STARTING | {WorkerState.FAILED}


@dataclass(slots=True)
class _Pool:
    """What is kept of a pool from one decision to the next."""

    scaler: Scaler
    rate: WorkerRate
    demand: Demand
    draining: int = 0
    is_scaled: bool = False
    decision: Decision | None = None


class ScaleDesk:
    """
    The decisions of one gateway; `meter` is told of its requests.

    *rules_of* gives what bounds a pool, *pools* those that there are besides the ones that work or are asked for.
    """

    def __init__(
        self,
        meter: WorkMeter,
        board: DemandBoard,
        roster: Roster,
        starts: Starts,
        rules_of: Callable[[str], ScaleRules],
        pools: Callable[[], Iterable[str]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._meter = meter
        self._board = board
        self._roster = roster
        self._starts = starts
        self._rules_of = rules_of
        self._declared = pools
        self._clock = clock
        self._pools: dict[str, _Pool] = {}
        self._scalers: dict[str, float] = {}  # by name: until when one is taken to follow
        self._origin = secrets.token_hex(4)  # versions of another process are none of ours
        self._version = 0
        self._is_closing = False
        self._changed = asyncio.Event()
        self._rounds = 0
        self._deciding: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Decide for the first time, and go on."""
        await self._round()
        self._deciding = asyncio.create_task(repeat("scale", DECIDE_S, self._round, self._meter.has_news), name="scale")

    def let_go(self) -> None:
        """Answer those who follow, and from now on at once: they are to ask another gateway."""
        self._is_closing = True
        self._changed.set()

    async def aclose(self) -> None:
        """Stop."""
        if self._deciding:
            self._deciding.cancel()
            await asyncio.wait({self._deciding})

    @property
    def version(self) -> str:
        """What changes whenever a decision does."""
        return f"{self._origin}.{self._version}"

    async def follow(self, after: str | None, wait_s: float, scaler: str | None) -> dict[str, Any]:
        """
        Give all decisions, at once or, if they are those of version *after*, when one changes; *wait_s* at most.

        *scaler* names who starts and stops workers by them: from then on the pools count as scaled.
        """
        if scaler:
            self._scalers[scaler] = self._clock() + SCALED_S
        if after == self.version and not self._is_closing:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(wait_s, WAIT_S_MAX)):
                    await self._changed.wait()
        return self.to_json()

    def to_json(self) -> dict[str, Any]:
        """Give all decisions and what they were made from, under names that stay."""
        return {"version": self.version, "pools": [self._pool_to_json(name) for name in sorted(self._pools)]}

    def figures(self, of: str) -> dict[str, float]:
        """Give one figure of every pool, for the metrics."""
        if of == "desired":
            return {name: pool.decision.desired for name, pool in self._pools.items() if pool.decision}
        return {name: getattr(pool.demand, of) for name, pool in self._pools.items()}

    # Deciding.

    async def _round(self) -> None:
        """Decide by what is known, then again by others' words: a first request does not wait for a store."""
        own = self._own()
        self._decide(own)
        await self._board.exchange(own, self._learnt())
        self._take_learnt()
        self._decide(own)
        self._meter.awake = {name for name, pool in self._pools.items() if pool.decision and pool.decision.desired}

    def _own(self) -> dict[str, Share]:
        is_scaled = any(until_s > self._clock() for until_s in self._scalers.values())
        shares = self._meter.shares()
        names = {*shares, *self._declared(), *(beat.pool for beat in self._roster.beats())}
        return {name: replace(shares.get(name, Share()), is_scaled=is_scaled) for name in names}

    def _decide(self, own: dict[str, Share]) -> None:
        beats: dict[str, list[Beat]] = {}
        for beat in self._roster.beats():
            beats.setdefault(beat.pool, []).append(beat)
        before = {name: _face(pool) for name, pool in self._pools.items()}
        names = own.keys() | {name for shares in self._board.others for name in shares}
        self._pools = {name: self._pools.get(name) or self._new_pool(name) for name in names}
        for name in names:
            share = together([own.get(name, Share()), *(shares.get(name, Share()) for shares in self._board.others)])
            self._decide_one(name, share, beats.get(name, []))
        if before != {name: _face(pool) for name, pool in self._pools.items()}:
            self._version += 1
            self._changed.set()
            self._changed = asyncio.Event()

    def _decide_one(self, name: str, share: Share, beats: list[Beat]) -> None:
        pool, now_s = self._pools[name], self._clock()
        pool.demand = self._demand(name, share, beats, pool.rate.per_s)
        pool.draining = sum(beat.state is WorkerState.DRAINING for beat in beats)
        places = slots(self._roster.views(name))
        pool.rate.observe(now_s, share.served_rate, pool.demand.ready, share.in_flight, places)
        rules, may_lower = self._rules_of(name), self._board.is_up
        pool.decision = pool.scaler.decide(now_s, pool.demand, rules, may_lower=may_lower)
        pool.is_scaled = share.is_scaled
        to_come = pool.decision.desired - pool.demand.running if share.is_scaled else 0
        self._starts.ask(name, max(0, to_come), time.time())

    def _demand(self, name: str, share: Share, beats: list[Beat], per_worker: float | None) -> Demand:
        _, _, seqs_each = self._starts.learnt(name)
        ready_in_s = self._starts.under_way_s(name, time.time())
        return Demand(
            arrival_rate=share.arrival_rate,
            backlog_tokens=share.backlog_tokens,
            waiting=share.waiting,
            in_flight=share.in_flight,
            rate_per_worker=per_worker,
            seqs_each=seqs_each or max((beat.max_seqs for beat in beats), default=0),
            ready=sum(beat.state is WorkerState.READY for beat in beats),
            starting=sum(beat.state in _ON_THE_WAY for beat in beats),
            ready_in_s=ready_in_s,
            start_s=self._starts.start_s(name),
        )

    def _new_pool(self, name: str) -> _Pool:
        known = self._board.learnt.get(name, Learnt())
        return _Pool(Scaler(), WorkerRate(known.rate_per_worker), Demand())

    # What is learnt of workers.

    def _learnt(self) -> dict[str, Learnt]:
        """Say what this gateway has learnt: of a pool that is not on the board at once, of the others now and then."""
        self._rounds += 1
        is_due = self._rounds % TELL_LEARNT == 0
        due = [name for name in self._pools if is_due or name not in self._board.learnt]
        return {name: learnt for name in due if (learnt := self._learnt_of(name)) != Learnt()}

    def _learnt_of(self, name: str) -> Learnt:
        start_s, lead_s, seqs_each = self._starts.learnt(name)
        rate = self._pools[name].rate.per_s
        return Learnt(rate_per_worker=rate, start_s=start_s, lead_s=lead_s, seqs_each=seqs_each)

    def _take_learnt(self) -> None:
        for name, known in self._board.learnt.items():
            self._starts.expect(name, known.start_s, known.lead_s, known.seqs_each)
            if (pool := self._pools.get(name)) and pool.rate.per_s is None:
                pool.rate.per_s = known.rate_per_worker

    # What is shown.

    def _pool_to_json(self, name: str) -> dict[str, Any]:
        pool, rules, now_s = self._pools[name], self._rules_of(name), time.time()
        demand, decision = pool.demand, pool.decision
        coming_s = [coming.at_s - now_s for coming in self._starts.coming(name, now_s)]
        return {
            "pool": name,
            "arrival_rate": round(demand.arrival_rate, 1),
            "backlog_tokens": round(demand.backlog_tokens),
            "backlog_s": round(demand.backlog_s, 2),
            "rate_per_worker": round(demand.per_worker, 1),
            "is_rate_known": demand.rate_per_worker is not None,
            "requests": {"waiting": demand.waiting, "in_flight": demand.in_flight},
            "workers": {"ready": demand.ready, "starting": demand.starting, "draining": pool.draining},
            "workers_min": rules.workers_min,
            "workers_max": rules.workers_max,
            "desired": decision.desired if decision else demand.running,
            "wanted": decision.wanted if decision else demand.running,
            "reason": decision.reason if decision else "nothing was decided yet",
            "is_settled": decision.is_settled if decision else False,
            "is_scaled": pool.is_scaled,
            "start_s": None if demand.start_s is None else round(demand.start_s, 1),
            "next_ready_in_s": round(min(coming_s), 1) if coming_s else None,
        }

    def __repr__(self) -> str:
        return f"<ScaleDesk [{len(self._pools)} pools, version {self._version}]>"


def _face(pool: _Pool) -> tuple[int, bool] | None:
    """Give what followers act on."""
    return (pool.decision.desired, pool.decision.is_settled) if pool.decision else None
