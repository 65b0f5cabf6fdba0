"""
What late binding costs and what it keeps out of the engines: their own waiting queues, and throughput, under overload.

Two gateways over one Redis, two workers, and twice as many clients as the engines take at once. The same load meets
gateways whose worker credit adapts and gateways without any (`SLUICE_UPSTREAM__CREDIT=off`), in turn. The engines' own
queues are read from their /metrics every 50 ms, their throughput from their counters of generated tokens.
"""

import asyncio
import random
import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx

from gateway.serve.wire import ConnectionPool
from tests.bench.load import TIMEOUT_S, request_bytes
from tests.servers.installation import Installation
from tests.servers.redis_server import RedisServer
from workers.engines.vllm import scrape

RUNS = 3
MAX_SEQS, CLIENTS = 32, 128
WARM_S, MEASURED_S, SAMPLE_S = 4.0, 10.0, 0.05
SIM = ("--inter-token-ms=20", "--max-num-batched-tokens=2048")


@dataclass
class Run:
    """One run's samples: every engine's queue every 50 ms, and the tokens they made a second."""

    waiting: list[int]
    tokens_per_s: float

    @property
    def waiting_p99(self) -> float:
        return statistics.quantiles(self.waiting, n=100, method="inclusive")[-1]


def measure(folder: Path) -> dict[str, float]:
    """Run the benchmark on simulated engines; gives medians over RUNS runs, with the spread of each."""
    engine = ("sim", "--max-num-seqs", str(MAX_SEQS), *(f"--engine-arg={option}" for option in SIM))
    return compare(folder, engine, gateways=2, clients=CLIENTS)


def compare(folder: Path, engine: tuple[str, ...], *, gateways: int, clients: int) -> dict[str, float]:
    """Load two workers of *engine* through gateways with credit and without, in turn."""
    with ExitStack() as stack:
        throttled, open_ = (_install(stack, folder / mode, mode, engine, gateways) for mode in ("adaptive", "off"))
        runs = [
            _figures(*(asyncio.run(_load(installation, clients)) for installation in (throttled, open_)))
            for _ in range(RUNS)
        ]
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]} | {
        f"{name}_range": max(run[name] for run in runs) - min(run[name] for run in runs) for name in runs[0]
    }


def _figures(throttled: Run, open_: Run) -> dict[str, float]:
    return {
        "engine_waiting_p99": throttled.waiting_p99,
        "engine_waiting_p99_off": open_.waiting_p99,
        "tokens_per_s": throttled.tokens_per_s,
        "tokens_per_s_off": open_.tokens_per_s,
        "throughput_percent": 100 * throttled.tokens_per_s / open_.tokens_per_s,
    }


def _install(stack: ExitStack, folder: Path, mode: str, engine: tuple[str, ...], gateways: int) -> Installation:
    (folder / "redis").mkdir(parents=True)
    redis = RedisServer(folder / "redis")
    redis.start()
    stack.callback(redis.kill)
    installation = Installation(folder / "home", redis_url=redis.url, SLUICE_UPSTREAM__CREDIT=mode)
    stack.callback(installation.close)
    for _ in range(gateways):
        installation.add_gateway()
    installation.key = installation.declare()
    for _ in range(2):
        installation.add_worker(*engine)
    for worker in installation.workers:
        worker.wait_ready(300)
    return installation


async def _load(installation: Installation, clients: int) -> Run:
    engines = [worker["url"] for worker in installation.gateways[0].workers()]
    stop = asyncio.Event()
    urls = [gateway.url for gateway in installation.gateways]
    asking = [
        asyncio.create_task(_ask_on(urls[number % len(urls)], installation.key, number, stop))
        for number in range(clients)
    ]
    await asyncio.sleep(WARM_S)
    run = await _watch(engines)
    stop.set()
    await asyncio.gather(*asking)
    return run


async def _ask_on(url: str, key: str, number: int, stop: asyncio.Event) -> None:
    """Ask one request after another, whole or streamed, short or long, as the dice fall."""
    dice = random.Random(number)
    pool = ConnectionPool(connect_timeout_s=10, keep_alive_s=60)
    while not stop.is_set():
        connection = pool.take_idle(url) or await pool.connect(url)
        connection.send(request_bytes(url, key, _any_body(dice)))
        assert await connection.head(TIMEOUT_S) == 200, await connection.read(TIMEOUT_S)
        while await connection.read(TIMEOUT_S):
            pass
        pool.give_back(url, connection)
    pool.close()


def _any_body(dice: random.Random) -> dict:
    return {
        "model": "tiny",
        "messages": [{"role": "user", "content": f"{dice.random()} " + "river " * dice.randint(20, 400)}],
        "max_tokens": dice.randint(50, 350),  # a mean of 200; the Azure conversation trace has 211
        "ignore_eos": True,
        "stream": dice.random() < 0.5,
    }


async def _watch(engines: list[str]) -> Run:
    waiting: list[int] = []
    async with httpx.AsyncClient(timeout=10, trust_env=False) as http:

        async def read() -> int:
            pages = [scrape((await http.get(f"{engine}/metrics")).text) for engine in engines]
            waiting.extend(page.waiting for page in pages)
            return sum(page.generation_tokens_total for page in pages)

        began_s, before = time.perf_counter(), await read()
        while time.perf_counter() < began_s + MEASURED_S:
            await asyncio.sleep(SAMPLE_S)
            after, ended_s = await read(), time.perf_counter()
    return Run(waiting, (after - before) / (ended_s - began_s))
