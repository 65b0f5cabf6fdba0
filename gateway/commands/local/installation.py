"""One installation on this machine, from the first child to the last: start, proof, keep running, stop in order."""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

import httpx

from gateway.commands.local.children import Child, Program, running, wait_for
from gateway.commands.local.gateway_client import FIRST_ANSWER_S_MAX, GatewayClient
from gateway.commands.local.home import Credentials, Place, load_place, save_place
from gateway.commands.local.listening import choose_port
from gateway.commands.local.programs import (
    SCALED_STOP_S_MAX,
    Served,
    gateway_program,
    threads_each,
    worker_names,
    worker_program,
)
from gateway.commands.local.redis_server import redis_program, redis_url, wait_for_redis
from gateway.commands.local.scaling import LocalScaler, Range
from gateway.commands.local.steps import Steps
from gateway.commands.local.welcome import chat_body, proof
from gateway.errors import StartFailed
from gateway.scaler.follow import Follower
from gateway.settings import Settings
from workers.engines import vllm

GATEWAY_START_S_MAX = 60.0
ENGINE_FAILURES_MAX = 3  # an engine that fails this often at its first start does not get better by waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """
    What `sluice up` runs. *settings* has a port that is not 0; *on_ready* is called once all of it works.

    With *scale* so many of the *workers* run as the gateway decides, else all.
    """

    settings: Settings
    credentials: Credentials
    served: Served
    workers: int
    scale: Range | None = None
    steps: Steps
    on_ready: Callable[[Place], None]

    async def run(self) -> None:
        """
        Start everything, send a first request, and keep all running until SIGINT or SIGTERM.

        The stop is the start in reverse: the gateway drains first, then the workers, Redis last. A second signal
        hurries it. Raises StartFailed; whatever had been started by then has ended.
        """
        hurry = asyncio.Event()
        stop = _Stop(asyncio.current_task(), hurry, self.steps)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        try:
            async with AsyncExitStack() as stack:
                await self._start(_Starter(stack, hurry, self.steps))
                await asyncio.Event().wait()  # until the signal cancels this task
        except asyncio.CancelledError:
            if not stop.is_asked:
                raise

    async def _start(self, starter: "_Starter") -> None:
        url, redis_port = await self._start_redis(starter)
        place = self._place(redis_port)
        save_place(self.settings.home, place)
        client = await starter.stack.enter_async_context(GatewayClient(place.url, self.credentials.admin_token))
        scaler = await self._make_scaler(starter, place, client) if self.scale else None
        agents = await starter.start([] if scaler else self._worker_programs(place))
        [gateway] = await starter.start([gateway_program(self.settings, self.credentials, url, self.scale)])
        with self.steps.step(f"gateway on {place.url}"):
            await wait_for(client.is_live, [gateway], GATEWAY_START_S_MAX)
        if scaler:
            starter.background(scaler.run())
        answer = await (self._first_scaled if scaler else self._first)(client, [gateway, *agents])
        self.steps.say(proof(answer))
        self.on_ready(place)

    async def _first(self, client: GatewayClient, children: Sequence[Child]) -> dict[str, Any]:
        """Wait for all workers, then send a first request; give its answer."""
        with self.steps.step(f"workers: {self.workers}, each with its engine"):
            await wait_for(_Watch(client, self.workers, self.steps).are_ready, children, None)
        with self.steps.step("first request"):
            return await client.chat(chat_body(self.served.name), self.credentials.api_key)

    async def _first_scaled(self, client: GatewayClient, children: Sequence[Child]) -> dict[str, Any]:
        """Send a first request, which has a worker started and waits for it; give its answer."""
        with self.steps.step(f"first request, which starts a worker (of {self.scale})"):
            answer_s_max = self.settings.queue.hold_s_max.standard + FIRST_ANSWER_S_MAX
            asking = asyncio.ensure_future(
                client.chat(chat_body(self.served.name), self.credentials.api_key, answer_s_max)
            )
            try:
                await wait_for(_Watch(client, 1, self.steps, asking).are_ready, children, None)
                return await asking
            finally:
                asking.cancel()

    async def _make_scaler(self, starter: "_Starter", place: Place, client: GatewayClient) -> LocalScaler:
        """Make what starts and drains workers. Its workers end after the gateway, which is started later."""
        assert self.scale, "asked for"
        programs = {program.name: program for program in self._worker_programs(place)}
        scaler = LocalScaler(
            self.served.pool.name if self.served.pool else self.served.name,
            self.scale,
            list(programs),
            lambda name: replace(programs[name], stop_s_max=SCALED_STOP_S_MAX),
            Follower([place.url], self.credentials.admin_token, "sluice up"),
            client,
            self.steps.say,
            starter.hurry,
        )
        await starter.stack.enter_async_context(scaler.stopping())
        return scaler

    async def _start_redis(self, starter: "_Starter") -> tuple[str, int | None]:
        """Give the URL of the Redis to use, and the port of the embedded one if it is that."""
        if self.settings.redis_url:
            return self.settings.redis_url, None
        kept = load_place(self.settings.home)
        port = choose_port(kept.redis_port if kept else None)
        url = redis_url(port, self.credentials.redis_password)
        with self.steps.step("embedded Redis"):
            [child] = await starter.start([redis_program(self.settings.home, port, self.credentials.redis_password)])
            await wait_for_redis(child, url)
        return url, port

    def _place(self, redis_port: int | None) -> Place:
        host, port = self.settings.host, self.settings.port
        return Place(pid=os.getpid(), host=host, port=port, redis_port=redis_port, model=self.served.name)

    def _worker_programs(self, place: Place) -> list[Program]:
        names = worker_names(self.workers, is_redis_shared=place.redis_port is None)
        threads = threads_each(len(os.sched_getaffinity(0)), self.workers) if vllm.is_cpu_build() else None
        home, token = self.settings.home, self.credentials.worker_token
        return [worker_program(name, self.served, place, home, token, threads) for name in names]


@dataclass(frozen=True, slots=True)
class _Starter:
    """Starts programs, and stops them when the stack unwinds."""

    stack: AsyncExitStack
    hurry: asyncio.Event
    steps: Steps

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Have *work* done until the stack unwinds."""
        task = asyncio.create_task(work)
        self.stack.callback(task.cancel)

    async def start(self, programs: Sequence[Program]) -> list[Child]:
        return await self.stack.enter_async_context(running(programs, self.steps.say, self.hurry))


class _Stop:
    """What a signal does: the first one stops, every further one hurries."""

    def __init__(self, task: asyncio.Task[Any] | None, hurry: asyncio.Event, steps: Steps) -> None:
        assert task is not None, "an installation runs in a task"
        self.is_asked = False
        self._task = task
        self._hurry = hurry
        self._steps = steps

    def __call__(self) -> None:
        if self.is_asked:
            self._hurry.set()
            return
        self.is_asked = True
        self._steps.say("Stopping: requests under way may end first. Press Ctrl-C again to hurry.")
        self._task.cancel()


class _Watch:
    """Follows the workers by what they tell the gateway; says each change once."""

    def __init__(
        self, client: GatewayClient, count: int, steps: Steps, request: "asyncio.Future[Any] | None" = None
    ) -> None:
        self._request = request
        self._client = client
        self._count = count
        self._steps = steps
        self._told: dict[str, str] = {}

    async def are_ready(self) -> bool:
        """Tell whether all are ready, or *request* has ended. Raises StartFailed if an engine fails again and again."""
        if self._request and self._request.done():
            return True
        try:
            workers = await self._client.workers()
        except httpx.HTTPError:
            return False
        for worker in workers:
            self._tell(worker)
        return [worker["state"] for worker in workers].count("ready") >= self._count

    def _tell(self, worker: dict[str, Any]) -> None:
        cause = f": {worker['cause']}" if worker["cause"] else ""
        line = f"{worker['worker']} {worker['state']}{cause}"
        if self._told.get(worker["worker"]) != line:
            self._told[worker["worker"]] = line
            self._steps.say(f"{line} ({self._steps.elapsed_s:.1f} s)")
        if worker["restarts"] >= ENGINE_FAILURES_MAX:
            raise StartFailed(f"{worker['worker']}: its engine does not start{cause}")
