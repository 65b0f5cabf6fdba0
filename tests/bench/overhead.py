"""
What the gateway itself costs: CPU time of its process per plain request and per streamed chunk, and added TTFT.

Everything is on: keys, queue in Redis, durable spool, SQLite, metrics, logs. The engine is simulated with next to no
latency, so that the gateway is busy; CPU time is the operating system's account of the gateway process alone.
"""

import asyncio
import json
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.bench.load import Load, run_load
from tests.servers.installation import Installation
from tests.servers.process import Process
from tests.servers.redis_server import RedisServer

PLAIN = {"model": "tiny", "messages": [{"role": "user", "content": "river " * 100}], "max_tokens": 1}
STREAM = PLAIN | {"max_tokens": 200, "stream": True, "ignore_eos": True}
SIM = ("--inter-token-ms=5", "--prefill-tokens-per-s=10000000")
RUNS = 5
PLAIN_REQUESTS, PLAIN_AT_ONCE = 1500, 32
STREAM_REQUESTS, STREAM_AT_ONCE = 100, 50
TTFT_REQUESTS = 200


def measure(folder: Path) -> dict[str, float]:
    """Run the benchmark; gives medians over RUNS runs, with the spread of each."""
    (folder / "redis").mkdir(parents=True)
    redis = RedisServer(folder / "redis")
    redis.start()
    installation = Installation(folder / "home", redis_url=redis.url)
    try:
        gateway = installation.add_gateway()
        key = installation.declare()
        worker = installation.add_worker("sim", "--max-num-seqs", "256", *(f"--engine-arg={option}" for option in SIM))
        worker.wait_ready(30)
        process = psutil.Process(gateway.pid)
        asyncio.run(run_load(gateway.url, key, PLAIN, requests=300, at_once=8))  # warm-up
        with _bare_engine(folder) as engine:
            runs = [_one_run(process, gateway.url, engine, key) for _ in range(RUNS)]
    finally:
        installation.close()
        redis.kill()
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]} | {
        f"{name}_range": max(run[name] for run in runs) - min(run[name] for run in runs) for name in runs[0]
    }


@contextmanager
def _bare_engine(folder: Path) -> Iterator[str]:
    """Run an engine like the worker's with nothing in front of it; gives its URL."""
    engine = Process("engine", [sys.executable, "-m", "workers.engines.sim", *SIM], folder / "engine.log")
    engine.spawn()
    try:
        engine.wait_until("listening", lambda: engine.tail(1), 10)
        yield json.loads(engine.tail(1))["url"]
    finally:
        engine.kill()


def _one_run(process: psutil.Process, url: str, engine: str, key: str) -> dict[str, float]:
    plain_s, plain = _cpu_of(process, url, key, PLAIN, PLAIN_REQUESTS, PLAIN_AT_ONCE)
    stream_s, stream = _cpu_of(process, url, key, STREAM, STREAM_REQUESTS, STREAM_AT_ONCE)
    per_plain_s = plain_s / plain.answers
    direct, through = (
        asyncio.run(run_load(at, key, STREAM | {"max_tokens": 2}, requests=TTFT_REQUESTS, at_once=1))
        for at in (engine, url)
    )
    return {
        "cpu_ms_per_plain_request": 1000 * per_plain_s,
        "cpu_us_per_streamed_chunk": 1e6 * (stream_s - per_plain_s * stream.answers) / stream.frames,
        "added_ttft_p50_ms": 1000 * (_p50(through) - _p50(direct)),
    }


def _cpu_of(process: psutil.Process, url: str, key: str, body: dict, requests: int, at_once: int) -> tuple[float, Load]:
    before = process.cpu_times()
    load = asyncio.run(run_load(url, key, body, requests=requests, at_once=at_once))
    after = process.cpu_times()
    return after.user + after.system - before.user - before.system, load


def _p50(load: Load) -> float:
    return statistics.median(load.first_byte_s)
