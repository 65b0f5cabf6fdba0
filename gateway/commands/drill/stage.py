"""
An installation of a drill's own: Redis, SQLite, gateways and simulated workers, in a temporary home, on loopback.

The gateways run with the operator's own sluice.yaml and environment, but for what says where they live: home, ports,
database, Redis and tokens are always the drill's. Everything ends with the block, however it ends.
"""

import asyncio
import secrets
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from gateway.commands.drill.capacity import Fleet
from gateway.commands.drill.crowd import Door
from gateway.commands.local.children import Child, Program, Say, running, wait_for
from gateway.commands.local.gateway_client import GatewayClient
from gateway.commands.local.home import Credentials, make_home
from gateway.commands.local.listening import choose_port
from gateway.commands.local.programs import gateway_program
from gateway.commands.local.redis_server import redis_program, redis_url, wait_for_redis
from gateway.control.keys import create_key
from gateway.control.models import declare_model
from gateway.control.tenants import create_tenant
from gateway.core.directory import ServiceClass
from gateway.core.ids import new_secret
from gateway.settings import Settings, load_settings
from gateway.stores.database import Database
from gateway.stores.schema import migrate
from gateway.stores.sql_directory import SqlDirectory

MODEL = "drill"
START_S_MAX = 60.0
STOP_S_MAX = 10.0  # nobody is served any more when it stops: what is under way then is cut


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What was brought up. *redis* is the port and password of its Redis, None if its one gateway needs none."""

    door: Door
    gateway_pids: tuple[int, ...]
    redis: tuple[int, str] | None


@asynccontextmanager
async def staged(
    *, gateways: int, tenants: int, fleet: Fleet, say: Say, hurry: asyncio.Event
) -> AsyncIterator["Builder"]:
    """Keep a place for an installation; the builder brings it up, all of it is gone when the block ends."""
    with tempfile.TemporaryDirectory(prefix="sluice-drill-", ignore_cleanup_errors=True) as folder:
        async with AsyncExitStack() as stack:
            yield Builder(Path(folder), gateways, tenants, fleet, stack, say, hurry)


class Builder:
    """Starts the parts of a stage; they end when *stack* unwinds."""

    def __init__(
        self,
        home: Path,
        gateways: int,
        tenants: int,
        fleet: Fleet,
        stack: AsyncExitStack,
        say: Say,
        hurry: asyncio.Event,
    ) -> None:
        self._home = home
        self._gateways = gateways
        self._tenants = tenants
        self._fleet = fleet
        self._stack = stack
        self._say = say
        self._hurry = hurry
        self._urls: tuple[str, ...] = ()
        self._credentials = Credentials(
            admin_token=secrets.token_urlsafe(32),
            worker_token=secrets.token_urlsafe(32),
            redis_password=secrets.token_urlsafe(32),
            api_key=new_secret(),
        )

    async def build(self) -> Stage:
        """Bring up Redis, gateways and workers. Raises StartFailed; whatever had been started by then ends."""
        make_home(self._home)
        settings = load_settings(home=self._home, host="127.0.0.1", port=0, database_url="")
        keys = _declare(settings, self._tenants)
        redis = await self._start_redis() if self._gateways > 1 else None
        gateways = await self._start_gateways(settings, redis_url(*redis) if redis else "")
        workers = await self._start(self._workers_program("workers", 1, self._fleet.workers, 0.0))
        await self._wait_for_workers([*gateways, *workers])
        pids = tuple(child.pid for child in gateways if child.pid is not None)
        return Stage(door=Door(urls=self._urls, model=MODEL, keys=keys), gateway_pids=pids, redis=redis)

    async def add_workers(self, ready_s: float) -> None:
        """Have the rest of the fleet loaded and ready at *ready_s* (time.monotonic())."""
        first = self._fleet.workers + 1
        await self._start(self._workers_program("more-workers", first, self._fleet.added, ready_s))

    async def _start(self, *programs: Program) -> list[Child]:
        return await self._stack.enter_async_context(running(programs, self._say, self._hurry))

    async def _start_redis(self) -> tuple[int, str]:
        port, password = choose_port(None), self._credentials.redis_password
        [child] = await self._start(redis_program(self._home, port, password))
        await wait_for_redis(child, redis_url(port, password))
        return port, password

    async def _start_gateways(self, settings: Settings, redis: str) -> list[Child]:
        programs = []
        for number in range(1, self._gateways + 1):
            port = choose_port(None)
            self._urls += (f"http://127.0.0.1:{port}",)
            programs.append(self._gateway(f"gateway-{number}", settings.model_copy(update={"port": port}), redis))
        children = await self._start(*programs)
        for url in self._urls:
            async with GatewayClient(url, self._credentials.admin_token) as client:
                await wait_for(client.is_live, children, START_S_MAX)
        return children

    def _gateway(self, name: str, settings: Settings, redis: str) -> Program:
        program = gateway_program(settings, self._credentials, redis)
        own = {"SLUICE_GATEWAY_ID": name, "SLUICE_DATABASE_URL": ""}
        log = program.log.with_name(f"{name}.log")
        return replace(program, name=name, log=log, environ={**program.environ, **own}, stop_s_max=STOP_S_MAX)

    def _workers_program(self, name: str, first: int, count: int, ready_s: float) -> Program:
        fleet = self._fleet
        options = {
            "--model": MODEL,
            "--first": first,
            "--count": count,
            "--seqs": fleet.seqs,
            "--inter-token-ms": 1000 * fleet.inter_token_s,
            "--prefill-tokens-per-s": fleet.prefill_tokens_per_s,
            "--load-s": fleet.load_s,
            "--ready-at": ready_s,
        }
        arguments = [str(part) for option in options.items() for part in option]
        arguments += [part for url in self._urls for part in ("--gateway", url)]
        return Program(
            name=name,
            argv=(sys.executable, "-m", "gateway.commands.drill.engines", *arguments),
            environ={"SLUICE_WORKER_TOKEN": self._credentials.worker_token},
            log=self._home / "logs" / f"{name}.log",
            stop_s_max=STOP_S_MAX,
        )

    async def _wait_for_workers(self, children: list[Child]) -> None:
        for url in self._urls:
            async with GatewayClient(url, self._credentials.admin_token) as client:

                async def are_ready(client: GatewayClient = client) -> bool:
                    try:
                        states = [worker["state"] for worker in await client.workers()]
                    except httpx.HTTPError:
                        return False
                    return states.count("ready") == self._fleet.workers

                await wait_for(are_ready, children, START_S_MAX)


def _declare(settings: Settings, tenants: int) -> tuple[str, ...]:
    """Make the database with the model and the tenants, who may ask for any class; gives a key of each."""
    migrate(settings.sql_url)
    database = Database(settings.sql_url, timeout_s=settings.database_timeout_s)
    try:
        directory, now_ms = SqlDirectory(database), time.time_ns() // 1_000_000
        declare_model(directory, MODEL, MODEL, now_ms=now_ms)
        names = [f"tenant-{number}" for number in range(1, tenants + 1)]
        for name in names:
            create_tenant(directory, name, ServiceClass.INTERACTIVE.label)
        return tuple(create_key(directory, name, now_ms=now_ms)[1] for name in names)
    finally:
        database.close()
