"""
A canary over 10,000 requests at two gateways, while a file is applied over and over: shares, losses, and what it costs.

Each request has an id of its own and no user, so that each is drawn by itself. What went where is read from the
Journal. Every apply changes limits, workers and names of the pools under load, but not the canary's weights.
"""

import asyncio
import statistics
import time
from collections import Counter
from contextlib import ExitStack, suppress
from math import sqrt
from pathlib import Path

from tests.bench.load import run_load
from tests.servers.installation import Installation
from tests.servers.redis_server import RedisServer

RUNS = 1
REQUESTS, AT_ONCE = 10_000, 32
WEIGHTS = {"main": 95, "next": 5}
ENGINE = ("--max-num-seqs", "256", "--engine-arg=--inter-token-ms=1", "--engine-arg=--prefill-tokens-per-s=10000000")
BODY = {"model": "plus", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
FILE = """
pools:
  main: {model: tiny, serves: [main-8b], workers: {max: %d}, wait_s_max: {standard: %d}}
  next: {model: tiny, serves: [next-8b]}
models:
  plus: {main: 95, next: 5}
  other-%d: {main: 1}
"""


def measure(folder: Path) -> dict[str, float]:
    """Run the benchmark; one run, so there is no spread."""
    with ExitStack() as stack:
        redis = RedisServer(folder)
        redis.start()
        stack.callback(redis.kill)
        installation = Installation(folder / "home", redis_url=redis.url)
        stack.callback(installation.close)
        gateways = [installation.add_gateway() for _ in range(2)]
        key = installation.declare()
        _apply(installation, folder, 1)
        for pool in WEIGHTS:
            installation.add_worker("sim", *ENGINE, "--pool", pool, "--served-name", f"{pool}-8b")
        for worker in installation.workers:
            worker.wait_ready(60)
        figures = asyncio.run(_run(installation, folder, [gateway.url for gateway in gateways], key))
        installation.wait_shipped(60)
        figures |= _shares(installation)
    return figures | dict.fromkeys((f"{name}_range" for name in figures), 0.0)


async def _run(installation: Installation, folder: Path, urls: list[str], key: str) -> dict[str, float]:
    """Send all requests; every one must be answered with 200."""
    applying = asyncio.create_task(_keep_applying(installation, folder))
    began = time.monotonic()
    halves = [run_load(url, key, BODY, requests=REQUESTS // len(urls), at_once=AT_ONCE) for url in urls]
    loads = await asyncio.gather(*halves)
    took_s = time.monotonic() - began
    applying.cancel()
    with suppress(asyncio.CancelledError):
        await applying
    applied = installation.sluice_json("apply", "--history")
    return {
        "answered": sum(load.answers for load in loads),
        "requests_per_s": REQUESTS / took_s,
        "applied_meanwhile": len(applied) - 1,
        "first_byte_p50_ms": 1000 * statistics.median(each for load in loads for each in load.first_byte_s),
    }


async def _keep_applying(installation: Installation, folder: Path) -> None:
    number = 1
    while True:
        number += 1
        await asyncio.to_thread(_apply, installation, folder, number)


def _apply(installation: Installation, folder: Path, number: int) -> None:
    path = folder / "sluice.yaml"
    path.write_text(FILE % (1 + number % 7, 100 + number, number))
    installation.sluice("apply", str(path))


def _shares(installation: Installation) -> dict[str, float]:
    pools = Counter(event["pool"] for event in installation.events().values() if event["model"] == "plus")
    part = WEIGHTS["next"] / sum(WEIGHTS.values())
    off = pools["next"] - REQUESTS * part
    return {
        "metered": sum(pools.values()),
        "canary_percent": 100 * pools["next"] / REQUESTS,
        "canary_off_by_sigmas": off / sqrt(REQUESTS * part * (1 - part)),
    }
