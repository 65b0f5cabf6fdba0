"""One life of an engine: from its start to readiness by a real completion, then watched until something is wrong."""

import asyncio
import contextlib
import secrets
import socket
import time
from dataclasses import dataclass, field

import structlog

from workers.agent.adapters import Adapters
from workers.agent.causes import describe, describe_exit
from workers.agent.client import EngineClient, EngineSilent
from workers.agent.options import WorkerOptions
from workers.agent.process import EngineProcess
from workers.agent.rest import Rest
from workers.agent.status import Status
from workers.agent.worker_state import WorkerState
from workers.engines import sim_launch, vllm
from workers.engines.launch import EngineOptions, Launch
from workers.engines.vllm import EngineMetrics

_START_POLL_S = 0.2
_IDLE_POLL_S = 0.5
# A gateway that has not yet heard of the drain may still send something: beats take up to a second to get to all.
_IDLE_POLLS = 3
_HEALTH_INTERVAL_S = 2.0
_HEALTH_FAILURES_MAX = 3
_SCRAPE_INTERVAL_S = 1.0
_STALL_S = 60.0  # work in the batch and not one token for so long: a prefill of any length takes less
_STOP_GRACE_S = 10.0
_BATCHED_TOKENS = {True: 2048, False: 8192}  # vLLM's own defaults on CPUs and on large GPUs

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Progress:
    """Notices an engine that holds requests and makes nothing of them. Pure: the time is an argument."""

    stall_s: float = _STALL_S
    _tokens: int = -1
    _since_s: float = field(default=0.0)

    def silent_for(self, metrics: EngineMetrics, now_s: float) -> float:
        """Give for how many seconds there has been work but no token; 0 while all is well."""
        tokens = metrics.prompt_tokens_total + metrics.generation_tokens_total
        if tokens != self._tokens or not metrics.running + metrics.waiting:
            self._tokens, self._since_s = tokens, now_s
        silence_s = now_s - self._since_s
        return silence_s if silence_s >= self.stall_s else 0.0


class EngineLife:
    """An engine process with the agent's view of it. *status* is kept up to date throughout."""

    def __init__(self, options: WorkerOptions, model: str, status: Status, adapters: Adapters, rest: Rest) -> None:
        self._options = options
        self._model = model
        self._status = status
        self._adapters = adapters
        self._rest = rest
        self._process: EngineProcess | None = None
        self._client: EngineClient | None = None
        self._ready_since_s: float | None = None

    @property
    def healthy_for_s(self) -> float:
        return 0.0 if self._ready_since_s is None else time.monotonic() - self._ready_since_s

    async def run(self) -> str:
        """Start the engine, make it ready and watch it; gives the cause of its end as a sentence."""
        await self._start()
        assert self._process is not None, "just started"
        ending = asyncio.ensure_future(self._process.wait())
        watching = asyncio.ensure_future(self._make_ready_and_watch())
        try:
            await asyncio.wait({ending, watching}, return_when=asyncio.FIRST_COMPLETED)
            if ending.done():
                return describe_exit(ending.result(), self._process.log_tail())
            return describe(watching.result(), self._process.log_tail())
        finally:
            ending.cancel()
            watching.cancel()
            await asyncio.wait({ending, watching})

    async def is_idle(self) -> bool:
        """Read the engine's counters anew; tell whether it has nothing to do. One that is gone has nothing."""
        try:
            await self._scrape()
        except EngineSilent:
            return self._process is None or not await self._is_healthy()
        return not self._status.metrics.running + self._status.metrics.waiting

    async def wait_until_idle(self) -> None:
        """Wait until the engine has had nothing to do for a while."""
        idle_polls = 0
        while idle_polls < _IDLE_POLLS:
            await asyncio.sleep(_IDLE_POLL_S)
            idle_polls = idle_polls + 1 if await self.is_idle() else 0

    async def stop(self, hurry: asyncio.Event) -> None:
        """Let the engine end by itself, then end everything below it; *hurry* cuts the waiting short."""
        if self._process is not None:
            await self._process.ask_to_end(_STOP_GRACE_S, hurry)
        await self.kill()

    async def kill(self) -> None:
        """End the engine and everything below it at once."""
        if self._process is not None:
            await self._process.kill()
        if self._client is not None:
            await self._client.aclose()

    async def _start(self) -> None:
        options, key = self._options, secrets.token_urlsafe(32)
        port = options.port or free_port(options.host)
        launch = engine_launch(options, self._model, port, key)
        scheme = "https" if options.tls.cert else "http"
        self._status.begin_engine(f"{scheme}://{options.advertise_host}:{port}", key)
        self._process = await EngineProcess.start(launch, options.record_path, options.log_path)
        self._client = EngineClient(f"{scheme}://{_reachable(options.host)}:{port}", key)
        self._status.change(WorkerState.LOADING, self._status.cause)
        log.info("engine_started", pid=self._process.pid, url=self._status.url, log=str(options.log_path))

    async def _make_ready_and_watch(self) -> str:
        if not await self._became_healthy():
            return f"The engine did not answer /health within {self._options.start_s:.0f} s of its start"
        self._status.change(WorkerState.WARMING, self._status.cause)
        try:
            await self._warm_up()
        except EngineSilent as silence:
            return f"The engine answers /health, but not its first completion ({silence})"
        self._ready_since_s = time.monotonic()
        self._status.change(WorkerState.READY)
        log.info("worker_ready", url=self._status.url, models=self._status.models)
        client = self._running_client()
        beside = [asyncio.ensure_future(self._scrape_for_ever())]
        beside.append(asyncio.ensure_future(self._rest.keep(client, self.wait_until_idle)))
        if self._options.adapters_max:
            beside.append(asyncio.ensure_future(self._adapters.keep(client)))
        try:
            return await self._watch_health()
        finally:
            for task in beside:
                task.cancel()
            await asyncio.wait(beside)

    async def _became_healthy(self) -> bool:
        deadline_s = time.monotonic() + self._options.start_s
        while time.monotonic() < deadline_s:
            if await self._is_healthy():
                return True
            await asyncio.sleep(_START_POLL_S)
        return False

    async def _warm_up(self) -> None:
        """Have a completion made, and take over its tokens together with the counters that contain them."""
        client = self._running_client()
        probe = await client.complete(self._options.served_names[0], self._options.warm_up_s)
        self._status.max_model_len = await client.max_model_len()
        metrics = await client.metrics()
        self._status.metrics = metrics
        self._status.probe_prompt_tokens = probe.prompt_tokens
        self._status.probe_completion_tokens = probe.completion_tokens

    async def _watch_health(self) -> str:
        failures = 0
        while failures < _HEALTH_FAILURES_MAX:
            await asyncio.sleep(_HEALTH_INTERVAL_S)
            failures = 0 if await self._is_healthy() else failures + 1
        return f"The engine failed /health {failures} times in a row"

    async def _scrape_for_ever(self) -> None:
        progress = Progress()
        while True:
            with contextlib.suppress(EngineSilent):  # its health is watched beside this
                await self._scrape()
                self._tell_stall(progress.silent_for(self._status.metrics, time.monotonic()))
            await asyncio.sleep(_SCRAPE_INTERVAL_S)

    async def _scrape(self) -> None:
        self._status.metrics = await self._running_client().metrics()

    def _tell_stall(self, silent_s: float) -> None:
        metrics = self._status.metrics
        if silent_s and not self._status.cause:
            held = f"{metrics.running} requests in its batch and {metrics.waiting} waiting"
            self._status.change(self._status.state, f"The engine has {held}, but makes no token for {silent_s:.0f} s.")
            log.warning("engine_stalled", running=metrics.running, waiting=metrics.waiting, silent_s=round(silent_s))
        elif not silent_s and self._status.cause:
            self._status.change(self._status.state)

    async def _is_healthy(self) -> bool:
        return self._client is not None and await self._client.is_healthy()

    def _running_client(self) -> EngineClient:
        if self._client is None:
            raise EngineSilent("the engine has not been started")
        return self._client


def engine_launch(options: WorkerOptions, model: str, port: int, api_key: str) -> Launch:
    """Give the command that starts the engine *options* ask for."""
    is_on_cpu = vllm.is_cpu_build()
    engine_options = EngineOptions(
        model=model,
        served_names=options.served_names,
        host=options.host,
        port=port,
        api_key=api_key,
        max_num_seqs=options.max_num_seqs,
        max_batched_tokens=options.max_batched_tokens or default_batched_tokens(options),
        can_sleep=options.can_sleep,
        max_model_len=options.max_model_len,
        threads=options.threads,
        is_on_cpu=is_on_cpu,
        extra_args=options.engine_args,
        parallel=options.parallel,
        adapters_max=options.adapters_max,
        cert=options.tls.cert,
        key=options.tls.key,
        env=options.engine_env,
    )
    return vllm.launch(engine_options) if options.engine == "vllm" else sim_launch.launch(engine_options)


def default_batched_tokens(options: WorkerOptions) -> int:
    """Give the tokens of a step when nobody said how many; at least one per sequence, which vLLM asks for."""
    return max(_BATCHED_TOKENS[vllm.is_cpu_build()], options.max_num_seqs)


def free_port(host: str) -> int:
    """Find a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def _reachable(host: str) -> str:
    return "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104 (compared, not bound)
