"""The agent beside an engine: starts it again when it fails, tells the gateways, drains when asked to end."""

import asyncio
import contextlib
from typing import Any

import structlog

from workers.agent.adapters import Adapters
from workers.agent.backoff import Backoff
from workers.agent.beats import Beater
from workers.agent.engine import EngineLife, default_batched_tokens
from workers.agent.folders import ModelFolders, make_folders
from workers.agent.options import WorkerOptions
from workers.agent.process import clear_leftovers
from workers.agent.rest import Rest
from workers.agent.stages import Stages, way_of
from workers.agent.status import Status
from workers.agent.worker_state import WorkerState

_IDLE_POLL_S = 0.5

log = structlog.get_logger(__name__)


class Agent:
    """
    Runs one worker until it is told to `leave`. A second `leave` makes it end at once.

    By an operator's order, which comes with a beat's answer, it drains without a limit: whoever runs it did not ask, so
    nobody is about to kill it. A `leave` sets the limit then.
    """

    def __init__(self, options: WorkerOptions) -> None:
        self._options = options
        self._leaving = asyncio.Event()
        self._is_asked = asyncio.Event()  # by a signal: from then on the drain has its limit
        self._at_once = asyncio.Event()
        self._backoff = Backoff()
        self._life: EngineLife | None = None
        self.status = Status(
            pool=options.pool,
            models=options.served_names,
            max_seqs=options.max_num_seqs,
            max_batched_tokens=options.max_batched_tokens or default_batched_tokens(options),
            engine=options.engine,
            stages=Stages(options.stages_path, way_of(options)),
        )
        self._folders = ModelFolders(options, self.status)
        self._adapters = Adapters(dict(options.adapters), options.adapters_max, self.status, self._folders.adapter)
        self._rest = Rest(self.status)
        self._beaters = [self._beater(gateway) for gateway in options.gateways]

    def _beater(self, gateway: str) -> Beater:
        options, adapters = self._options, self._adapters
        return Beater(
            gateway, options.worker_id, options.token, self.status, self._obey, adapters.want, ca=options.tls.ca
        )

    def leave(self) -> None:
        """Drain and end; called again: end at once."""
        if self._is_asked.is_set():
            self._at_once.set()
        self._is_asked.set()
        self._leaving.set()

    def _obey(self, order: str) -> None:
        """Do as a gateway says; a cordon is the gateways' business, the engine stays."""
        self._rest.want(is_wanted=order == "sleep")
        if order == "drain":
            self._leaving.set()

    async def run(self) -> None:
        """Serve until told to leave. Raises WorkerError if the worker cannot even begin."""
        beating = [asyncio.ensure_future(beater.run()) for beater in self._beaters]
        try:
            await self._serve_until_left()
        finally:
            for task in beating:
                await _cancel(task)
            await asyncio.gather(*(beater.say_goodbye() for beater in self._beaters))
            await asyncio.gather(*(beater.aclose() for beater in self._beaters))

    async def _serve_until_left(self) -> None:
        serving = asyncio.ensure_future(self._serve())
        leaving = asyncio.ensure_future(self._leaving.wait())
        try:
            await asyncio.wait({serving, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                serving.result()  # it ends by itself only by an error
            await self._drain(serving)
        finally:
            await _cancel(leaving)
            await _cancel(serving)

    async def _serve(self) -> None:
        make_folders(self._options)
        cleared = clear_leftovers(self._options.record_path.parent)
        if cleared:
            log.warning("leftover_engines_killed", groups=cleared)
        await self._supervise(await self._folders.model())

    async def _supervise(self, model: str) -> None:
        """Run one engine after the other; being cancelled takes the engine with it."""
        while True:
            self._life = life = EngineLife(self._options, model, self.status, self._adapters, self._rest)
            try:
                cause = await life.run()
            finally:
                await (life.stop(hurry=self._at_once) if self._leaving.is_set() else life.kill())
            if self._leaving.is_set():
                log.warning("engine_failed", cause=cause)
                return
            await self._pause_after(cause)

    async def _pause_after(self, cause: str) -> None:
        assert self._life is not None, "an engine has just failed"
        pause_s = self._backoff.after(self._life.healthy_for_s)
        self.status.end_engine()
        self.status.restarts += 1
        self.status.change(WorkerState.FAILED, f"{cause} It is started again in {pause_s:.0f} s.")
        log.error("engine_failed", cause=cause, restarts=self.status.restarts, retry_in_s=pause_s)
        await asyncio.sleep(pause_s)
        self.status.change(WorkerState.STARTING, cause)

    async def _drain(self, serving: "asyncio.Future[None]") -> None:
        """Take no new work, let the engine finish what it has, and tell the gateways its final counters."""
        was_serving = self.status.state is WorkerState.READY
        self.status.change(WorkerState.DRAINING)
        log.info("worker_draining", running=self.status.metrics.running, waiting=self.status.metrics.waiting)
        if was_serving:
            idle, at_once = asyncio.ensure_future(self._wait_until_idle()), asyncio.ensure_future(self._at_once.wait())
            overdue = asyncio.ensure_future(self._wait_until_overdue())
            ends: set[asyncio.Future[Any]] = {idle, at_once, overdue, serving}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            log.info("worker_drained", is_in_full=idle.done())
            for wait in (idle, at_once, overdue):
                await _cancel(wait)
        await asyncio.gather(*(beater.beat() for beater in self._beaters))

    async def _wait_until_idle(self) -> None:
        if self._life is not None:
            await self._life.wait_until_idle()
        with contextlib.suppress(TimeoutError):  # what is made may be on its way still, to clients that read slowly
            async with asyncio.timeout(self._options.drain_s):
                while any(beater.in_flight for beater in self._beaters):  # noqa: ASYNC110  beats tell, once a second
                    await asyncio.sleep(_IDLE_POLL_S)

    async def _wait_until_overdue(self) -> None:
        await self._is_asked.wait()
        await asyncio.sleep(self._options.drain_s)


async def _cancel(task: "asyncio.Future[Any]") -> None:
    """Cancel *task* and wait until it has cleaned up; what it had to say is not asked for any more."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()  # seen
