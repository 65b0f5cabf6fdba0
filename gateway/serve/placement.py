"""
Late binding: a request that has its slot meets a worker only when that worker has credit for it.

Until then it waits here, not in an engine, where no other worker could take it. It is a short wait, in order of
arrival: the pool's slots are the sum of its workers' credit, so room is about to come, or has come and this gateway has
not heard of it yet. Whoever has waited *wait_s_max* takes the least loaded worker, credit or not.
"""

import asyncio
from collections import deque
from functools import partial
from types import TracebackType
from typing import Self

from gateway.core.request import ChatRequest
from gateway.core.routing import WorkerView, choose, rank
from gateway.errors import Refused
from gateway.ports.roster import Roster, Working

_Line = deque[tuple["Place", "asyncio.Future[None]"]]


class Place:
    """
    A request's place on a worker, counted there while the block runs; entering the block waits for it.

    *worker* is the one it has now; `elsewhere` moves it on. Entering raises Refused(NO_WORKER) if none can serve.
    """

    worker: WorkerView

    def __init__(self, placement: "Placement", pool: str, request: ChatRequest) -> None:
        self.pool = pool
        self.request = request
        self.tried: list[str] = []
        self._placement = placement
        self._working: Working | None = None
        self._prefilling: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        await self._placement.settle(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    async def elsewhere(self) -> bool:
        """Leave the worker for one that was not tried yet, waiting for its credit; tell whether there is one."""
        self.leave()
        try:
            await self._placement.settle(self)
        except Refused:
            return False
        return True

    def prefilled(self) -> None:
        """Note that the first token has come, or a whole answer before its first token was due."""
        if self._working is not None:
            self._working.prefilled()

    def take(self, worker: WorkerView, working: Working) -> None:
        """Be counted on *worker*. A whole answer shows no first token: its prefill ends when it is due, or with it."""
        self.worker, self._working = worker, working
        self.tried.append(worker.id)
        if not self.request.is_stream:
            loop = asyncio.get_running_loop()
            done = partial(working.prefilled, is_observed=False)
            self._prefilling = loop.call_later(working.predicted_ttft_s, done)

    def leave(self) -> None:
        """Be counted nowhere. Repeating changes nothing."""
        if self._prefilling is not None:
            self._prefilling.cancel()
            self._prefilling = None
        if self._working is not None:
            self._working.end()
            self._working = None


class Placement:
    """Gives places on workers with credit, and keeps the short lines of those for whom none has any."""

    def __init__(self, roster: Roster, *, wait_s_max: float) -> None:
        self._roster = roster
        self._wait_s_max = wait_s_max
        self._lines: dict[tuple[str, str], _Line] = {}  # by pool and model; only while somebody waits
        self._woken: set[str] = set()
        roster.watch(self._wake)

    def __repr__(self) -> str:
        return f"<Placement [{sum(map(len, self._lines.values()))} waiting]>"

    def waiting(self) -> dict[str, float]:
        """Count those who wait, by pool."""
        waiting: dict[str, float] = {}
        for (pool, _), line in self._lines.items():
            waiting[pool] = waiting.get(pool, 0) + len(line)
        return waiting

    def place(self, pool: str, request: ChatRequest) -> Place:
        """Make the place of *request* on a worker of *pool*; use it as an async context manager."""
        return Place(self, pool, request)

    async def settle(self, place: Place) -> None:
        """Put *place* on a worker, at once or after those who came before. Raises Refused(NO_WORKER)."""
        line = self._lines.get((place.pool, place.request.model))
        if line is None and self._bind(place):
            return
        granted = asyncio.get_running_loop().create_future()
        self._lines.setdefault((place.pool, place.request.model), deque()).append((place, granted))
        timer = asyncio.get_running_loop().call_later(self._wait_s_max, self._give_up, place, granted)
        try:
            await granted
        except BaseException:
            granted.cancel()
            place.leave()  # it may have been placed in the very instant of its leaving
            self._wake(place.pool)
            raise
        finally:
            timer.cancel()

    def _bind(self, place: Place) -> bool:
        """Put *place* on the best worker that has credit, if one has. Decides without awaiting."""
        request = place.request
        views = self._roster.views(place.pool)
        worker = choose(request.model, request.work, request.prompt_tokens, views, place.tried)
        if worker is not None:
            self._take(place, worker)
        return worker is not None

    def _take(self, place: Place, worker: WorkerView) -> None:
        request = place.request
        place.take(worker, self._roster.working(worker.id, request.work, request.prompt_tokens))

    def _wake(self, pool: str) -> None:
        """Have the pool's lines looked at, once, however much happens before that."""
        if self._lines and pool not in self._woken:
            self._woken.add(pool)
            asyncio.get_running_loop().call_soon(self._serve, pool)

    def _serve(self, pool: str) -> None:
        self._woken.discard(pool)
        for key in [key for key in self._lines if key[0] == pool]:
            line = self._lines[key]
            while line and self._has_been_served(*line[0]):
                line.popleft()
            if not line:
                del self._lines[key]

    def _has_been_served(self, place: Place, granted: "asyncio.Future[None]") -> bool:
        if granted.done():  # it has left, or given up waiting
            return True
        try:
            is_bound = self._bind(place)
        except Refused as refusal:
            granted.set_exception(refusal)
            return True
        if is_bound:
            granted.set_result(None)
        return is_bound

    def _give_up(self, place: Place, granted: "asyncio.Future[None]") -> None:
        """Take the least loaded worker that was not tried yet."""
        if granted.done():
            return
        request = place.request
        try:
            ranked = rank(request.model, request.work, self._roster.views(place.pool), place.tried)
        except Refused as refusal:
            granted.set_exception(refusal)
        else:
            self._take(place, ranked[0])
            granted.set_result(None)
        self._wake(place.pool)
