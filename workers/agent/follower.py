"""
An agent on a host that lends its devices to an engine which another host leads.

It serves nobody and registers nowhere: it keeps its part of the engine running, which waits for the leader to call. If
either end fails the other's part ends too, and both start again until they meet.
"""

import asyncio

import structlog

from workers.agent.backoff import Backoff
from workers.agent.causes import describe_exit
from workers.agent.engine import engine_launch
from workers.agent.folders import ModelFolders, make_folders
from workers.agent.options import WorkerOptions
from workers.agent.process import EngineProcess, clear_leftovers
from workers.agent.status import Status
from workers.errors import WorkerError

_STOP_GRACE_S = 10.0

log = structlog.get_logger(__name__)


class Follower:
    """Runs one host's part of an engine until it is told to `leave`; called again: at once."""

    def __init__(self, options: WorkerOptions) -> None:
        if options.engine == "sim":
            raise WorkerError("The simulated engine runs on one host: leave --nodes away.")
        self._options = options
        self._leaving = asyncio.Event()
        self._at_once = asyncio.Event()
        status = Status(pool=options.pool, models=options.served_names, max_seqs=0, max_batched_tokens=0)
        self._folders = ModelFolders(options, status)

    def __repr__(self) -> str:
        parallel = self._options.parallel
        return f"<Follower [rank {parallel.node_rank} of {parallel.nodes}, led by {parallel.leader}]>"

    def leave(self) -> None:
        """End the part of the engine that runs here; the leader loses the engine with it."""
        if self._leaving.is_set():
            self._at_once.set()
        self._leaving.set()

    async def run(self) -> None:
        """Run the part until told to leave. Raises WorkerError if it cannot even begin."""
        make_folders(self._options)
        clear_leftovers(self._options.record_path.parent)
        model = await self._folders.model()
        backoff = Backoff()
        while not self._leaving.is_set():
            ran_s, cause = await self._run_once(model)
            if self._leaving.is_set():
                return
            pause_s = backoff.after(ran_s)
            log.error("engine_part_failed", cause=cause, retry_in_s=pause_s)
            await self._wait(pause_s)

    async def _run_once(self, model: str) -> tuple[float, str]:
        """Run the part to its end; gives how long it ran, in seconds, and why it ended."""
        options, began_s = self._options, asyncio.get_running_loop().time()
        launch = engine_launch(options, model, port=0, api_key="")
        process = await EngineProcess.start(launch, options.record_path, options.log_path)
        log.info("engine_part_started", pid=process.pid, leader=options.parallel.leader, log=str(options.log_path))
        ending = asyncio.ensure_future(process.wait())
        leaving = asyncio.ensure_future(self._leaving.wait())
        try:
            await asyncio.wait({ending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not ending.done():
                await process.ask_to_end(_STOP_GRACE_S, self._at_once)
                return 0.0, ""
            return asyncio.get_running_loop().time() - began_s, describe_exit(ending.result(), process.log_tail())
        finally:
            leaving.cancel()
            await process.kill()
            await asyncio.wait({ending})

    async def _wait(self, pause_s: float) -> None:
        leaving = asyncio.ensure_future(self._leaving.wait())
        await asyncio.wait({leaving}, timeout=pause_s)
        leaving.cancel()
