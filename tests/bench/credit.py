"""
What late binding costs and what it keeps out of the engines: their own waiting queues, and throughput, under overload.

Two workers, and twice as many clients as their engines take at once. The same load meets gateways with worker credit
and gateways without any (`SLUICE_UPSTREAM__CREDIT=off`), in turn; each kind has a Redis of its own. The engines' own
queues and batches are read from their /metrics, their throughput from their counters of generated tokens.

`python -m tests.bench.credit` does the same with two real vLLM workers and the tiny Qwen3; `adaptive` after it measures
that kind of credit. There the engines have the first core to themselves, and gateways, Redis and clients the second, as
engines have their GPUs: sharing cores, what the gateways' own work takes from the engines would count as throttling.
"""

import asyncio
import json
import os
import random
import statistics
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from gateway.serve.wire import ConnectionPool
from tests.bench.load import TIMEOUT_S, request_bytes
from tests.servers.installation import GatewayServer, Installation, WorkerServer
from tests.servers.redis_server import RedisServer
from workers.engines.vllm import scrape
from workers.hub.tiny import make_tiny

RUNS = 3
WARM_S, MEASURED_S = 4.0, 10.0
START_S_MAX = 300


@dataclass(frozen=True)
class Setup:
    """What is measured. *max_seqs* is of each of the two engines, *sample_s* the time between two looks at them."""

    engine: tuple[str, ...]
    max_seqs: int
    gateways: int
    sample_s: float
    has_own_core: bool = False


SIM = Setup(
    engine=("sim", "--max-num-batched-tokens", "2048", "--engine-arg=--inter-token-ms=20"),
    max_seqs=32,
    gateways=2,
    sample_s=0.05,
)


@dataclass
class Run:
    """One run's samples: every engine's queue and batch at every look, and the tokens they made a second."""

    waiting: list[int]
    running: list[int]
    tokens_per_s: float

    @property
    def waiting_p99(self) -> float:
        return statistics.quantiles(self.waiting, n=100, method="inclusive")[-1]


def measure(folder: Path) -> dict[str, float]:
    """Run the benchmark on simulated engines; gives medians over RUNS runs, with the spread of each."""
    return compare(folder, SIM)


def measure_real(folder: Path, credit: str) -> dict[str, float]:
    """Run it on vLLM with the tiny Qwen3, looked at less often: rendering its metrics costs milliseconds."""
    model = str(make_tiny(folder / "tiny"))
    engine = ("vllm", "--model", model, "--max-model-len", "2048")
    return compare(folder, Setup(engine=engine, max_seqs=16, gateways=1, sample_s=0.2, has_own_core=True), credit)


def compare(folder: Path, setup: Setup, credit: str = "fixed") -> dict[str, float]:
    """Load two workers through gateways with credit and without, in turn."""
    if setup.has_own_core:
        os.sched_setaffinity(0, {1})
    with ExitStack() as stack:
        throttled, open_ = (_install(stack, folder / mode, mode, setup.gateways) for mode in (credit, "off"))
        workers = _start_workers(stack, folder, [*throttled.gateways, *open_.gateways], setup)
        engines = [worker["url"] for worker in throttled.gateways[0].workers()]
        assert len(engines) == len(workers)
        runs = [
            _figures(*(_run(installation, engines, setup) for installation in (throttled, open_))) for _ in range(RUNS)
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
        "batch_percent": 100 * statistics.mean(throttled.running) / statistics.mean(open_.running),
    }


def _install(stack: ExitStack, folder: Path, mode: str, gateways: int) -> Installation:
    (folder / "redis").mkdir(parents=True)
    redis = RedisServer(folder / "redis")
    redis.start()
    stack.callback(redis.kill)
    installation = Installation(folder / "home", redis_url=redis.url, SLUICE_UPSTREAM__CREDIT=mode)
    stack.callback(installation.close)
    for _ in range(gateways):
        installation.add_gateway()
    installation.key = installation.declare()
    return installation


def _start_workers(stack: ExitStack, folder: Path, gateways: list[GatewayServer], setup: Setup) -> list[WorkerServer]:
    options = (*setup.engine[1:], "--max-num-seqs", str(setup.max_seqs))
    workers = [WorkerServer(f"worker-{n}", folder, gateways, setup.engine[0], *options) for n in (1, 2)]
    if setup.has_own_core:
        os.sched_setaffinity(0, {0})
    for worker in workers:
        worker.spawn()
        stack.callback(worker.kill_tree)
    if setup.has_own_core:
        os.sched_setaffinity(0, {1})
    for worker in workers:
        worker.wait_ready(START_S_MAX)
    return workers


def _run(installation: Installation, engines: list[str], setup: Setup) -> Run:
    """Load the engines through gateways that have just started: what the other kind did must not weigh on credit."""
    for gateway in installation.gateways:
        gateway.kill()  # nothing is under way, and a drain would wait for the agents' connections
        gateway.start()
    for gateway in installation.gateways:
        gateway.wait_until("hearing its workers", lambda g=gateway: len(g.ready_workers()) == len(engines), START_S_MAX)
    return asyncio.run(_load(installation, engines, setup))


async def _load(installation: Installation, engines: list[str], setup: Setup) -> Run:
    stop = asyncio.Event()
    urls = [gateway.url for gateway in installation.gateways]
    asking = [
        asyncio.create_task(_ask_on(urls[number % len(urls)], installation.key, number, stop))
        for number in range(2 * len(engines) * setup.max_seqs)
    ]
    await asyncio.sleep(WARM_S)
    run = await _watch(engines, setup.sample_s)
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


async def _watch(engines: list[str], sample_s: float) -> Run:
    waiting: list[int] = []
    running: list[int] = []
    async with httpx.AsyncClient(timeout=10, trust_env=False) as http:

        async def read() -> int:
            pages = [scrape((await http.get(f"{engine}/metrics")).text) for engine in engines]
            waiting.extend(page.waiting for page in pages)
            running.extend(page.running for page in pages)
            return sum(page.generation_tokens_total for page in pages)

        began_s, before = time.perf_counter(), await read()
        while time.perf_counter() < began_s + MEASURED_S:
            await asyncio.sleep(sample_s)
            after, ended_s = await read(), time.perf_counter()
    return Run(waiting, running, (after - before) / (ended_s - began_s))


if __name__ == "__main__":
    with TemporaryDirectory() as temporary:
        print(json.dumps(measure_real(Path(temporary), *(sys.argv[1:] or ["fixed"])), indent=2))
