"""
A stream outlives its worker: when one fails in mid-stream, others are tried until one goes on where it stopped.

What is said and where another may go on is decided in core/continuation.py; this asks, waits and gives up. The request
keeps its slot of the pool; its place moves on to a worker that it was not on yet.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import structlog

from gateway.core import continuation
from gateway.core.continuation import Discontinued, Seam, Transcript, Translation, continuation_body
from gateway.core.outcome import Outcome
from gateway.core.request import ChatRequest
from gateway.core.routing import WorkerView
from gateway.errors import Refused, WorkerFailed
from gateway.serve.placement import Place

DETOKENIZE = "/detokenize"
# How often a pool that has no other worker now is looked at again, until the wait is over.
LOOK_S = 0.1

log = structlog.get_logger()


class Dispatching(Protocol):
    """Who is told of each worker that gets the request: its meter record."""

    def dispatch(self, worker: WorkerView) -> str:
        """Note that *worker* is about to get the request; gives the request id it is to see."""

    def carry_on(self, failed: str, made: int, kept: int) -> None:
        """Note that worker *failed* broke off after *made* tokens of the answer, and another went on at *kept*."""

    def hear_from(self, worker: str) -> None:
        """Note that of those that got it *worker* is the one that answers, or the last to have said anything."""


class Leg(Protocol):
    """What one engine answers: its part of a stream."""

    status: int
    is_stream: bool

    def frames_of_engine(self) -> AsyncIterator[bytes]: ...
    def go_on_with(self, leg: Any) -> None: ...


class Engines(Protocol):
    """What serve/upstream.py does for a request, one try at a time."""

    async def attempt(self, place: Place, request: ChatRequest, path: str, dispatching: Dispatching) -> Leg:
        """Send *request* to the worker of *place*; gives its answer with the first byte there. Raises WorkerFailed."""

    async def ask(self, worker: WorkerView, path: str, body: bytes) -> bytes:
        """Ask an engine something small beside a request; gives the body of a 200. Raises WorkerFailed."""

    async def move(self, place: Place, failure: WorkerFailed) -> bool:
        """Have *place* on another worker; tell whether there is one. Raises Refused if no more may be tried."""

    def blame(self, failure: WorkerFailed) -> None:
        """Take note of a worker's failure."""


@dataclass(frozen=True, slots=True)
class ContinuationRules:
    """How many other workers one stream may be given to, 0 for none, and how long it waits for there to be one."""

    attempts_max: int
    wait_s: float


class Relief:
    """Has other workers go on with one stream."""

    def __init__(
        self, engines: Engines, place: Place, request: ChatRequest, dispatching: Dispatching, rules: ContinuationRules
    ) -> None:
        self._engines = engines
        self._place = place
        self._request = request
        self._dispatching = dispatching
        self._rules = rules
        self._left = rules.attempts_max
        self._transcript = Transcript(request)
        self._translation: Translation | None = None

    def __repr__(self) -> str:
        return f"<Relief {self._transcript!r} [{self._left} attempts left]>"

    async def frames(self, leg: Leg) -> AsyncIterator[bytes]:
        """
        Give the frames of a stream over all engines that make it, up to and without [DONE].

        *leg* is the answer of the first one, and goes on with that of each other. Raises Refused when nobody goes on.
        """
        while True:
            try:
                async for frames in leg.frames_of_engine():
                    if heard := self._hear(frames):
                        yield heard
            except Discontinued as reason:
                failure = WorkerFailed(self._place.worker.id, "it did not go on as the one before it", fault=None)
                raise self._refusal(failure, reason) from reason
            except WorkerFailed as failure:
                self._engines.blame(failure)
                if self._transcript.is_finished:
                    yield self._transcript.ending()
                    return
                try:
                    leg.go_on_with(await self._successor(failure))
                except Discontinued as reason:
                    self._dispatching.hear_from(failure.worker)
                    raise self._refusal(failure, reason) from reason
            else:
                return

    def _hear(self, frames: bytes) -> bytes:
        if self._translation is not None:
            frames = self._translation.feed(frames)
        return self._transcript.take(frames) if frames else b""

    async def _successor(self, failure: WorkerFailed) -> Leg:
        """Find a worker that goes on; gives its answer. Raises Discontinued, Refused if no more may be tried."""
        if failure.fault is None:
            raise Discontinued("not by a fault of its own")
        seam, latest = self._transcript.seam(), failure
        while self._left:
            self._left -= 1
            if not await self._move(latest):
                raise Discontinued(f"no other worker is ready within {self._rules.wait_s:g} s")
            try:
                seam = await self._on_whole_character(seam)
                return await self._go_on(seam, failure.worker)
            except WorkerFailed as again:
                self._engines.blame(again)
                latest = again
        raise Discontinued(f"{self._rules.attempts_max} others were tried")

    async def _move(self, failure: WorkerFailed) -> bool:
        """Get a place on another worker, waiting for one; tell whether there is."""
        ends_s = time.monotonic() + self._rules.wait_s
        while not await self._engines.move(self._place, failure):
            if time.monotonic() >= ends_s:
                return False
            await asyncio.sleep(LOOK_S)
        return True

    async def _on_whole_character(self, seam: Seam) -> Seam:
        """Move *seam* back to where a character ends, if that is not certain; the engine's tokenizer tells."""
        while seam.doubtful:
            asked = json.dumps({"model": self._request.engine_model, "tokens": list(seam.window)}).encode()
            answer = json.loads(await self._engines.ask(self._place.worker, DETOKENIZE, asked))
            if not str(answer.get("prompt")).endswith(continuation.REPLACEMENT):
                return replace(seam, doubtful=0)
            seam = seam.shortened()
        return seam

    async def _go_on(self, seam: Seam, failed: str) -> Leg:
        worker = self._place.worker
        body = continuation_body(self._request, seam, worker.max_model_len)
        request = replace(self._request, body=body)
        leg = await self._engines.attempt(self._place, request, continuation.PATH, self._dispatching)
        if leg.status != 200 or not leg.is_stream:
            raise WorkerFailed(worker.id, f"it refused to go on with a stream: {leg.status}", fault=None)
        log.info("stream_continued", failed=failed, worker=worker.id, tokens=len(seam.kept))
        self._dispatching.carry_on(failed, seam.made, len(seam.kept))
        self._translation = self._transcript.resume(seam)
        return leg

    def _refusal(self, failure: WorkerFailed, why: Discontinued) -> Refused:
        outcome = Outcome.UPSTREAM_TIMEOUT if failure.had_timeout else Outcome.UPSTREAM_FAILED
        cut = f"The worker {failure.worker} failed in mid-stream: {failure.reason}"
        return Refused(outcome, f"{cut}. No other could go on: {why}. Retrying can help.")
