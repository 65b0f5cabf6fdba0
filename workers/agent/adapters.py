"""
LoRA adapters on a running engine: those that are wanted are loaded, those no longer wanted are unloaded.

What cannot be loaded is said in the worker's cause and tried again later; the engine goes on serving everything else.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog

from workers.agent.client import EngineClient, EngineRefused, EngineSilent
from workers.agent.status import Status
from workers.errors import WorkerError

RETRY_S = 30.0  # after an adapter that could not be loaded: it may be downloaded or mended meanwhile

log = structlog.get_logger(__name__)


class Adapters:
    """
    The adapters of one worker. *find* gives the folder of an adapter's source, downloading it if it must.

    `want` may be called at any time; `keep` makes it so on an engine, for as long as that runs.
    """

    def __init__(
        self, wanted: Mapping[str, str], adapters_max: int, status: Status, find: Callable[[str], Awaitable[str]]
    ) -> None:
        self._wanted = dict(wanted)
        self._adapters_max = adapters_max
        self._status = status
        self._find = find
        self._base = status.models
        self._loaded: dict[str, str] = {}
        self._failed: dict[str, tuple[str, str]] = {}  # by name: the source and the reason
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Adapters [{len(self._loaded)} of {len(self._wanted)} loaded, room for {self._adapters_max}]>"

    def want(self, adapters: Mapping[str, str]) -> None:
        """Have just these from now on, by name and source."""
        if dict(adapters) != self._wanted:
            self._wanted = dict(adapters)
            self._changed.set()

    async def keep(self, engine: EngineClient) -> None:
        """Load and unload on *engine*, which has none yet, until cancelled."""
        self._loaded, self._failed = {}, {}
        self._tell()
        try:
            while True:
                self._changed.clear()
                await self._settle(engine)
                await self._pause()
        finally:
            self._loaded = {}
            self._tell()

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(RETRY_S if self._failed else None):
                await self._changed.wait()
        except TimeoutError:
            self._failed = {}

    async def _settle(self, engine: EngineClient) -> None:
        for name in [name for name, source in self._loaded.items() if self._wanted.get(name) != source]:
            await self._unload(engine, name)
        for name, source in list(self._wanted.items()):
            if name not in self._loaded and self._failed.get(name, ("", ""))[0] != source:
                await self._load(engine, name, source)

    async def _load(self, engine: EngineClient, name: str, source: str) -> None:
        try:
            self._check_room()
            await engine.load_adapter(name, await self._find(source))
        except (EngineRefused, EngineSilent, WorkerError) as error:
            self._failed[name] = (source, f"The adapter {name!r} could not be loaded: {error}")
            log.warning("adapter_not_loaded", adapter=name, reason=str(error))
        else:
            self._failed.pop(name, None)
            self._loaded[name] = source
            log.info("adapter_loaded", adapter=name)
        self._tell()

    async def _unload(self, engine: EngineClient, name: str) -> None:
        """Take an adapter off; gateways hear first, so that none sends it anything more."""
        source = self._loaded.pop(name)
        self._tell()
        try:
            await engine.unload_adapter(name)
        except (EngineRefused, EngineSilent) as error:
            log.warning("adapter_not_unloaded", adapter=name, source=source, reason=str(error))
        else:
            log.info("adapter_unloaded", adapter=name)

    def _check_room(self) -> None:
        if len(self._loaded) >= self._adapters_max:
            raise WorkerError(f"this worker holds at most {self._adapters_max}; start it with a higher --adapters-max.")

    def _tell(self) -> None:
        self._status.models = (*self._base, *self._loaded)
        self._status.adapter_trouble = " ".join(text for _, text in self._failed.values())
        self._status.tell()
