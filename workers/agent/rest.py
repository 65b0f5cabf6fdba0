"""An engine that sleeps by an operator's order: its memory is the devices' again, and it wakes in seconds."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from workers.agent.client import EngineClient, EngineRefused, EngineSilent
from workers.agent.status import Status
from workers.agent.worker_state import WorkerState

log = structlog.get_logger(__name__)


class Rest:
    """Whether a worker's engine is to sleep; `keep` makes it so on an engine, for as long as that runs."""

    def __init__(self, status: Status) -> None:
        self._status = status
        self._is_wanted = False
        self._changed = asyncio.Event()

    def want(self, *, is_wanted: bool) -> None:
        """Have the engine sleep, or be awake, from now on."""
        if is_wanted is not self._is_wanted:
            self._is_wanted = is_wanted
            self._changed.set()

    async def keep(self, engine: EngineClient, until_idle: Callable[[], Awaitable[None]]) -> None:
        """Put *engine*, which is awake, to sleep once it is idle, and wake it, as is wanted, until cancelled."""
        is_asleep = False
        while True:
            if self._is_wanted is not is_asleep:
                is_asleep = await (self._sleep(engine, until_idle) if self._is_wanted else self._wake(engine))
            await self._changed.wait()
            self._changed.clear()

    async def _sleep(self, engine: EngineClient, until_idle: Callable[[], Awaitable[None]]) -> bool:
        await until_idle()
        try:
            await engine.sleep()
        except (EngineRefused, EngineSilent) as error:
            log.warning("engine_cannot_sleep", reason=str(error))
            cause = f"The engine cannot sleep ({error}): start the worker with --sleep-mode, on a platform that can."
            self._status.change(self._status.state, cause)
            return False
        log.info("engine_sleeps")
        self._status.change(WorkerState.SLEEPING)
        return True

    async def _wake(self, engine: EngineClient) -> bool:
        self._status.change(WorkerState.WARMING)
        try:
            await engine.wake()
        except (EngineRefused, EngineSilent) as error:
            log.warning("engine_did_not_wake", reason=str(error))
            self._status.change(WorkerState.SLEEPING, f"The engine did not wake: {error}")
            return True
        log.info("engine_awake")
        self._status.change(WorkerState.READY)
        return False
