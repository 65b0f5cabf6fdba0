"""
Late binding: a request that has its slot meets a worker only when that worker has credit for it.

Until then it waits here, not in an engine, where no other worker could take it. It is a short wait: the pool's slots
are the sum of its workers' credit, so room is about to come, or has come and this gateway has not heard of it yet. Who
is served first is the order of arrival, but that one who waits for a certain worker, which has most of its prompt
(core/router.py), is passed over by those who take another. Whoever has waited *wait_s_max* takes any worker with room,
and the least loaded one if none has.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Self

from gateway.core.affinity import Chain
from gateway.core.policies import Ask
from gateway.core.request import ChatRequest
from gateway.core.router import LINE_LOOK, SLUICE, Choice, Leaning, Router
from gateway.core.routing import WorkerView, rank
from gateway.core.usage import Usage
from gateway.errors import Refused
from gateway.ports.roster import Roster, Working
from gateway.serve.explain import Explained

_Line = deque[tuple["Place", "asyncio.Future[None]"]]


@dataclass(frozen=True, slots=True)
class PlacementRules:
    """How long a request waits for the worker it wants, and how that is found: *policy* is one of core/router.NAMES."""

    wait_s_max: float
    policy: str = SLUICE
    cost_weights: Mapping[str, float] = field(default_factory=dict)


class Place:
    """
    A request's place on a worker, counted there while the block runs; entering the block waits for it.

    *worker* is the one it has now; `elsewhere` moves it on. Entering raises Refused(NO_WORKER) if none can serve.
    """

    worker: WorkerView

    def __init__(self, placement: "Placement", pool: str, request: ChatRequest, name: str, chain: Chain) -> None:
        self.pool = pool
        self.request = request
        self.name = name
        self.ask = Ask(model=request.engine_model, work=request.work, prompt_tokens=request.prompt_tokens, chain=chain)
        self.choice: Choice | None = None
        self._placement = placement
        self._working: Working | None = None
        self._prefilling: asyncio.TimerHandle | None = None

    @property
    def cached_tokens(self) -> int:
        """How much of the prompt its worker is expected to have, in tokens of four bytes."""
        return self.choice.held_tokens if self.choice else 0

    async def __aenter__(self) -> Self:
        await self._placement.settle(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    @property
    def predicted_ttft_s(self) -> float:
        """How long after it was placed its first token is expected."""
        return self._working.predicted_ttft_s if self._working else 0.0

    def spare(self) -> "Place | None":
        """Give a second place for the same request, on another worker that has credit now; None if none has."""
        return self._placement.spare(self)

    def adopt(self, other: "Place") -> None:
        """Leave the worker for the one of *other*, a spare place, which is empty then."""
        if other is not self:
            self.leave()
            self.worker, self.choice, self._working = other.worker, other.choice, other.release()

    def release(self) -> Working | None:
        """Be counted nowhere, and give what ends the counting to who goes on with it."""
        working, self._working = self._working, None
        return working

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

    def take(self, choice: Choice, working: Working) -> None:
        """Be counted on a worker. A whole answer shows no first token: its prefill ends when it is due, or with it."""
        assert choice.worker is not None, "a choice to wait is not taken"
        self.worker, self.choice, self._working = choice.worker, choice, working
        self.ask.tried.append(choice.worker.id)
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
    """
    Gives places on workers with credit, and keeps the short lines of those for whom none has any.

    *explained* keeps how the last requests were placed. *on_cached* is told of each that ended the tokens of its prompt
    that were expected to be in its worker's cache and those that were, by pool.
    """

    def __init__(
        self,
        roster: Roster,
        rules: PlacementRules,
        explained: Explained,
        on_cached: Callable[[str, int, int], None] = lambda *_: None,
    ) -> None:
        self._roster = roster
        self._rules = rules
        self._explained = explained
        self._on_cached = on_cached
        self._routers: dict[str, Router] = {}
        self._lines: dict[tuple[str, str], _Line] = {}  # by pool and model; only while somebody waits
        self._woken: set[str] = set()
        roster.watch(self._wake)
        roster.listen(self._hear)

    def __repr__(self) -> str:
        return f"<Placement [{sum(map(len, self._lines.values()))} waiting]>"

    def waiting(self) -> dict[str, float]:
        """Count those who wait, by pool."""
        waiting: dict[str, float] = {}
        for (pool, _), line in self._lines.items():
            waiting[pool] = waiting.get(pool, 0) + len(line)
        return waiting

    def place(self, pool: str, request: ChatRequest, name: str = "", chain: Chain | None = None) -> Place:
        """
        Make the place of *request* on a worker of *pool*; use it as an async context manager.

        It is explained under *name*. *chain* is used instead of the request's own where there is one.
        """
        return Place(self, pool, request, name, request.chain if chain is None else chain)

    def learn(self, place: Place, usage: Usage) -> None:
        """Take what the engine said of the prompt of a request that has ended."""
        if not usage.prompt or place.choice is None:
            return
        expected = round(usage.prompt * min(1.0, place.cached_tokens / max(1, place.ask.chain.length)))
        self._on_cached(place.pool, expected, usage.cached)
        self._explained.end(place.name, usage.prompt, usage.cached)

    async def settle(self, place: Place) -> None:
        """Put *place* on a worker, at once or after those who came before. Raises Refused(NO_WORKER)."""
        loop = asyncio.get_running_loop()
        place.ask.since_s, place.ask.expected = loop.time(), None
        key = place.pool, place.request.engine_model
        if key not in self._lines and self._bind(place, Leaning()):
            return
        granted = loop.create_future()
        self._lines.setdefault(key, deque()).append((place, granted))
        self._wake(place.pool)  # it may pass over all that wait
        timer = loop.call_later(self._rules.wait_s_max, self._give_up, place, granted)
        try:
            await granted
        except BaseException:
            granted.cancel()
            place.leave()  # it may have been placed in the very instant of its leaving
            self._wake(place.pool)
            raise
        finally:
            timer.cancel()

    def spare(self, place: Place) -> Place | None:
        """Give a second place beside *place*, if another worker has credit and nobody waits for it."""
        if (place.pool, place.request.engine_model) in self._lines:
            return None
        second = Place(self, place.pool, place.request, place.name, place.ask.chain)
        second.ask.tried = place.ask.tried  # what failed for either is tried for neither
        second.ask.since_s = asyncio.get_running_loop().time()
        try:
            return second if self._bind(second, Leaning(), waits=False) else None
        except Refused:
            return None

    def _bind(self, place: Place, leaning: Leaning, *, waits: bool = True) -> bool:
        """
        Put *place* on the best worker, if that has credit. Decides without awaiting.

        Else it leans on that one, unless it *waits* no longer; then it takes any that has credit.
        """
        now_s = asyncio.get_running_loop().time()
        views, router = self._roster.views(place.pool), self._router(place.pool)
        choice = router.choose(place.ask, views, now_s, leaning, waits=waits)
        if choice.worker is not None:
            self._take(place, choice)
        else:
            leaning.add(choice)
        return choice.worker is not None

    def _take(self, place: Place, choice: Choice) -> None:
        assert choice.worker is not None, "a choice to wait is not taken"
        worker, now_s = choice.worker.id, asyncio.get_running_loop().time()
        place.take(choice, self._roster.working(worker, place.request.work, choice.prefill_tokens))
        away = self._router(place.pool).note(place.ask, worker, now_s)
        if away is not None:
            self._roster.tell_sent(away, worker)
        if place.name:
            self._explained.placed(place.name, place.pool, choice, now_s - place.ask.since_s)

    def _hear(self, pool: str, beginning: int, worker: str) -> None:
        self._router(pool).hear(beginning, worker, asyncio.get_running_loop().time())

    def _router(self, pool: str) -> Router:
        router = self._routers.get(pool)
        if router is None:
            router = self._routers[pool] = Router(self._rules.policy, cost_weights=self._rules.cost_weights)
        return router

    def _wake(self, pool: str) -> None:
        """Have the pool's lines looked at, once, however much happens before that."""
        if self._lines and pool not in self._woken:
            self._woken.add(pool)
            asyncio.get_running_loop().call_soon(self._serve, pool)

    def _serve(self, pool: str) -> None:
        self._woken.discard(pool)
        for key in [key for key in self._lines if key[0] == pool]:
            line = self._lines[key]
            self._serve_line(line)
            if not line:
                del self._lines[key]

    def _serve_line(self, line: _Line) -> None:
        """Serve who is first in *line*, and behind one who waits for a certain worker those who take another."""
        leaning = Leaning()
        staying: list[tuple[Place, asyncio.Future[None]]] = []
        while line and len(staying) < LINE_LOOK:
            first = line.popleft()
            if not self._has_been_served(*first, leaning):
                staying.append(first)
                if not leaning.can_be_passed:
                    break
        line.extendleft(reversed(staying))

    def _has_been_served(self, place: Place, granted: "asyncio.Future[None]", leaning: Leaning) -> bool:
        if granted.done():  # it has left, or given up waiting
            return True
        try:
            is_bound = self._bind(place, leaning)
        except Refused as refusal:
            granted.set_exception(refusal)
            return True
        if is_bound:
            granted.set_result(None)
        return is_bound

    def _give_up(self, place: Place, granted: "asyncio.Future[None]") -> None:
        """Take any worker with room, else the least loaded one that was not tried yet."""
        if granted.done():
            return
        request = place.request
        try:
            if not self._bind(place, Leaning(), waits=False):
                ranked = rank(request.engine_model, request.work, self._roster.views(place.pool), place.ask.tried)
                self._take(place, Choice(ranked[0], request.prompt_tokens))
        except Refused as refusal:
            granted.set_exception(refusal)
        else:
            granted.set_result(None)
        self._wake(place.pool)
