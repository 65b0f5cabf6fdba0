"""
A hedge: a stream whose first token is late is given to a second worker too, and the first to begin answers it.

When is decided in core/hedging.py; this starts the second try, takes the first answer and stops the other engine. It is
one request: one slot of the pool, one meter event, billed by the usage of the one answer that the client gets. What the
other engine computed until it was stopped is residue, as a try that failed is.
"""

import asyncio
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any, Generic, TypeVar

import structlog

from gateway.core.health import WorkerFault
from gateway.core.hedging import Hedges
from gateway.errors import WorkerFailed
from gateway.serve.placement import Place

A = TypeVar("A")
Attempt = Callable[[Place], Coroutine[Any, Any, A]]

log = structlog.get_logger()


class Hedge(Generic[A]):
    """
    One stream on its way to a first token, on one worker or two.

    *attempt* has the worker of a place tried, *drop* takes an answer that nobody wants any more, *blame* hears of a
    worker that failed while another was still at it, or that was overtaken.
    """

    def __init__(
        self,
        hedges: Hedges,
        place: Place,
        attempt: Attempt[A],
        drop: Callable[[A], None],
        blame: Callable[[WorkerFailed], None],
    ) -> None:
        self._hedges = hedges
        self._place = place
        self._attempt = attempt
        self._drop = drop
        self._blame = blame
        self._running: dict[asyncio.Task[A], Place] = {}
        self._began_s = monotonic()
        self._predicted_s = place.predicted_ttft_s

    def __repr__(self) -> str:
        return f"<Hedge [{len(self._running)} workers at it]>"

    async def answer(self) -> A:
        """Give the first answer; the place is where it comes from. Raises what the last of the tries raised."""
        self._hedges.note_stream(self._place.pool, self._began_s)
        self._try(self._place)
        try:
            after_s = self._hedges.after_s(self._place.pool, self._predicted_s)
            if after_s is not None and not await self._ended(after_s):
                self._try_second()
            return await self._first()
        finally:
            await self._stop_rest()

    def _try(self, place: Place) -> None:
        self._running[asyncio.create_task(self._attempt(place))] = place

    def _try_second(self) -> None:
        pool, now_s = self._place.pool, monotonic()
        if not self._hedges.take(pool, now_s):
            return
        second = self._place.spare()
        if second is None:
            self._hedges.give_back(pool, now_s)
            return
        log.info("stream_hedged", late=self._place.worker.id, worker=second.worker.id)
        self._try(second)

    async def _ended(self, within_s: float | None = None) -> set[asyncio.Task[A]]:
        done, _ = await asyncio.wait(self._running, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        return done

    async def _first(self) -> A:
        is_hedged = len(self._running) > 1
        while True:
            ended = await self._ended()
            task = next(task for task in self._running if task in ended)  # of two at once, the one asked first
            place = self._running.pop(task)
            if failure := task.exception():
                self._fail(place, failure)
                continue
            if is_hedged:
                self._hedges.count(self._place.pool, has_won=place is not self._place)
            self._hedges.learn(self._place.pool, monotonic() - self._began_s, self._predicted_s)
            self._overtake(place)
            return task.result()

    def _fail(self, place: Place, failure: BaseException) -> None:
        """Go on with the other one, if there is one; else raise."""
        if not self._running or not isinstance(failure, WorkerFailed):
            self._place.adopt(place)
            raise failure
        self._blame(failure)

    def _overtake(self, winner: Place) -> None:
        if winner is not self._place and self._place in self._running.values():
            reason = f"{winner.worker.id} began to answer before it, though asked later"
            self._blame(WorkerFailed(self._place.worker.id, reason, fault=WorkerFault.FIRST_BYTE))
        self._place.adopt(winner)

    async def _stop_rest(self) -> None:
        """Stop whoever is still at it: its connection is closed, and its engine stops."""
        rest, self._running = self._running, {}
        for task, place in rest.items():
            task.cancel()
            if place is not self._place:
                place.leave()
        for ended in await asyncio.gather(*rest, return_exceptions=True):
            if not isinstance(ended, BaseException):
                self._drop(ended)
