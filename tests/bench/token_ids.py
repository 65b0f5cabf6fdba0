"""
What it costs to keep streams continuable: CPU of the gateway per streamed chunk, with token ids asked for and without.

Two gateways over the same simulated worker, one of which continues no streams, take the same load in turn.
"""

import asyncio
import statistics
from pathlib import Path

import psutil

from tests.bench.load import run_load
from tests.bench.overhead import SIM, STREAM
from tests.servers.installation import Installation
from tests.servers.redis_server import RedisServer

RUNS = 5
REQUESTS, AT_ONCE = 60, 30


def measure(folder: Path) -> dict[str, float]:
    """Run the benchmark; gives medians over RUNS runs, with the spread of each."""
    (folder / "redis").mkdir(parents=True)
    redis = RedisServer(folder / "redis")
    redis.start()
    installation = Installation(folder / "home", redis_url=redis.url)
    try:
        with_ids = installation.add_gateway()
        installation.environ["SLUICE_UPSTREAM__CONTINUATIONS_MAX"] = "0"
        without_ids = installation.add_gateway(own_home=True)
        key = installation.declare()
        worker = installation.add_worker("sim", "--max-num-seqs", "256", *(f"--engine-arg={option}" for option in SIM))
        worker.wait_ready(60)
        runs = [
            {"chunk_us_with_token_ids": _cost(with_ids, key), "chunk_us_without": _cost(without_ids, key)}
            for _ in range(RUNS + 1)
        ][1:]
    finally:
        installation.close()
        redis.kill()
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]} | {
        f"{name}_range": max(run[name] for run in runs) - min(run[name] for run in runs) for name in runs[0]
    }


def _cost(gateway, key: str) -> float:
    """Give the CPU time of *gateway* per chunk, in microseconds; its requests are in it, 200 chunks to each."""
    process = psutil.Process(gateway.pid)
    before = process.cpu_times()
    load = asyncio.run(run_load(gateway.url, key, STREAM, requests=REQUESTS, at_once=AT_ONCE))
    after = process.cpu_times()
    return 1e6 * (after.user + after.system - before.user - before.system) / load.frames
